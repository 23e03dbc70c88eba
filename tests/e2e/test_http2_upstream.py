"""HTTP/2 to services: h2c, h2 and auto, against nghttpd, against servers made of `h2`, and against raw bytes."""

import http.server
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from types import SimpleNamespace

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import pytest
import yaml

from fastgw.testing import FakeUpstream, GatewayProcess, free_port
from fastgw.testing.certificates import Authority
from tests.e2e.test_http2 import PLAIN, Http2Client
from tests.patience import until

LARGE = 3_000_000


class Http2Server:
    """A server by the `h2` library. `play(served, event)` is called with each event of each connection."""

    def __init__(self, play, context=None, settings=None):
        self.play, self.context, self.settings = play, context, settings or {}
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.connections = []
        self.changed = threading.Condition()

    def __enter__(self):
        self.accepting = threading.Thread(target=self.accept, daemon=True)
        self.accepting.start()
        return self

    def __exit__(self, *_):
        # a thread that is still in accept takes the next server's connections when the descriptor's number is used anew
        self.listener.shutdown(socket.SHUT_RDWR)
        self.accepting.join(60)
        self.listener.close()
        for served in list(self.connections):
            served.close()

    def accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    def serve(self, sock):
        try:
            if self.context is not None:
                sock = self.context.wrap_socket(sock, server_side=True)
            served = Served(sock, self.settings)
            with self.changed:
                self.connections.append(served)
                self.changed.notify_all()
            while data := sock.recv(65536):
                for event in served.h2.receive_data(data):
                    served.events.append(event)
                    self.play(served, event)
                served.flush()
                with self.changed:
                    self.changed.notify_all()
        except OSError:
            pass
        finally:
            sock.close()

    def wait(self, condition, seconds=60):
        deadline = time.monotonic() + seconds
        with self.changed:
            while not condition():
                assert time.monotonic() < deadline
                self.changed.wait(0.02)                 # not everything is told


class Served:
    """One connection of a gateway."""

    def __init__(self, sock, settings):
        self.sock = sock
        self.events = []
        self.bodies = {}
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self.h2.local_settings = h2.settings.Settings(client=False, initial_values=settings)
        self.h2.initiate_connection()
        self.flush()

    def flush(self):
        """What is ready, and what the windows let through of the bodies that wait."""
        for stream, (body, end) in list(self.bodies.items()):
            with suppress(h2.exceptions.StreamClosedError):
                while body and (room := min(self.h2.local_flow_control_window(stream), 16384)):
                    self.h2.send_data(stream, body[:room])
                    body = body[room:]
                self.bodies[stream] = body, end
                if body:
                    continue
                if end:
                    self.h2.send_headers(stream, end, end_stream=True)
                else:
                    self.h2.end_stream(stream)
            del self.bodies[stream]
        self.sock.sendall(self.h2.data_to_send())

    def close(self):
        with suppress(OSError):                         # the gateway was faster
            self.sock.shutdown(socket.SHUT_RDWR)

    def answer(self, stream, body=b"ok", headers=(), status="200", trailers=None):
        self.h2.send_headers(stream, [(":status", status), *headers], end_stream=not body and trailers is None)
        if body or trailers is not None:
            self.bodies[stream] = body, trailers

    def heads(self):
        return [dict(event.headers) for event in self.events if isinstance(event, h2.events.RequestReceived)]

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


def echo(served, event):
    """Answers a request when it is whole, with what came."""
    if isinstance(event, h2.events.DataReceived):
        served.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
    if isinstance(event, h2.events.StreamEnded):
        body = b"".join(one.data for one in served.of(h2.events.DataReceived) if one.stream_id == event.stream_id)
        served.answer(event.stream_id, body or b"ok")


@contextmanager
def gateway(url, protocol="h2c", service=None, **more):
    with GatewayProcess(
        {
            "server": {"listeners": ["127.0.0.1:${FASTGW_PORT}"], **more},
            "services": {"up": {"endpoints": [url], "protocol": protocol, **(service or {})}},
            "routes": [{"path": "/*", "service": "up"}],
        }
    ) as process:
        yield process


@contextmanager
def behind(play, protocol="h2c", service=None, settings=None, context=None, **more):
    with Http2Server(play, context, settings) as server:
        url = f"{'http' if context is None else 'https'}://127.0.0.1:{server.port}"
        with gateway(url, protocol, service, **more) as process, process.client() as client:
            yield server, client, process


def metric(process, sample):
    """The value of the first line of /metrics that begins so; 0 without one."""
    lines = process.admin("/metrics")[1].splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(sample)), 0)


def retries(process):
    return metric(process, 'fastgw_silent_retries_total{service="up"}')


def code(answer):
    return answer.status, json.loads(answer.body)["code"]


def ask(client, stream):
    """What came for a stream of an Http2Client, also when it was cut off."""
    while not client.of(stream, h2.events.StreamEnded) and not client.of(stream, h2.events.StreamReset):
        assert client.read(), "the connection ended"
    heads = [dict(event.headers) for event in client.of(stream, h2.events.ResponseReceived)]
    return SimpleNamespace(
        status=int(heads[0][":status"]) if heads else None,
        body=b"".join(event.data for event in client.of(stream, h2.events.DataReceived)),
        interim=[dict(event.headers) for event in client.of(stream, h2.events.InformationalResponseReceived)],
        trailers={k: v for event in client.of(stream, h2.events.TrailersReceived) for k, v in event.headers},
        reset=bool(client.of(stream, h2.events.StreamReset)),
    )


# ---------------------------------------------------------------------- what goes over


def test_a_request_is_the_same_with_pseudo_headers():
    with behind(echo) as (server, client, _):
        answer = client.request(
            b"POST /a%20b?c=d HTTP/1.1\r\nHost: a.example\r\nConnection: X-Hop, Keep-Alive\r\nX-Hop: 1\r\n"
            b"TE: trailers\r\n"
            b"Keep-Alive: 5\r\nX-Padded:  two words \t\r\nCookie: a=1; b=2\r\nContent-Length: 3\r\n\r\nabc"
        )
        assert (answer.status, answer.body) == (200, b"abc")
        head = server.connections[0].heads()[0]
        assert head[":method"] == "POST" and head[":path"] == "/a%20b?c=d"
        assert head[":authority"] == "a.example" and head[":scheme"] == "http"
        assert head["x-padded"] == "two words" and head["cookie"] == "a=1; b=2" and head["content-length"] == "3"
        assert head["te"] == "trailers" and head["x-forwarded-for"] == "127.0.0.1" and "1.1 fastgw" in head["via"]
        assert not {"host", "connection", "x-hop", "keep-alive", "transfer-encoding"} & set(head)


def test_many_requests_share_a_connection():
    def play(served, event):
        ends = served.of(h2.events.StreamEnded)
        if isinstance(event, h2.events.StreamEnded) and len(ends) == 20:
            for one in reversed(ends):                  # all at once, the last one first
                served.answer(one.stream_id, b"%d" % one.stream_id)

    with behind(play) as (server, _, process):
        with Http2Client(process.port) as client:
            streams = [client.request(f"/{n}") for n in range(20)]
            assert len({ask(client, stream).body for stream in streams}) == 20
        assert len(server.connections) == 1
        until(lambda: metric(process, 'fastgw_pool_connects_total{') == 1)


def test_bodies_of_both_kinds_and_directions():
    with behind(echo) as (_, client, process):
        body = bytes(range(256)) * 4000
        head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
        assert client.request(head + body).body == body
        pieces = [body[at : at + 9999] for at in range(0, len(body), 9999)]
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
        head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert client.request(head + chunks + b"0\r\n\r\n").body == body
        found = subprocess.run(
            ["curl", "-s", "--http2-prior-knowledge", "--data-binary", "@-", f"http://127.0.0.1:{process.port}/"],
            input=body, capture_output=True, timeout=30, check=True, env=PLAIN,
        )  # fmt: skip
        assert found.stdout == body


@pytest.mark.parametrize("head", [b"GET / HTTP/1.1", b"HEAD / HTTP/1.1", b"GET / HTTP/1.0"])
def test_clients_of_http1(head):
    def play(served, event):
        if isinstance(event, h2.events.StreamEnded):
            body = b"" if dict(served.heads()[-1])[":method"] == "HEAD" else b"hello"
            served.answer(event.stream_id, body, [("x-a", "1"), ("set-cookie", "a=1"), ("set-cookie", "b=2")])

    with behind(play) as (_, client, _process):
        answer = client.request(head + b"\r\nHost: a\r\n\r\n", method=head.split()[0].decode())
        assert answer.status == 200 and answer.all("x-a") == ["1"]
        assert answer.all("set-cookie") == ["a=1", "b=2"]
        assert answer.body == (b"" if head.startswith(b"HEAD") else b"hello")


def test_interim_answers_and_trailers_go_on():
    def play(served, event):
        if isinstance(event, h2.events.StreamEnded):
            served.h2.send_headers(event.stream_id, [(":status", "103"), ("link", "</a.css>")])
            served.answer(event.stream_id, b"ok", trailers=[("x-sum", "42"), ("set-cookie", "no=1")])

    with behind(play) as (_, client, process):
        with Http2Client(process.port) as two:
            answer = ask(two, two.request("/"))
            assert answer.interim == [{":status": "103", "link": "</a.css>"}]
            assert answer.trailers == {"x-sum": "42"}
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.head().status == 103
        assert client.response().body == b"ok"


def test_trailers_of_a_request_go_on():
    with behind(echo) as (server, _, process), Http2Client(process.port) as client:
        stream = client.request("/", "POST", body=b"abc", end=False)
        client.h2.send_headers(stream, [("x-sum", "7"), ("authorization", "no")], end_stream=True)
        client.flush()
        assert ask(client, stream).body == b"abc"
        (trailers,) = server.connections[0].of(h2.events.TrailersReceived)
        assert dict(trailers.headers) == {"x-sum": "7"}


def test_nghttpd(tmp_path):
    if shutil.which("nghttpd") is None:
        pytest.skip("nghttpd is not installed (Debian: nghttp2-server)")
    (tmp_path / "large").write_bytes(b"x" * LARGE)
    port = free_port()
    server = subprocess.Popen(
        ["nghttpd", "--no-tls", "--address=127.0.0.1", "--echo-upload", "-d", str(tmp_path), str(port)], env=PLAIN
    )
    try:
        until_it_listens(port)
        with gateway(f"http://127.0.0.1:{port}") as process, process.client() as client:
            assert len(client.request(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").body) == LARGE
            assert client.request(b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n").status == 404
            body = b"y" * 700_000
            got = client.request(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body).body
            assert got == body
    finally:
        server.terminate()
        server.wait(60)


def until_it_listens(port):
    end = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < end


# ---------------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("h2up"))


def server_context(authority, *alpn):
    pair = authority.leaf("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    if alpn:
        context.set_alpn_protocols(alpn)
    return context


@pytest.mark.parametrize("protocol", ["h2", "auto"])
def test_over_tls_by_alpn(authority, protocol):
    tls = {"tls": {"ca": str(authority.cert)}}
    with behind(echo, protocol, tls, context=server_context(authority, "h2", "http/1.1")) as (server, client, _):
        for _turn in range(3):
            assert client.request(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n").body == b"ok"
        assert len(server.connections) == 1
        assert server.connections[0].sock.selected_alpn_protocol() == "h2"
        assert server.connections[0].heads()[0][":scheme"] == "https"


def test_auto_speaks_http1_where_that_is_agreed(authority):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_):
            """Says nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, ExitStack() as stack:
        server.socket = server_context(authority, "http/1.1").wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stack.callback(server.shutdown)
        tls = {"tls": {"ca": str(authority.cert)}}
        process = stack.enter_context(gateway(f"https://127.0.0.1:{server.server_port}", "auto", tls))
        clients = [stack.enter_context(process.client()) for _ in range(5)]
        for _turn in range(2):
            for client in clients:
                client.send(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
            assert [client.response().status for client in clients] == [200] * 5
        until(lambda: metric(process, "fastgw_pool_reuses_total") >= 5)


def test_h2_insists(authority):
    tls = {"tls": {"ca": str(authority.cert)}}
    with behind(echo, "h2", tls, context=server_context(authority)) as (_, client, process):
        answer = client.request(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
        assert code(answer) == (502, "upstream_protocol_error")
        until(lambda: "did not agree to h2" in process.stderr)


# ---------------------------------------------------------------------- streams and connections that end


def test_a_refused_stream_is_sent_again_whatever_its_method():
    def play(served, event):
        if isinstance(event, h2.events.StreamEnded):
            if len(served.of(h2.events.StreamEnded)) == 1:
                served.h2.reset_stream(event.stream_id, h2.errors.ErrorCodes.REFUSED_STREAM)
            else:
                served.answer(event.stream_id)

    with behind(play) as (server, client, process):
        assert client.request(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").status == 200
        assert len(server.connections) == 1 and retries(process) == 1


def test_a_refused_stream_whose_body_is_gone_is_not_sent_again():
    def play(served, event):
        if isinstance(event, h2.events.StreamEnded):
            served.h2.reset_stream(event.stream_id, h2.errors.ErrorCodes.REFUSED_STREAM)

    with behind(play) as (server, client, process):
        answer = client.request(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
        assert code(answer) == (502, "upstream_reset")
        assert len(server.connections[0].heads()) == 1 and retries(process) == 0


def test_what_comes_after_a_goaway_is_sent_over_another_connection():
    def play(served, event):
        if not isinstance(event, h2.events.StreamEnded):
            return
        if served is server.connections[0] and event.stream_id == 1:
            served.answer(1)
            # RFC 9113 6.8: 1 was the last one; by hand, for the library would close all
            served.sock.sendall(served.h2.data_to_send() + b"\0\0\x08\x07\0\0\0\0\0\0\0\0\x01\0\0\0\0")
        elif served is not server.connections[0]:
            served.answer(event.stream_id, b"second")

    with behind(play) as (server, client, _):
        assert client.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").body == b"ok"
        assert client.request(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").body == b"second"
        assert len(server.connections) == 2
        server.wait(lambda: server.connections[0].sock.fileno() == -1)     # the gateway left it


def test_who_waits_for_a_stream_does_not_wait_for_a_connection_that_goes():
    def play(served, event):
        if not isinstance(event, h2.events.StreamEnded):
            return
        # by the request: of two connections at once, either may be the first that is served
        if served.heads()[-1][":path"] == "/1":
            served.sock.sendall(served.h2.data_to_send() + b"\0\0\x08\x07\0\0\0\0\0\0\0\0\x01\0\0\0\0")
        else:
            served.answer(event.stream_id, b"second")

    one = {"http2": {"max_concurrent_streams": 1}}
    with behind(play, service=one) as (_, _, process), Http2Client(process.port) as client:
        _held, waiting = client.request("/1"), client.request("/2")
        assert ask(client, waiting).body == b"second"


def test_what_was_on_its_way_at_a_goaway_is_sent_again():
    def play(served, event):
        if not isinstance(event, h2.events.StreamEnded):
            return
        if served is server.connections[0]:
            served.sock.sendall(b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0")     # nothing was worked on
        else:
            served.answer(event.stream_id, b"second")

    with behind(play) as (server, client, process):
        assert client.request(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").body == b"second"
        assert retries(process) == 1


def test_a_connection_that_dies():
    def play(served, event):
        if isinstance(event, h2.events.StreamEnded):
            if event.stream_id == 1:
                served.answer(1)
            else:
                served.close()

    with behind(play) as (server, client, process):
        assert client.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").status == 200
        # over a connection that was used, and nothing came: sent again where the method allows it
        assert client.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").status == 200
        assert retries(process) == 1
        answer = client.request(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        assert code(answer) == (502, "upstream_reset")
        assert retries(process) == 1
        assert len(server.connections) == 2


def test_an_answer_that_is_cut_off():
    def play(served, event):
        if isinstance(event, h2.events.StreamEnded):
            served.h2.send_headers(event.stream_id, [(":status", "200")])
            served.h2.send_data(event.stream_id, b"half")
            served.h2.reset_stream(event.stream_id, h2.errors.ErrorCodes.INTERNAL_ERROR)

    with behind(play) as (_, _client, process):
        with Http2Client(process.port) as two:
            assert ask(two, two.request("/")).reset
        until(lambda: metric(process, 'fastgw_errors_total{code="upstream_truncated"') == 1)


def test_a_client_that_leaves_takes_its_stream_along():
    with behind(lambda *_: None) as (server, _, process):
        with process.client() as leaving:
            leaving.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            server.wait(lambda: server.connections and server.connections[0].heads())
        server.wait(lambda: server.connections[0].of(h2.events.StreamReset))
        assert server.connections[0].of(h2.events.StreamReset)[0].error_code == h2.errors.ErrorCodes.CANCEL


def test_an_answer_before_the_end_of_the_request():
    def play(served, event):
        if isinstance(event, h2.events.RequestReceived):
            served.answer(event.stream_id, b"enough", status="413")

    with behind(play) as (server, _, process), Http2Client(process.port) as client:
        stream = client.request("/", "POST", body=b"x", end=False)
        assert ask(client, stream).status == 413
        server.wait(lambda: server.connections[0].of(h2.events.StreamReset))
        assert server.connections[0].of(h2.events.StreamReset)[0].error_code == h2.errors.ErrorCodes.NO_ERROR


# ---------------------------------------------------------------------- limits


def test_streams_are_as_many_as_the_service_takes():
    held = []

    def play(served, event):
        if isinstance(event, h2.events.StreamEnded):
            held.append((served, event.stream_id))

    most = {h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 2}
    with behind(play, settings=most) as (server, client, process):
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        server.wait(lambda: len(held) == 1)
        with Http2Client(process.port) as two:
            streams = [two.request("/") for _ in range(5)]
            server.wait(lambda: len(held) == 6)
            assert len(server.connections) == 3          # two of each
            for served, stream in held:
                served.answer(stream)
                served.flush()
            assert [ask(two, stream).status for stream in streams] == [200] * 5


def test_waiting_for_a_stream_has_the_limits_of_the_pool():
    pool = {"pool": {"max_connections": 1, "queue_size": 1, "queue_timeout": "1s"}}
    http2 = {"http2": {"max_concurrent_streams": 1}}
    with behind(lambda *_: None, service=pool | http2) as (server, client, process):
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        server.wait(lambda: server.connections and server.connections[0].heads())
        with Http2Client(process.port) as two:
            waiting, refused = two.request("/"), two.request("/")
            assert code(ask(two, refused))[1] == "pool_exhausted"
            assert code(ask(two, waiting))[1] == "queue_timeout"


def test_a_slow_client_holds_up_its_own_stream_only():
    def play(served, event):
        if isinstance(event, h2.events.StreamEnded):
            served.h2.send_headers(event.stream_id, [(":status", "200")])
        if isinstance(event, (h2.events.StreamEnded, h2.events.WindowUpdated)):
            for stream in {one.stream_id for one in served.of(h2.events.StreamEnded)}:
                room = served.h2.local_flow_control_window(stream)
                while room > 0 and sent.get(stream, 0) < LARGE:
                    piece = min(room, 16384, LARGE - sent.get(stream, 0))
                    sent[stream] = sent.get(stream, 0) + piece
                    served.h2.send_data(stream, b"z" * piece, end_stream=sent[stream] == LARGE)
                    room = served.h2.local_flow_control_window(stream)

    sent = {}
    with ExitStack() as stack:
        small = {"http2": {"initial_window_size": "64KiB"}}
        server, client, process = stack.enter_context(behind(play, service=small))
        slow = stack.enter_context(Http2Client(process.port))
        stream = slow.request("/")
        server.wait(lambda: sent.get(1, 0) > 65535)
        assert len(client.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").body) == LARGE
        assert len(server.connections) == 1
        assert sent[1] < 400_000             # two windows of 64 KiB, and what fits between
        assert len(ask(slow, stream).body) == LARGE


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([("x-large", "a" * 70_000)], "upstream_headers_too_large"),
        ([(f"x-{n}", "1") for n in range(300)], "upstream_headers_too_large"),
        ([("connection", "close")], "upstream_protocol_error"),
        ([("transfer-encoding", "chunked")], "upstream_protocol_error"),
        ([("X-Upper", "1")], "upstream_protocol_error"),
    ],
)
def test_heads_that_are_refused(headers, expected):
    def play(served, event):
        if isinstance(event, h2.events.StreamEnded):
            served.h2.config.validate_outbound_headers = served.h2.config.normalize_outbound_headers = False
            served.answer(event.stream_id, b"ok", headers)

    with behind(play) as (_, client, _process):
        answer = client.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert code(answer) == (502, expected)


def test_a_length_that_is_not_kept():
    def play(served, event):
        if isinstance(event, h2.events.StreamEnded):
            served.answer(event.stream_id, b"ok", [("content-length", "5")])

    with behind(play) as (_, client, process):
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.head().length() == 5
        assert client.ended() == "eof" and client.rest() == b"ok"
        until(lambda: metric(process, 'fastgw_errors_total{code="upstream_protocol_error"') == 1)


def raw(reply, times=1):
    """A server that says this to whoever sends something."""

    def play(connection):
        connection.read_more()
        for _ in range(times):
            connection.send(reply)
        while True:
            connection.read_more()

    return FakeUpstream(play)


SETTINGS = b"\0\0\0\x04\0\0\0\0\0"
ACK = b"\0\0\0\x04\x01\0\0\0\0"


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
        SETTINGS + b"\0\0\0\x04\0\0\0\0\0" * 5000,
        SETTINGS + b"\0\0\x08\x06\0\0\0\0\0" + b"12345678" + b"\0\0\x08\x06\0\0\0\0\0aaaaaaaa" * 5000,
        SETTINGS + b"\xff\xff\xff\0\0\0\0\0\x01",
        SETTINGS + ACK + b"\0\0\x04\x05\x04\0\0\0\x01\0\0\0\x02",          # a PUSH_PROMISE nobody allowed
    ],
)
def test_bytes_that_are_no_http2(reply):
    with raw(reply) as upstream, gateway(upstream.url) as process, process.client() as client:
        answer = client.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert code(answer) == (502, "upstream_protocol_error")


def test_times_of_a_stream():
    def play(served, event):
        if isinstance(event, h2.events.StreamEnded) and served.heads()[-1][":path"] == "/stops":
            served.h2.send_headers(event.stream_id, [(":status", "200")])
            served.h2.send_data(event.stream_id, b"half")

    times = {"timeouts": {"response": "700ms", "idle": "700ms"}}
    with behind(play, service=times) as (server, client, process):
        answer = client.request(b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n")
        assert code(answer) == (504, "upstream_response_timeout")
        with Http2Client(process.port) as two:
            assert ask(two, two.request("/stops")).reset
        server.wait(lambda: len(server.connections[0].of(h2.events.StreamReset)) == 2)
        until(lambda: metric(process, 'fastgw_errors_total{code="upstream_idle_timeout"') == 1)


def test_a_service_that_answers_no_ping():
    http2 = {"http2": {"ping_interval": "1s", "ping_timeout": "100ms"}}

    def play(connection):
        connection.send(SETTINGS)
        while True:
            connection.read_more()

    with FakeUpstream(play) as upstream, gateway(upstream.url, service=http2) as process, process.client() as client:
        begun = time.monotonic()
        answer = client.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert code(answer) == (504, "upstream_idle_timeout")
        assert time.monotonic() - begun >= 1


def test_an_idle_connection_is_closed_with_a_word():
    pool = {"pool": {"idle_timeout": "200ms"}}
    with behind(echo, service=pool) as (server, client, _):
        assert client.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").status == 200
        server.wait(lambda: server.connections[0].of(h2.events.ConnectionTerminated))
        assert server.connections[0].of(h2.events.ConnectionTerminated)[0].error_code == 0


def reload(process, config):
    process.file.write_text(yaml.safe_dump(config))
    assert process.admin("/config/reload", "POST")[0] == 200


def test_a_reload_keeps_connections_and_closes_those_of_another_protocol():
    with behind(echo) as (server, client, process):
        assert client.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").status == 200
        config = yaml.safe_load(process.file.read_text())
        config["routes"].insert(0, {"path": "/more", "service": "up"})
        reload(process, config)
        assert client.request(b"GET /more HTTP/1.1\r\nHost: a\r\n\r\n").status == 200
        assert len(server.connections) == 1
        config["services"]["up"]["http2"] = {"max_concurrent_streams": 5}
        reload(process, config)
        assert client.request(b"GET /more HTTP/1.1\r\nHost: a\r\n\r\n").status == 200
        assert len(server.connections) == 2
        server.wait(lambda: server.connections[0].of(h2.events.ConnectionTerminated))
