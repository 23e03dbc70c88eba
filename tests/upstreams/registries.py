"""Contract fakes of registries: HTTP servers written from the documented APIs of Consul and Kubernetes.

They are no products: they answer what the documentation says these answer, and the tests say what is asked.
https://developer.hashicorp.com/consul/api-docs/health#list-service-instances-for-service, …/features/blocking
https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


class Registry:
    """`with FakeConsul() as consul:`; `consul.asked` are the requests: (path, query, headers)."""

    def __init__(self):
        self.changed = threading.Condition()
        self.asked = []
        self.broken = None                           # a status: every request is answered with it
        self.stopping = False
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                parts = urlsplit(self.path)
                query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
                registry.asked.append((parts.path, query, dict(self.headers)))
                if registry.broken is not None:
                    self.reply(registry.broken, b"no")
                else:
                    registry.answer(self, parts.path, query)

            def reply(self, status, body, headers=()):
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                self.close_connection = True

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        with self.changed:
            self.stopping = True
            self.changed.notify_all()
        self.server.shutdown()
        self.server.server_close()


class FakeConsul(Registry):
    """`put(entries)` moves the index; a query with `index` waits for that, or for `wait`."""

    def __init__(self):
        super().__init__()
        self.index = 10
        self.entries = []

    def put(self, entries, index=None):
        with self.changed:
            self.entries = entries
            self.index = self.index + 1 if index is None else index
            self.changed.notify_all()

    def answer(self, handler, path, query):
        with self.changed:
            if "index" in query:
                deadline = time.monotonic() + int(query["wait"].removesuffix("ms")) / 1000
                while self.index == int(query["index"]) and not self.stopping and not self.broken:
                    if not self.changed.wait(max(0.0, deadline - time.monotonic())):
                        break
            body, index = json.dumps(self.entries).encode(), self.index
        handler.reply(200, body, [("X-Consul-Index", str(index)), ("Content-Type", "application/json")])


def instance(address, port, *, status="passing", weights=None, meta=None, name="a"):
    return {
        "Node": {"Node": "node-1", "Address": "10.9.9.9", "Datacenter": "dc1"},
        "Service": {
            "ID": name, "Service": "users", "Address": address, "Port": port, "Tags": [], "Meta": meta or {},
            "Weights": weights or {"Passing": 1, "Warning": 1},
        },
        "Checks": [{"CheckID": "serfHealth", "Status": "passing"}, {"CheckID": "service:a", "Status": status}],
    }  # fmt: skip


class FakeKubernetes(Registry):
    """`put(slice)`, `delete(name)`; `compact()` makes every version before now too old (410)."""

    def __init__(self):
        super().__init__()
        self.version = 100
        self.oldest = 0
        self.slices = {}
        self.events = []
        self.token = None
        self.page = None

    def put(self, item):
        with self.changed:
            self.version += 1
            item["metadata"]["resourceVersion"] = str(self.version)
            kind = "MODIFIED" if item["metadata"]["name"] in self.slices else "ADDED"
            self.slices[item["metadata"]["name"]] = item
            self.events.append((self.version, {"type": kind, "object": item}))
            self.changed.notify_all()

    def delete(self, name):
        with self.changed:
            self.version += 1
            item = self.slices.pop(name)
            item = {**item, "metadata": {**item["metadata"], "resourceVersion": str(self.version)}}
            self.events.append((self.version, {"type": "DELETED", "object": item}))
            self.changed.notify_all()

    def compact(self):
        with self.changed:
            self.version += 1
            self.oldest = self.version
            self.events.clear()
            self.changed.notify_all()

    def answer(self, handler, path, query):
        if self.token is not None and handler.headers.get("Authorization") != f"Bearer {self.token}":
            handler.reply(401, b"{}")
        elif query.get("watch"):
            self.watch(handler, query)
        else:
            with self.changed:
                items = sorted(self.slices.values(), key=lambda item: item["metadata"]["name"])
                begin = int(query.get("continue", 0))
                page = items[begin : begin + self.page] if self.page else items
                more = str(begin + self.page) if self.page and begin + self.page < len(items) else ""
                meta = {"resourceVersion": str(self.version), "continue": more}
                body = json.dumps({"kind": "EndpointSliceList", "metadata": meta, "items": page}).encode()
            handler.reply(200, body)

    def watch(self, handler, query):
        at = int(query["resourceVersion"])
        deadline = time.monotonic() + int(query["timeoutSeconds"])
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.close_connection = True
        try:
            while not self.stopping and self.broken is None and time.monotonic() < deadline:
                with self.changed:
                    if at < self.oldest:
                        gone = {"kind": "Status", "code": 410, "reason": "Expired"}
                        return self.send(handler, {"type": "ERROR", "object": gone}, last=True)
                    events = [event for version, event in self.events if version > at]
                    if not events:
                        self.changed.wait(min(0.2, max(0.0, deadline - time.monotonic())))
                        continue
                    at = self.events[-1][0]
                for event in events:
                    self.send(handler, event)
            if self.broken is None and not self.stopping:
                mark = {"metadata": {"resourceVersion": str(at)}}
                self.send(handler, {"type": "BOOKMARK", "object": mark}, last=True)
        except OSError:
            pass

    @staticmethod
    def send(handler, event, last=False):
        line = json.dumps(event).encode() + b"\n"
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(line), line) + (b"0\r\n\r\n" if last else b""))
        handler.wfile.flush()


def endpoint_slice(name, *addresses, port=8080, ready=True, zone=None, ports=None):
    return {
        "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": "users"}},
        "addressType": "IPv4",
        "ports": ports or [{"name": "http", "port": port, "protocol": "TCP"}],
        "endpoints": [
            {"addresses": [address], "conditions": {"ready": ready}, "nodeName": "n1", "zone": zone,
             "targetRef": {"kind": "Pod", "name": f"pod-{address}"}}
            for address in addresses
        ],
    }  # fmt: skip
