"""The state of endpoints in shared memory, and balancers that leave out who is not well."""

import asyncio
import mmap
import multiprocessing
import time

import pytest
from fastgw._core.reactor import Reactor

from fastgw._core.balance import LoadBalancer
from fastgw._core.health import R_FAILURES, R_LATENCY, HealthTable, Outliers
from fastgw._core.pool import Endpoint, Limits, Service
from fastgw._core.probe import Probe, count_picks
from fastgw._core.template import Compiled

SECOND = 1_000_000_000


@pytest.fixture
def reactor():
    loop = asyncio.new_event_loop()
    reactor = Reactor(loop, print)
    yield reactor
    reactor.close()
    loop.close()


@pytest.fixture
def table():
    return HealthTable(mmap.mmap(-1, HealthTable.size(1000)))


def endpoints(reactor, count):
    urls = [f"http://10.0.{i // 250}.{i % 250}:80" for i in range(count)]
    return tuple(Endpoint(reactor, None, f"e{i}", url, b"e", (), Limits()) for i, url in enumerate(urls))


def probe():
    return Probe(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")


def service(reactor, table, count, kind="round_robin", outliers=None, given=None, **options):
    made = given or endpoints(reactor, count)
    key = Compiled([("client.ip", b"")]) if kind == "consistent_hash" else None
    return Service("s", made, balancer=LoadBalancer(kind, key, service="s", health=table, outliers=outliers, **options))


def send(one, endpoint, **outcome):
    request = probe()
    request.begin(one, endpoint)
    request.end(one, **outcome)


def asked(one, count=60):
    return set(count_picks(one, probe(), count))


# ---------------------------------------------------------------- the table


def test_an_endpoint_keeps_its_slot_and_its_state(table):
    slot = table.slot("users", "http://a:80")
    assert table.slot("users", "http://a:80") == slot
    assert table.slot("users", "http://b:80") != slot
    assert table.slot("orders", "http://a:80") != slot
    table.set_check(slot, "users", 2)
    assert table.read(table.slot("users", "http://a:80"))["check"] == "down"
    assert table.read(table.slot("orders", "http://a:80"))["check"] == "unchecked"


def test_a_full_table_says_so():
    table = HealthTable(mmap.mmap(-1, HealthTable.size(1)))
    slots = [table.slot("s", f"http://h{i}:80") for i in range(100)]
    known = [slot for slot in slots if slot >= 0]
    assert len(known) == len(set(known)) == 16 and slots.count(-1) == 84
    assert table.slot("s", "http://h0:80") == slots[0]


def test_a_buffer_that_is_too_small():
    with pytest.raises(ValueError, match="bytes at least"):
        HealthTable(bytearray(8192))


def test_processes_see_the_same(table):
    def other():
        table.set_check(table.slot("s", "http://a:80"), "s", 2)
        for i in range(200):
            table.slot("s", f"http://many{i}:80")

    context = multiprocessing.get_context("fork")
    children = [context.Process(target=other) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert table.read(table.slot("s", "http://a:80"))["check"] == "down"
    slots = [table.slot("s", f"http://many{i}:80") for i in range(200)]
    assert len(set(slots)) == 200


def test_an_ejection_grows_and_shrinks_again(table):
    slot = table.slot("s", "http://a:80")

    def lasted():
        seen = table.read(slot)
        return (seen["ejected_until"] - seen["ejected_at"]) / SECOND

    for wanted in (0.01, 0.02, 0.03, 0.035, 0.035):
        assert table.eject(slot, "s", R_LATENCY, SECOND // 100, 35 * SECOND // 1000)
        assert lasted() == pytest.approx(wanted)
        assert not table.eject(slot, "s", R_LATENCY, SECOND // 100, 35 * SECOND // 1000)
        while time.monotonic_ns() < table.read(slot)["ejected_until"]:
            pass
    while time.monotonic_ns() < table.read(slot)["ejected_until"] + 3 * 35 * SECOND // 1000:
        pass
    table.eject(slot, "s", R_LATENCY, SECOND // 100, 35 * SECOND // 1000)
    assert lasted() <= 0.031
    assert table.read(slot)["ejections"] == 6 and table.read(slot)["reason"] == "latency"


# ---------------------------------------------------------------- balancers


@pytest.mark.parametrize("kind", ["round_robin", "random", "least_requests", "ewma", "consistent_hash"])
def test_who_is_down_by_its_checks_is_not_asked(reactor, table, kind):
    one = service(reactor, table, 3, kind)
    for down in range(3):
        slot = table.slot("s", one.endpoints[down].url)
        table.set_check(slot, "s", 2)
        assert f"e{down}" not in asked(one)
        table.set_check(slot, "s", 1)
    if kind != "consistent_hash":
        assert asked(one) == {"e0", "e1", "e2"}


def test_all_down(reactor, table):
    made = endpoints(reactor, 2)
    for endpoint in made:
        table.set_check(table.slot("s", endpoint.url), "s", 2)
    assert asked(service(reactor, table, 2, given=made)) == {"e0", "e1"}
    assert probe().pick(service(reactor, table, 2, given=made, panic=False)) is None


def test_who_comes_back_starts_slowly(reactor, table):
    one = service(reactor, table, 2, "random", slow_start_ns=3600 * SECOND)
    for endpoint in one.endpoints:
        endpoint.since = 0
    slot = table.slot("s", one.endpoints[0].url)
    table.set_check(slot, "s", 2)
    assert asked(one) == {"e1"}
    table.set_check(slot, "s", 1)
    counts = count_picks(one, probe(), 20_000)
    assert counts["e0"] / 20_000 == pytest.approx(1 / 11, abs=0.02)


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        ({"status": 500}, "errors"),
        ({"status": 503}, "failures"),
        ({"code": "upstream_connect_failed"}, "failures"),
        ({"code": "upstream_response_timeout"}, "failures"),
        ({"code": "route_timeout"}, "failures"),
    ],
)
def test_failures_in_a_row_eject(reactor, table, outcome, reason):
    one = service(reactor, table, 3, outliers=Outliers(errors=5, failures=3))
    first = one.endpoints[0]
    limit = 5 if reason == "errors" else 3
    for _ in range(limit - 1):
        send(one, first, **outcome)
    send(one, first, status=200)                     # the row is broken
    for _ in range(limit - 1):
        send(one, first, **outcome)
    assert asked(one) == {"e0", "e1", "e2"}
    send(one, first, **outcome)
    assert asked(one) == {"e1", "e2"}
    assert table.read(first.health)["reason"] == reason


def test_answers_that_break_off_are_failures_in_a_row(reactor, table):
    """A good head does not end the row when the rest does not come."""
    one = service(reactor, table, 3, outliers=Outliers(failures=3, rates=True))
    request = probe()
    for _ in range(3):
        request.begin(one, one.endpoints[0])
        request.end(one, status=200, code="upstream_truncated")
    assert asked(one) == {"e1", "e2"}
    seen = table.read(one.endpoints[0].health)
    assert (seen["requests"], seen["bad"], seen["answers"]) == (3, 3, 3)


def test_one_request_is_one_error(reactor, table):
    one = service(reactor, table, 3, outliers=Outliers(failures=2, errors=2, rates=True))
    request = probe()
    request.begin(one, one.endpoints[0])
    request.end(one, status=503, code="upstream_truncated")
    assert asked(one) == {"e0", "e1", "e2"}
    assert table.read(one.endpoints[0].health)["bad"] == 1


@pytest.mark.parametrize(
    "outcome", [{"status": 404}, {"status": 429}, {"code": "queue_timeout"}, {"code": "pool_exhausted"}, {},
                {"code": "client_closed"}, {"code": "upstream_body_too_large"}]
)  # fmt: skip
def test_what_says_nothing_of_the_endpoint(reactor, table, outcome):
    one = service(reactor, table, 3, outliers=Outliers(errors=1, failures=1))
    for _ in range(10):
        send(one, one.endpoints[0], **outcome)
    assert asked(one) == {"e0", "e1", "e2"}


@pytest.mark.parametrize(
    ("status", "reason"), [("14", "failures"), ("4", "failures"), ("13", "errors"), ("2", "errors")]
)
def test_statuses_of_grpc_in_a_row_eject(reactor, table, status, reason):
    one = service(reactor, table, 3, outliers=Outliers(errors=5, failures=3, rates=True, grpc=(2, 4, 13, 14)))
    first = one.endpoints[0]
    limit = 5 if reason == "errors" else 3
    for _ in range(limit - 1):
        send(one, first, status=200, grpc=status)
    send(one, first, status=200, grpc="0")           # the row is broken
    for _ in range(limit - 1):
        send(one, first, status=200, grpc=status)
    assert asked(one) == {"e0", "e1", "e2"}
    send(one, first, status=200, grpc=status)
    assert asked(one) == {"e1", "e2"}
    seen = table.read(first.health)
    assert seen["reason"] == reason
    assert (seen["requests"], seen["bad"], seen["answers"]) == (2 * limit, 2 * limit - 1, 2 * limit)


def test_statuses_of_grpc_that_are_not_errors(reactor, table):
    one = service(reactor, table, 3, outliers=Outliers(errors=1, failures=1, grpc=(14,)))
    for status in ("0", "1", "3", "5", "13", "15", "16", "17", "99", "-1", "", "x"):
        send(one, one.endpoints[0], status=200, grpc=status)
    send(one, one.endpoints[0], code="upstream_body_too_large", status=200, grpc="14")     # our own trailers
    assert asked(one) == {"e0", "e1", "e2"}
    without = service(reactor, table, 3, outliers=Outliers(errors=1, failures=1))
    send(without, without.endpoints[0], status=200, grpc="14")
    assert asked(without) == {"e0", "e1", "e2"}


def test_every_worker_counts_and_every_worker_knows(reactor, table):
    mine = service(reactor, table, 3, outliers=Outliers(failures=4))
    other = service(reactor, table, 3, outliers=Outliers(failures=4))
    for _ in range(2):
        send(mine, mine.endpoints[1], status=502)
        send(other, other.endpoints[1], status=502)
    assert asked(mine) == asked(other) == {"e0", "e2"}


def test_it_is_asked_again_when_the_time_is_over(reactor, table):
    one = service(reactor, table, 2, outliers=Outliers(failures=1, base_ns=SECOND // 20))
    send(one, one.endpoints[0], status=502)
    assert asked(one) == {"e1"}
    until = table.read(one.endpoints[0].health)["ejected_until"]
    while time.monotonic_ns() < until:
        pass
    assert asked(one) == {"e0", "e1"}


@pytest.mark.parametrize(("count", "share", "left"), [(10, 0.3, 7), (10, 0.05, 9), (3, 0.5, 2), (2, 0.5, 1), (1, 1, 1)])
def test_only_a_share_is_ejected(reactor, table, count, share, left):
    one = service(reactor, table, count, outliers=Outliers(failures=1, share=share), panic=False)
    for endpoint in one.endpoints:
        send(one, endpoint, code="upstream_reset")
        send(one, endpoint, code="upstream_reset")
    assert len(asked(one)) == left
    assert one.balancer.ejected == count - left


def test_rates_are_counted_only_where_they_are_asked_for(reactor, table):
    quiet = service(reactor, table, 2, outliers=Outliers(errors=100))
    send(quiet, quiet.endpoints[0], status=500)
    assert table.read(quiet.endpoints[0].health)["requests"] == 0
    loud = service(reactor, table, 2, outliers=Outliers(errors=100, rates=True))
    for outcome in ({"status": 200}, {"status": 500}, {"code": "upstream_reset"}, {"code": "client_closed"}):
        send(loud, loud.endpoints[0], **outcome)
    seen = table.read(loud.endpoints[0].health)
    assert (seen["requests"], seen["bad"]) == (3, 2)


def test_a_service_without_outliers_does_not_see_ejections(reactor, table):
    made = endpoints(reactor, 2)
    table.eject(table.slot("s", made[0].url), "s", R_FAILURES, SECOND, SECOND)
    assert asked(service(reactor, table, 2, given=made)) == {"e0", "e1"}


def test_an_ejected_endpoint_of_the_agent(reactor, table):
    one = service(reactor, table, 3, outliers=Outliers(errors=100, rates=True))
    table.eject(one.endpoints[2].health, "s", R_LATENCY, SECOND, SECOND)
    assert asked(one) == {"e0", "e1"}
