"""Discovery in a gateway as users run it: what is found reaches all workers, what vanishes drains."""

import http.server
import json
import os
import signal
import ssl
import threading

import pytest
import yaml

from fastgw.testing import FakeUpstream, GatewayProcess
from fastgw.testing.certificates import Authority
from fastgw.testing.inprocess import GatewayThread
from tests.e2e.test_proxying import get
from tests.server.test_processes import comm, named, workers_of
from tests.upstreams.registries import FakeConsul, instance


def named_upstream(word, go=None):
    body = word.encode()

    def play(connection):
        while True:
            request = connection.read_request()
            if go is not None and request.target == "/slow":
                connection.wait(go)
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    return FakeUpstream(play)


@pytest.fixture
def ups():
    with named_upstream("one") as one, named_upstream("two") as two:
        yield one, two


def config(discovery, **more):
    return {
        "server": {"workers": 2, "timeouts": {"drain": "5s"}},
        "observability": {"access_log": {"enabled": False}},
        "services": {"up": {"discovery": discovery, **more}},
        "routes": [{"path": "/*", "service": "up"}],
    }


def put(path, *upstreams):
    path.with_suffix(".new").write_text(json.dumps([up.url for up in upstreams]))
    os.replace(path.with_suffix(".new"), path)


def by_file(path, **more):
    return config({"type": "file", "path": str(path), "refresh": "100ms"}, **more)


def ask(gateway, path="/"):
    with gateway.client() as client:
        answer = client.request(get(path))
        return answer.status, answer.body.decode()


def bodies(gateway, count=12):
    return {ask(gateway)[1] for _ in range(count)}


def view(gateway):
    return json.loads(gateway.admin("/services")[1])[0]


def test_what_is_found_reaches_every_worker(tmp_path, ups, eventually):
    one, two = ups
    path = tmp_path / "endpoints.json"
    put(path, one)
    with GatewayProcess(by_file(path)) as gateway:
        assert bodies(gateway) == {"one"}
        put(path, one, two)
        eventually(lambda: view(gateway)["discovery"]["version"] == 2, "the second version")
        eventually(lambda: bodies(gateway) == {"one", "two"}, "both answer")
        put(path, two)
        eventually(lambda: bodies(gateway, 30) == {"two"}, "only the second one answers")
        shown = view(gateway)
        assert [endpoint["url"] for endpoint in shown["endpoints"]] == [two.url]
        assert shown["discovery"]["source"] == f"file {path}"
        assert shown["discovery"]["version"] == 3 and shown["discovery"]["age"] < 60
        metrics = gateway.admin("/metrics")[1]
        assert 'fastgw_discovery_endpoints{service="up"} 1.0' in metrics
        assert 'fastgw_discovery_updates_total{service="up"} 3.0' in metrics
        assert 'fastgw_discovery_failures_total{service="up"} 0.0' in metrics
        assert 'fastgw_discovery_age_seconds{service="up"}' in metrics


def test_an_endpoint_that_vanishes_drains_and_one_that_stays_keeps_its_connections(tmp_path, eventually):
    go = threading.Event()
    path = tmp_path / "endpoints.json"
    with named_upstream("slow", go) as slow, named_upstream("other") as other:
        put(path, slow)
        found = by_file(path)
        found["server"]["workers"] = 1
        with GatewayProcess(found) as gateway, gateway.client() as busy, gateway.client() as client:
            assert client.request(get("/")).body == b"slow"       # an idle connection, which must close
            busy.send(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
            slow.wait_for(lambda: any(r.target == "/slow" for r in slow.requests), "the slow request")
            put(path, other)
            eventually(lambda: client.request(get("/")).body == b"other", "the other one answers")
            first = len(other.connections)
            go.set()
            assert busy.response().body == b"slow"       # what was under way came to its end
            slow.wait_for(lambda: slow.open_connections() == 0, "no connection to what is gone")
            put(path, other, slow)
            eventually(lambda: view(gateway)["discovery"]["version"] == 3, "the third version")
            # the agent knows of it before the worker does
            both = {b"other", b"slow"}
            eventually(lambda: {bytes(client.request(get("/")).body) for _ in range(6)} == both, "both answer")
            assert len(other.connections) == first       # the same connection all the time


def test_no_endpoint_is_503_and_ready_waits_no_longer_than_told(tmp_path, ups):
    found = by_file(tmp_path / "none.json")
    found["services"]["up"]["discovery"]["wait"] = "300ms"
    with GatewayProcess(found) as gateway:
        status, body = ask(gateway)
        assert status == 503 and json.loads(body)["code"] == "no_endpoint"
        shown = view(gateway)["discovery"]
        assert shown["age"] is None and shown["failures"] >= 1 and "No such file" in shown["error"]
        assert gateway.stderr.count("it cannot be read") == 1


def test_the_endpoints_of_the_file_are_used_until_there_is_an_answer(tmp_path, ups, eventually):
    one, two = ups
    path = tmp_path / "endpoints.json"
    found = by_file(path, endpoints=[one.url])
    found["services"]["up"]["discovery"]["wait"] = "100ms"
    with GatewayProcess(found) as gateway:
        assert bodies(gateway) == {"one"}
        put(path, two)
        eventually(lambda: bodies(gateway) == {"two"}, "discovery has the word")


def test_workers_and_agents_that_are_replaced_know_what_was_found(tmp_path, ups, eventually):
    one, two = ups
    path = tmp_path / "endpoints.json"
    put(path, one)
    with GatewayProcess(by_file(path)) as gateway:
        eventually(lambda: bodies(gateway) == {"one"}, "it serves")
        path.unlink()                                    # nobody could find it anew
        for pid in workers_of(gateway):
            os.kill(pid, signal.SIGKILL)
            eventually(lambda p=pid: p not in workers_of(gateway) and len(workers_of(gateway)) == 2, "a new worker")
        assert bodies(gateway) == {"one"}
        (agent,) = [pid for pid in named(gateway.pid, "fastgw-") if "agent" in comm(pid)]
        os.kill(agent, signal.SIGKILL)
        eventually(lambda: bodies(gateway, 4) == {"one"}, "it serves without an agent")

        def version():
            try:
                return view(gateway)["discovery"]["version"]
            except OSError:
                return None

        eventually(lambda: version() == 1, "the next agent knows the version")
        put(path, two)
        eventually(lambda: version() == 2, "and goes on from there")
        eventually(lambda: bodies(gateway) == {"two"}, "the second one answers")


def test_reloads_bring_discovery_and_take_it_away(tmp_path, ups, eventually):
    one, two = ups
    path = tmp_path / "endpoints.json"
    put(path, two)
    static = by_file(path)
    static["services"]["up"] = {"endpoints": [one.url]}
    with GatewayProcess(static) as gateway:
        before = yaml.safe_load(gateway.file.read_text())
        assert bodies(gateway) == {"one"} and view(gateway)["discovery"] == {"source": "static"}
        after = {**before, "services": by_file(path)["services"]}
        gateway.file.write_text(yaml.safe_dump(after))
        assert gateway.admin("/config/reload", "POST")[0] == 200
        assert bodies(gateway) == {"two"}                # the answer was there before the plan was
        put(path, one, two)
        eventually(lambda: bodies(gateway) == {"one", "two"}, "changes are followed")
        gateway.file.write_text(yaml.safe_dump({**after, "services": {"up": {**after["services"]["up"], "pool": {
            "max_idle": 3}}}}))
        assert gateway.admin("/config/reload", "POST")[0] == 200
        assert bodies(gateway) == {"one", "two"}
        gateway.file.write_text(yaml.safe_dump(before))
        assert gateway.admin("/config/reload", "POST")[0] == 200
        assert bodies(gateway) == {"one"} and view(gateway)["discovery"] == {"source": "static"}


def test_the_published_template_with_consul(ups, eventually):
    """`service_discovery` of the `api_gateway:` document: services that it does not declare are Consul's to know."""
    one, two = ups
    with FakeConsul() as consul:
        host, port = one.url.removeprefix("http://").split(":")
        consul.put([instance(host, int(port))])
        document = f"""
api_gateway:
  server: {{host: 127.0.0.1, port: 0}}
  routing:
    routes:
      - {{path: /api/users/*, service: user-service}}
  service_discovery: {{type: consul, address: "{consul.address}", refresh_interval: 30s}}
"""
        with GatewayThread(document) as gateway:
            def body():
                with gateway.client() as client:
                    return client.request(get("/api/users/1")).body.decode()

            assert body() == "one"
            host, port = two.url.removeprefix("http://").split(":")
            consul.put([instance(host, int(port))])
            eventually(lambda: body() == "two", "Consul's change")


class Greeting(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"secret")

    def log_message(self, *_):
        pass


@pytest.fixture
def over_tls(tmp_path):
    """(port, file with the authority) of an HTTPS server whose certificate is for users.internal."""
    authority = Authority(tmp_path / "ca")
    pair = authority.leaf("users.internal")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Greeting)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server.server_port, authority.cert
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("name", "status"), [("users.internal", 200), ("other.internal", 502)])
def test_discovered_endpoints_are_spoken_to_by_tls_and_checked(tmp_path, over_tls, name, status):
    port, ca = over_tls
    path = tmp_path / "endpoints.json"
    path.write_text(json.dumps([f"127.0.0.1:{port}"]))
    found = by_file(path, tls={"ca": ca, "server_name": name})
    found["services"]["up"]["discovery"]["scheme"] = "https"
    with GatewayThread(found) as gateway, gateway.client() as client:
        answer = client.request(get("/"))
        assert (answer.status, bytes(answer.body) == b"secret") == (status, status == 200), answer
