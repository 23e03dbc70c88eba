"""A browser: HTTP/2 over TLS, a WebSocket over one of its streams, events of a stream as they come."""

import json
import threading

from fastgw.testing import FakeUpstream, GatewayProcess, free_port
from fastgw.testing.certificates import Authority
from tests.e2e.browser import needed, visit
from tests.e2e.test_websocket import Echo

pytestmark = needed

PAGE = """<!doctype html><meta charset="utf-8"><script>
const told = {};
async function socket() {
  const ws = new WebSocket("wss://" + location.host + "/ws");
  await new Promise((done, failed) => { ws.onopen = done; ws.onerror = () => failed(new Error("no socket")); });
  const echoed = [];
  const all = new Promise(done => {
    ws.onmessage = event => {
      echoed.push(event.data.length ?? event.data.size);
      if (echoed.length == 3) done();
    };
  });
  ws.send("hello"); ws.send("x".repeat(100000)); ws.send(new Uint8Array(1000));
  await all;
  const closed = new Promise(done => { ws.onclose = event => done(event.code); });
  ws.close(4000, "enough");
  told.socket = {echoed, code: await closed};
}
async function events() {
  const source = new EventSource("/events");
  const seen = [];
  await new Promise(done => {
    source.onmessage = event => {
      seen.push(event.data);
      fetch("/seen/" + event.data, {method: "POST"});       // the service sends the next one only then
      if (seen.length == 3) { source.close(); done(); }
    };
  });
  told.events = seen;
}
(async () => {
  try {
    const answer = await fetch("/item?x=1", {method: "POST", body: "y".repeat(200000)});
    told.item = await answer.text();
    told.protocol = performance.getEntriesByName(answer.url)[0].nextHopProtocol;
    await socket();
    await events();
  } catch (error) { told.error = String(error); }
  await fetch("/done", {method: "POST", body: JSON.stringify(told)});
})();
</script>"""


def test_a_browser(tmp_path):
    finished = threading.Event()
    seen = {str(n): threading.Event() for n in range(1, 4)}
    told = []

    def play(connection):
        while True:
            request = connection.read_request()
            if request.target == "/events":
                connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
                for n in ("1", "2", "3"):
                    connection.send(f"data: {n}\n\n".encode())
                    connection.wait(seen[n])
                return
            if request.target.startswith("/seen/"):
                seen[request.target[6:]].set()
            if request.target == "/done":
                told.append(json.loads(request.body))
                finished.set()
            body = b"%d bytes" % len(request.body)
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    pki = Authority(tmp_path)
    pair = pki.leaf("localhost")
    port = free_port()
    with FakeUpstream(play) as upstream, Echo() as echo:
        config = {
            "server": {"listeners": [
                {"bind": f"127.0.0.1:{port}", "tls": {"certificates": [{"cert": pair.cert, "key": pair.key}]}}
            ]},
            "services": {"up": upstream.url, "echo": f"http://127.0.0.1:{echo.port}"},
            "routes": [
                {"path": "/page", "policies": [{"respond": {"body": PAGE, "content_type": "text/html"}}]},
                {"path": "/ws", "service": "echo", "websocket": True},
                {"path": "/*", "service": "up"},
            ],
        }  # fmt: skip
        with GatewayProcess(config) as gateway:
            there, said = visit(f"https://localhost:{port}/page", tmp_path, finished, pair.certificate)
            log = [json.loads(line) for line in gateway.stdout.splitlines() if line.startswith("{")]
    assert there, (said[-2000:], log)
    assert told == [
        {
            "item": "200000 bytes",
            "protocol": "h2",
            "socket": {"echoed": [5, 100000, 1000], "code": 4000},
            "events": ["1", "2", "3"],
        }
    ]
    # the socket was a stream of HTTP/2 (RFC 8441)
    assert [line["protocol"] for line in log if line["path"] == "/ws"] == ["HTTP/2"]
