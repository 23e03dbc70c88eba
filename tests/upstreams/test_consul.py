"""Consul, against a contract fake (registries.py): no package of Consul is at hand for tests."""

import asyncio
import logging

from tests.upstreams.registries import FakeConsul, instance

SECRET = "b1gs8513-secret-token"


def options(consul, **more):
    return {"type": "consul", "address": consul.address, "refresh": "500ms", **more}


def test_instances_become_endpoints_and_changes_come_at_once(watch):
    async def run():
        with FakeConsul() as consul:
            consul.put([instance("10.0.0.1", 80, weights={"Passing": 5, "Warning": 1}, meta={"zone": "a", "v": "2"})])
            async with watch(options(consul, refresh="30s")) as watched:
                await watched.shows("http://10.0.0.1:80")
                one = watched.sets[0].endpoints[0]
                assert (one.weight, one.zone, dict(one.labels)["v"]) == (5, "a", "2")
                # no address of its own: the node's
                consul.put([instance("10.0.0.1", 80), instance("", 81, name="b")])
                await watched.shows("http://10.0.0.1:80", "http://10.9.9.9:81")
                consul.put([])
                await watched.shows()
            assert [found.version for found in watched.sets] == [1, 2, 3]
        path, query, _ = consul.asked[1]
        assert path == "/v1/health/service/users"
        assert query == {"passing": "1", "index": "11", "wait": "30000ms"}

    asyncio.run(run())


def test_what_is_asked_is_what_the_file_says(watch):
    async def run():
        with FakeConsul() as consul:
            more = {"token": SECRET, "tags": ["v2"], "datacenter": "dc2", "service": "users/x"}
            async with watch(options(consul, **more)) as watched:
                await watched.shows()
        path, query, headers = consul.asked[0]
        assert path == "/v1/health/service/users%2Fx"
        assert query == {"tag": "v2", "passing": "1", "dc": "dc2"}
        assert headers["X-Consul-Token"] == SECRET

    asyncio.run(run())


def test_critical_instances_are_never_used(watch):
    async def run():
        with FakeConsul() as consul:
            states = [("10.0.0.1", "passing"), ("10.0.0.2", "warning"), ("10.0.0.3", "critical")]
            consul.put([instance(host, 80, status=state, name=host) for host, state in states])
            async with watch(options(consul)) as strict, watch(options(consul, passing=False)) as loose:
                await strict.shows("http://10.0.0.1:80")
                await loose.shows("http://10.0.0.1:80", "http://10.0.0.2:80")

    asyncio.run(run())


def test_an_unchanged_index_confirms_and_a_smaller_one_starts_over(watch):
    async def run():
        with FakeConsul() as consul:
            consul.put([instance("10.0.0.1", 80)])
            async with watch(options(consul, refresh="100ms")) as watched:
                await watched.shows("http://10.0.0.1:80")
                before = watched.watcher.confirmed
                await watched.until(lambda: watched.watcher.confirmed > before + 0.2)
                assert len(watched.sets) == 1
                consul.put([instance("10.0.0.2", 80)], index=3)      # the server was restored from a snapshot
                await watched.shows("http://10.0.0.2:80")
                await watched.until(lambda: "index" not in consul.asked[-1][1] or consul.asked[-1][1]["index"] == "3")

    asyncio.run(run())


def test_a_failing_registry_leaves_the_last_answer_and_is_told_once(watch, caplog):
    caplog.set_level(logging.INFO, "fastgw.discovery")

    async def run():
        with FakeConsul() as consul:
            consul.put([instance("10.0.0.1", 80)])
            async with watch(options(consul, refresh="100ms", token=SECRET)) as watched:
                await watched.shows("http://10.0.0.1:80")
                consul.broken = 403
                await watched.until(lambda: watched.watcher.failures >= 3)
                assert watched.urls == ["http://10.0.0.1:80"]
                assert "403" in watched.watcher.state.error
                consul.broken = None
                consul.put([instance("10.0.0.2", 80)])
                await watched.shows("http://10.0.0.2:80")
                assert watched.watcher.state.error == ""
        warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
        assert len(warnings) == 1 and "the token is not allowed" in warnings[0]
        assert any("answers again" in record.message for record in caplog.records)
        assert SECRET not in caplog.text + repr(watched.watcher.state)

    asyncio.run(run())


def test_answers_that_are_none(watch):
    async def run():
        with FakeConsul() as consul:
            for entries in ({"a": 1}, [{"Node": {}}], [instance("10.0.0.1", "x")], [instance("a b", 80)]):
                consul.put(entries)
                async with watch(options(consul)) as watched:
                    await watched.until(lambda w=watched: w.watcher.failures == 1, entries)
                    assert watched.sets == []

    asyncio.run(run())
