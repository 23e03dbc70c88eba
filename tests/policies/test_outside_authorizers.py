"""`forward_auth` and `opa`: somebody outside is asked, with bounds, and when he does not answer nobody passes.

The policy engine here is a contract fake: it speaks the part of OPA's Data API that is asked for, no more.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from pydantic import ValidationError

from fastgw.config import check
from fastgw.policies import RESOLVER, resolve


class Authorizer:
    """Answers as `decide(headers, body)` says: status, headers, body. `asked` is what came."""

    def __init__(self):
        self.asked = []
        self.decide = lambda headers, body: (200, {}, b"")
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.asked.append((self.command, self.path, dict(self.headers.items()), body))
                status, headers, answer = outer.decide(self.headers, body)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_POST = do_GET

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None               # some tests do not wait for its answer
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def authorizer():
    one = Authorizer()
    yield one
    one.close()


def config(upstream, authorizer, policy, more=""):
    return f"""
services: {{up: "{upstream.url}", auth: {{endpoints: ["{authorizer.url}"], timeouts: {{response: 5s}}}}, gone: "http://127.0.0.1:1"}}
routes:
  - {{path: /x, service: up, policies: [{json.dumps(policy)}, identity]}}
  - {{path: /gone, service: gone}}
{more}"""


def ask(running, path="/x", headers=None, line="GET"):
    lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    with running.client() as client:
        return client.request(f"{line} {path} HTTP/1.1\r\nHost: shop.example\r\n{lines}\r\n".encode())


FORWARD = {
    "service": "auth",
    "path": "/verify",
    "copy_headers": ["X-Tenant"],
    "user_header": "X-User",
    "groups_header": "X-Groups",
    "scopes_header": "X-Scopes",
    "strip": ["Authorization"],
}
YES = (200, {"X-Tenant": "t1", "X-User": "ada", "X-Groups": "staff, eu", "X-Scopes": "a b", "X-Other": "1"}, b"")


def test_what_is_told_and_what_goes_on(gateway, upstream, authorizer):
    authorizer.decide = lambda *_: YES
    running = gateway(config(upstream, authorizer, {"forward_auth": FORWARD}))
    given = {"Authorization": "Bearer t", "Cookie": "a=1", "X-Tenant": "forged", "X-Other": "mine"}
    assert ask(running, "/x?q=1", given).status == 200
    method, path, told, body = authorizer.asked[0]
    assert (method, path, body) == ("GET", "/verify", b"")
    assert told["Authorization"] == "Bearer t" and told["Cookie"] == "a=1" and "X-Tenant" not in told
    assert told["X-Forwarded-Method"] == "GET" and told["X-Forwarded-Uri"] == "/x?q=1"
    assert told["X-Forwarded-Host"] == "shop.example" and told["X-Forwarded-Proto"] == "http"
    assert told["X-Forwarded-For"] == "127.0.0.1"
    sent = upstream.requests[-1]
    assert sent.all("X-Tenant") == ["t1"] and sent.get("X-Other") == "mine" and sent.get("Authorization") is None
    assert sent.get("X-User-Id") == "ada" and sent.get("X-User-Scopes") == "a b"
    authorizer.decide = lambda *_: (204, {}, b"")
    assert ask(running, headers=given).status == 200
    assert upstream.requests[-1].get("X-Tenant") is None and upstream.requests[-1].get("X-User-Id") is None


@pytest.mark.parametrize(
    "told, status, code, header",
    [
        ((401, {"WWW-Authenticate": "Bearer"}, b""), 401, b"unauthorized", ("WWW-Authenticate", "Bearer")),
        ((401, {}, b""), 401, b"unauthorized", ("WWW-Authenticate", "Bearer")),
        ((403, {}, b""), 403, b"authorizer_refused", None),
        ((403, {"Content-Type": "text/x", "X-Inner": "secret"}, b"no!"), 403, b"no!", ("Content-Type", "text/x")),
        ((302, {"Location": "https://login.example/"}, b""), 302, b"", ("Location", "https://login.example/")),
        ((500, {}, b"oops"), 503, b"authorizer_unavailable", ("Retry-After", "1")),
        ((403, {}, b"x" * 100_000), 503, b"authorizer_unavailable", None),
    ],
)
def test_refusals(gateway, upstream, authorizer, told, status, code, header):
    authorizer.decide = lambda *_: told
    running = gateway(config(upstream, authorizer, {"forward_auth": FORWARD}))
    answer = ask(running)
    assert answer.status == status and code in answer.body and answer.get("X-Inner") is None
    if header:
        assert answer.get(header[0]) == header[1]
    assert upstream.requests == []


def test_answers_are_remembered_for_what_was_asked(gateway, upstream, authorizer):
    authorizer.decide = lambda *_: YES
    options = {**FORWARD, "cache": {"ttl": "1h", "by": ["path", "headers"]}}
    running = gateway(config(upstream, authorizer, {"forward_auth": options}))
    for _ in range(3):
        assert ask(running, headers={"Authorization": "one"}).status == 200
        assert upstream.requests[-1].get("X-User-Id") == "ada"
    assert len(authorizer.asked) == 1
    assert ask(running, "/x?other=query", {"Authorization": "one"}).status == 200 and len(authorizer.asked) == 1
    authorizer.decide = lambda *_: (403, {}, b"")
    assert ask(running, headers={"Authorization": "two"}).status == 403
    assert ask(running, headers={"Authorization": "two"}).status == 403      # refusals are not remembered
    assert ask(running, headers={"Authorization": "one", "Cookie": "x"}).status == 403
    assert ask(running).status == 403 and len(authorizer.asked) == 5
    assert ask(running, headers={"Authorization": "one"}).status == 200


@pytest.mark.parametrize("kind", ["forward_auth", "opa"])
def test_nobody_answers(gateway, upstream, authorizer, kind):
    running = gateway(config(upstream, authorizer, {kind: {"service": "gone"}}))
    answer = ask(running)
    assert answer.status == 503 and b"authorizer_unavailable" in answer.body and upstream.requests == []
    chosen = {"service": "gone", "on_failure": "open"}
    if kind == "forward_auth":
        chosen["copy_headers"] = ["X-Tenant"]
    running = gateway(config(upstream, authorizer, {kind: chosen}))
    assert ask(running, headers={"X-Tenant": "forged"}).status == 200
    if kind == "forward_auth":
        assert upstream.requests[-1].get("X-Tenant") is None


@pytest.mark.parametrize("kind", ["forward_auth", "opa"])
def test_an_answer_that_comes_too_late(gateway, upstream, authorizer, kind):
    go = threading.Event()

    def decide(*_):
        go.wait(30)
        return 200, {}, b'{"result": true}'

    authorizer.decide = decide
    running = gateway(config(upstream, authorizer, {kind: {"service": "auth", "timeout": "200ms"}}))
    answer = ask(running)
    assert answer.status == 503 and b"authorizer_unavailable" in answer.body
    go.set()


def test_in_a_composition(gateway, upstream, authorizer):
    authorizer.decide = lambda headers, _: YES if headers.get("Authorization") == "ok" else (401, {}, b"")
    policy = {"any_of": [{"key_auth": {}}, {"forward_auth": {**FORWARD, "strip": []}}]}
    running = gateway(config(upstream, authorizer, policy))
    assert ask(running, headers={"Authorization": "ok"}).status == 200
    assert upstream.requests[-1].get("X-User-Id") == "ada"
    refused = ask(running, headers={"Authorization": "no"})
    assert refused.status == 401 and refused.all("WWW-Authenticate") == ['ApiKey header="X-API-Key"', "Bearer"]


# ------------------------------------------------------------------ opa


@pytest.mark.parametrize(
    "result, status, detail",
    [
        (b'{"result": true}', 200, None),
        (b'{"result": {"allow": true}}', 200, None),
        (b'{"result": false}', 403, None),
        (b'{"result": {"allow": false, "reason": "too late"}}', 403, b"too late"),
        (b'{"result": {"allow": "true"}}', 403, None),
        (b'{"result": 1}', 403, None),
        (b"{}", 403, None),                                        # undefined
        (b"[]", 403, None),
        (b"nonsense", 503, None),
        (b"", 503, None),
    ],
)
def test_decisions(gateway, upstream, authorizer, result, status, detail):
    authorizer.decide = lambda *_: (200, {"Content-Type": "application/json"}, result)
    running = gateway(config(upstream, authorizer, {"opa": {"service": "auth", "rule": "mine"}}))
    answer = ask(running)
    assert answer.status == status
    if status == 403:
        assert b"authorizer_refused" in answer.body and json.loads(answer.body)["rule"] == "mine"
    if detail:
        assert detail in answer.body


def test_what_is_asked_and_remembered(gateway, upstream, authorizer):
    authorizer.decide = lambda *_: (200, {}, b'{"result": true}')
    policy = {"opa": {"service": "auth", "path": "/v1/data/shop/allow", "headers": ["X-A"], "cache": {"ttl": "1h"}}}
    running = gateway(config(upstream, authorizer, policy))
    for _ in range(2):
        assert ask(running, "/x?q=1", {"X-A": "1", "X-B": "2"}).status == 200
    assert len(authorizer.asked) == 1
    method, path, told, body = authorizer.asked[0]
    assert (method, path, told["Content-Type"]) == ("POST", "/v1/data/shop/allow", "application/json")
    asked = json.loads(body)["input"]
    assert asked["method"] == "GET" and asked["path"] == "/x" and asked["query"] == "q=1"
    assert asked["headers"] == {"x-a": ["1"]} and asked["route"] == "/x" and asked["client_ip"] == "127.0.0.1"
    assert asked["consumer"] is None and asked["claims"] is None
    assert ask(running, "/x?q=2", {"X-A": "1"}).status == 200 and len(authorizer.asked) == 2
    authorizer.decide = lambda *_: (500, {}, b"")
    assert ask(running, "/x?q=1", {"X-A": "1"}).status == 200
    assert ask(running, "/x?q=3", {"X-A": "1"}).status == 503


def test_a_service_that_is_not_there_is_told():
    for policy in ("forward_auth", "opa"):
        text = f"""
services: {{a: http://127.0.0.1:9001}}
routes: [{{path: /x, service: a, policies: [{{{policy}: {{service: b}}}}]}}]
"""
        config, problems = check(text, resolver=RESOLVER, env={})
        assert config is None and problems[0].code == "unknown_service"
    with pytest.raises(ValidationError):
        resolve("forward_auth").Options.model_validate({"service": "a", "groups_header": "X"})
