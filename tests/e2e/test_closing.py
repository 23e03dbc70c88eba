"""How connections of HTTP/1.1 end: at once when the client said that it sends nothing more, else gently."""

import socket
import ssl
import time

import pytest

from fastgw.testing import FakeUpstream, GatewayProcess, free_port
from fastgw.testing.certificates import Authority

HEAD = b"GET %s HTTP/1.1\r\nHost: a.example\r\n%s\r\n"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    pki = Authority(tmp_path_factory.mktemp("closing"))
    leaf = pki.leaf("a.example")
    plain, secure = free_port(), free_port()
    with FakeUpstream() as upstream:
        config = {
            "server": {
                "workers": 1,
                "limits": {"requests_per_connection": 1},
                "listeners": [
                    {"bind": f"127.0.0.1:{plain}"},
                    {"bind": f"127.0.0.1:{secure}", "tls": {"certificates": [{"cert": leaf.cert, "key": leaf.key}]}},
                ],
            },
            "services": {"up": upstream.url},
            "routes": [
                {"path": "/here", "policies": [{"respond": {"body": "here\n"}}]},
                {"path": "/*", "service": "up"},
            ],
        }
        context = ssl.create_default_context(cafile=pki.cert)
        with GatewayProcess(config):
            yield plain, secure, context


def connect(world, kind):
    plain, secure, context = world
    sock = socket.create_connection(("127.0.0.1", secure if kind == "tls" else plain), timeout=60)
    if kind == "tls":
        return context.wrap_socket(sock, server_hostname="a.example", suppress_ragged_eofs=False)
    return sock


def to_end(sock):
    data = b""
    while more := sock.recv(65536):             # TLS: raises when the end comes without close_notify
        data += more
    return data


def raw(sock):
    """The socket below TLS, as it is."""
    return socket.socket(fileno=sock.detach())


def goes_on_reading(sock):
    """The other side has ended its own half only: what is sent now is not answered with a reset."""
    with raw(sock) as bare:
        bare.settimeout(60)
        try:
            bare.sendall(b"x")
            return bare.recv(1) == b""
        except ConnectionError:
            return False


def closed_whole(sock):
    """The other side is gone: what is sent is answered with a reset, sooner or later."""
    with raw(sock) as bare:
        try:
            until = time.monotonic() + 60
            while time.monotonic() < until:     # close_notify is here before its connection is closed
                bare.sendall(b"x")
        except ConnectionError:
            return True
        return False


@pytest.mark.parametrize("path", [b"/here", b"/there"])
@pytest.mark.parametrize("kind", ["plain", "tls"])
@pytest.mark.parametrize("said", [b"HTTP/1.0", b"close"])
def test_a_client_that_says_close_is_left_at_once(world, kind, path, said):
    # RFC 9112 9.6: after "close" a client must not send anything
    one = HEAD if said == b"close" else HEAD.replace(b"1.1", b"1.0")
    request = one % (path, b"Connection: close\r\n" if said == b"close" else b"")
    with connect(world, kind) as sock:
        sock.sendall(request)
        assert to_end(sock).startswith(b"HTTP/1.1 200 ")
        assert closed_whole(sock)


@pytest.mark.parametrize("kind", ["plain", "tls"])
def test_an_end_of_our_own_lets_the_client_finish(world, kind):
    def once():
        with connect(world, kind) as sock:
            sock.sendall(HEAD % (b"/here", b""))  # the limit is one request a connection: the client did not know that
            answered = to_end(sock)
            assert answered.endswith(b"here\n") and b"Connection: close" in answered
            return goes_on_reading(sock)

    assert any(once() for _ in range(5))        # it waits for a second: this process may sleep through that


@pytest.mark.parametrize("kind", ["plain", "tls"])
def test_bytes_behind_a_request_that_says_close_do_not_eat_its_answer(world, kind):
    with connect(world, kind) as sock:
        sock.sendall(HEAD % (b"/here", b"Connection: close\r\n") + b"more" * 10)
        assert to_end(sock).endswith(b"here\n")


@pytest.mark.parametrize("kind", ["plain", "tls"])
def test_a_body_that_is_not_wanted_does_not_eat_the_answer(world, kind):
    with connect(world, kind) as sock:
        head = b"POST /here HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 40000\r\n\r\n"
        sock.sendall(head + b"x" * 30_000)
        assert to_end(sock).endswith(b"here\n")
