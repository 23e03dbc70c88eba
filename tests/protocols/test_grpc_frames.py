"""Frames of gRPC, in pieces of any size and with bounds."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.protocols.grpc_frames import COMPRESSED, TRAILERS, FrameError, FrameReader, FrameTooLarge, frame

flags = st.sampled_from([0, COMPRESSED, TRAILERS, TRAILERS | COMPRESSED])


def pieces(data, cuts):
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(st.lists(st.tuples(flags, st.binary(max_size=50)), max_size=8), st.lists(st.integers(0, 500), max_size=10))
def test_what_was_framed_is_read_whatever_the_pieces(messages, cuts):
    reader = FrameReader(50)
    found = []
    for piece in pieces(b"".join(frame(message, bits) for bits, message in messages), cuts):
        found += reader.feed(piece)
    reader.end()
    assert found == messages


def test_the_prefix_is_as_the_protocol_says():
    assert frame(b"abc") == b"\x00\x00\x00\x00\x03abc"
    assert frame(b"", COMPRESSED) == b"\x01\x00\x00\x00\x00"


def test_a_large_message_is_refused_by_its_prefix():
    reader = FrameReader(10)
    assert reader.feed(frame(bytes(10))) == [(0, bytes(10))]
    with pytest.raises(FrameTooLarge, match="11 bytes; the limit is 10"):
        reader.feed(frame(bytes(11))[:5])


def test_unknown_flags_are_refused():
    with pytest.raises(FrameError, match="0x02"):
        FrameReader(10).feed(b"\x02\x00\x00\x00\x00")


@pytest.mark.parametrize("cut", range(1, 8))
def test_a_cut_message_is_no_end(cut):
    reader = FrameReader(10)
    assert reader.feed(frame(b"abc")[:-cut]) == []
    with pytest.raises(FrameError, match="cut off"):
        reader.end()


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_anything_is_read_or_refused_within_the_bound(chunks):
    reader = FrameReader(16)
    try:
        for chunk in chunks:
            for _, message in reader.feed(chunk):
                assert len(message) <= 16
        reader.end()
    except FrameError:
        pass
