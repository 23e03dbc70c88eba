"""A second request beside the first: when, to whom, whose answer, and what it costs."""

import itertools
import json
import threading
import time
from contextlib import ExitStack, contextmanager

import grpc
import h2.events
import pytest

from fastgw.testing import FakeUpstream, GatewayProcess
from tests.e2e.conftest import full_backlog
from tests.e2e.test_http2_upstream import Http2Server, code
from tests.e2e.test_retry import counted
from tests.patience import until

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BAD = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\ndown"
SOON = {"delay": "20ms", "budget": {"ratio": 1, "per_second": 100}}


class Script:
    """What each endpoint does with its requests, one after the other; the last of them from then on.

    The endpoints take turns, and a hedge takes none: the first attempt of the first request goes to the first of them.
    """

    def __init__(self, plays):
        self.plays = [list(play) if isinstance(play, tuple) else [play] for play in plays]
        self.ups = []
        self.lock = threading.Lock()
        self.asked = []

    def __call__(self, connection):
        while True:
            request = connection.read_request()
            with self.lock:
                plays = self.plays[min(self.ups.index(connection.owner), len(self.plays) - 1)]
                play = plays.pop(0) if len(plays) > 1 else plays[0]
                self.asked.append((connection.owner, request))
            if not callable(play):
                connection.send(play)
            elif play(connection):
                return

    def of(self, number):
        """The requests of an endpoint."""
        return [request for up, request in self.asked if up is self.ups[number]]


def hang(connection):
    connection.hang()
    return True


def cut(connection):
    connection.reset()
    return True


@contextmanager
def world(*plays, hedge=None, service=None, route=None, count=2, endpoints=(), **more):
    """A service of `count` endpoints with a play for each, the last one for the rest."""
    turns = Script(plays)
    with ExitStack() as stack:
        ups = turns.ups = [stack.enter_context(FakeUpstream(turns)) for _ in range(count)]
        given = {"endpoints": [*endpoints, *(up.url for up in ups)], "hedge": {**SOON, **(hedge or {})}}
        given |= service or {}
        config = {
            "services": {"up": given}, "routes": [{"path": "/*", "service": "up", **(route or {})}],
            "observability": {"access_log": {"fields": ["status", "code", "endpoint", "hedge"]}}, **more,
        }  # fmt: skip
        gateway = stack.enter_context(GatewayProcess(config))
        yield stack.enter_context(gateway.client()), gateway, turns


def get(client, method="GET", body=b"", headers=b""):
    head = f"{method} /x HTTP/1.1\r\nHost: h\r\n".encode() + headers
    if body:
        head += b"Content-Length: %d\r\n" % len(body)
    return client.request(head + b"\r\n" + body)


def rows(gateway, count):
    """The access log so far."""
    until(lambda: sum(line.startswith("{") for line in gateway.stdout.splitlines()) >= count)
    return [json.loads(line) for line in gateway.stdout.splitlines() if line.startswith("{")]


def test_the_second_answers_while_the_first_hangs():
    with world((hang, GOOD), GOOD) as (client, gateway, script):
        begun = time.monotonic()
        found = get(client, headers=b"X-Mine: 1\r\n")
        assert (found.status, bytes(found.body)) == (200, b"ok")
        assert time.monotonic() - begun >= 0.02
        until(lambda: len(script.asked) == 2)
        (one,), (two,) = script.of(0), script.of(1)
        assert one.target == two.target and one.headers == two.headers
        # the loser is cancelled: its connection goes
        until(lambda: script.ups[0].open_connections() == 0)
        until(lambda: counted(gateway, "hedges_total") == counted(gateway, "hedges_won_total") == 1)
        (row,) = rows(gateway, 1)
        assert row["hedge"] == "won" and row["endpoint"] == script.ups[1].url.removeprefix("http://")
        assert get(client).status == 200


def test_the_first_answers_while_the_second_hangs():
    go = threading.Event()

    def late(connection):
        connection.wait(go)
        connection.send(GOOD)

    with world(late, hang) as (client, gateway, turns):
        client.send(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
        until(lambda: len(turns.asked) == 2)
        go.set()
        assert client.response().status == 200
        until(lambda: turns.ups[1].open_connections() == 0)
        assert counted(gateway, "hedges_total") == 1 and counted(gateway, "hedges_won_total") == 0
        assert rows(gateway, 1)[0]["hedge"] == "lost"


def test_what_is_quick_is_asked_once():
    with world(GOOD, hedge={"delay": "5s"}) as (client, gateway, turns):
        for _ in range(10):
            assert get(client).status == 200
        assert len(turns.asked) == 10 and counted(gateway, "hedges_total") == 0
        assert {row["hedge"] for row in rows(gateway, 10)} == {None}


def test_a_large_answer_is_passed_on_as_it_comes():
    """The winner's body is not collected: the client has the first half before the second half is there."""
    half = b"x" * 300_000
    more = threading.Event()

    def play(connection):
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 600000\r\n\r\n" + half)
        connection.wait(more)
        connection.send(half)

    with world(hang, play, hedge={"delay": "20ms"}) as (client, _, _):
        client.send(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
        head = client.head()
        assert head.status == 200
        while len(client.rest()) < len(half):
            client.reader.fill(time.monotonic() + 60)
        more.set()
        while len(client.rest()) < 2 * len(half):
            client.reader.fill(time.monotonic() + 60)
        assert client.rest() == half * 2


@pytest.mark.parametrize("second", [cut, BAD])
def test_a_bad_second_is_not_the_answer(second):
    go = threading.Event()

    def first(connection):
        connection.wait(go)
        connection.send(GOOD)

    with world(first, second) as (client, gateway, turns):
        client.send(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
        until(lambda: len(turns.asked) == 2)
        until(lambda: turns.ups[1].open_connections() == 0)
        go.set()
        assert client.response().status == 200
        assert counted(gateway, "hedges_won_total") == 0


@pytest.mark.parametrize("first", [cut, BAD])
def test_a_bad_first_waits_for_the_second(first):
    begin, go = threading.Event(), threading.Event()

    def bad(connection):
        connection.wait(begin)
        if callable(first):
            return first(connection)
        return connection.send(first)

    def good(connection):
        connection.wait(go)
        connection.send(GOOD)

    with world(bad, good, service={"outliers": {"consecutive_errors": 100}}) as (client, gateway, turns):
        client.send(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
        until(lambda: len(turns.asked) == 2)
        begin.set()
        until(lambda: turns.ups[0].open_connections() == 0)
        go.set()
        assert client.response().status == 200
        until(lambda: counted(gateway, "hedges_won_total") == 1)


def test_all_are_bad():
    """The last one to say something says the answer; `retry` may still try again."""
    both = threading.Barrier(2, timeout=60)

    def bad(connection):
        both.wait()
        connection.send(BAD)

    with world(bad, bad) as (client, gateway, _):
        assert get(client).status == 503
    again = {"retry": {"backoff": "1ms", "attempts": 2}}
    with world((bad, GOOD), (bad, GOOD), service=again) as (client, gateway, turns):
        assert get(client).status == 200
        # the third may be slow, and has a hedge then
        until(lambda: len(turns.asked) in (3, 4) and counted(gateway, "retries_total") == 1)


def test_both_are_cut():
    both = threading.Barrier(2, timeout=60)

    def bad(connection):
        both.wait()
        return cut(connection)

    with world(bad, bad) as (client, _, turns):
        assert code(get(client)) == (502, "upstream_reset")
        until(lambda: len(turns.asked) == 2)


def test_a_client_that_leaves_takes_both_along():
    with world(hang, hang) as (_, gateway, turns):
        with gateway.client() as leaving:
            leaving.send(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
            until(lambda: len(turns.asked) == 2)
        until(lambda: all(up.open_connections() == 0 for up, _ in turns.asked))
        (row,) = rows(gateway, 1)
        assert (row["status"], row["code"], row["hedge"]) == (499, "client_closed", "lost")


def test_the_time_of_the_route_ends_both():
    with world(hang, hang, route={"timeouts": {"total": "1s"}}) as (client, _, turns):
        assert code(get(client)) == (504, "route_timeout")
        until(lambda: len(turns.asked) == 2)
        until(lambda: all(up.open_connections() == 0 for up, _ in turns.asked))


@pytest.mark.parametrize(
    ("method", "body", "hedge", "retry", "asked"),
    [
        ("HEAD", b"", {}, None, 2),
        ("POST", b"", {}, None, 1),
        ("POST", b"", {"methods": ["POST"]}, None, 2),
        ("GET", b"", {"methods": ["POST"]}, None, 1),
        ("GET", b"abc", {}, None, 1),                                   # its body went to the first, and is not here
        ("PUT", b"abc", {"methods": ["PUT"]}, {"attempts": 2}, 2),      # `retry` keeps it
    ],
)
def test_which_requests(method, body, hedge, retry, asked):
    route = {"timeouts": {"total": "1s"}}
    with world(hang, hang, hedge=hedge, route=route, service={"retry": retry} if retry else {}) as (client, _, turns):
        assert get(client, method, body).status == 504
        until(lambda: len(turns.asked) >= asked)
        assert [bytes(request.body) for _, request in turns.asked] == [body] * asked


def test_an_endpoint_that_takes_no_connection():
    with ExitStack() as stack:
        full = full_backlog(stack)
        with world(GOOD, endpoints=[full], count=1) as (client, gateway, turns):
            for _ in range(4):
                assert get(client).status == 200
            until(lambda: counted(gateway, "hedges_won_total") == 2 and len(turns.asked) == 4)


def test_a_hedge_takes_no_turn():
    """Of two endpoints in turn, one of which hangs, every second request is hedged, not every one."""
    go = threading.Event()

    def play(connection):
        while True:
            connection.read_request()
            if connection.owner is ups[0] and not go.wait(0.3):
                connection.hang()
            connection.send(GOOD)

    with ExitStack() as stack:
        ups = [stack.enter_context(FakeUpstream(play)) for _ in range(2)]
        config = {
            "services": {"up": {"endpoints": [up.url for up in ups], "hedge": SOON}},
            "routes": [{"path": "/*", "service": "up"}],
        }
        with GatewayProcess(config) as gateway, gateway.client() as client:
            for _ in range(8):
                assert get(client).status == 200
            until(lambda: counted(gateway, "hedges_won_total") == 4)
        go.set()


def test_no_other_endpoint_no_hedge():
    with world(hang, GOOD, count=1, route={"timeouts": {"total": "300ms"}}) as (client, gateway, turns):
        assert get(client).status == 504
        until(lambda: len(turns.asked) == 1)
        assert counted(gateway, "hedges_total") == 0


def test_more_than_one():
    arrived = itertools.count()

    def play(connection):
        return hang(connection) if next(arrived) < 2 else connection.send(GOOD)

    with world(play, hedge={"max_extra": 2}, count=3) as (client, gateway, turns):
        assert get(client).status == 200
        until(lambda: len({up for up, _ in turns.asked}) == 3 and counted(gateway, "hedges_total") == 2)


def test_the_budget():
    go = threading.Event()

    def slow(connection):
        go.wait(0.1)
        connection.send(GOOD)

    hedge = {"delay": "1ms", "budget": {"ratio": 0.1, "per_second": 0}}
    with world(slow, hedge=hedge) as (client, gateway, turns):
        for _ in range(20):
            assert get(client).status == 200
        sent, denied = counted(gateway, "hedges_total"), counted(gateway, "hedges_denied_total")
        # one that finds its answer and its time at once has none
        assert 1 <= sent <= 2 and 10 <= sent + denied <= 20
        until(lambda: len(turns.asked) == 20 + sent)


def test_a_percentile_of_the_routes_own_answers():
    def play(connection):
        hangs = "X-Hang" in dict(connection.requests[-1].headers) and connection.owner is script.ups[0]
        return hang(connection) if hangs else connection.send(GOOD)

    with world(play, play, hedge={"delay": None, "percentile": "p95"}) as (client, gateway, script):
        for _ in range(150):
            assert get(client).status == 200
        assert get(client, headers=b"X-Hang: 1\r\n").status == 200
        until(lambda: counted(gateway, "hedges_won_total") >= 1)


def test_before_a_percentile_is_known_nothing_is_sent_twice():
    route = {"timeouts": {"total": "300ms"}}
    with world(hang, GOOD, hedge={"delay": None, "percentile": "p95"}, route=route) as (client, _, turns):
        assert get(client).status == 504
        until(lambda: len(turns.asked) == 1)


def test_the_route_before_the_service_and_short_forms():
    with world(hang, GOOD, route={"hedge": "30ms"}, service={"hedge": "p99"}) as (client, gateway, _):
        assert get(client).status == 200
        until(lambda: counted(gateway, "hedges_won_total") == 1)


def test_each_is_told_its_time():
    with world(hang, GOOD, service={"timeouts": {"header": "X-Left", "response": "60s"}},
               route={"timeouts": {"total": "30s"}}) as (client, _, turns):  # fmt: skip
        assert get(client, headers=b"X-Left: 4\r\n").status == 200
        until(lambda: len(turns.asked) == 2)
        first, second = (int(dict(turns.of(number)[0].headers)["X-Left"]) for number in (0, 1))
        assert 0 < second < first <= 30_000


def test_balancers_count_both():
    """least_requests: after everything, nothing is under way anywhere; with a limit of 2, the rival counts too."""
    service = {"balance": "least_requests", "concurrency": {"max": 2}}
    with world((hang, GOOD), GOOD, service=service, server={"workers": 1}) as (client, gateway, turns):
        for _ in range(20):
            assert get(client).status == 200
        until(lambda: counted(gateway, "concurrency_in_flight") == 0)
        assert turns.of(0) and turns.of(1)
    service = {"concurrency": {"max": 1}}
    route = {"timeouts": {"total": "300ms"}}
    with world(hang, GOOD, service=service, route=route, server={"workers": 1}) as (client, gateway, turns):
        assert get(client).status == 504
        until(lambda: len(turns.asked) == 1)
        assert counted(gateway, "hedges_total") == 0


def test_breakers_hear_of_both():
    """The second attempt is cut off, which opens the breaker of its endpoint: nobody asks it again."""
    go = threading.Event()

    def first(connection):
        connection.wait(go)
        connection.send(GOOD)

    breaker = {"scope": "endpoint", "failure_threshold": 1, "timeout": "10m"}
    with world(first, (cut, GOOD), service={"circuit_breaker": breaker}) as (client, gateway, script):
        client.send(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
        until(lambda: len(script.asked) == 2)
        until(lambda: script.ups[1].open_connections() == 0)
        go.set()
        assert client.response().status == 200
        for _ in range(6):
            assert get(client).status == 200
        assert (len(script.of(0)), len(script.of(1))) == (7, 1)
        until(lambda: counted(gateway, "hedges_total") == 1)


class Http2Script:
    """What a service of HTTP/2 does with its requests, one after the other."""

    def __init__(self, *plays):
        self.plays = list(plays)
        self.ended = []

    def __call__(self, served, event):
        if isinstance(event, h2.events.StreamEnded):
            play = self.plays.pop(0) if len(self.plays) > 1 else self.plays[0]
            play(served, event.stream_id)
        if isinstance(event, h2.events.StreamReset):
            self.ended.append(event)


def nothing(served, stream):
    pass


def test_over_http2():
    large = b"y" * 1_000_000
    def answer(served, stream):
        served.answer(stream, large)

    first = Http2Script(nothing, answer)
    with Http2Server(first) as a, Http2Server(Http2Script(answer)) as b:
        service = {
            "endpoints": [f"http://127.0.0.1:{a.port}", f"http://127.0.0.1:{b.port}"], "protocol": "h2c", "hedge": SOON,
        }  # fmt: skip
        config = {"services": {"up": service}, "routes": [{"path": "/*", "service": "up"}]}
        with GatewayProcess(config) as gateway, gateway.client() as client:
            for _ in range(2):
                found = get(client)
                assert (found.status, bytes(found.body)) == (200, large)
            until(lambda: first.ended)                    # the loser's stream is reset, its connection stays
            until(lambda: counted(gateway, "hedges_won_total") >= 1)


def test_a_grpc_call():
    def answer(served, stream):
        kind = [("content-type", "application/grpc")]
        pieces = [one for one in served.of(h2.events.DataReceived) if one.stream_id == stream]
        served.answer(stream, b"".join(one.data for one in pieces), kind, trailers=[("grpc-status", "0")])

    with Http2Server(Http2Script(nothing)) as a, Http2Server(Http2Script(answer)) as b:
        service = {
            "endpoints": [f"http://127.0.0.1:{a.port}", f"http://127.0.0.1:{b.port}"], "protocol": "h2c",
            "hedge": {**SOON, "methods": ["POST"]}, "retry": {"retry_on": ["grpc:unavailable"]},
        }  # fmt: skip
        config = {
            "server": {"listeners": ["127.0.0.1:${FASTGW_PORT}"]},
            "services": {"up": service}, "routes": [{"path": "/*", "service": "up"}],
        }  # fmt: skip
        with GatewayProcess(config) as gateway, grpc.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
            assert channel.unary_unary("/a.B/C")(b"hello", timeout=60) == b"hello"
            until(lambda: counted(gateway, "hedges_won_total") == 1)
