"""gRPC-Web's forms: base64 in pieces, trailers as a frame, which of the two a client wants."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.protocols.grpc_frames import TRAILERS, FrameReader
from fastgw.protocols.grpc_web import (
    TextDecoder,
    WebError,
    encoded,
    is_web,
    media_type,
    parse_trailers,
    trailers_frame,
    wants_text,
)


@given(st.lists(st.binary(max_size=20), max_size=6), st.integers(1, 9))
def test_parts_encoded_each_by_itself_are_decoded_in_any_pieces(parts, size):
    text = b"".join(encoded(part) for part in parts)
    decoder = TextDecoder()
    found = b"".join(decoder.feed(text[at : at + size]) for at in range(0, len(text), size))
    decoder.end()
    assert found == b"".join(parts)


@given(st.binary(max_size=60), st.integers(1, 7))
def test_anything_is_decoded_or_refused(data, size):
    decoder = TextDecoder()
    try:
        found = b"".join(decoder.feed(data[at : at + size]) for at in range(0, len(data), size))
        decoder.end()
    except WebError:
        return
    assert b"".join(base64.b64encode(found[at : at + 3]) for at in range(0, len(found), 3)).rstrip(b"=") or not found


@pytest.mark.parametrize("text", [b"AA\n=", b"A===", b"====", b"AB-_", b"A=BC", b"AAAA=AAA", b"AB==CD=E"])
def test_what_is_not_base64_is_refused(text):
    with pytest.raises(WebError, match="not base64"):
        TextDecoder().feed(text)


def test_a_group_that_is_not_whole_is_refused_at_the_end():
    decoder = TextDecoder()
    assert decoder.feed(b"AAAAA") == b"\0\0\0"
    with pytest.raises(WebError, match="cut off"):
        decoder.end()


def test_trailers_are_a_frame_of_header_lines():
    fields = [("Grpc-Status", "5"), ("grpc-message", "no such book: a:b"), ("x-trace", "7")]
    ((flags, block),) = FrameReader(1000).feed(trailers_frame(fields))
    assert flags == TRAILERS
    assert block == b"grpc-status:5\r\ngrpc-message:no such book: a:b\r\nx-trace:7\r\n"
    assert parse_trailers(block) == [(name.lower(), value) for name, value in fields]


@pytest.mark.parametrize("block", [b"grpc-status", b":1", b"a:1\r\nb\r\n"])
def test_trailers_that_are_no_header_lines_are_refused(block):
    with pytest.raises(WebError):
        parse_trailers(block)


@pytest.mark.parametrize(
    ("content_type", "kind"),
    [
        ("application/grpc-web", ("application/grpc-web", "")),
        ("Application/gRPC-Web+Proto; charset=utf-8", ("application/grpc-web", "+proto")),
        ("application/grpc-web-text+thrift", ("application/grpc-web-text", "+thrift")),
        ("", ("", "")),
    ],
)
def test_media_types(content_type, kind):
    assert media_type(content_type) == kind
    assert is_web(content_type) == kind[0].startswith("application/grpc-web")


def test_native_grpc_is_not_grpc_web():
    assert not is_web("application/grpc")
    assert not is_web("application/grpc+proto")
    assert not is_web("application/grpc-website")


@pytest.mark.parametrize(
    ("accept", "content_type", "text"),
    [
        ("", "application/grpc-web", False),
        ("", "application/grpc-web-text+proto", True),
        ("*/*", "application/grpc-web-text", True),
        ("application/grpc-web-text, application/grpc-web", "application/grpc-web", True),
        ("text/html, application/grpc-web+proto;q=1", "application/grpc-web-text", False),
    ],
)
def test_the_answer_is_text_where_the_client_wants_it(accept, content_type, text):
    assert wants_text(accept, content_type) is text
