"""A browser logs in at a real OpenID provider (oidc-provider-mock), is known to the service, and logs out."""

import json
import threading
from contextlib import contextmanager

import pytest

from fastgw.testing import FakeUpstream, GatewayProcess, free_port
from tests.e2e.browser import needed, visit

provider = pytest.importorskip("oidc_provider_mock")
serving = pytest.importorskip("werkzeug.serving")
pytestmark = needed

# Who would fill in and send the forms of the provider's pages.
HAND = b"""<script>
const name = document.querySelector("input[name=sub]");
if (name) name.value = "ada";
document.querySelector("form").requestSubmit();
</script>"""

PAGE = b"""<!doctype html><script>location = "/oauth2/logout";</script>"""
BYE = """<!doctype html><script>
(async () => {
  const answer = await fetch("/whoami", {headers: {Accept: "application/json"}});
  await fetch("/open/done", {method: "POST", body: JSON.stringify({
    after: answer.status, cookies: document.cookie, path: location.pathname})});
})();
</script>"""


def with_hand(app):
    """The same pages, with somebody who fills them in."""

    def served(environ, start):
        told = []

        def keep(status, headers, *rest):
            told.append((status, headers))

        body = b"".join(app(environ, keep))
        status, headers = told[0]
        if b"<form" in body and environ["REQUEST_METHOD"] == "GET":
            body += HAND
            headers = [(name, value) for name, value in headers if name.lower() != "content-length"]
        start(status, headers)
        return [body]

    return served


@contextmanager
def running_provider(monkeypatch):
    monkeypatch.setenv("AUTHLIB_INSECURE_TRANSPORT", "1")
    app = provider.app(require_nonce=True)
    server = serving.make_server("127.0.0.1", 0, with_hand(app), threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://localhost:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def test_a_browser_logs_in_and_out(tmp_path, monkeypatch):
    finished = threading.Event()
    told = []

    def play(connection):
        while True:
            request = connection.read_request()
            if request.target == "/open/done":
                told.append(json.loads(request.body))
                finished.set()
            body = PAGE if request.target.startswith("/page") else b"ok"
            head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.send(head.encode() + body)

    port = free_port()
    base = f"http://localhost:{port}"
    with running_provider(monkeypatch) as issuer, FakeUpstream(play) as upstream:
        oidc = {
            "issuer": issuer, "base_url": base, "service": "id", "client_id": "shop", "client_secret": "any",
            "session": {"secret": "a secret for sessions of more than 32"}, "after_logout": "/open/bye",
            "scopes": ["openid", "email"], "timeout": "30s",
        }  # fmt: skip
        config = {
            "server": {"listeners": [f"127.0.0.1:{port}"]},
            "services": {"id": issuer, "up": upstream.url},
            "routes": [
                {"path": "/open/bye", "policies": [{"respond": {"body": BYE, "content_type": "text/html"}}]},
                {"path": "/open/*", "service": "up"},
                {"path": "/*", "service": "up", "policies": [{"oidc": oidc}]},
            ],
        }
        with GatewayProcess(config) as gateway:
            there, said = visit(f"{base}/page?x=1", tmp_path, finished)
            log = [json.loads(line) for line in gateway.stdout.splitlines() if line.startswith("{")]
    assert there, (said[-2000:], log)
    (page,) = [request for request in upstream.requests if request.target.startswith("/page")]
    assert page.target == "/page?x=1" and page.all("X-User-Id") == ["ada"] and "Cookie" not in page
    # the session was not for scripts, and ended
    assert told == [{"after": 401, "cookies": "", "path": "/open/bye"}]
