"""What the agent makes of checks and of what workers counted, without workers; and the gateway inside a program."""

import asyncio
import functools
import mmap
import time
from statistics import median

import pytest

from fastgw._core.breaker import CircuitTable
from fastgw._core.health import HealthTable
from fastgw.config import load
from fastgw.config.schema.address import parse_origin
from fastgw.config.schema.health import HealthCheck
from fastgw.gateway import Gateway
from fastgw.policies import RESOLVER
from fastgw.server.discovery import Discovery
from fastgw.server.health import Health, Others
from fastgw.server.names import Resolver
from fastgw.testing import FakeUpstream, answer, free_port
from fastgw.upstreams.health import Check

TEXT = """
services:
  s:
    endpoints: [{endpoints}]
    {room}
routes: [{{path: /*, service: s}}]
"""


def in_a_loop(test):
    @functools.wraps(test)
    def run(**given):
        asyncio.run(test(**given))

    return run


@pytest.fixture
def table():
    return HealthTable(mmap.mmap(-1, HealthTable.size(100)))


def config(count, room):
    urls = ", ".join(f"'http://127.0.0.{i + 1}:9'" for i in range(count))
    return load(TEXT.format(endpoints=urls, room=room), resolver=RESOLVER, env={})


def health_of(table):
    names = Resolver(lambda changed: None)
    circuits = CircuitTable(bytearray(CircuitTable.size(16)))
    return Health(table, names, Discovery(lambda changed: None, names), circuits)


def test_the_median_of_the_others():
    for values in ([1, 2], [3, 1, 2], [5, 5, 5, 1], [4, 1, 9, 7, 2, 2]):
        others = Others({("s", str(i)): value for i, value in enumerate(values)})
        for i, value in enumerate(values):
            assert others.median(value) == median(values[:i] + values[i + 1 :])


@in_a_loop
async def test_thresholds(table):
    health = health_of(table)
    room = "health_check: {healthy_threshold: 2, unhealthy_threshold: 3, interval: 1h}"
    health.follow(config(1, room), ())
    (one,) = health.watched.values()
    options = one.check.options
    seen = []
    for why in ("", "x", "x", "", "x", "x", "x", "x", "", "x", "", "", "x"):
        health.answered(one, options, why)
        seen.append(table.read(one.slot)["check"])
    assert seen == ["up"] * 6 + ["down"] * 5 + ["up"] * 2
    health.stop()


@in_a_loop
async def test_the_first_answer_decides_alone(table):
    health = health_of(table)
    health.follow(config(1, "health_check: {interval: 1h}"), ())
    (one,) = health.watched.values()
    assert health.states()[0].state == "unchecked" and health.states()[0].up
    health.answered(one, one.check.options, "status 503")
    assert (health.states()[0].state, health.states()[0].why) == ("down", "status 503")
    health.stop()


def count(table, one, requests, bad, seconds):
    """As workers would: through a balancer."""
    from fastgw._core.reactor import Reactor

    from fastgw._core.balance import LoadBalancer
    from fastgw._core.health import Outliers
    from fastgw._core.pool import Endpoint, Limits, Service
    from fastgw._core.probe import Probe

    loop = asyncio.new_event_loop()
    reactor = Reactor(loop, print)
    endpoint = Endpoint(reactor, None, "e", one.url, b"e", (), Limits())
    balancer = LoadBalancer(service=one.service, health=table, outliers=Outliers(errors=1000, rates=True))
    service = Service(one.service, (endpoint,), balancer=balancer)
    probe = Probe(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    for i in range(requests):
        probe.begin(service, endpoint)
        reactor.now += int(seconds * 1e9)
        probe.end(service, 500 if i < bad else 200)
    reactor.close()
    loop.close()


OUTLIERS = "outliers: {success_rate_below: 20%, latency_above: 3, min_requests: 10, interval: 1h, ejection_time: 1m}"


@pytest.mark.parametrize(
    ("traffic", "ejected"),
    [
        ([(20, 0, 0.01)] * 3, []),
        ([(20, 0, 0.01), (20, 0, 0.01), (20, 6, 0.01)], [2]),
        ([(20, 0, 0.01), (20, 0, 0.01), (20, 3, 0.01)], []),
        ([(20, 0, 0.01), (20, 0, 0.04), (20, 0, 0.01)], [1]),
        ([(20, 0, 0.01), (9, 9, 0.01), (20, 0, 0.01)], []),
        ([(20, 20, 0.01)] * 3, []),
        ([(20, 0, 0.0001), (20, 0, 0.0009)], []),
        ([(20, 0, 0.01), (20, 20, 0.01)], [1]),
        # of two that are bad, the share lets one go: the one that fails
        ([(20, 0, 0.01), (20, 0, 0.5), (20, 0, 0.01), (20, 0, 0.01), (20, 20, 0.01)], [4, 1]),
        ([(20, 0, 0.5), (20, 20, 0.01), (20, 0, 0.01)], [1]),
    ],
)
@in_a_loop
async def test_who_is_worse_than_the_others(table, traffic, ejected):
    health = health_of(table)
    health.follow(config(len(traffic), OUTLIERS), ())
    watched = list(health.watched.values())
    options = health.services["s"].outliers
    health.compare("s", options)
    await asyncio.to_thread(lambda: [count(table, one, *told) for one, told in zip(watched, traffic, strict=True)])
    health.compare("s", options)
    out = [i for i, one in enumerate(watched) if table.read(one.slot)["ejected_until"] > time.monotonic_ns()]
    assert out == sorted(ejected)
    # the next interval begins at zero
    health.compare("s", options)
    assert sum(table.read(one.slot)["ejections"] for one in watched) == len(ejected)
    health.stop()


@pytest.mark.parametrize(
    ("reply", "room", "why"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", {}, ""),
        (b"HTTP/1.1 200 OK\r\n\r\nwithout a length", {"body": "length"}, ""),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 70000 + b"y", {"body": "y"}, "the body has not the text"),
        (b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: /\r\n\r\n", {}, "status 302"),
        (b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: /\r\n\r\n", {"statuses": "3xx"}, ""),
        (b"SSH-2.0-OpenSSH\r\n", {}, "the answer is not HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X-Long: y\r\n" * 9000, {}, "the head of the answer is longer"),
        (b"", {}, "no answer in 0.5 s"),
    ],
)
@in_a_loop
async def test_answers_to_a_check(reply, room, why):
    def play(connection):
        connection.read_request()
        connection.send(reply)
        connection.hang()

    with FakeUpstream(play) as up:
        check = Check(HealthCheck(timeout=30 if reply else 0.5, **room), parse_origin(up.url))
        found = await check.run("127.0.0.1")
        assert found.startswith(why) and bool(found) == bool(why)


@in_a_loop
async def test_nobody_listens():
    check = Check(HealthCheck(timeout=30), parse_origin(f"http://127.0.0.1:{free_port()}"))
    assert await check.run("127.0.0.1") == "Connection refused"


@in_a_loop
async def test_the_gateway_inside_a_program_checks_too():
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    with FakeUpstream(answer(ok)) as up:
        tree = {
            "server": {"listeners": ["127.0.0.1:0"]},
            "services": {
                "s": {
                    "endpoints": [up.url, f"http://127.0.0.1:{free_port()}"],
                    "health_check": {"interval": "100ms", "timeout": "1s"},
                }
            },
            "routes": [{"path": "/*", "service": "s"}],
        }
        async with Gateway(tree) as gateway:
            end = time.monotonic() + 60
            while True:
                (view,) = await gateway.services()
                if [row["state"] for row in view["endpoints"]] == ["up", "down"]:
                    break
                assert time.monotonic() < end
                await asyncio.sleep(0.02)
            assert b"fastgw_endpoint_up" in (await gateway.metrics())[1]
