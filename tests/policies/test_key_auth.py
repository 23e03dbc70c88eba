"""`key_auth`: where keys are looked for, what they come to, keys that end, and keys that are managed."""

import hashlib
import time

import pytest
from pydantic import ValidationError

from fastgw._core.key_auth import KeyTable
from fastgw.config.schema.consumers import Consumer, Plan
from fastgw.policies import BuildContext, resolve
from fastgw.testing.policy import Trial


def digest(key):
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def raw(key):
    return hashlib.sha256(key.encode()).digest()


PLANS = {"gold": Plan(scopes=["orders:read"])}
CONSUMERS = [
    Consumer(
        name="ada",
        groups=["staff"],
        keys=[
            digest("key-1"),
            digest("key-2"),
            {"hash": digest("old"), "expires": "2020-01-01T00:00:00Z"},
            {"hash": digest("narrow"), "id": "narrow", "expires": "2999-01-01", "scopes": ["orders:write"]},
        ],
    ),
    Consumer(name="bob", plan="gold", scopes=["users:read"], keys=[digest("kéy/3 ")]),
    Consumer(name="anonymous", groups=["guests"]),
]


def keyed(**options):
    return Trial("key_auth", options, BuildContext(consumers=CONSUMERS, plans=PLANS, keys=KeyTable()))


def test_a_key_finds_its_consumer_and_is_hidden():
    outcome = keyed().ask(headers={"x-api-key": "key-2"})
    assert outcome.passed and outcome.exchange.consumer.name == "ada"
    assert outcome.exchange.consumer.groups == ("staff",)
    assert outcome.exchange.consumer.credential == "ada/1"
    assert outcome.upstream_header("X-API-Key") is None
    assert keyed(forward_key=True).ask(headers={"x-api-key": "key-2"}).upstream_header("X-API-Key") == "key-2"


def test_keys_in_the_query():
    trial = keyed(query="api_key", header=None)
    outcome = trial.ask("GET /?a=1&api_key=k%C3%A9y/3+&b=2")
    assert outcome.passed and outcome.exchange.consumer.name == "bob"
    assert outcome.exchange.query == "a=1&b=2"
    outcome = trial.ask("GET /?api_key=key-1")
    assert outcome.passed and outcome.exchange.query == ""
    assert trial.ask("GET /", {"X-API-Key": "key-1"}).status == 401


@pytest.mark.parametrize(
    "headers, code",
    [
        ({}, "unauthorized"),
        ({"X-API-Key": "nope"}, "invalid_key"),
        ({"X-API-Key": ""}, "invalid_key"),
        ({"X-API-Key": "x" * 2000}, "invalid_key"),
        ([("X-API-Key", "key-1"), ("X-API-Key", "key-2")], "invalid_key"),
        ({"X-API-Key": hashlib.sha256(b"key-1").hexdigest()}, "invalid_key"),
    ],
)
def test_without_a_good_key(headers, code):
    outcome = keyed().ask(headers=headers)
    assert (outcome.status, outcome.code) == (401, code)
    assert outcome.header("WWW-Authenticate") == 'ApiKey header="X-API-Key"'
    assert outcome.exchange.consumer is None
    assert b"nope" not in outcome.body


def test_a_place_to_look_is_needed():
    with pytest.raises(ValidationError):
        resolve("key_auth").Options.model_validate({"header": None})


def test_keys_in_a_cookie():
    trial = keyed(cookie="key", header=None)
    outcome = trial.ask(headers={"Cookie": "a=1; key=key-1; b=2"})
    assert outcome.passed and outcome.exchange.consumer.name == "ada"
    assert outcome.upstream_header("Cookie") == "a=1; b=2"
    assert trial.ask(headers={"Cookie": "key=key-1"}).upstream_header("Cookie") is None
    assert trial.ask(headers={"Cookie": "key="}).code == "invalid_key"
    assert trial.ask(headers={"Cookie": "a=1"}).header("WWW-Authenticate") == 'ApiKey cookie="key"'
    kept = keyed(cookie="key", header=None, forward_key=True).ask(headers={"Cookie": "key=key-1"})
    assert kept.upstream_header("Cookie") == "key=key-1"


def test_keys_end_and_have_scopes_of_their_own():
    assert (keyed().ask(headers={"X-API-Key": "old"}).code) == "key_expired"
    narrow = keyed().ask(headers={"X-API-Key": "narrow"}).exchange.consumer
    assert (narrow.credential, narrow.scopes) == ("narrow", {"orders:write"})
    assert keyed().ask(headers={"X-API-Key": "key-1"}).exchange.consumer.scopes is None
    bob = keyed(query="k").ask("GET /?k=k%C3%A9y/3+").exchange.consumer
    assert (bob.plan, bob.scopes) == ("gold", {"users:read", "orders:read"})


def test_none_at_all_may_be_enough():
    trial = keyed(optional=True, excluded_paths=["/health", "/open/*"])
    assert trial.ask().exchange.consumer.groups == ("guests",)
    assert trial.ask(headers={"X-API-Key": "nope"}).code == "invalid_key"
    trial = keyed(excluded_paths=["/health", "/open/*"])
    for path in ("/health", "/open", "/open/x"):
        assert trial.ask(f"GET {path}").passed
    for path in ("/opened", "/health/"):
        assert trial.ask(f"GET {path}").code == "unauthorized"


def test_managed_keys_come_and_go():
    trial = keyed()
    table = trial.context.keys
    ends = time.time_ns() + 10**15
    table.replace({raw("m-1"): ("k1", "ada", None, ends), raw("m-2"): ("k2", "gone", None, 0)})
    found = trial.ask(headers={"X-API-Key": "m-1"}).exchange.consumer
    assert (found.name, found.credential, found.groups) == ("ada", "k1", ("staff",))
    assert trial.ask(headers={"X-API-Key": "m-2"}).code == "invalid_key"      # its consumer is not in the file
    table.change({raw("m-1"): ("k1", "ada", ("x",), 1), raw("m-3"): ("k3", "bob", ("y",), 0)}, [raw("m-2")])
    assert trial.ask(headers={"X-API-Key": "m-1"}).code == "key_expired"
    assert trial.ask(headers={"X-API-Key": "m-3"}).exchange.consumer.scopes == {"y"}
    table.change({}, [raw("m-1"), raw("m-3")])
    assert trial.ask(headers={"X-API-Key": "m-3"}).code == "invalid_key"
    table.broken = True
    assert trial.ask(headers={"X-API-Key": "m-3"}).status == 503              # it might be one of those
    assert trial.ask(headers={"X-API-Key": "key-1"}).passed


def test_uses_are_counted():
    trial = keyed()
    for _ in range(3):
        trial.ask(headers={"X-API-Key": "key-1"})
    trial.ask(headers={"X-API-Key": "nope"})
    count, last = trial.context.keys.usage.read(raw("key-1"))
    assert count == 3 and abs(last - time.time()) < 60
    assert trial.context.keys.usage.read(raw("nope")) == (0, 0)
