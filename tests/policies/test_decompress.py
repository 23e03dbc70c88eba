"""`decompress`: bodies of requests and responses without their encodings, within bounds."""

import gzip
import json
import os
import time
import zlib

import brotli
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fastgw.policies._compression import FREE, STEP, Bounds, Inflater, Stream, TooLarge, Undecodable, Unzstd, decode
from fastgw.policies.decompress import DecompressOptions, problem
from fastgw.testing import FakeUpstream
from fastgw.testing.upstream import chunked as chunk_coded
from tests.patience import until

SIZE, RATIO = 4 << 20, 100


def raw_deflate(data):
    made = zlib.compressobj(wbits=-15)
    return made.compress(data) + made.flush()


ENCODERS = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "raw deflate": raw_deflate,
    "br": lambda data: brotli.compress(data, quality=3),
    "zstd": zstandard.ZstdCompressor().compress,
}


def coding(name):
    return name.removeprefix("raw ")


# ---------------------------------------------------------------------- the decoders


@settings(deadline=None, max_examples=150)
@given(
    name=st.sampled_from(sorted(ENCODERS)),
    data=st.one_of(st.binary(max_size=3000), st.integers(0, 300_000).map(lambda n: b"abc" * n)),
    size=st.integers(1, 70_000),
)
def test_pieces_of_any_size(name, data, size):
    body = ENCODERS[name](data)
    stream = Stream((coding(name),), SIZE, RATIO)
    size = max(size, len(body) // 500)
    out = b"".join(stream.feed(body[at : at + size]) for at in range(0, len(body), size))
    stream.end()
    assert out == data == decode(body, (coding(name),), SIZE, RATIO)


@settings(deadline=None, max_examples=150)
@given(name=st.sampled_from(sorted(ENCODERS)), data=st.data())
def test_what_is_damaged_is_an_error_and_no_crash(name, data):
    body = bytearray(ENCODERS[name](json.dumps(list(range(data.draw(st.integers(0, 400))))).encode()))
    for _ in range(data.draw(st.integers(1, 4))):
        if not body:
            break
        at = data.draw(st.integers(0, len(body) - 1))
        if data.draw(st.booleans()):
            body[at] ^= data.draw(st.integers(1, 255))
        elif len(body) > 1:
            del body[at:]
    try:
        decode(bytes(body), (coding(name),), SIZE, RATIO)
    except (Undecodable, TooLarge) as error:
        assert str(error)


@settings(deadline=None, max_examples=200)
@given(name=st.sampled_from(["gzip", "deflate", "br", "zstd"]), body=st.binary(max_size=400))
def test_rubbish(name, body):
    try:
        decode(body, (name,), SIZE, RATIO)
    except (Undecodable, TooLarge) as error:
        assert str(error)


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_cut_and_followed_by_something(name):
    body = ENCODERS[name](b"hello " * 100)
    for wrong in (body[:-1], body[: len(body) // 2], body[:1], body + b"junk that is no member"):
        with pytest.raises(Undecodable):
            decode(wrong, (coding(name),), SIZE, RATIO)
    assert decode(b"", (coding(name),), SIZE, RATIO) == b"", "a body without any bytes"


def test_members_and_frames_one_after_the_other():
    assert decode(gzip.compress(b"a") + gzip.compress(b"b"), ("gzip",), SIZE, RATIO) == b"ab"
    frame = zstandard.ZstdCompressor().compress
    assert decode(frame(b"a") + frame(b"b"), ("zstd",), SIZE, RATIO) == b"ab"
    with pytest.raises(Undecodable):
        decode(zlib.compress(b"a") + zlib.compress(b"b"), ("deflate",), SIZE, RATIO)


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_bombs(name):
    """Beyond the size, and beyond the ratio; the decoder stops soon after."""
    bomb = ENCODERS[name](bytes(40 << 20))
    with pytest.raises(TooLarge, match="times as large"):
        decode(bomb, (coding(name),), 1 << 40, 10)
    with pytest.raises(TooLarge, match="bytes"):
        decode(bomb, (coding(name),), SIZE, 100_000)
    bounds = Bounds(SIZE, 100_000)
    bounds.taken = len(bomb)
    with pytest.raises(TooLarge):
        Stream((coding(name),), SIZE, 100_000).readers[0][0].feed(bomb, bounds)
    # a block of zstd is 128 KiB, and so many may be in one step; brotli gives whole buffers
    assert bounds.given <= SIZE + (ZSTD_OVERSHOOT if name == "zstd" else STEP)


ZSTD_OVERSHOOT = 32 * 131072


def test_zstd_gives_two_blocks_at_most_beyond_its_bound():
    block = (1 << 1 | (1 << 17) << 3).to_bytes(3, "little") + b"x"        # RFC 8878 3.1.1.2: RLE, 128 KiB, not the last
    frame = b"\x28\xb5\x2f\xfd" + b"\x00\x38" + block * 4000
    for size in (1, 1 << 17, 1_000_000):
        for offset in range(4):                       # where the steps begin, in the blocks
            bounds = Bounds(size, 100_000)
            made = Unzstd()
            bounds.taken = len(frame)
            assert made.feed(frame[: 6 + offset], bounds) == b""
            with pytest.raises(TooLarge):
                made.feed(frame[6 + offset :], bounds)
            assert size < bounds.given <= size + 2 * (1 << 17)


def test_bounds_count_each_layer():
    twice = gzip.compress(gzip.compress(bytes(3 << 20)))
    assert len(decode(twice, ("gzip", "gzip"), SIZE, 2000)) == 3 << 20
    with pytest.raises(TooLarge):
        decode(twice, ("gzip", "gzip"), 1 << 20, 2000)
    assert decode(gzip.compress(bytes(FREE)), ("gzip",), SIZE, 1) == bytes(FREE), "little is free of the ratio"
    with pytest.raises(TooLarge):
        decode(gzip.compress(bytes(FREE + 1)), ("gzip",), SIZE, 1)
    mixed = zstandard.ZstdCompressor().compress(brotli.compress(b"text"))
    assert decode(mixed, ("br", "zstd"), SIZE, RATIO) == b"text"


def test_a_window_of_more_than_browsers_keep():
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=24)
    made = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    body = made.compress(os.urandom(1000)) + made.flush()
    with pytest.raises(Undecodable):
        decode(body, ("zstd",), SIZE, RATIO)
    assert Inflater(False).complete is False


# ---------------------------------------------------------------------- requests, through sockets

CONFIG = """
services: {{things: {url}}}
routes:
  - path: /*
    service: things
    limits: {{body_size: 100MiB}}
    policies:
      - decompress: {options}
      - {then}
"""
VALIDATE = "validate: {body: {type: object, required: [name]}}"
GOOD = json.dumps({"name": "x", "pad": "y" * 2000}).encode()
LARGE = json.dumps({"name": "x", "pad": list(range(60_000))}).encode()
OPTIONS = "{encodings: [gzip, deflate, br, zstd], max_size: 4MiB, max_ratio: 50}"


@pytest.fixture
def things():
    def play(connection):
        while True:
            connection.read_request()
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with FakeUpstream(play) as upstream:
        yield upstream


def post(client, body, *encodings, chunked=False, extra=""):
    lines = "".join(f"Content-Encoding: {one}\r\n" for one in encodings) + extra
    head = f"POST /a HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n{lines}"
    if chunked:
        head += "Transfer-Encoding: chunked\r\n\r\n"
        pieces = [body[at : at + 700] for at in range(0, len(body), 700)]
        return client.request(head.encode() + chunk_coded(pieces))
    return client.request(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)


@pytest.mark.parametrize("name", sorted(ENCODERS))
@pytest.mark.parametrize("chunked", [False, True])
def test_policies_and_services_get_plain_bodies(gateway, things, name, chunked):
    running = gateway(CONFIG.format(url=things.url, options=OPTIONS, then=VALIDATE))
    with running.client() as client:
        for body in (GOOD, LARGE):
            response = post(client, ENCODERS[name](body), coding(name), chunked=chunked, extra="Content-MD5: x\r\n")
            assert (response.status, bytes(response.body)) == (200, b"ok")
            seen = things.requests[-1]
            assert bytes(seen.body) == body and (chunked or seen.get("Content-Length") == str(len(body)))
            assert "Content-Encoding" not in seen and "Content-MD5" not in seen
        refused = post(client, ENCODERS[name](b'{"nom": "x"}'), coding(name), chunked=chunked)
        assert refused.status in (400, 422) and len(things.requests) == 2, "what hides in an encoding is found"
    found = running.stats.read_counters()
    assert found["decompressed_requests_bodies"] == 3
    assert found["decompressed_requests_out"] == len(GOOD) + len(LARGE) + len(b'{"nom": "x"}')


def test_the_service_may_get_what_the_client_sent(gateway, things):
    options = "{forward: original, max_layers: 2}"
    running = gateway(CONFIG.format(url=things.url, options=options, then=VALIDATE))
    with running.client() as client:
        for body in (GOOD, LARGE):
            sent = gzip.compress(body)
            assert post(client, sent, "gzip", extra="Content-MD5: x\r\n").status == 200
            seen = things.requests[-1]
            assert bytes(seen.body) == sent and seen.all("Content-Encoding") == ["gzip"]
            assert (seen.get("Content-MD5"), seen.get("Content-Length")) == ("x", str(len(sent)))
        twice = zlib.compress(gzip.compress(GOOD))
        assert post(client, twice, "gzip", "deflate").status == 200
        assert things.requests[-1].all("Content-Encoding") == ["gzip", "deflate"]
        assert post(client, gzip.compress(b"{}"), "gzip").status in (400, 422)


def test_what_is_refused(gateway, things):
    running = gateway(CONFIG.format(url=things.url, options="{max_size: 1MiB, max_body: 100KiB}", then="request_id"))
    bomb = gzip.compress(bytes(1_100_000))
    with running.client() as client:
        cases = [
            (b"x", ("br",), 415, b"unsupported_content_encoding"),
            (b"x", ("compress",), 415, b"unsupported_content_encoding"),
            (gzip.compress(b"x"), ("gzip, gzip",), 415, b"unsupported_content_encoding"),
            (gzip.compress(b"x"), ("gzip", "gzip"), 415, b"unsupported_content_encoding"),
            (b"not gzip", ("gzip",), 400, b"bad_content_encoding"),
            (gzip.compress(os.urandom(20_000))[:-3], ("gzip",), 400, b"bad_content_encoding"),
            (bomb, ("gzip",), 413, b"body_too_large"),
        ]
        for body, encodings, status, code in cases:
            response = post(client, body, *encodings)
            assert response.status == status and code in response.body
            if status == 415:
                assert response.get("Accept-Encoding") == "gzip, deflate"
        assert things.requests == []
        assert post(client, b"plain", "identity").status == 200
        assert post(client, b"plain").status == 200
        assert post(client, gzip.compress(b"in capitals"), "X-GZIP").status == 200
        assert bytes(things.requests[-1].body) == b"in capitals"
        assert client.request(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\n\r\n").status == 200
    with running.client() as client:
        assert post(client, os.urandom(200_000), "gzip").status == 413, "as it comes"


def test_clients_that_leave_while_a_thread_works(gateway, things):
    running = gateway(CONFIG.format(url=things.url, options="{max_size: 64MiB, max_ratio: 2000}", then="request_id"))
    body = gzip.compress(bytes(60 << 20))
    head = f"POST / HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for _ in range(6):
        client = running.client()
        client.send(head + body)
        client.reset()
    with running.client() as client:
        assert post(client, gzip.compress(b"still here"), "gzip").status == 200
    deadline = time.monotonic() + 60
    while running.call(lambda: running.engine.active):
        assert time.monotonic() < deadline
        time.sleep(0.01)


# ---------------------------------------------------------------------- responses


def serve(body, *lines):
    head = "".join(f"{line}\r\n" for line in lines)

    def play(connection):
        while True:
            request = connection.read_request()
            connection.send(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{head}\r\n".encode())
            if request.method != "HEAD":
                connection.send(body)

    return FakeUpstream(play)


def respond(gateway, upstream, options, then="request_id"):
    return gateway(CONFIG.format(url=upstream.url, options=options, then=then))


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_answers_are_decoded_as_they_pass(gateway, name):
    lines = (f"Content-Encoding: {coding(name)}", 'ETag: "a"', "Accept-Ranges: bytes", "Digest: x")
    with serve(ENCODERS[name](LARGE * 3), *lines) as upstream:
        options = "{responses: true, encodings: [gzip, deflate, br, zstd], upstream: identity}"
        running = respond(gateway, upstream, options)
        with running.client() as client:
            for _ in range(2):
                response = client.request(b"GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n")
                assert bytes(response.body) == LARGE * 3 and response.get("ETag") == 'W/"a"'
                gone = {"Content-Encoding", "Content-Length", "Accept-Ranges", "Digest"}
                assert not gone & {name for name, _ in response.headers}
                assert "Accept-Encoding" not in upstream.requests[-1]
            head = client.request(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert head.status == 200 and "Content-Encoding" not in head and "Content-Length" not in head
        until(lambda: running.stats.read_counters()["decompressed_responses_out"] == len(LARGE) * 6)


def test_answers_that_break_off_or_are_left_alone(gateway):
    for body, options in (
        (gzip.compress(LARGE)[:-4], "{responses: true}"),
        (gzip.compress(bytes(3 << 20)), "{responses: true, max_size: 2MiB, max_ratio: 5000}"),
        (b"not gzip at all", "{responses: true}"),
    ):
        with serve(body, "Content-Encoding: gzip") as upstream:
            running = respond(gateway, upstream, options)
            with running.client() as client, pytest.raises(Exception, match=r"eof|reset"):
                client.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            deadline = time.monotonic() + 30
            while not running.records:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert running.records[-1][1] == "upstream_bad_encoding"
    with serve(b"whatever", "Content-Encoding: br") as upstream:
        client = respond(gateway, upstream, "{responses: true}").client()
        response = client.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (response.get("Content-Encoding"), bytes(response.body)) == ("br", b"whatever")
        client.close()


def test_a_slow_reader_of_what_grows(gateway):
    """Of 60 MiB in 60 KiB only so much is decoded as the client takes."""
    body = gzip.compress(bytes(60 << 20))
    with serve(body, "Content-Encoding: gzip") as upstream:
        running = respond(gateway, upstream, "{responses: true, max_size: 64MiB, max_ratio: 5000}")
        client = running.client()
        client.reader.timeout = 60                    # 60 MiB, on a machine that is busy
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        head = client.head()
        deadline = time.monotonic() + 60
        before = -1
        while (now := running.stats.read_counters()["decompressed_responses_out"]) == 0 or now != before:
            assert time.monotonic() < deadline
            before = now
            time.sleep(0.5)
        assert 0 < now < 40 << 20, "the rest waits for the client"
        client.reader.body(head, "chunked")
        client.close()
        assert len(head.body) >= 16 << 20 or head.complete
        until(lambda: running.stats.read_counters()["decompressed_responses_out"] == 60 << 20)


def test_decoded_and_compressed_anew(gateway):
    with serve(brotli.compress(LARGE), "Content-Encoding: br", "Content-Type: text/plain") as upstream:
        text = CONFIG.format(url=upstream.url, options="{responses: true, encodings: [br]}", then="request_id")
        text = text.replace("      - decompress", "      - compress\n      - decompress")
        with gateway(text).client() as client:
            response = client.request(b"GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n")
            assert response.get("Content-Encoding") == "gzip" and gzip.decompress(bytes(response.body)) == LARGE


# ---------------------------------------------------------------------- options


def test_options_that_are_wrong():
    with pytest.raises(ValidationError, match="neither"):
        DecompressOptions(requests=False)
    with pytest.raises(ValidationError, match="named twice"):
        DecompressOptions(encodings=("gzip", "gzip"))
    with pytest.raises(RuntimeError):
        problem(RuntimeError("not ours"), response=False)
