"""ClientHellos, and what nearly is one, at a port where TLS passes through: whoever gets through asks for the name that
the gateway saw, the others are closed, and it goes on for everybody else."""

import contextlib
import socket
import threading

import pytest
from hypothesis import example, given, note
from hypothesis import strategies as st

from fastgw.testing import GatewayProcess, free_port
from tests.core.test_sni import ANY, REAL, records
from tests.fuzz.conftest import leave, run
from tests.oracle.client_hello import look

MARK = b"<passed>"
ALERTS = (b"", b"\x15\x03\x03\x00\x02\x02\x32", b"\x15\x03\x03\x00\x02\x02\x70")
"""Nothing, decode_error, unrecognized_name."""


class Marking:
    """A server that says MARK, waits for the end and keeps what came."""

    def __init__(self):
        self.sock = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.sock.getsockname()[1]
        self.got = []
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def stop(self):
        self.sock.shutdown(socket.SHUT_RDWR)
        self.thread.join(60)
        self.sock.close()

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                with self.sock.accept()[0] as sock:
                    sock.settimeout(30)
                    sock.sendall(MARK)
                    self.got.append(until_the_end(sock))


def until_the_end(sock):
    data = b""
    with contextlib.suppress(ConnectionError):
        while more := sock.recv(65536):
            data += more
    return data


@pytest.fixture(scope="module")
def running():
    named, others = Marking(), Marking()
    port = free_port()
    listener = {
        "bind": f"127.0.0.1:{port}",
        "protocol": "tcp",
        "tls": "passthrough",
        "tcp": {"sni": [{"names": ["a.example"], "service": "named"}], "service": "others", "hello_timeout": "200ms"},
    }
    services = {"named": f"tcp://127.0.0.1:{named.port}", "others": f"tcp://127.0.0.1:{others.port}"}
    quiet = {"access_log": {"enabled": False}}
    config = {"server": {"listeners": [listener]}, "services": services, "observability": quiet}
    with GatewayProcess(config) as gateway:
        yield gateway, port, named, others
    named.stop()
    others.stop()


@st.composite
def sent(draw):
    """A message in records, with some bytes changed, cut or put in, and something behind it."""
    data = bytearray(records(draw(ANY), draw(st.lists(st.integers(0, 600), max_size=3))))
    for _ in range(draw(st.sampled_from([0, 0, 1, 2, 4]))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        what = draw(st.sampled_from(["flip", "set", "cut", "drop", "insert"]))
        if what == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif what == "set" and data:
            data[at] = draw(st.sampled_from([0, 1, 0x7F, 0xFF]))
        elif what == "cut":
            del data[at:]
        elif what == "drop":
            del data[at : at + draw(st.integers(1, 40))]
        else:
            data[at:at] = draw(st.binary(max_size=20))
    return bytes(data) + draw(st.binary(max_size=20))


def send(port, data, cuts):
    """What comes back until the end."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ConnectionError):
            at = 0
            for cut in sorted(cuts):
                sock.sendall(data[at:cut])
                at = max(at, cut)
            sock.sendall(data[at:])
            leave(sock)
        return until_the_end(sock)


def test_hellos(running):
    gateway, port, named, others = running
    workers = gateway.processes()

    @given(sent(), st.lists(st.integers(0, 600), max_size=3))
    @example(REAL[0], [])
    @example(REAL[0] * 3, [1, 2, 3])
    @example(b"", [])
    @example(b"\x16\x03\x01" + b"a" * 70_000, [])
    @example(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", [])
    def compare(data, cuts):
        expected = look(data)
        before = len(named.got), len(others.got)
        answered = send(port, data, cuts)
        note(f"expected {expected!r}, answered {answered!r}")
        if not isinstance(expected, bytes):
            assert answered in ALERTS and (len(named.got), len(others.got)) == before
            return
        assert answered == MARK
        server = named if expected == b"a.example" else others
        assert server.got[-1] == data
        assert len(named.got) + len(others.got) == sum(before) + 1

    run(compare, short=400)
    assert send(port, REAL[0], []) == MARK
    assert gateway.processes() == workers, "a process died"
