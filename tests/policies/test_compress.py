"""`compress`, through sockets: what is encoded and what is not; the libraries' own decoders judge the bodies."""

import json
import threading
import time
import zlib

import brotli
import httpx
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from websockets.sync.client import connect
from websockets.sync.server import serve

from fastgw.policies import _compression
from fastgw.policies.base import PolicyError
from fastgw.policies.compress import CompressOptions, Wanted
from fastgw.testing import FakeUpstream
from fastgw.testing.upstream import chunked
from tests.patience import until

TEXT = json.dumps([{"id": number, "name": f"customer {number}"} for number in range(2000)]).encode()
JSON = "Content-Type: application/json"
CONFIG = """
services: {{things: {url}}}
policies:
  - compress: {options}
routes:
  - {{path: /*, service: things, websocket: true}}
  - {{path: /own, policies: [{{respond: {{body: "{own}", content_type: "text/plain"}}}}]}}
"""
ALL = "{encodings: [zstd, br, gzip], min_size: 100}"


def decoded(response):
    coding = response.get("Content-Encoding")
    body = bytes(response.body)
    if coding == "gzip":
        made = zlib.decompressobj(31)
        body = made.decompress(body)
        assert made.eof and not made.unused_data
    elif coding == "br":
        body = brotli.decompress(body)
    elif coding == "zstd":
        reader = zstandard.ZstdDecompressor(max_window_size=8 << 20).decompressobj()
        body = reader.decompress(body)
        assert reader.eof
    else:
        assert coding is None
    return body


def whole(body=TEXT, *headers, status="200 OK", pieces=None):
    """An answer with Content-Length, or in the given chunks."""
    lines = "".join(f"{line}\r\n" for line in headers or (JSON,))
    if pieces is not None:
        return f"HTTP/1.1 {status}\r\n{lines}Transfer-Encoding: chunked\r\n\r\n".encode() + chunked(pieces)
    return f"HTTP/1.1 {status}\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Scripted:
    """Answers each request with what stands under its target."""

    def __init__(self):
        self.answers = {}

    def __call__(self, connection):
        while True:
            request = connection.read_request()
            data = self.answers[request.target]
            if request.method == "HEAD":
                data = data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
            connection.send(data)


@pytest.fixture
def service():
    script = Scripted()
    with FakeUpstream(script) as upstream:
        upstream.answers = script.answers
        yield upstream


def start(gateway, service, options=ALL, own="own " * 50):
    return gateway(CONFIG.format(url=service.url, options=options, own=own))


def get(client, path="/", accept="gzip", *lines, method="GET"):
    head = "".join(f"{line}\r\n" for line in lines)
    if accept is not None:
        head += f"Accept-Encoding: {accept}\r\n"
    return client.request(f"{method} {path} HTTP/1.1\r\nHost: a\r\n{head}\r\n".encode())


# ---------------------------------------------------------------------- which encoding


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        (None, None),
        ("", None),
        ("gzip", "gzip"),
        ("x-gzip", "gzip"),
        ("GZIP;Q=1.0", "gzip"),
        ("gzip, br, zstd", "zstd"),                 # the gateway's choice among equals
        ("gzip;q=1, br;q=0.9, zstd;q=0.8", "gzip"),
        ("gzip;q=0.2, br;q=0.201", "br"),
        ("*", "zstd"),
        ("*;q=0.5, zstd;q=0", "br"),
        ("gzip;q=0", None),
        ("gzip;q=0.000, identity", None),
        ("identity;q=1, gzip;q=0.5", None),
        ("identity;q=0.5, gzip;q=0.5", "gzip"),
        ("identity;q=0", None),                     # nothing else is named: better plain than 406
        ("identity;q=0, *", "zstd"),
        ("deflate, compress", None),
        ("gzip;q=2", None),
        ("gzip;q=-1", None),
        ("gzip;level=9", None),
        ("br ; q=0.5 , gzip ; q=0.4", "br"),
        (",,gzip,,", "gzip"),
        ("gzip;q=1\r\nAccept-Encoding: br;q=0.5", "gzip"),
    ],
)  # fmt: skip
def test_negotiation(gateway, service, accept, coding):
    service.answers["/"] = whole()
    with start(gateway, service).client() as client:
        response = get(client, "/", accept)
        assert (response.status, response.get("Content-Encoding")) == (200, coding)
        assert decoded(response) == TEXT
        assert response.all("Vary") == ["Accept-Encoding"]
        assert ("Content-Length" in response) == (coding is None)


PLAIN = [
    ("encoded", (JSON, "Content-Encoding: br"), "200 OK", False),
    ("no-transform", (JSON, "Cache-Control: public, No-Transform"), "200 OK", False),
    ("image", ("Content-Type: image/png",), "200 OK", False),
    ("grpc", ("Content-Type: application/grpc+proto",), "200 OK", False),
    ("no type", ("X-A: b",), "200 OK", False),
    ("a part", (JSON, "Content-Range: bytes 0-9/100"), "206 Partial Content", False),
]


@pytest.mark.parametrize(("headers", "status", "varies"), [row[1:] for row in PLAIN], ids=[row[0] for row in PLAIN])
def test_what_stays_as_it_is(gateway, service, headers, status, varies):
    service.answers["/"] = whole(TEXT, *headers, status=status)
    with start(gateway, service).client() as client:
        response = get(client)
        assert response.get("Content-Length") == str(len(TEXT)) and bytes(response.body) == TEXT
        assert response.get("Content-Encoding") == ("br" if "br" in headers[-1] else None)
        assert ("Vary" in response) == varies


def test_small_ones_and_what_has_no_body(gateway, service):
    service.answers |= {
        "/small": whole(b"x" * 99, JSON),
        "/204": b"HTTP/1.1 204 No Content\r\nContent-Type: application/json\r\n\r\n",
        "/304": b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\n\r\n',
        "/vary": whole(TEXT, JSON, "Vary: Origin, accept-encoding"),
        "/star": whole(TEXT, JSON, "Vary: *"),
        "/404": whole(TEXT, "Content-Type: text/html; charset=utf-8", status="404 Not Found"),
    }
    with start(gateway, service).client() as client:
        response = get(client, "/small")
        assert bytes(response.body) == b"x" * 99 and response.get("Vary") == "Accept-Encoding"
        response = get(client, "/204")
        assert response.status == 204 and "Content-Encoding" not in response
        response = get(client, "/304")
        assert (response.status, response.get("ETag"), response.get("Vary")) == (304, '"a"', "Accept-Encoding")
        assert get(client, "/vary").all("Vary") == ["Origin, accept-encoding"]
        assert get(client, "/star").all("Vary") == ["*"]
        response = get(client, "/404")
        assert response.status == 404 and decoded(response) == TEXT


def test_heads_and_answers_of_the_gateway(gateway, service):
    service.answers["/"] = whole(TEXT, JSON, 'ETag: "abc"')
    running = start(gateway, service)
    with running.client() as client:
        plain, head = get(client), get(client, method="HEAD")
        names = {"Content-Encoding", "Vary", "ETag", "Content-Type", "Content-Length"}
        assert {name: head.get(name) for name in names} == {name: plain.get(name) for name in names}
        assert head.get("Content-Encoding") == "gzip" and "Content-Length" not in head
        own, head = get(client, "/own"), get(client, "/own", method="HEAD")
        assert decoded(own) == b"own " * 50 and own.get("Content-Length") == str(len(own.body)), "it is whole"
        assert head.get("Content-Encoding") == "gzip" and "Content-Length" not in head
        assert running.call(lambda: running.engine.plan.routes[0].chain[0].active) == 0


def test_a_large_answer_of_the_gateway_goes_out_in_parts(gateway, service):
    own = "a long text, " * 10_000
    with start(gateway, service, own=own).client() as client:
        response = get(client, "/own")
        assert decoded(response).decode() == own and response.get("Transfer-Encoding") == "chunked"
        assert get(client, "/own", method="HEAD").status == 200
        assert decoded(get(client, "/own", "zstd")).decode() == own


# ---------------------------------------------------------------------- validators


def test_tags_are_weakened_and_understood(gateway, service):
    service.answers |= {
        "/": whole(TEXT, JSON, 'ETag: "abc"', "Content-MD5: x", "Accept-Ranges: bytes", "Repr-Digest: sha-256=:eA==:"),
        "/weak": whole(TEXT, JSON, 'ETag: W/"abc"'),
        "/304": b'HTTP/1.1 304 Not Modified\r\nETag: "abc"\r\n\r\n',
    }
    with start(gateway, service).client() as client:
        response = get(client)
        assert response.get("ETag") == 'W/"abc"'
        assert not {"Content-MD5", "Accept-Ranges", "Repr-Digest"} & {name for name, _ in response.headers}
        assert get(client, "/weak").get("ETag") == 'W/"abc"'
        plain = get(client, "/", "identity")
        assert plain.get("ETag") == '"abc"' and "Accept-Ranges" in plain
        # a service that compares texts finds its own tag
        response = get(client, "/304", "gzip", 'If-None-Match: "x", W/"abc"')
        assert service.requests[-1].get("If-None-Match") == '"x", W/"abc", "abc"'
        assert (response.status, response.get("ETag")) == (304, 'W/"abc"'), "the tag that the client has"
        response = get(client, "/304", "gzip", 'If-None-Match: "abc"')
        assert response.get("ETag") == '"abc"' and service.requests[-1].get("If-None-Match") == '"abc"'
        get(client, "/", "gzip", 'If-Match: W/"abc"')
        assert service.requests[-1].get("If-Match") == 'W/"abc", "abc"'
        get(client, "/", "gzip", "If-Match: *", "If-None-Match: nonsense")
        assert (service.requests[-1].get("If-Match"), service.requests[-1].get("If-None-Match")) == ("*", "nonsense")


def test_tags_with_a_suffix_or_none(gateway, service):
    service.answers |= {
        "/": whole(TEXT, JSON, 'ETag: "abc"'),
        "/304": b'HTTP/1.1 304 Not Modified\r\nETag: "abc"\r\n\r\n',
    }
    with start(gateway, service, "{encodings: [br, gzip], etag: suffix}").client() as client:
        assert get(client).get("ETag") == '"abc-gzip"' and get(client, "/", "br").get("ETag") == '"abc-br"'
        response = get(client, "/304", "gzip", 'If-None-Match: "abc-br"')
        assert service.requests[-1].get("If-None-Match") == '"abc-br", "abc"'
        assert response.get("ETag") == '"abc-br"'
    with start(gateway, service, "{etag: remove}").client() as client:
        assert "ETag" not in get(client) and get(client, "/", "identity").get("ETag") == '"abc"'


# ---------------------------------------------------------------------- whose answers


@pytest.mark.parametrize(
    ("option", "lines", "coding"),
    [
        ("always", ("Cookie: a=b", "Sec-Fetch-Site: cross-site"), "gzip"),
        ("never", ("Cookie: a=b",), None),
        ("never", (), "gzip"),
        ("same_site", ("Authorization: Bearer x",), "gzip"),
        ("same_site", ("Cookie: a=b", "Sec-Fetch-Site: same-origin"), "gzip"),
        ("same_site", ("Cookie: a=b", "Sec-Fetch-Site: cross-site"), None),
        ("same_site", ("Cookie: a=b", "Referer: https://evil.example/"), None),
        ("same_site", ("Sec-Fetch-Site: cross-site",), "gzip"),
    ],
)
def test_credentials(gateway, service, option, lines, coding):
    service.answers["/"] = whole()
    with start(gateway, service, f"{{credentials: {option}}}").client() as client:
        response = get(client, "/", "gzip", *lines)
        assert response.get("Content-Encoding") == coding and decoded(response) == TEXT


def test_the_service_is_asked_for_plain_bodies(gateway, service):
    service.answers["/"] = whole()
    with start(gateway, service, "{upstream: identity}").client() as client:
        assert decoded(get(client)) == TEXT and "Accept-Encoding" not in service.requests[-1]
        assert get(client).get("Content-Encoding") == "gzip"
    with start(gateway, service, "{max_active: 1}").client() as client:
        assert get(client).get("Content-Encoding") == "gzip"
        assert service.requests[-1].get("Accept-Encoding") == "gzip"


# ---------------------------------------------------------------------- streams


class Slowly:
    """Sends a head, then a piece for each time it is told to."""

    def __init__(self, kind):
        self.head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        self.go = threading.Semaphore(0)
        self.pieces = []

    def __call__(self, connection):
        connection.read_request()
        connection.send(self.head)
        for piece in self.pieces:
            assert self.go.acquire(timeout=30)
            connection.send(b"%x\r\n%s\r\n" % (len(piece), piece) if piece else b"0\r\n\r\n")


def readers():
    gzip = zlib.decompressobj(31)
    br = brotli.Decompressor()
    zstd = zstandard.ZstdDecompressor(max_window_size=8 << 20).decompressobj()

    def read_br(data):
        out = br.process(data)
        while more := br.process(b""):                # it gives what it has in parts
            out += more
        return out

    return {"gzip": gzip.decompress, "br": read_br, "zstd": zstd.decompress}


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
@pytest.mark.parametrize("kind", ["text/event-stream", "application/json"])
def test_nothing_is_held(gateway, coding, kind):
    play = Slowly(kind)
    # small ones, and one that a thread has to do with
    play.pieces = [b"data: one\n\n", b"data: two\n\n", b"data: " + b"x" * 100_000 + b"\n\n", b"data: last\n\n", b""]
    with FakeUpstream(play) as upstream:
        running = gateway(CONFIG.format(url=upstream.url, options=ALL, own="x"))
        with httpx.Client(timeout=30) as client:
            url = "http://{}:{}/".format(*running.address)
            with client.stream("GET", url, headers={"Accept-Encoding": coding}) as response:
                assert response.headers["Content-Encoding"] == coding
                read, raw, got = readers()[coding], response.iter_raw(), b""
                for piece in play.pieces[:-1]:
                    play.go.release()
                    wanted = len(got) + len(piece)
                    while len(got) < wanted:
                        got += read(next(raw))        # times out when it is held
                play.go.release()
                rest = b"".join(raw)
                assert got + (read(rest) if rest else b"") == b"".join(play.pieces)


@pytest.mark.parametrize("with_length", [True, False])
def test_a_body_that_never_pauses_is_not_held_until_it_is_whole(gateway, with_length):
    read_some, total = threading.Event(), 200_000

    def drip(connection):
        """A little at a time, with no pause between, for as long as the client has read nothing."""
        connection.read_request()
        length = f"Content-Length: {total}" if with_length else "Transfer-Encoding: chunked"
        connection.send(f"HTTP/1.1 200 OK\r\n{JSON}\r\n{length}\r\n\r\n".encode())
        sent = 0
        while sent < total:
            piece = b"x" * (5 if not read_some.is_set() else total - sent)
            connection.send(piece if with_length else chunked([piece])[: -len(b"0\r\n\r\n")])
            sent += len(piece)
            read_some.wait(0.002)
        if not with_length:
            connection.send(b"0\r\n\r\n")

    with FakeUpstream(drip) as upstream:
        running = gateway(CONFIG.format(url=upstream.url, options=ALL, own="x"))
        with httpx.Client(timeout=30) as client:
            url = "http://{}:{}/".format(*running.address)
            with client.stream("GET", url, headers={"Accept-Encoding": "gzip"}) as response:
                raw = response.iter_raw()
                decoder = zlib.decompressobj(31)
                got = b""
                while not got:
                    got += decoder.decompress(next(raw))
                assert len(got) < total
                read_some.set()
                got += decoder.decompress(b"".join(raw))
                assert got == b"x" * total and decoder.eof


@pytest.mark.parametrize("size", [40_000, 262_144, 262_145])
def test_sizes_at_the_bounds_of_what_is_compressed_by_one_call(compressing, size):
    running, service = compressing
    body = (TEXT * 10)[:size]
    with running.client() as client:
        for service.answers["/"] in (whole(body), whole(pieces=[body[:1000], body[1000:]])):
            for coding in ("gzip", "br", "zstd"):
                assert decoded(get(client, "/", coding)) == body


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(1, 70_000), min_size=0, max_size=12),
    coding=st.sampled_from(["gzip", "br", "zstd"]),
    with_length=st.booleans(),
)
def test_any_sizes_in_any_pieces(compressing, sizes, coding, with_length):
    running, service = compressing
    body = (TEXT * 10)[: sum(sizes)]
    at, pieces = 0, []
    for size in sizes:
        pieces.append(body[at : at + size])
        at += size
    pieces = [piece for piece in pieces if piece]
    service.answers["/"] = whole(body, JSON) if with_length else whole(b"", JSON, pieces=pieces)
    with running.client() as client:
        for _ in range(2):
            response = get(client, "/", coding)
            assert decoded(response) == body
            assert response.get("Content-Encoding") == (None if with_length and len(body) < 100 else coding)


@pytest.fixture
def compressing(gateway, service):
    return start(gateway, service), service


def test_a_reader_that_stops_stops_the_service(gateway):
    """Of a body without end only so much is taken as fits into buffers: some hundred KiB, and the kernel's."""
    sent = [0]
    block = b"".join(b"%d %x " % (number, number * 2654435761 % 2**32) for number in range(4000))
    chunk = b"%x\r\n%s\r\n" % (len(block), block)

    def endless(connection):
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            connection.send(chunk)
            sent[0] += len(chunk)

    with FakeUpstream(endless) as upstream:
        running = gateway(CONFIG.format(url=upstream.url, options=ALL, own="x"))
        client = running.client()
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n")
        client.head()
        hook = running.engine.plan.routes[0].chain[0]
        before, quiet = -1, time.monotonic()
        deadline = quiet + 60
        while time.monotonic() < quiet + 1:
            assert time.monotonic() < deadline, "it is read on and on"
            if sent[0] != before:
                before, quiet = sent[0], time.monotonic()
            time.sleep(0.02)
        assert 0 < sent[0] < 200_000_000
        assert running.call(lambda: hook.active) == 1
        client.reset()
        while running.call(lambda: hook.active):
            assert time.monotonic() < deadline, "the client left, and its body is still held"
            time.sleep(0.01)


def test_clients_that_leave_in_the_middle(gateway, service):
    """A thread may have their bodies: what it makes of them is for nobody."""
    service.answers["/"] = whole(TEXT * 40)
    running = start(gateway, service, "{encodings: [br], levels: {br: 9}}")
    for number in range(12):
        client = running.client()
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: br\r\n\r\n")
        if number % 3:
            client.head()
        client.reset()
    with running.client() as client:
        assert decoded(get(client, "/", "br")) == TEXT * 40
    hook = running.engine.plan.routes[0].chain[0]
    deadline = time.monotonic() + 60
    while running.call(lambda: hook.active):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_service_that_breaks_off_is_seen(gateway):
    def breaks(connection):
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1000\r\n\r\nabc")

    with FakeUpstream(breaks) as upstream:
        running = gateway(CONFIG.format(url=upstream.url, options=ALL, own="x"))
        with running.client() as client, pytest.raises(Exception, match=r"eof|reset"):
            get(client)


def test_counters(gateway, service):
    service.answers["/"] = whole()
    running = start(gateway, service)
    with running.client() as client:
        size = len(get(client, "/", "br").body)
        until(lambda: running.stats.read_counters()["compressed_br_bodies"])
        found = running.stats.read_counters()
        assert found["compressed_br_bodies"] == 1 and found["compressed_br_in"] == len(TEXT)
        assert 0 < found["compressed_br_out"] == size and found["compressed_gzip_bodies"] == 0


# ---------------------------------------------------------------------- options


def test_types_with_stars():
    wanted = Wanted(("text/*", "application/*+json"))
    assert wanted(b"text/html") and wanted(b"application/ld+json")
    assert not wanted(b"application/json") and not wanted(b"xtext/html")
    assert not wanted(b"application/a/b+json") and not wanted(b"image/text/x")


def test_options_that_are_wrong():
    with pytest.raises(ValidationError, match="named twice"):
        CompressOptions(encodings=("gzip", "gzip"))
    with pytest.raises(ValidationError, match="not a media type"):
        CompressOptions(types=("json",))
    with pytest.raises(ValidationError):
        CompressOptions(levels={"gzip": 10})


def test_a_library_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "brotli", None)
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    for coding in ("br", "zstd"):
        with pytest.raises(PolicyError, match=r"fastgw\[compression\]"):
            _compression.maker(coding, 3)
    assert _compression.maker("gzip", 6)


def test_gzip_without_its_libraries_is_zlib(monkeypatch):
    for name in ("deflate", "zlib_ng"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    whole, begin = _compression.maker("gzip", 6)
    assert zlib.decompress(whole(TEXT), 31) == TEXT and whole.func is zlib.compress
    compress, flush, finish = begin()
    assert zlib.decompress(compress(TEXT) + flush() + compress(TEXT) + finish(), 31) == TEXT * 2


@pytest.mark.parametrize(("coding", "level"), [("gzip", 1), ("gzip", 6), ("gzip", 9), ("br", 4), ("zstd", 3)])
def test_whole_bodies_are_as_small_as_in_pieces(coding, level):
    whole, begin = _compression.maker(coding, level)
    for body in (b"", b"x", TEXT):
        assert readers()[coding](bytes(whole(body))) == body
    compress, _, finish = begin()
    assert len(whole(TEXT)) <= len(compress(TEXT) + finish()) * 1.03


def test_a_websocket_is_no_answer(gateway):
    """RFC 6455 4.1: it is asked for by GET, and its client may say Accept-Encoding; 101 and what
    follows pass as they are."""
    with Server(lambda connection: [connection.send(message) for message in connection]) as server:
        url = f"http://127.0.0.1:{server.port}"
        running = gateway(CONFIG.format(url=url, options="{types: ['*/*'], min_size: 0}", own="x"))
        headers = {"Accept-Encoding": "gzip", "Content-Type": "text/plain"}
        address = "ws://{}:{}/".format(*running.address)
        with connect(address, additional_headers=headers, open_timeout=30, proxy=None) as client:
            assert "Content-Encoding" not in client.response.headers and client.response.status_code == 101
            for message in (TEXT.decode(), b"\x00\xff", ""):
                client.send(message)
                assert client.recv(timeout=30) == message
        assert running.stats.read_counters()["compressed_gzip_bodies"] == 0


class Server:
    """The `websockets` package's, in a thread."""

    def __init__(self, handler):
        self.made = serve(handler, "127.0.0.1", 0)
        self.port = self.made.socket.getsockname()[1]
        self.thread = threading.Thread(target=self.made.serve_forever)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exc):
        self.made.shutdown()
        self.thread.join(30)


BOTH = "compress: {encodings: [br, gzip]}"


@pytest.mark.parametrize("chain", [f"[cache, {{{BOTH}}}]", f"[{{{BOTH}}}, cache]"])
def test_with_a_cache_before_and_behind(gateway, service, chain):
    """Before `compress` it keeps a compressed body for each encoding, behind it a plain one: right for everybody."""
    service.answers["/"] = whole(TEXT, JSON, 'ETag: "v"', "Cache-Control: max-age=600")
    route = f"{{path: /*, service: things, policies: {chain}}}"
    running = gateway(f"services: {{things: {service.url}}}\nroutes: [{route}]\n")
    with running.client() as client:
        for _ in range(2):
            for coding in ("gzip", "br", "identity"):
                response = get(client, "/", coding)
                assert response.get("Content-Encoding") == (None if coding == "identity" else coding)
                assert decoded(response) == TEXT and response.all("Vary") == ["Accept-Encoding"]
        behind = chain.startswith("[{compress")
        assert len(service.requests) == (1 if behind else 3)
        until(lambda: running.stats.read_counters()["compressed_br_bodies"] == (2 if behind else 1))
        response = get(client, "/", "gzip", 'If-None-Match: W/"v"')
        assert (response.status, response.get("ETag")) == (304, 'W/"v"')
        assert len(service.requests) == (1 if behind else 3)
