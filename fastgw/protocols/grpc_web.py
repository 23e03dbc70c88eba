"""gRPC-Web: gRPC for clients that cannot read trailers, or no binary body.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-WEB.md — the body is gRPC's; after its messages a frame with the
flag 0x80 holds the trailers as a block of header lines. `application/grpc-web-text` is the same in base64.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable

from fastgw.protocols.grpc_frames import TRAILERS, frame

WEB = "application/grpc-web"
TEXT = "application/grpc-web-text"


class WebError(ValueError):
    """The body is no base64. The message is one sentence."""


def media_type(content_type: str) -> tuple[str, str]:
    """`application/grpc-web-text+proto; charset=…` → (`application/grpc-web-text`, `+proto`)."""
    kind, plus, codec = content_type.partition(";")[0].strip().lower().partition("+")
    return kind, plus + codec


def is_web(content_type: str) -> bool:
    return media_type(content_type)[0] in (WEB, TEXT)


def wants_text(accept: str, content_type: str) -> bool:
    """Is the answer to be base64? By Accept where it names one of the two, else as the request is."""
    for item in accept.split(","):
        kind = media_type(item)[0]
        if kind in (WEB, TEXT):
            return kind == TEXT
    return media_type(content_type)[0] == TEXT


def trailers_frame(fields: Iterable[tuple[str, str]]) -> bytes:
    """PROTOCOL-WEB: names in lower case, `name:value CRLF` each. Values with CR, LF or NUL cannot be here: a Head's
    fields hold none."""
    block = "".join(f"{name.lower()}:{value}\r\n" for name, value in fields)
    return frame(block.encode("latin-1"), TRAILERS)


def parse_trailers(block: bytes) -> list[tuple[str, str]]:
    """The message of a trailers frame → its fields. WebError when it is no block of header lines."""
    fields = []
    for line in block.decode("latin-1").split("\r\n"):
        if not line:
            continue
        name, colon, value = line.partition(":")
        if not colon or not name:
            raise WebError("the trailers are no header lines")
        fields.append((name.strip().lower(), value.strip()))
    return fields


class TextDecoder:
    """base64 that comes in pieces. Padding may stand between parts, each of which was encoded by itself."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """WebError for anything but RFC 4648, 4; at most three characters are held."""
        data = self._held + chunk
        whole = len(data) & ~3
        self._held = data[whole:]
        data = data[:whole]
        if b"=" not in data:
            return decoded(data)
        out = []
        at = 0
        while at < whole:
            pad = data.find(b"=", at)
            end = whole if pad < 0 else (pad & ~3) + 4
            out.append(decoded(data[at:end]))
            at = end
        return b"".join(out)

    def end(self) -> None:
        """WebError when the last group is not whole."""
        if self._held:
            raise WebError("the base64 is cut off")


def decoded(data: bytes) -> bytes:
    try:
        return binascii.a2b_base64(data, strict_mode=True)
    except binascii.Error:
        raise WebError("the body is not base64") from None


def encoded(data: bytes) -> bytes:
    """A piece as it stands in the answer: base64 with its own padding."""
    return binascii.b2a_base64(data, newline=False)
