"""A browser with the grpc-web client of npm calls a gRPC service of another origin through the gateway."""

import json
import threading
from pathlib import Path

from fastgw.testing import FakeUpstream, GatewayProcess, free_port
from fastgw.testing.demo_grpc import LibraryServer
from tests.e2e.browser import needed, visit

pytestmark = needed
CLIENT = Path(__file__).parent / "data" / "grpc-web.js"

PAGE = """<!doctype html><meta charset="utf-8">
<script>const exports = {};</script>
<script>%(client)s</script>
<script>
const told = {};
const base = "http://127.0.0.1:%(port)d";
// a message with one field of text, its first; and the second field of a Book
const write = text => new Uint8Array([10, text.length, ...new TextEncoder().encode(text)]);
const read = bytes => {
  const at = 2 + bytes[1];
  return new TextDecoder().decode(bytes.slice(at + 2, at + 2 + bytes[at + 1]));
};
const method = (name, type) => new exports.MethodDescriptor(
  "/fastgw.demo.v1.Library/" + name, type, Object, Object, write, read);

function unary(format, name, text) {
  const client = new exports.GrpcWebClientBase({format});
  return new Promise(done => client.rpcCall(
    base + "/fastgw.demo.v1.Library/" + name, text, {"x-custom": "seven"}, method(name, exports.MethodType.UNARY),
    (error, answer) => done(error ? {code: error.code, message: error.message} : answer)));
}
function stream(text) {
  const client = new exports.GrpcWebClientBase({format: "text"});
  const seen = [];
  return new Promise(done => {
    const call = client.serverStreaming(
      base + "/fastgw.demo.v1.Library/WatchBooks", text, {}, method("WatchBooks", exports.MethodType.SERVER_STREAMING));
    call.on("data", title => { seen.push(title); if (seen.length == 2) { call.cancel(); done(seen); } });
    call.on("error", error => done({seen, code: error.code, message: error.message}));
  });
}
(async () => {
  try {
    for (const format of ["binary", "text"]) {
      told[format] = [await unary(format, "GetBook", "shelves/1/books/2"), await unary(format, "GetBook", "nowhere"),
                      await unary(format, "Refused", "x")];
    }
    told.stream = await stream("shelves/1");
  } catch (error) { told.error = String(error); }
  await fetch("/done", {method: "POST", body: JSON.stringify(told)});
})();
</script>"""


def test_a_browser_calls_a_service_of_another_origin(tmp_path):
    finished = threading.Event()
    told = []

    def play(connection):
        while True:
            request = connection.read_request()
            if request.target == "/done":
                told.append(json.loads(request.body))
                finished.set()
            body = page.encode() if request.target == "/page" else b""
            head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(body)
            connection.send(head + body)

    port = free_port()
    page = PAGE % {"client": CLIENT.read_text().replace("</script", "<\\/script"), "port": port}
    cors = {"cors": {"origins": [f"http://localhost:{port}"],
                     "headers": ["Content-Type", "X-Grpc-Web", "X-User-Agent", "X-Custom"]}}  # fmt: skip
    with FakeUpstream(play) as upstream, LibraryServer() as library:
        config = {
            "server": {"listeners": [{"bind": f"127.0.0.1:{port}"}]},
            "services": {"up": upstream.url, "library": {"endpoints": [library.url], "protocol": "h2c"}},
            "routes": [
                {"path": "/fastgw.demo.v1.Library/Refused", "service": "library",
                 "policies": [cors, "grpc_web", {"key_auth": {"header": "X-Key"}}]},
                {"path": "/fastgw.demo.v1.Library/*", "service": "library", "policies": [cors, "grpc_web"]},
                {"path": "/*", "service": "up"},
            ],
        }  # fmt: skip
        with GatewayProcess(config) as gateway:
            there, said = visit(f"http://localhost:{port}/page", tmp_path, finished)
            log = gateway.stdout
    assert there, (said[-2000:], log[-2000:])
    calls = [
        "Persuasion",
        {"code": 5, "message": "There is no nowhere."},
        {"code": 16, "message": told[0]["binary"][2]["message"]},
    ]
    assert told == [{"binary": calls, "text": calls, "stream": ["Emma", "Persuasion"]}]
    assert "key" in calls[2]["message"]
    assert {"x-custom": "seven"}.items() <= library.library.seen[0][1].items()
