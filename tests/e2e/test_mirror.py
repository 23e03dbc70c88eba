"""`mirror` in a running gateway: what the shadow gets, and that the client feels nothing of it."""

import json
import subprocess
import sys
import threading
import time
from concurrent import futures
from contextlib import ExitStack

import grpc
import httpx
import pytest

from fastgw.testing import FakeUpstream, GatewayProcess, free_port
from tests.e2e.test_grpc import Service
from tests.e2e.test_http2_upstream import metric

DEADLINE = 60
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"


class Upstream:
    """Answers everything with its body; may be told to wait, and to answer otherwise."""

    def __init__(self, body=b'{"ok":true}', head=None):
        self.body = body
        self.head = head
        self.seen = []
        self.go = threading.Event()
        self.go.set()
        self.up = FakeUpstream(self.play, timeout=60)

    def play(self, connection):
        while True:
            request = connection.read_request()
            self.seen.append(request)
            self.go.wait(60)
            connection.send(self.head or OK % (len(self.body), self.body))


POLICIES = """
from fastgw import Policy

class Whole(Policy):
    name = "whole"
    buffer_request = 100_000
    def request(self, exchange):
        return None

class Doubled(Policy):
    name = "doubled"
    def request_body(self, exchange, chunk, end):
        return chunk + chunk + (b"!" if end else b"")
    def response_body(self, exchange, chunk, end):
        return chunk.upper()
"""
HEADERS = {"request": {"set": {"X-Plan": "gold"}, "remove": ["X-Gone"]}}
ROUTES = {
    # route: the policies before `mirror`, its options, keys of the route
    "edited": ([{"headers": HEADERS}], {"strip_credentials": True, "remove_headers": ["X-Inner"],
                                        "headers": {"X-Mirrored": "yes"}},
               {"path": "/edited/{id}", "rewrite": "/users/{id}"}),
    "bodies": ([], {}, {}),
    "cut": ([], {}, {}),
    "hangs": ([], {"max_in_flight": 3, "timeout": "1m"}, {}),
    "late": ([], {"max_in_flight": 1, "timeout": "200ms"}, {}),
    "gone": ([], {}, {}),
    "endless": ([], {"timeout": "1h"}, {}),
    "share": ([], {"share": "25%"}, {}),
    "whole": ([{"mirror_policies:Whole": {}}], {"compare": {}}, {}),
    "doubled": ([{"mirror_policies:Doubled": {}}], {"compare": {}}, {}),
    "failing": ([], {"compare": {}, "timeout": "500ms"}, {}),
    "reload": ([], {"compare": {}}, {}),
    "differs": ([], {"compare": {"ignore": ["/at"], "examples": 2}}, {}),
}  # fmt: skip


class World:
    """A gateway of one worker; each route has a live service and a shadow of its own."""

    def __init__(self, stack, routes, workers=1, env=None):
        self.live = {name: Upstream() for name in routes}
        self.shadow = {name: Upstream() for name in routes}
        services, rows = {}, []
        for name, (before, options, keys) in routes.items():
            for kind, one in (("live", self.live[name]), ("shadow", self.shadow[name])):
                stack.enter_context(one.up)
                stack.callback(one.go.set)
                services[f"{name}-{kind}"] = one.up.url
            mirror = {"mirror": {"service": f"{name}-shadow", "max_body": "1KiB", **options}}
            rows.append({"name": name, "path": f"/{name}/*", "service": f"{name}-live",
                         "policies": [*before, mirror], **keys})  # fmt: skip
        if "gone" in routes:
            services["gone-shadow"] = f"http://127.0.0.1:{free_port()}"
        first = next(iter(routes))
        policies = [{"mirror": {"service": f"{first}-shadow"}}, {"respond": {"status": 418}}]
        rows.append({"name": "refused", "path": "/refused/*", "policies": policies})
        config = {
            "server": {"listeners": ["127.0.0.1:${FASTGW_PORT}"], "workers": workers},
            "observability": {"access_log": {"enabled": False}},
            "services": services,
            "routes": rows,
        }
        self.gateway = stack.enter_context(GatewayProcess(config, env=env))
        self.url = f"http://127.0.0.1:{self.gateway.port}"
        self.client = stack.enter_context(httpx.Client(base_url=self.url, timeout=DEADLINE))

    def copies(self, route, result):
        return metric(self.gateway, f'fastgw_mirrored_total{{result="{result}",service="{route}-shadow"}}')

    def report(self, route):
        status, text = self.gateway.admin(f"/mirrors/{route}/report")
        assert status == 200, text
        return json.loads(text)[0]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policies")
    (folder / "mirror_policies.py").write_text(POLICIES)
    env = {"PYTHONPATH": f"{folder}:{':'.join(path for path in sys.path if path)}"}
    with ExitStack() as stack:
        yield World(stack, ROUTES, env=env)


def until(condition, what):
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"no {what} in {DEADLINE} s"
        time.sleep(0.02)


def test_the_shadow_gets_what_the_policies_made_of_the_request(world):
    headers = {"X-Gone": "1", "X-Inner": "2", "Authorization": "Bearer x", "Cookie": "a=b", "X-Mirrored": "client"}
    answer = world.client.get("/edited/7?a=b", headers=headers)
    assert answer.status_code == 200 and answer.json() == {"ok": True}
    live, shadow = world.live["edited"], world.shadow["edited"]
    until(lambda: shadow.seen, "copy")
    one, other = live.seen[0], shadow.seen[0]
    assert one.start == other.start == "GET /users/7?a=b HTTP/1.1"
    assert one.get("x-plan") == other.get("x-plan") == "gold"
    assert one.get("x-gone") is None and other.get("x-gone") is None
    assert one.get("x-inner") == "2" and other.get("x-inner") is None
    assert one.get("authorization") and other.get("authorization") is None and other.get("cookie") is None
    assert one.get("x-mirrored") == "client" and other.get("x-mirrored") == "yes"
    assert one.get("x-forwarded-for") == other.get("x-forwarded-for") == "127.0.0.1"
    assert one.get("host") == other.get("host")
    until(lambda: world.copies("edited", "answered") == 1, "count")
    # it counts for no client
    until(lambda: metric(world.gateway, 'fastgw_requests_total{route="edited",status="2xx"}') == 1, "count")
    assert metric(world.gateway, 'fastgw_requests_total{route="other"') == 0


def test_bodies_are_copied_while_they_pass_and_beyond_a_bound_not_sent(world):
    client, live, shadow = world.client, world.live["bodies"], world.shadow["bodies"]
    pieces = [b"a" * 100, b"b" * 200, b"c" * 50]
    for body in (b"".join(pieces), iter(pieces), b""):
        assert client.post("/bodies/x", content=body).status_code == 200
    until(lambda: len(shadow.seen) == 3, "copies")
    assert sorted(bytes(one.body) for one in shadow.seen) == [b""] + [b"".join(pieces)] * 2
    assert {"350", None} <= {one.get("content-length") for one in shadow.seen}
    # too large: as is told before, and as turns out
    assert client.post("/bodies/x", content=b"x" * 1025).status_code == 200
    assert client.post("/bodies/x", content=iter([b"x" * 600, b"y" * 600])).status_code == 200
    assert client.post("/bodies/x", content=iter([b"x" * 600, b"y" * 424])).status_code == 200
    until(lambda: world.copies("bodies", "too_large") == 2 and len(shadow.seen) == 4, "count")
    assert len(live.seen) == 6 and len(shadow.seen[3].body) == 1024


def test_a_client_that_leaves_in_the_middle_of_its_body(world):
    live, shadow = world.live["cut"], world.shadow["cut"]
    with world.gateway.client() as client:
        client.send(b"POST /cut/x HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf")
        until(lambda: live.up.open_connections(), "connection")
    until(lambda: world.copies("cut", "cut") == 1, "count")
    assert not shadow.seen
    assert world.client.get("/cut/y").status_code == 200
    until(lambda: shadow.seen, "copy")


def test_a_shadow_that_hangs_is_not_felt_and_bounded(world):
    live, shadow = world.live["hangs"], world.shadow["hangs"]
    shadow.go.clear()
    for _ in range(10):
        assert world.client.get("/hangs/x").status_code == 200
    until(lambda: world.copies("hangs", "too_many") == 7, "count")
    shadow.go.set()
    until(lambda: world.copies("hangs", "answered") == 3, "count")
    assert world.client.get("/hangs/x").status_code == 200
    until(lambda: world.copies("hangs", "answered") == 4, "count")
    assert len(live.seen) == 11


def test_a_shadow_that_takes_too_long_fails_and_makes_room(world):
    shadow = world.shadow["late"]
    shadow.go.clear()
    assert world.client.get("/late/x").status_code == 200
    until(lambda: world.copies("late", "failed") == 1, "count")
    shadow.go.set()

    def answered():
        assert world.client.get("/late/x").status_code == 200
        return world.copies("late", "answered")

    until(answered, "copy that is in time")


def test_a_shadow_that_is_not_there(world):
    for _ in range(5):
        assert world.client.post("/gone/x", content=b"body").status_code == 200
    until(lambda: world.copies("gone", "failed") == 5, "count")


def test_an_answer_without_end_is_cut(world):
    def play(connection):
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            connection.send(b"10000\r\n" + bytes(65536) + b"\r\n")

    world.shadow["endless"].up.script(play)
    assert world.client.get("/endless/x").status_code == 200
    until(lambda: world.copies("endless", "answered") == 1, "count")


def test_a_share(world):
    live, shadow = world.live["share"], world.shadow["share"]
    for _ in range(400):
        assert world.client.get("/share/x").status_code == 200
    assert len(live.seen) == 400
    until(lambda: world.copies("share", "answered") + world.copies("share", "failed") == len(shadow.seen), "end of all")
    assert 30 < len(shadow.seen) < 170                 # 8 standard deviations around 100


def test_requests_that_a_policy_answers_are_not_copied(world):
    seen = world.shadow["edited"].seen
    before = len(seen)
    assert world.client.get("/refused/x").status_code == 418
    assert world.client.get("/edited/8").status_code == 200
    until(lambda: len(seen) > before, "copy of the request after it")
    assert [one.start for one in seen[before:]] == ["GET /users/8 HTTP/1.1"]


@pytest.mark.parametrize(("route", "sent"), [("whole", b"whole"), ("doubled", b"wholewhole!")])
def test_bodies_that_policies_hold_or_change(world, route, sent):
    live, shadow = world.live[route], world.shadow[route]
    answer = world.client.post(f"/{route}/x", content=b"whole")
    assert answer.content == (b'{"ok":true}' if route == "whole" else b'{"OK":TRUE}')
    until(lambda: shadow.seen, "copy")
    assert bytes(shadow.seen[0].body) == bytes(live.seen[0].body) == sent
    until(lambda: world.report(route)["compared"]["equal"] == 1, "comparison")
    assert world.client.post(f"/{route}/x", content=b"x" * 2000).status_code == 200
    until(lambda: world.copies(route, "too_large") == 1, "count")


def test_grpc_calls_are_copied():
    with ExitStack() as stack:
        handlers, urls = [], []
        for _ in range(2):
            handler = Service()
            backend = grpc.server(futures.ThreadPoolExecutor(2), handlers=[handler])
            urls.append(f"http://127.0.0.1:{backend.add_insecure_port('127.0.0.1:0')}")
            backend.start()
            stack.callback(backend.stop, 0)
            handlers.append(handler)
        kinds = zip(("live", "shadow"), urls, strict=True)
        config = {
            "server": {"listeners": ["127.0.0.1:${FASTGW_PORT}"], "workers": 1},
            "services": {kind: {"endpoints": [url], "protocol": "h2c"} for kind, url in kinds},
            "routes": [{"name": "r", "path": "/*", "service": "live",
                        "policies": [{"mirror": {"service": "shadow", "compare": {}}}]}],
        }  # fmt: skip
        gateway = stack.enter_context(GatewayProcess(config))
        channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{gateway.port}"))
        assert channel.unary_unary("/test.S/Echo")(b"hello", timeout=DEADLINE) == b"hello"
        with pytest.raises(grpc.RpcError):
            channel.unary_unary("/test.S/Fail")(b"", timeout=DEADLINE)
        until(lambda: len(handlers[1].seen) == 2, "copies")
        assert sorted(call.method for call in handlers[1].seen) == ["/test.S/Echo", "/test.S/Fail"]

        def outcomes():
            return json.loads(gateway.admin("/mirrors")[1])[0]["compared"]

        until(lambda: outcomes()["equal"] + outcomes()["different"] == 2, "comparison")
        rows = json.loads(gateway.admin("/mirrors/r/report")[1])
        assert not [one for row in rows for one in row["differences"] if one["part"] == "status"], rows


# ---------------------------------------------------------------- comparing


def verb(gateway, *args):
    command = [sys.executable, "-m", "fastgw", "mirrors", *args, "--admin", f"127.0.0.1:{gateway.admin_port}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_what_differs_is_counted_and_ranked_over_all_workers():
    routes = {"differs": ROUTES["differs"]}
    with ExitStack() as stack:
        world = World(stack, routes, workers=2)
        gateway = world.gateway
        live, shadow = world.live["differs"], world.shadow["differs"]
        live.body = b'{"name":"a","items":[{"id":1,"price":10},{"id":2,"price":20}],"at":1,"token":"live-token"}'
        shadow.body = b'{"name":"a","items":[{"id":1,"price":11},{"id":2,"price":21}],"at":2,"token":"its-token"}'
        for _ in range(30):
            with gateway.client() as one:
                assert one.request(b"GET /differs/1?secret=1 HTTP/1.1\r\nHost: a\r\n\r\n").status == 200
        until(lambda: world.report("differs")["compared"]["different"] == 30, "comparison")
        shadow.head = b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\nSet-Cookie: a=b\r\n\r\n"
        for _ in range(3):
            assert world.client.get("/differs/1").status_code == 200
        until(lambda: world.report("differs")["compared"]["different"] == 33, "comparison")
        check_report(gateway, world.report("differs"))
        check_verb(gateway)
        assert gateway.admin("/mirrors/differs/reset", "POST")[0] == 200
        assert world.report("differs")["differences"] == []
        assert world.report("differs")["compared"]["different"] == 0


def check_report(gateway, found):
    rows = [(row["count"], row["statuses"], row["part"], row["name"], row["what"]) for row in found["differences"]]
    assert rows[:2] == [
        (30, "200 → 200", "body", "/items/*/price", "another value"),
        (30, "200 → 200", "body", "/token", "another value"),
    ]
    assert (3, "200 → 500", "status", "", "another status") in rows
    assert (3, "200 → 500", "header", "set-cookie", "added") in rows
    price, token = found["differences"][0]["examples"], found["differences"][1]["examples"]
    assert len(price) >= 2 and price[0]["live"] == "10" and price[0]["shadow"] == "11"
    assert price[0]["path"] == "/differs/1" and price[0]["method"] == "GET" and len(price[0]["request_id"]) == 32
    assert token[0]["live"] == token[0]["shadow"] == "***"
    text = json.dumps(found)
    assert "live-token" not in text and "secret=1" not in text and "a=b" not in text
    assert metric(gateway, 'fastgw_mirror_compared_total{result="different",route="differs"}') == 33
    # the list says the same without the differences
    (row,) = [row for row in json.loads(gateway.admin("/mirrors")[1]) if row["route"] == "differs"]
    assert row["kinds"] == len(found["differences"]) and "differences" not in row
    assert row["copies"]["answered"] == 33 and row["service"] == "differs-shadow" and row["share"] == 1
    assert gateway.admin("/mirrors/differs/reset")[0] == 405
    assert gateway.admin("/mirrors/other/report")[0] == 404
    assert gateway.admin("/mirrors/other/reset", "POST")[0] == 404


def check_verb(gateway):
    seen = verb(gateway, "differs")
    assert seen.returncode == 4 and "30 times 200 → 200  body /items/*/price: another value" in seen.stdout
    assert "'10' → '11'" in seen.stdout and "33 answered" in seen.stdout
    assert json.loads(verb(gateway, "differs", "--json").stdout)[0]["compared"]["different"] == 33
    assert verb(gateway).returncode == 4 and verb(gateway, "other").returncode == 1
    assert verb(gateway, "--reset").returncode == 2
    assert verb(gateway, "differs", "--reset").returncode == 0
    assert verb(gateway, "differs").returncode == 0


def test_equal_answers_and_failures(world):
    live, shadow = world.live["failing"], world.shadow["failing"]
    assert world.client.get("/failing/x").status_code == 200
    until(lambda: world.report("failing")["compared"]["equal"] == 1, "comparison")
    shadow.go.clear()
    assert world.client.get("/failing/x").status_code == 200
    until(lambda: world.report("failing")["compared"]["shadow_failed"] == 1, "failure")
    shadow.go.set()

    live.head = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"
    with world.gateway.client() as client:
        client.send(b"GET /failing/x HTTP/1.1\r\nHost: a\r\n\r\n")
        until(lambda: len(live.seen) == 3, "request")           # and its client leaves before the answer is whole
    until(lambda: world.report("failing")["compared"]["live_failed"] == 1, "failure")
    assert world.report("failing")["differences"] == []


def test_reports_outlive_a_reload(world):
    world.shadow["reload"].body = b'{"ok":false}'
    for count in (1, 2):
        assert world.client.get("/reload/x").status_code == 200
        until(lambda count=count: world.report("reload")["compared"]["different"] == count, "comparison")
        assert world.gateway.admin("/config/reload", "POST")[0] == 200
        assert world.report("reload")["compared"]["different"] == count
