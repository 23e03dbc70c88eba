"""`rate_limit` with `shared`: a real Redis that several gateways use, and which dies, stands still and is cut off."""

import http.client
import json
import re
import subprocess
import sys
import threading
import time

import pytest
import yaml

from fastgw.config import check
from fastgw.plan.notices import notices
from fastgw.policies import RESOLVER
from fastgw.testing import FakeUpstream, GatewayProcess
from fastgw.testing.cutting import CuttingProxy, Rule
from tests.store.redis_server import RedisServer, needed

LONG = "100000s"
FAILURES = ("open", "closed", "local_share")


def route(path, limit, shared, **more):
    policies = [{"rate_limit": {"by": "header:X-Who", "shared": shared, **limit, **more}}, {"respond": {"body": "in"}}]
    return {"name": path.strip("/"), "path": path, "policies": policies}


def configuration(url, up="http://127.0.0.1:1", **store):
    """Routes by what they do without Redis, exact and leased; /dear and /dear-leased go to a service that says what an
    answer cost."""
    routes = [
        route("/several", {"limits": [f"1000/{LONG}", {"requests": 5, "per": LONG, "algorithm": "fixed_window"}]},
              {"on_failure": "closed"}),
        route("/log", {"requests": 4, "per": LONG, "algorithm": "sliding_log"}, {"on_failure": "closed"}),
        route("/watched", {"requests": 2, "per": LONG}, {"on_failure": "closed"}, mode="log"),
        route("/leaky", {"requests": 20, "per": "1s", "algorithm": "leaky_bucket", "queue": 5, "max_delay": "5s"},
              {"on_failure": "closed"}),
        route("/plans", {"limits": [f"3/{LONG}"], "overrides": [{"methods": ["POST"], "limits": [f"1/{LONG}"]}]},
              {"on_failure": "closed"}, cost="${request.header.X-Cost}"),
    ]  # fmt: skip
    for name, shared in (("dear", {}), ("dear-leased", {"sharing": "leased", "slice": 4, "slice_time": "1s"})):
        limits = [f"20/{LONG}", {"requests": 100, "per": LONG, "algorithm": "fixed_window", "name": "window"}]
        routes.append({"name": name, "path": f"/{name}/*", "service": "up", "policies": [
            {"rate_limit": {"by": "header:X-Who", "limits": limits, "shared": {**shared, "on_failure": "closed"},
                            "response_cost": {"header": "X-Used"}}}]})  # fmt: skip
    for failure in FAILURES:
        shared = {"on_failure": failure, "hosts": 2}
        routes.append(route(f"/{failure}", {"requests": 20, "per": LONG}, shared))
        leased = {**shared, "sharing": "leased", "slice": 4, "slice_time": "1s"}
        routes.append(route(f"/leased-{failure}", {"requests": 20, "per": LONG}, leased))
    breaker = {"failures": 1, "pause": "20ms", "max_pause": "50ms"}
    redis = {"url": url, "deadline": "5s", "timeout": "5s", "breaker": breaker}
    return {"server": {"workers": 2}, "services": {"up": up}, "stores": {"redis": {**redis, **store}},
            "routes": routes}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with RedisServer(tmp_path_factory.mktemp("redis")) as running:
        yield running


def costs(connection):
    """A service: an answer to /dear/7 says that it cost 7."""
    while True:
        request = connection.read_request()
        cost = request.target.rpartition("/")[2]
        connection.send(f"HTTP/1.1 200 OK\r\nX-Used: {cost}\r\nContent-Length: 2\r\n\r\nok".encode())


@pytest.fixture(scope="module")
def gateways(server):
    """Two hosts, as it were, with two workers each."""
    with FakeUpstream(costs) as up:
        config = configuration(server.url, up.url)
        with GatewayProcess(config) as first, GatewayProcess(config) as second:
            yield first, second


def ask(gateway, path, who="a", method="GET", cost=""):
    cost = f"X-Cost: {cost}\r\n" if cost else ""
    with gateway.client(60) as client:
        raw = f"{method} {path} HTTP/1.1\r\nHost: a\r\nX-Who: {who}\r\n{cost}Connection: close\r\n\r\n"
        return client.request(raw.encode())


def crowd(gateways, path, who, count):
    """`count` requests at the same time to the gateways in turn."""
    answers = []

    def some(number):
        for n in range(number, count, 8):
            answers.append(ask(gateways[n % len(gateways)], path, who))

    threads = [threading.Thread(target=some, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def metric(gateway, name):
    text = gateway.admin("/metrics")[1]
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


def reads(server):
    return int(server.info("stats")["total_reads_processed"])


def quiet(server):
    """What the server has read, when nobody asks. This test is the first, before there are slices."""
    deadline = time.monotonic() + 60
    seen, since = reads(server), time.monotonic()
    while time.monotonic() - since < 1.5:
        time.sleep(0.1)
        now = reads(server)
        if now - seen > 2:                           # INFO itself, and the end of its connection
            since = time.monotonic()
        seen = now
        assert time.monotonic() < deadline
    return seen


@needed
def test_exact_is_one_round_trip_for_each_request(gateways, server):
    with gateways[0].client(60) as client:
        raw = b"GET /open HTTP/1.1\r\nHost: a\r\nX-Who: trips\r\n\r\n"
        assert client.request(raw).status == 200     # connected, and the script is known
        before = quiet(server)
        for _ in range(50):
            client.request(raw)
        after = reads(server)
    assert 50 <= after - before < 75, "a second round trip for each would be 50 more; INFO is one too"


@needed
@pytest.mark.parametrize("path", ["/open", "/leased-open"])
def test_two_hosts_admit_what_one_would(gateways, path):
    answers = crowd(gateways, path, "crowd", 60)
    assert [one.status for one in answers].count(200) <= 20
    # slices that others hold and do not use come back
    deadline = time.monotonic() + 60
    admitted = [one.status for one in answers].count(200)
    while admitted < 20:
        assert time.monotonic() < deadline, admitted
        admitted += ask(gateways[0], path, "crowd").status == 200
    refused = ask(gateways[1], path, "crowd")
    assert refused.status == 429 and json.loads(refused.body)["code"] == "rate_limited"
    assert refused.get("X-RateLimit-Limit") == "20" and refused.get("X-RateLimit-Remaining") == "0"
    assert 0 < int(refused.get("Retry-After")) <= 5001


@needed
def test_several_limits_headers_overrides_and_costs(gateways):
    answers = [ask(gateways[n % 2], "/several") for n in range(6)]
    assert [one.status for one in answers] == [200] * 5 + [429]
    assert answers[0].get("RateLimit").split(", ")[1].startswith('"5/')
    assert [one.get("X-RateLimit-Remaining") for one in answers] == ["4", "3", "2", "1", "0", "0"]
    assert "r=995" in answers[5].get("RateLimit"), "the refused one was not charged to the other limit"
    assert [ask(gateways[n % 2], "/log").status for n in range(5)] == [200] * 4 + [429]
    assert [ask(gateways[n % 2], "/watched").status for n in range(5)] == [200] * 5
    assert [ask(gateways[0], "/plans", cost=2).status for _ in range(2)] == [200, 429]
    assert [ask(gateways[1], "/plans", method="POST").status for _ in range(2)] == [200, 429]


@needed
def test_what_comes_too_fast_waits(gateways):
    begin = time.monotonic()
    answers = [ask(gateways[n % 2], "/leaky") for n in range(5)]
    assert [one.status for one in answers] == [200] * 5
    assert time.monotonic() - begin >= 0.19, "one each 50 ms"


@needed
def test_redis_has_no_keys_of_clients(gateways, server):
    ask(gateways[0], "/open", "planted-by-a-client")
    assert b"planted" not in server.command("KEYS", "*")


@needed
def test_without_redis_and_with_it_again(tmp_path):
    """Killed while requests run. What each does by itself; and what it admitted meanwhile is charged and counted."""
    with RedisServer(tmp_path) as server, GatewayProcess(configuration(server.url)) as gateway:
        for path in FAILURES:
            assert ask(gateway, f"/{path}").status == 200 and ask(gateway, f"/leased-{path}").status == 200
        ended = threading.Event()
        during = {path: [] for path in FAILURES}

        def run(path):
            while not ended.is_set():
                during[path].append(ask(gateway, f"/{path}", "running"))

        threads = [threading.Thread(target=run, args=(path,)) for path in FAILURES]
        for thread in threads:
            thread.start()
        try:
            deadline = time.monotonic() + 30
            while min(map(len, during.values())) < 3:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            server.kill()
            dead = {path: len(answers) for path, answers in during.items()}
            while min(len(during[path]) - dead[path] for path in FAILURES) < 30:
                assert time.monotonic() < deadline + 60
                time.sleep(0.01)
        finally:
            ended.set()
            for thread in threads:
                thread.join()
        allowed = {"open": {200, 429}, "closed": {200, 429, 503}, "local_share": {200, 429}}
        for path, answers in during.items():
            assert {one.status for one in answers} <= allowed[path]
        assert during["open"][-1].status == 200
        assert during["closed"][-1].status == 503
        assert json.loads(during["closed"][-1].body)["code"] == "store_unavailable"
        assert during["local_share"][-1].status == 429, "more than half of it"
        for prefix in ("/", "/leased-"):
            statuses = [ask(gateway, f"{prefix}local_share", "fresh").status for _ in range(15)]
            assert statuses.count(200) == 10, "a host of two"
            statuses = [ask(gateway, f"{prefix}open", "fresh").status for _ in range(30)]
            assert statuses.count(200) == 30
            assert ask(gateway, f"{prefix}closed", "fresh").status == 503
        server.start()
        deadline = time.monotonic() + 60
        # both workers remember what they admitted of the 20; the sum is 10 too many at least
        while metric(gateway, "fastgw_rate_limit_over_admitted_total") < 10:
            ask(gateway, "/open", "fresh")
            assert time.monotonic() < deadline
        assert ask(gateway, "/open", "fresh").status == 429
        assert ask(gateway, "/closed", "fresh").status == 200


def times(gateway, path, count, who):
    found = []
    for _ in range(count):
        begin = time.monotonic()
        status = ask(gateway, path, who).status
        found.append((status, time.monotonic() - begin))
    return found


@needed
def test_a_redis_that_stands_still_or_is_cut_off_holds_nobody(tmp_path):
    """SIGSTOP, then a network that swallows. No request waits for the timeout, which is a minute."""
    with RedisServer(tmp_path) as server:
        proxy = CuttingProxy(("127.0.0.1", server.port))
        store = {"deadline": "50ms", "timeout": "60s", "breaker": {"failures": 2, "pause": "200ms"}}
        config = configuration(f"redis://127.0.0.1:{proxy.address[1]}", **store)
        try:
            with GatewayProcess(config) as gateway:
                wanted = {"open": 200, "closed": 503, "local_share": 200}
                for path in FAILURES:
                    until_status(gateway, f"/{path}", "warm", 200)
                server.pause()
                try:
                    for path, status in wanted.items():
                        for prefix in ("/", "/leased-"):
                            found = times(gateway, prefix + path, 5, "paused")
                            assert {one for one, _ in found} == {status}
                            assert max(seconds for _, seconds in found) < 20
                finally:
                    server.go_on()
                for path in FAILURES:
                    until_status(gateway, f"/{path}", "again", 200)
                assert proxy.cut_all() > 0
                for path in FAILURES:
                    until_status(gateway, f"/{path}", "again", 200)
                # connections come about, and nothing passes
                proxy.to_server = Rule(hold_at=0)
                proxy.cut_all()
                for path, status in wanted.items():
                    until_status(gateway, f"/{path}", "gone", status)
                    assert max(seconds for _, seconds in times(gateway, f"/{path}", 5, "gone")) < 20
        finally:
            proxy.stop()


def until_status(gateway, path, who, status):
    deadline = time.monotonic() + 60
    while (found := ask(gateway, path, who).status) != status:
        assert time.monotonic() < deadline, (path, found)
        time.sleep(0.02)


def checked(limit):
    policies = [{"rate_limit": yaml.safe_load(limit)}, {"respond": {"body": "x"}}]
    config = {"stores": {"redis": {"url": "redis://127.0.0.1:1"}}, "routes": [{"path": "/", "policies": policies}]}
    return check(config, resolver=RESOLVER)


@pytest.mark.parametrize(
    ("limit", "wanted"),
    [
        ("{requests: 5, shared: {}}", "on_failure"),
        ("{requests: 5, algorithm: concurrency, shared: {on_failure: open}}", "on one host only"),
        ("{requests: 50000000, per: 1s, shared: {on_failure: open}}", "too fast for Redis"),
        ("{requests: 5, algorithm: sliding_log, shared: {sharing: leased, on_failure: open}}", "cannot be leased"),
        ("{requests: 5, algorithm: leaky_bucket, queue: 2, shared: {sharing: leased, on_failure: open}}", "a queue"),
        ("{requests: 5, shared: {slice: 3, on_failure: open}}", "leased"),
    ],
)  # fmt: skip
def test_what_check_refuses(limit, wanted):
    config, problems = checked(limit)
    assert config is None and wanted in str(problems), problems


def told(gateway, path, body):
    connection = http.client.HTTPConnection(gateway.host, gateway.admin_port, timeout=60)
    try:
        connection.request("POST", path, body=json.dumps(body))
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def left(gateway, policy, who):
    status, state = told(gateway, "/limits/state", {"policy": policy, "key": [who]})
    assert status == 200, state
    return {one["limit"]: one["remaining"] for one in state["limits"]}


def until(wanted, ask, seconds=60):
    deadline = time.monotonic() + seconds
    while (found := ask()) != wanted:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


@needed
def test_what_a_service_says_it_cost_is_charged_for_all_hosts(gateways):
    first, second = gateways
    policy, limit = "dear/rate_limit/1", f"20/{LONG}"
    answer = ask(first, "/dear/7", "p")
    assert answer.status == 200 and answer.get("X-Used") is None
    until({limit: 12, "window": 92}, lambda: left(second, policy, "p"))
    assert ask(second, "/dear/30", "p").status == 200, "it is not known before how dear it is"
    until({limit: 0, "window": 61}, lambda: left(first, policy, "p"))
    refused = ask(first, "/dear/1", "p")
    # 19 below empty: as many intervals more than one until the next
    assert refused.status == 429 and int(refused.get("Retry-After")) > 15 * 100_000 / 20
    assert left(second, policy, "p")["window"] == 61, "what was refused cost nothing"


@needed
def test_a_key_that_hosts_share_is_looked_at_and_reset(gateways):
    first, second = gateways
    body = {"policy": "several/rate_limit/1", "key": ["q"]}
    assert [ask(gateway, "/several", "q").status for gateway in (*gateways, *gateways, *gateways)] == [200] * 5 + [429]
    for gateway in gateways:
        assert left(gateway, body["policy"], "q") == {f"1000/{LONG}": 995, f"5/{LONG}": 0}
        assert left(gateway, body["policy"], "nobody") == {f"1000/{LONG}": 1000, f"5/{LONG}": 5}
    assert told(second, "/limits/reset", body) == (200, {**body, "reset": 2})
    assert ask(first, "/several", "q").status == 200
    assert left(second, body["policy"], "q") == {f"1000/{LONG}": 999, f"5/{LONG}": 4}
    assert told(first, "/limits/state", {**body, "key": []})[0] == 400
    other = {"policy": "plans/rate_limit/1", "key": ["q"]}
    assert ask(first, "/plans", "q", "POST").status == 200
    status, state = told(first, "/limits/state", other)
    assert status == 200 and [one["remaining"] for one in state["limits"]] == [3, 0], "those of overrides too"


@needed
def test_leased_limits_are_charged_out_of_the_slice_first_and_reset(gateways):
    first, _ = gateways
    policy, limit = "dear-leased/rate_limit/1", f"20/{LONG}"
    assert ask(first, "/dear-leased/1", "r").status == 200
    # the slice goes back, less the request and what it cost
    until({limit: 18, "window": 98}, lambda: left(first, policy, "r"))
    assert ask(first, "/dear-leased/200", "r").status == 200, "more than the slice has"
    until({limit: 0, "window": 0}, lambda: left(first, policy, "r"))
    until(429, lambda: ask(first, "/dear-leased/0", "r").status)
    assert told(first, "/limits/reset", {"policy": policy, "key": ["r"]})[1]["reset"] == 2
    # workers ask again at the latest when the time of a slice is over
    until(200, lambda: ask(first, "/dear-leased/0", "r").status)


@needed
def test_the_admin_api_without_redis():
    config = configuration("redis://127.0.0.1:1")
    with GatewayProcess(config) as gateway:
        for path in ("/limits/state", "/limits/reset"):
            status, problem = told(gateway, path, {"policy": "several/rate_limit/1", "key": ["q"]})
            assert (status, problem["code"]) == (503, "store_unavailable")


def test_check_says_what_slices_add_up_to():
    config, problems = checked("{limits: [100/1m, {requests: 500, per: 1h, algorithm: fixed_window}], "
                               "shared: {sharing: leased, slice: 10, hosts: 3, on_failure: open}}")  # fmt: skip
    assert problems == []
    told = [str(one) for one in notices(config, 4)]
    assert len(told) == 2 and "notice" in told[0]
    assert "in any 1m as many as 120 requests of a key can be admitted beyond it" in told[0]
    assert "never more than the limit" in told[1]


def test_explain_says_where_limits_are(tmp_path):
    file = tmp_path / "gateway.yaml"
    shared = {"sharing": "leased", "hosts": 3, "on_failure": "local_share"}
    other = {"methods": ["POST"], "limits": ["5/s"]}
    one = {"rate_limit": {"limits": ["100/1m"], "by": "consumer", "overrides": [other], "shared": shared}}
    quota = {"quota": {"name": "calls", "requests": 10, "plans": {"gold": None}, "on_failure": "closed"}}
    config = {"stores": {"redis": {"url": "redis://127.0.0.1:1"}}, "plans": {"gold": {}},
              "routes": [{"path": "/", "policies": ["key_auth", one, quota, {"respond": {"body": "x"}}]}]}  # fmt: skip
    file.write_text(yaml.safe_dump(config))
    words = [sys.executable, "-m", "fastgw", "explain", str(file), "GET http://a/"]
    told = subprocess.run(words, capture_output=True, text=True, timeout=60).stdout
    where = "in redis, leased; without it local_share of 3 hosts"
    assert re.search(rf"limit +by consumer: 100 in 1m .*; {where}\n", told), told
    assert "quota     calls by consumer: others 10, gold without limit per month (UTC); in redis; without" in told
