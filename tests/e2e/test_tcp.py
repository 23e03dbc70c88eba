"""Listeners of `protocol: tcp`: bytes, ends, times, limits and what is told of them; both ends are the test's."""

import contextlib
import json
import queue
import random
import re
import select
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from pathlib import Path

import pytest

from fastgw.config import check
from fastgw.policies import RESOLVER
from fastgw.testing import GatewayProcess, free_port
from fastgw.testing.certificates import Authority
from fastgw.testing.process import descriptors
from tests.patience import until

PATIENCE = 60


class Far:
    """A server whose accepted sockets the test takes with `next()`."""

    def __init__(self, family=socket.AF_INET, address=("127.0.0.1", 0)):
        self.sock = socket.socket(family)
        self.sock.bind(address)
        self.sock.listen(64)
        self.taken = queue.Queue()
        self.thread = threading.Thread(target=self.accept, daemon=True)
        self.thread.start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                self.taken.put(self.sock.accept()[0])

    def next(self):
        sock = self.taken.get(timeout=PATIENCE)
        sock.settimeout(PATIENCE)
        return sock

    @property
    def port(self):
        return self.sock.getsockname()[1]

    @property
    def url(self):
        return f"tcp://127.0.0.1:{self.port}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.thread.join(PATIENCE)
        self.sock.close()


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)


def exactly(sock, n):
    data = b""
    while len(data) < n:
        piece = sock.recv(min(n - len(data), 1 << 20))
        assert piece, f"it ended after {len(data)} of {n} bytes"
        data += piece
    return data


def to_end(sock):
    """What comes until the end, and how it ends: "eof" or "reset"."""
    data = b""
    try:
        while piece := sock.recv(1 << 20):
            data += piece
    except ConnectionResetError:
        return data, "reset"
    return data, "eof"


def refused(port):
    """How a connection ends that nobody takes; it may do so before `connect` is back."""
    try:
        with connect(port) as sock:
            return to_end(sock)
    except ConnectionResetError:
        return b"", "reset"


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def metric(gateway, name, **labels):
    """The sum over the series that have these labels."""
    total = 0.0
    for line in gateway.admin("/metrics")[1].splitlines():
        found = re.fullmatch(rf"{name}(?:{{(.*)}})? (\S+)", line)
        if found and all(f'{key}="{value}"' in (found[1] or "") for key, value in labels.items()):
            total += float(found[2])
    return total


def lines_of(gateway, code=..., **wanted):
    """The access log's lines with these values."""
    lines = [json.loads(line) for line in gateway.stdout.splitlines() if line.startswith("{")]
    wanted = wanted if code is ... else {**wanted, "code": code}
    return [line for line in lines if all(line[key] == value for key, value in wanted.items())]


def config_of(listeners, services, **more):
    return {"server": {"listeners": listeners, **more}, "services": services, "routes": []}


@pytest.fixture(scope="module")
def far():
    with Far() as one:
        yield one


@pytest.fixture(scope="module")
def gateway(far):
    ports = {name: free_port() for name in ("plain", "short", "brief", "few", "refused", "second", "stuck")}

    def listener(name, **tcp):
        return {"bind": f"127.0.0.1:{ports[name]}", "protocol": "tcp", "tcp": {"service": "far", **tcp}}

    nobody, full = free_port(), socket.create_server(("127.0.0.1", 0), backlog=0)
    with contextlib.ExitStack() as stack:
        stack.enter_context(full)
        for _ in range(8):  # its queue is full: a connection is neither taken nor refused
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        config = config_of(
            [
                {**listener("plain"), "tcp": "far"},
                listener("short", idle_timeout="1s"),
                listener("brief", total_timeout="500ms"),
                listener("few", max_connections=2),
                listener("refused", service="nobody"),
                listener("second", service="second"),
                listener("stuck", service="stuck"),
            ],
            {
                "far": far.url,
                "nobody": f"tcp://127.0.0.1:{nobody}",
                "second": {"endpoints": [f"tcp://127.0.0.1:{nobody}", far.url], "pool": {"max_connections": 1}},
                "stuck": {
                    "endpoints": [f"tcp://127.0.0.1:{full.getsockname()[1]}"],
                    "timeouts": {"connect": "200ms"},
                },
            },
            timeouts={"drain": "1s"},
        )
        with GatewayProcess(config) as process:
            process.ports = ports
            yield process


def pair(gateway, far, name="plain"):
    """A client's socket and the one at the endpoint."""
    client = connect(gateway.ports[name])
    return client, far.next()


def test_bytes_go_both_ways_as_they_are(gateway, far):
    client, there = pair(gateway, far)
    with client, there:
        for data in (b"a", b"\0\r\n\r\n\xff", random.randbytes(300_000)):
            client.sendall(data)
            assert exactly(there, len(data)) == data
            there.sendall(data[::-1])
            assert exactly(client, len(data)) == data[::-1]


def test_the_endpoint_may_speak_first(gateway, far):
    client, there = pair(gateway, far)
    with client, there:
        there.sendall(b"220 ready\r\n")
        assert exactly(client, 11) == b"220 ready\r\n"


@pytest.mark.parametrize("first", ["client", "endpoint"])
def test_half_closes(gateway, far, first):
    """The end of one direction is told, the other one goes on as long as it likes."""
    client, there = pair(gateway, far)
    a, b = (client, there) if first == "client" else (there, client)
    with client, there:
        a.sendall(b"question")
        a.shutdown(socket.SHUT_WR)
        assert to_end(b) == (b"question", "eof")
        data = random.randbytes(1_000_000)
        sender = threading.Thread(target=lambda: (b.sendall(data), b.shutdown(socket.SHUT_WR)))
        sender.start()
        assert to_end(a) == (data, "eof")
        sender.join(PATIENCE)
    until(lambda: metric(gateway, "fastgw_pool_connections", service="far", state="busy") == 0)


@pytest.mark.parametrize("first", ["client", "endpoint"])
def test_a_reset_is_a_reset_on_the_other_side(gateway, far, first):
    client, there = pair(gateway, far)
    a, b = (client, there) if first == "client" else (there, client)
    with client, there:
        a.sendall(b"x")
        assert exactly(b, 1) == b"x"
        reset(a)
        assert to_end(b) == (b"", "reset")


def test_an_endpoint_that_ended_and_hears_no_more(gateway, far):
    """What it had said still reaches a client that goes on sending."""
    client, there = pair(gateway, far)
    with client:
        data = random.randbytes(30_000)
        there.sendall(data)
        there.close()
        with contextlib.suppress(ConnectionError):
            for _ in range(50):
                client.sendall(b"more")
                time.sleep(0.001)
        assert to_end(client)[0] == data


@pytest.mark.parametrize("slow", ["client", "endpoint"])
def test_who_is_slow_stops_the_other(gateway, far, slow):
    """Nothing is read that cannot be passed on: a little is held, the rest stays with its sender."""
    client, there = pair(gateway, far)
    a, b = (there, client) if slow == "client" else (client, there)
    with client, there:
        a.setblocking(False)
        data, sent, still = random.randbytes(1 << 20), 0, 0
        while still < 50 and sent < 64 << 20:
            try:
                sent += a.send(data)
                still = 0
            except BlockingIOError:
                still += 1
                time.sleep(0.01)
        assert sent < 48 << 20, "it took everything"
        a.settimeout(PATIENCE)
        threading.Thread(target=lambda: a.shutdown(socket.SHUT_WR)).start()
        got = 0
        while piece := b.recv(1 << 20):
            got += len(piece)
        assert got == sent


def test_quiet_for_too_long(gateway, far):
    client, there = pair(gateway, far, "short")
    with client, there:
        begun = time.monotonic()
        for _ in range(6):  # either direction keeps it
            client.sendall(b".")
            assert exactly(there, 1)
            time.sleep(0.1)
            there.sendall(b".")
            assert exactly(client, 1)
            time.sleep(0.1)
        assert to_end(client) == (b"", "reset")
        assert to_end(there) == (b"", "reset")
        assert time.monotonic() - begun > 2
    until(lambda: lines_of(gateway, "tunnel_idle_timeout", status=504, service="far", protocol="tcp"))
    assert metric(gateway, "fastgw_errors_total", code="tunnel_idle_timeout") >= 1


def test_for_too_long_altogether(gateway, far):
    client, there = pair(gateway, far, "brief")
    with client, there:
        begun = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - begun < 60:
                client.sendall(b".")
                time.sleep(0.02)
        assert 0.4 < time.monotonic() - begun < 60
        assert to_end(there)[1] == "reset"
    until(lambda: lines_of(gateway, "tunnel_timeout"))


def test_an_endpoint_that_is_not_there(gateway):
    assert refused(gateway.ports["refused"]) == (b"", "reset")
    until(lambda: lines_of(gateway, "upstream_connect_failed", status=502, side="upstream"))


def test_an_endpoint_that_does_not_answer(gateway):
    begun = time.monotonic()
    assert refused(gateway.ports["stuck"]) == (b"", "reset")
    assert time.monotonic() - begun > 0.1
    until(lambda: lines_of(gateway, "upstream_connect_timeout", status=504))


def test_the_next_endpoint_is_tried(gateway, far):
    for n in range(4):
        client, there = pair(gateway, far, "second")
        with client, there:
            client.sendall(b"here")
            assert exactly(there, 4) == b"here"
        until(lambda n=n: len(lines_of(gateway, None, service="second")) == n + 1)  # it takes one at a time


def test_the_limit_of_an_endpoint(gateway, far):
    before = len(lines_of(gateway, None, service="second"))
    client, there = pair(gateway, far, "second")
    with client, there:
        assert refused(gateway.ports["second"]) == (b"", "reset")
    until(lambda: len(lines_of(gateway, None, service="second")) == before + 1)


def test_the_limit_of_a_listener(gateway, far):
    before = metric(gateway, "fastgw_connections_refused_total")
    first, there = pair(gateway, far, "few")
    second, beyond = pair(gateway, far, "few")
    with there, second, beyond:
        assert refused(gateway.ports["few"])[0] == b""
        until(lambda: metric(gateway, "fastgw_connections_refused_total") == before + 1)
        first.close()
        there.close()

        def again():
            with connect(gateway.ports["few"]) as sock, contextlib.suppress(ConnectionError):
                sock.sendall(b"x")
                # the endpoint has it, or it is closed: none may be left over for the next test
                until(lambda: not far.taken.empty() or select.select([sock], [], [], 0)[0])
                if not far.taken.empty():
                    with far.next() as found:
                        return exactly(found, 1) == b"x"

        until(again)


def test_the_line_in_the_access_log(gateway, far):
    client, there = pair(gateway, far)
    with client, there:
        client.sendall(b"12345")
        assert exactly(there, 5)
        there.sendall(b"123")
        there.shutdown(socket.SHUT_WR)
        assert to_end(client) == (b"123", "eof")
    found = []
    until(lambda: found.extend(lines_of(gateway, None, bytes_in=5, bytes_out=3)) or found)
    line = found[0]
    assert line["protocol"] == "tcp" and line["client"] == "127.0.0.1" and line["status"] == 200
    assert line["service"] == "far" and line["endpoint"] == f"127.0.0.1:{far.port}" and line["route"] is None
    assert line["total_ms"] >= line["upstream_ms"] > 0 and re.fullmatch("[0-9a-f]{32}", line["request_id"])


def test_what_is_counted(gateway, far):
    names = {
        "opened": ("fastgw_tcp_connections_total", {}),
        "in": ("fastgw_tcp_bytes_total", {"direction": "in"}),
        "out": ("fastgw_tcp_bytes_total", {"direction": "out"}),
    }

    def read():
        return {key: metric(gateway, name, service="far", **labels) for key, (name, labels) in names.items()}

    before = read()
    client, there = pair(gateway, far)
    with client, there:
        client.sendall(bytes(1000))
        exactly(there, 1000)
        there.sendall(bytes(50))
        exactly(client, 50)
        wanted = {"opened": 1, "in": 1000, "out": 50}
        # while it goes on
        until(lambda: {key: value - before[key] for key, value in read().items()} == wanted)
        until(lambda: metric(gateway, "fastgw_pool_connections", service="far", state="busy") == 1)


def test_a_unix_socket_on_both_sides(tmp_path):
    near, beyond = tmp_path / "near", tmp_path / "far"
    with Far(socket.AF_UNIX, str(beyond)) as far:
        config = config_of([{"bind": f"unix:{near}", "protocol": "tcp", "tcp": "up"}], {"up": f"unix:{beyond}"})
        with GatewayProcess(config), socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(str(near))
            with far.next() as there:
                client.sendall(b"hello")
                assert exactly(there, 5) == b"hello"


def test_many_clients_and_round_robin():
    with Far() as one, Far() as two, contextlib.ExitStack() as stack:
        port = free_port()
        listener = {"bind": f"127.0.0.1:{port}", "protocol": "tcp", "tcp": "both"}
        stack.enter_context(GatewayProcess(config_of([listener], {"both": {"endpoints": [one.url, two.url]}})))
        clients = [stack.enter_context(connect(port)) for _ in range(40)]
        for n, client in enumerate(clients):
            client.sendall(b"%03d" % n)
        seen = [exactly(stack.enter_context(far.next()), 3) for far in (one, two) for _ in range(20)]
        assert sorted(seen) == [b"%03d" % n for n in range(40)]


def test_after_tls_that_ends_here(tmp_path, far):
    """TLS outside, bytes inside: also half-closes, and no protocol is agreed on for what is not ours to know."""
    pki = Authority(tmp_path)
    leaf = pki.leaf("a.example")
    port = free_port()
    listener = {
        "bind": f"127.0.0.1:{port}",
        "protocol": "tcp",
        "tcp": "far",
        "tls": {"certificates": [{"cert": leaf.cert, "key": leaf.key}]},
    }
    context = ssl.create_default_context(cafile=pki.cert)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with GatewayProcess(config_of([listener], {"far": far.url})) as gateway:
        with context.wrap_socket(connect(port), server_hostname="a.example") as client, far.next() as there:
            assert client.selected_alpn_protocol() is None
            data = random.randbytes(500_000)
            for a, b in ((client, there), (there, client)):
                sender = threading.Thread(target=a.sendall, args=(data,))
                sender.start()
                assert exactly(b, len(data)) == data
                sender.join(PATIENCE)
            there.sendall(b"last")
            there.shutdown(socket.SHUT_WR)
            assert client.recv(100) == b"last"
            assert client.recv(100) == b""  # close_notify, not a cut
            client.unwrap()
            assert to_end(there) == (b"", "eof")
        until(lambda: lines_of(gateway, None, bytes_in=500_000, bytes_out=500_004))


def test_the_proxy_protocol_before_it(far):
    port = free_port()
    listener = {
        "bind": f"127.0.0.1:{port}",
        "protocol": "tcp",
        "tcp": "far",
        "proxy_protocol": {"trusted_proxies": ["127.0.0.0/8"]},
    }
    with GatewayProcess(config_of([listener], {"far": far.url})) as gateway:
        with connect(port) as client:
            client.sendall(b"PROXY TCP4 192.0.2.7 198.51.100.1 5000 80\r\nhello")
            client.shutdown(socket.SHUT_WR)
            with far.next() as there:
                assert to_end(there) == (b"hello", "eof")
            assert to_end(client)[1] == "eof"
        until(lambda: lines_of(gateway, None, client="192.0.2.7", bytes_in=5))


def test_a_drain_gives_it_time_and_then_an_end(far):
    port = free_port()
    listener = {"bind": f"127.0.0.1:{port}", "protocol": "tcp", "tcp": "far"}
    config = config_of([listener], {"far": far.url}, timeouts={"drain": "3s"})
    with GatewayProcess(config) as gateway, connect(port) as client, connect(port) as other:
        there, beyond = far.next(), far.next()
        with there, beyond:
            for n, sock in enumerate((client, other)):
                sock.sendall(b"%d" % n)
            if exactly(there, 1) == b"1":
                there, beyond = beyond, there
            begun = time.monotonic()
            gateway.signal(15)
            until(lambda: "draining" in gateway.stderr)
            client.sendall(b"still here")
            assert to_end_of(there, b"still here")
            there.sendall(b"bye")
            there.shutdown(socket.SHUT_WR)
            client.shutdown(socket.SHUT_WR)
            assert to_end(client) == (b"bye", "eof")
            assert to_end(other) == (b"", "reset")
            assert time.monotonic() - begun > 2
        assert gateway.wait(60) == 0
        assert lines_of(gateway, "draining", service="far")


def to_end_of(sock, data):
    """The end of what comes is `data`."""
    found = b""
    while not found.endswith(data):
        found += sock.recv(100)
    return True


def can_connect(port):
    with contextlib.suppress(OSError), connect(port):
        return True
    return False


def test_a_reload_sends_new_ones_elsewhere_and_leaves_the_others():
    """Also when its listener becomes one of HTTP, or is gone."""
    port, other = free_port(), free_port()
    with Far() as one, Far() as two:
        def text(listeners, url):
            return json.dumps({
                "server": {"listeners": listeners, "workers": 1},
                "admin": {"bind": f"127.0.0.1:{admin}"},
                "services": {"far": url},
                "routes": [{"path": "/*", "policies": [{"respond": {"body": "http"}}]}],
            })  # fmt: skip

        tcp = {"bind": f"127.0.0.1:{port}", "protocol": "tcp", "tcp": "far"}
        http = {"bind": f"127.0.0.1:{port}"}
        away = {"bind": f"127.0.0.1:{other}"}
        admin = free_port()
        process = GatewayProcess(text([tcp], one.url))
        process.admin_port = admin
        with process as gateway:

            def reload(*given):
                gateway.file.write_text(text(*given))
                status, answer = gateway.admin("/config/reload", "POST")
                assert status == 200, answer

            def still(client, there):
                client.sendall(b"ping")
                there.sendall(b"pong")
                return exactly(there, 4) == b"ping" and exactly(client, 4) == b"pong"

            with connect(port) as client, one.next() as there:
                assert still(client, there)
                reload([tcp], two.url)
                with connect(port) as later, two.next() as beyond:
                    assert still(later, beyond) and still(client, there)
                    reload([http], two.url)
                    assert still(later, beyond) and still(client, there)
                    with connect(port) as speaking:
                        speaking.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                        assert to_end(speaking)[0].endswith(b"http")
                    reload([away], two.url)
                    assert not can_connect(port)
                    assert still(later, beyond) and still(client, there)
            until(lambda: len(lines_of(gateway, protocol="tcp")) == 2)


def test_nothing_is_left():
    """Clients that come, send something or nothing, and go in all ways, where bytes and where TLS pass through."""
    port, through = free_port(), free_port()
    with Far() as far:
        stop = threading.Event()

        def echo():
            while not stop.is_set():
                with contextlib.suppress(OSError, queue.Empty), far.taken.get(timeout=0.1) as sock:
                    sock.settimeout(1)
                    sock.sendall(sock.recv(100))

        threads = [threading.Thread(target=echo) for _ in range(4)]
        listeners = [
            {"bind": f"127.0.0.1:{port}", "protocol": "tcp", "tcp": {"service": "far", "idle_timeout": "1s"}},
            {
                "bind": f"127.0.0.1:{through}",
                "protocol": "tcp",
                "tls": "passthrough",
                "tcp": {"service": "far", "hello_timeout": "200ms"},
            },
        ]
        with GatewayProcess(config_of(listeners, {"far": {"endpoints": [far.url], "proxy_protocol": "v2"}})) as gateway:
            before = [descriptors(pid) for pid in gateway.processes()]
            for thread in threads:
                thread.start()
            for n in range(200):
                client = connect(through if n % 3 == 0 else port)
                with contextlib.suppress(OSError):
                    client.sendall([b"", b"\x16\x03\x01\x02\0\x01", b"GET / HTTP/1.1\r\n\r\n", bytes(200_000)][n % 4])
                    if n % 5 == 0:
                        client.shutdown(socket.SHUT_WR)
                    if n % 7 == 0:
                        client.recv(100)
                reset(client) if n % 2 else client.close()
            until(lambda: metric(gateway, "fastgw_connections_active") == 0)
            until(lambda: metric(gateway, "fastgw_pool_connections", service="far") == 0)
            # not more than before: a connection of the start may not have been closed then
            until(lambda: all(descriptors(pid) <= was for pid, was in zip(gateway.processes(), before, strict=True)))
            stop.set()
            for thread in threads:
                thread.join(PATIENCE)


def test_discovered_endpoints(tmp_path):
    """New connections go to what is found; those of an endpoint that vanished stay."""
    file, port = tmp_path / "endpoints.json", free_port()

    def told(*endpoints):
        file.with_suffix(".new").write_text(json.dumps([endpoint.url for endpoint in endpoints]))
        file.with_suffix(".new").rename(file)

    with Far() as one, Far() as two:
        told(one)
        discovery = {"type": "file", "path": str(file), "refresh": "100ms", "scheme": "tcp"}
        listener = {"bind": f"127.0.0.1:{port}", "protocol": "tcp", "tcp": "found"}
        config = config_of([listener], {"found": {"discovery": discovery}})
        with GatewayProcess(config) as gateway, connect(port) as client, one.next() as there:
            told(two)
            until(lambda: f"127.0.0.1:{two.port}" in gateway.admin("/services")[1])
            until(lambda: goes_to(port, two))
            client.sendall(b"still here")
            assert exactly(there, 10) == b"still here"


def goes_to(port, far):
    with connect(port), contextlib.suppress(queue.Empty):
        far.taken.get(timeout=0.2).close()
        return True
    return False


def test_an_endpoint_that_checks_find_down_gets_no_connections():
    """Asked by a connection, or by HTTP at another port of it."""
    port, other = free_port(), free_port()
    with Far() as up, Far() as checked:
        gone = free_port()
        down = f"tcp://127.0.0.1:{gone}"
        check_by_tcp = {"type": "tcp", "interval": "100ms", "unhealthy_threshold": 1, "healthy_threshold": 1}
        services = {
            "far": {"endpoints": [down, up.url], "health_check": check_by_tcp},
            "asked": {"endpoints": [checked.url], "balance": {"panic": "fail"},
                      "health_check": {**check_by_tcp, "type": "http", "path": "/", "port": gone}},
        }  # fmt: skip
        listeners = [
            {"bind": f"127.0.0.1:{port}", "protocol": "tcp", "tcp": "far"},
            {"bind": f"127.0.0.1:{other}", "protocol": "tcp", "tcp": "asked"},
        ]
        with GatewayProcess(config_of(listeners, services)) as gateway:
            until(lambda: metric(gateway, "fastgw_health_checks_total", service="asked", result="bad") > 0)
            until(lambda: refused(other) == (b"", "reset"))
            until(lambda: lines_of(gateway, "no_endpoint", service="asked"))
            until(lambda: metric(gateway, "fastgw_health_checks_total", service="far", result="bad") > 0)
            errors = metric(gateway, "fastgw_pool_connect_errors_total", service="far")
            for _ in range(6):
                with connect(port) as client:
                    client.sendall(b"x")
                    while exactly_or_none(up) != b"x":
                        pass  # a check's own connection
            assert metric(gateway, "fastgw_pool_connect_errors_total", service="far") == errors


def exactly_or_none(far):
    with far.next() as sock:
        return sock.recv(1)


@pytest.mark.parametrize("kind", ["least_requests", "ewma", "random", "ip_hash"])
def test_other_ways_to_choose(kind):
    """Those that count connections see them while they are open; the same client goes to the same endpoint by hash."""
    port = free_port()
    with Far() as one, Far() as two, contextlib.ExitStack() as stack:
        listener = {"bind": f"127.0.0.1:{port}", "protocol": "tcp", "tcp": "both"}
        service = {"endpoints": [one.url, two.url], "balance": kind}
        stack.enter_context(GatewayProcess(config_of([listener], {"both": service}, timeouts={"drain": "0s"})))
        for n in range(20):
            stack.enter_context(connect(port)).sendall(b"x")
            until(lambda n=n: one.taken.qsize() + two.taken.qsize() == n + 1)
        counts = sorted((one.taken.qsize(), two.taken.qsize()))
        assert counts == [0, 20] if kind == "ip_hash" else counts[0] > 0
        if kind == "least_requests":
            assert counts == [10, 10]


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs Redis")
def test_redis(tmp_path):
    """A protocol nobody here wrote, pipelined, with large values, subscriptions and blocking calls."""
    import redis

    port, front = free_port(), free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    with subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL) as server:
        try:
            until(lambda: can_connect(port))
            listener = {"bind": f"127.0.0.1:{front}", "protocol": "tcp", "tcp": "redis"}
            with GatewayProcess(config_of([listener], {"redis": f"tcp://127.0.0.1:{port}"})):
                client = redis.Redis(port=front, socket_timeout=PATIENCE)
                assert client.ping()
                value = random.randbytes(3_000_000)
                client.set("large", value)
                assert client.get("large") == value
                with client.pipeline() as many:
                    for n in range(2000):
                        many.set(f"k{n}", n)
                    many.mget([f"k{n}" for n in range(2000)])
                    assert many.execute()[-1] == [b"%d" % n for n in range(2000)]
                channel = client.pubsub()
                channel.subscribe("news")
                assert channel.get_message(timeout=PATIENCE)["type"] == "subscribe"
                client.publish("news", b"hello")
                assert channel.get_message(timeout=PATIENCE)["data"] == b"hello"
                pushing = threading.Timer(0.1, client.rpush, ("list", "x"))
                pushing.start()
                with redis.Redis(port=front, socket_timeout=PATIENCE) as waiting:
                    assert [*waiting.blpop("list", 5)] == [b"list", b"x"]
                pushing.join(PATIENCE)
                channel.close()
                client.close()
        finally:
            server.terminate()
            server.wait(PATIENCE)


@pytest.mark.parametrize(
    ("listener", "services", "word"),
    [
        ({"protocol": "tcp"}, {}, "nobody says where connections go"),
        ({"protocol": "tcp", "tcp": {}}, {}, "nobody says where connections go"),
        ({"tcp": "a"}, {"a": "tcp://h:1"}, "the listener speaks HTTP"),
        ({"protocol": "tcp", "tcp": "b"}, {"a": "tcp://h:1"}, "there is no service 'b'"),
        ({"protocol": "tcp", "tcp": "a"}, {"a": "http://h:1"}, "has http endpoints"),
        ({"protocol": "tcp", "tcp": "a"}, {"a": {"endpoints": ["http://h:1", "tcp://h:1"]}}, "tcp and http endpoints"),
        ({"protocol": "tcp", "tcp": "a"}, {"a": "tcp://h"}, "no port"),
        ({"protocol": "tcp", "tcp": "a", "http2": False}, {"a": "tcp://h:1"}, "knows no HTTP/2"),
        ({"protocol": "tcp", "tcp": "a", "tls": {"self_signed": True, "alpn": ["h2"]}}, {"a": "tcp://h:1"}, "`alpn`"),
        ({"protocol": "tcp", "tcp": "a"}, {"a": {"endpoints": ["tcp://h:1"], "host": "x"}}, "`host` says nothing"),
        (
            {"protocol": "tcp", "tcp": "a"},
            {"a": {"endpoints": ["tcp://h:1"], "timeouts": {"response": "1s"}}},
            "`response` says nothing",
        ),
        (
            {"protocol": "tcp", "tcp": "a"},
            {"a": {"endpoints": ["tcp://h:1"], "balance": {"sticky": "x"}}},
            "`sticky` says nothing",
        ),
        (
            {"protocol": "tcp", "tcp": "a"},
            {"a": {"endpoints": ["tcp://h:1"], "balance": {"type": "consistent_hash", "hash_on": "${request.path}"}}},
            "has no value for tcp",
        ),
        (
            {"protocol": "tcp", "tcp": "a"},
            {"a": {"endpoints": ["tcp://h:1"], "health_check": "/health"}},
            "nobody speaks HTTP to",
        ),
        (
            {"protocol": "tcp", "tcp": "a"},
            {"a": {"endpoints": ["tcp://h:1"], "pool": {"queue_size": 5}}},
            "`queue_size` says nothing",
        ),
    ],
)
def test_what_does_not_go_together(listener, services, word):
    text = json.dumps({"server": {"listeners": [{"bind": ":9000", **listener}]}, "services": services}) + "\n"
    config, problems = check(text, resolver=RESOLVER, env={}, file="gateway.yaml")
    assert config is None and any(word in str(problem) for problem in problems), problems


def test_a_route_to_a_tcp_service():
    text = "services: {a: tcp://h:1}\nroutes: [{path: /*, service: a}]\n"
    config, problems = check(text, resolver=RESOLVER, env={}, file="gateway.yaml")
    assert config is None and ["nobody speaks HTTP to" in str(problem) for problem in problems] == [True]


def test_the_page_is_true():
    page = (Path(__file__).parents[2] / "docs" / "tcp.md").read_text()
    examples = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert examples
    for example in examples:
        _, problems = check(example, resolver=RESOLVER, env={}, file="page.yaml")
        assert [str(problem) for problem in problems] == []
