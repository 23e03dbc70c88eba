"""The cache in the admin API: what it says, and purging."""

import asyncio
import json
import subprocess
import sys

import pytest

from fastgw._core.cache_access import Access
from fastgw._core.cache_store import Storage
from fastgw.admin import cache
from fastgw.config import Config
from fastgw.observe.cache import cache_metrics
from fastgw.server.purges import PurgeShare
from fastgw.testing import FakeUpstream, GatewayProcess


@pytest.fixture
def access():
    access = Access(Storage.private(4 * 1024 * 1024))
    access.put(b"a.example/x?q=1", b"12345", tags=[b"red"])
    access.put(b"a.example/x?q=1\0br", b"1", tags=[b"red"])
    access.put(b"a.example/y", b"1", tags=[b"blue"])
    return access


async def no_workers():
    return []


def ask(access, method, path, body=b"", query=""):
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    share = PurgeShare(access, Config)
    return asyncio.run(cache.answer(share, no_workers, method, path, query, text))


def names(access):
    return {name for name, *_ in access.entries()}


def test_how_full_it_is(access):
    access.get(b"a.example/y")
    access.get(b"a.example/z")
    status, state = ask(access, "GET", "/cache")
    assert (status, state["entries"], state["hits"], state["misses"], state["hit_rate"]) == (200, 3, 1, 1, 0.5)
    assert 0 < state["bytes"] < state["bytes_max"]


def test_metrics(access):
    access.get(b"a.example/y")
    access.purge_tag(b"red")
    told = {sample.name: sample.value for metric in cache_metrics(access.stats(), []) for sample in metric.samples}
    assert told["fastgw_cache_store_entries"] == 1
    assert told["fastgw_cache_store_hits_total"] == 1
    assert told["fastgw_cache_store_purged_total"] == 2
    assert told["fastgw_cache_store_purges_total"] == 1
    assert list(cache_metrics(Access(Storage.private(4 * 1024 * 1024)).stats(), [])) == [], "of one that nobody uses"


@pytest.mark.parametrize(
    "wish, left",
    [
        ({"url": "https://A.example/x?q=1"}, {b"a.example/y"}),
        ({"url": "a.example/y"}, {b"a.example/x?q=1", b"a.example/x?q=1\0br"}),
        ({"prefix": "http://a.example/"}, set()),
        ({"tag": "red"}, {b"a.example/y"}),
        ({"all": True}, set()),
    ],
)
def test_purge(access, wish, left):
    before = len(names(access))
    assert ask(access, "POST", "/cache/purge", wish) == (200, {"purged": before - len(left), "soft": False})
    assert names(access) == left


def test_soft_purge(access):
    assert ask(access, "POST", "/cache/purge", {"tag": "red", "soft": True}) == (200, {"purged": 2, "soft": True})
    status, listed = ask(access, "GET", "/cache/entries", query="prefix=https%3A%2F%2Fa.example%2Fx&most=10")
    assert (status, listed["count"], [one["fresh"] for one in listed["entries"]]) == (200, 2, [0, 0])
    assert sorted((one["url"], one["variant"], one["bytes"]) for one in listed["entries"]) == [
        ("a.example/x?q=1", False, 5), ("a.example/x?q=1", True, 1),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", {}, {"all": False}, {"url": ""}, {"url": "a", "tag": "b"}, {"all": 1}, {"urls": "a"},
     {"tag": "\u20ac"}, {"all": True, "soft": "yes"}],
)  # fmt: skip
def test_what_is_no_purge_purges_nothing(access, body):
    status, (code, _) = ask(access, "POST", "/cache/purge", body)
    assert (status, code, len(names(access))) == (400, "bad_request", 3)


@pytest.mark.parametrize("query", ["prefix", "most=x", "other=1", "most=1&x=2"])
def test_what_is_no_listing(access, query):
    status, (code, _) = ask(access, "GET", "/cache/entries", query=query)
    assert (status, code) == (400, "bad_request")


def test_a_listing_is_bounded():
    access = Access(Storage.private(16 * 1024 * 1024))
    for number in range(2000):
        access.put(b"h/%d" % number, b"")
    counts = [ask(access, "GET", "/cache/entries", query=query)[1]["count"] for query in ("", "most=5", "most=99999")]
    assert counts == [100, 5, 1000]


def test_methods_and_paths(access):
    assert ask(access, "POST", "/cache")[0] == 405
    assert ask(access, "GET", "/cache/purge")[0] == 405
    assert ask(access, "GET", "/cache/other")[0] == 404


def test_a_gateway_has_it_and_so_has_the_command_line():
    with FakeUpstream() as upstream:
        config = {
            "server": {"workers": 2},
            "cache": {"memory": "8MiB", "entries": 1000},
            "services": {"up": upstream.url},
            "routes": [{"path": "/*", "service": "up"}],
        }
        with GatewayProcess(config) as gateway:
            status, body = gateway.admin("/cache")
            assert (status, json.loads(body)["entries_max"]) == (200, 1000)
            assert json.loads(gateway.admin("/cache/entries?prefix=a.example/")[1]) == {"count": 0, "entries": []}
            assert "fastgw_cache_store" not in gateway.admin("/metrics")[1], "nobody uses it"
            admin = ["--admin", f"127.0.0.1:{gateway.admin_port}"]
            command = [sys.executable, "-m", "fastgw", "cache"]
            done = subprocess.run([*command, "purge", "--prefix", "a.example/", *admin], capture_output=True, text=True)
            assert (done.returncode, json.loads(done.stdout)) == (0, {"purged": 0, "soft": False}), done.stderr
            assert subprocess.run([*command, "purge", *admin], capture_output=True).returncode == 2
