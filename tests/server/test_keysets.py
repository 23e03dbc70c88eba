"""How the keys of issuers are fetched and kept: in this process, against an issuer on a real socket."""

import asyncio
import time

import pytest

from fastgw.policies._keysets import KeyRing, Source
from fastgw.server.keysets import MAX_DOCUMENT, KeySets, acceptable
from fastgw.testing.certificates import Authority
from fastgw.testing.issuer import FakeIssuer

ALGORITHMS = ("RS256", "ES256")


@pytest.fixture
def issuer():
    with FakeIssuer() as running:
        yield running


async def until(true, seconds=60):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


class Host:
    """An agent and a worker in one, for one source."""

    def __init__(self, issuer, **options):
        self.ring = KeyRing()
        self.sets = KeySets(self.ring.take)
        self.ring.ask = self.sets.want
        self.source = Source(issuer.url, options.pop("jwks_url", None), ALGORITHMS, **options)
        self.keys = self.ring.of(self.source)
        self.gone = set()
        self.keys.listeners.add(self)

    def keys_gone(self, gone):
        self.gone |= {key.kid for key in gone}

    @property
    def kids(self):
        return sorted(self.keys.by_kid)

    @property
    def state(self):
        return self.sets.states()[0]


def with_host(issuer, test, **options):
    async def live():
        host = Host(issuer, **options)
        await host.sets.follow({host.source})
        try:
            await test(host)
        finally:
            host.sets.stop()

    asyncio.run(live())


def test_discovery_and_refresh(issuer):
    async def test(host):
        assert host.kids == ["first"] and host.keys.known
        assert host.keys.metadata["jwks_uri"] == f"{issuer.url}/keys"
        same = host.keys.by_kid["first"]
        issuer.add("second", "RS256")
        await until(lambda: host.kids == ["first", "second"])
        assert host.keys.by_kid["first"] is same, "what stayed is the same object: remembered tokens stay good"
        assert host.keys.by_kid["second"].algorithm == "RS256"
        assert host.gone == set() and host.state.age is not None
        await host.sets.follow(())
        assert host.source not in host.ring.keys

    with_host(issuer, test, refresh=0.05)


def test_a_key_that_went_is_good_for_the_overlap_and_no_longer(issuer):
    async def test(host):
        issuer.add("second")
        issuer.remove("first")
        await until(lambda: "second" in host.kids)
        assert host.kids == ["first", "second"] and host.gone == set()
        await until(lambda: host.kids == ["second"])
        assert host.gone == {"first"}

    with_host(issuer, test, jwks_url=f"{issuer.url}/keys", refresh=0.05, overlap=1.0)


def test_another_key_under_the_same_kid_takes_its_place(issuer):
    async def test(host):
        before = host.keys.by_kid["first"]
        issuer.add("first")
        await until(lambda: host.keys.by_kid["first"] is not before)

    with_host(issuer, test, refresh=0.05, overlap=600.0)


def test_the_last_keys_stay_while_the_issuer_fails(issuer):
    async def test(host):
        for status, body in ((500, None), (200, b"{"), (200, b"[]"), (200, b'{"keys": []}'), (200, b"[" * 100_000),
                             (200, b'{"keys": "' + b"x" * MAX_DOCUMENT + b'"}')):  # fmt: skip
            issuer.status, issuer.body = status, body
            before = host.state.failures
            await until(lambda before=before: host.sets.want(host.source) or host.state.failures > before)
        assert host.kids == ["first"]

    with_host(issuer, test, jwks_url=f"{issuer.url}/keys", refresh=0.02, cooldown=0.1)


def test_keys_that_are_older_than_they_may_be_are_used_no_more(issuer):
    async def test(host):
        assert host.kids == ["first"]
        issuer.status = 500
        await until(lambda: host.kids == [])
        assert host.gone == {"first"} and host.keys.known
        issuer.status = 200
        await until(lambda: host.kids == ["first"])

    with_host(issuer, test, refresh=0.1, keep=1.0)


def test_documents_that_are_not_the_issuers(issuer, caplog):
    for extra, words in (
        ({"issuer": "https://elsewhere.example"}, "about another issuer"),
        ({"jwks_uri": "http://elsewhere.example/keys"}, "not an https:// URL"),
        ({"jwks_uri": 7}, "has no jwks_uri"),
    ):
        issuer.extra = extra

        async def test(host):
            assert not host.keys.known and host.state.failures

        with_host(issuer, test)
        assert words in caplog.text


def test_an_issuer_that_does_not_answer_holds_nobody_up_for_long(issuer):
    issuer.gate.clear()

    async def test(host):
        assert not host.keys.known
        issuer.gate.set()
        await until(lambda: host.keys.known)

    with_host(issuer, test, timeout=0.3)


def test_an_unknown_key_has_the_issuer_asked_once_for_all(issuer):
    async def test(host):
        await asyncio.sleep(1.01)                    # the cooldown after the first question
        issuer.add("second")
        before = len(issuer.hits)
        await asyncio.gather(*(host.keys.refetch() for _ in range(50)))
        assert host.kids == ["first", "second"]
        assert len(issuer.hits) == before + 1
        assert not host.keys.may_ask(), "not again at once"

    with_host(issuer, test, jwks_url=f"{issuer.url}/keys", refresh=3600.0, cooldown=1.0)


def test_a_question_within_the_cooldown_is_answered_without_the_issuer(issuer):
    async def test(host):
        before = len(issuer.hits)
        await host.keys.refetch()
        assert len(issuer.hits) == before

    with_host(issuer, test, refresh=3600.0, cooldown=3600.0)


def test_what_a_reload_keeps(issuer):
    async def live():
        host = Host(issuer, refresh=3600.0)
        await host.sets.follow({host.source})
        before = len(issuer.hits)
        await host.sets.follow({host.source})
        assert len(issuer.hits) == before
        later = KeySets(host.ring.take, host.sets.known)   # the agent was replaced
        issuer.status = 500
        await later.follow({host.source})
        assert later.known[host.source].keys and host.kids == ["first"]
        later.stop()
        host.sets.stop()

    asyncio.run(live())


def test_tls(tmp_path):
    pki, stranger = Authority(tmp_path), Authority(tmp_path / "other")

    async def good(host):
        assert host.kids == ["first"]

    async def bad(host):
        assert not host.keys.known and host.state.failures

    with FakeIssuer(pki.leaf("localhost")) as issuer:
        with_host(issuer, good, ca=pki.cert)
        with_host(issuer, bad, ca=stranger.cert)
        with_host(issuer, bad, ca=str(tmp_path / "missing"))
        with_host(issuer, bad)


@pytest.mark.parametrize(
    "url, good",
    [
        ("https://id.example.com/keys", True), ("http://127.0.0.1:8080/", True), ("http://[::1]/", True),
        ("http://id.example.com/", False), ("ftp://127.0.0.1/", False), ("https://", False), ("http://[", False),
    ],
)  # fmt: skip
def test_urls(url, good):
    assert acceptable(url) is good
