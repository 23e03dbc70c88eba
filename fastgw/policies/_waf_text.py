"""What `waf` looks at: the parts of a request as texts, decoded as often as a service might.

Everything is bounded: how many parts there are, how long a text is, how often it is decoded. What is beyond a bound is
a fact of its own (`facts`), which rules can refuse.
"""

from __future__ import annotations

import html
import re
import unicodedata
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import unquote

import orjson

MAX_PARTS = 2000
ROUNDS = 4
"""How often a text is decoded before it is taken for what it is."""

PLAIN = re.compile(r"/?[A-Za-z0-9_~-]*(?:[./][A-Za-z0-9_~-]+)*/?\Z")
"""Words, names and paths: there is nothing to decode in them."""
UNICODE_PERCENT = re.compile(r"%u([0-9a-fA-F]{4})")
ESCAPES = re.compile(r"\\(?:u\{?([0-9a-fA-F]{4,6})\}?|x([0-9a-fA-F]{2}))")
OVERLONG = re.compile(
    r"%(?:c0%(?:[26ae][eE]|ae|af|2f|5c|6f|8[a-z]|9v|qf)|e0%80%(?:ae|af)|e0%40%ae|f0%80%80%(?:ae|af)|"
    r"f8%80%80%80%(?:ae|af)|fc%80%80%80%80%(?:ae|af)|c1%(?:9c|1c|8s|pc|af))",
    re.I,
)
"""Dots and slashes in encodings of UTF-8 that are longer than need be (RFC 3629 §3), as old programs take them."""
COMMENT = re.compile(r"/\*!?\d*|\*/")
SPACES = re.compile(r"[\s\x00-\x1f\xa0]+")
QUOTING = re.compile(r"""["'\\^]|\$@|\$\*|\$\{?[A-Za-z_]*[@*]\}?""")
IFS = re.compile(r"\$\{?IFS[^}\s]{0,20}\}?|\$IFS\$?\d?", re.I)
HEADERS_SKIPPED = frozenset({
    "accept", "accept-encoding", "accept-language", "access-control-request-headers",
    "access-control-request-method", "authorization", "cache-control", "connection", "content-length",
    "content-type", "cookie", "date", "dnt", "expect", "host", "if-match", "if-modified-since", "if-none-match",
    "if-unmodified-since", "keep-alive", "origin", "pragma", "priority", "proxy-authorization", "sec-ch-ua",
    "sec-ch-ua-mobile", "sec-ch-ua-platform", "sec-fetch-dest", "sec-fetch-mode", "sec-fetch-site",
    "sec-fetch-user", "sec-websocket-extensions", "sec-websocket-key", "sec-websocket-protocol",
    "sec-websocket-version", "te", "traceparent", "tracestate", "trailer", "transfer-encoding", "upgrade",
    "upgrade-insecure-requests", "user-agent", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto",
    "x-requested-with",
    "x-request-id",
})  # fmt: skip
"""What has a syntax of its own that somebody else checks, or is no text."""
CHARSETS = frozenset({"utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "latin1", "windows-1252"})


class Part(NamedTuple):
    """One text of a request, and where it stood: `query.page`, `body.user.name`, `cookie.session`, `path`, …"""

    place: str
    text: str


class Unreadable(ValueError):
    """A body that is not what its Content-Type says; `str()` is the fact."""


def variants(text: str) -> list[str]:
    """The text as it came, and decoded as far as it goes: percent, plus, entities, escapes, wide letters, comments."""
    found = [text]
    now = text
    for _ in range(ROUNDS):
        before = now
        now = decoded(now)
        if "&" in now:
            now = html.unescape(now)
        if "\\" in now:
            now = ESCAPES.sub(_escaped, now)
        if now == before:
            break
    if not now.isascii():
        now = unicodedata.normalize("NFKC", now).replace("\u2019", "'").replace("\u02b9", "'").replace("\u2032", "'")
    if "*" in now:
        now = COMMENT.sub(" ", now)
    now = now.replace("\x00", "")
    now = SPACES.sub(" ", now)
    if now != text:
        found.append(now)
    return found


def decoded(text: str) -> str:
    """Percent-encoding taken off once, in all ways in which it is read anywhere."""
    if "%" not in text:
        return text
    text = OVERLONG.sub(lambda match: "." if match[0][-2:].lower() in ("ae", "2e") else "/", text)
    text = UNICODE_PERCENT.sub(lambda match: chr(int(match[1], 16)), text)
    return unquote(text, errors="replace")


def _escaped(match: re.Match[str]) -> str:
    number = int(match[1] or match[2], 16)
    return chr(number) if number < 0x110000 and not 0xD800 <= number < 0xE000 else " "


def unquoted(text: str) -> str:
    """As a shell would read it: without quotes, escapes and empty variables, `$IFS` is a space."""
    if "$" in text:
        text = IFS.sub(" ", text)
    return QUOTING.sub("", text)


def arguments(kind: str, text: str, separator: str = "&") -> Iterator[Part]:
    """Names and values of a query, of a form, of cookies (separator `;`)."""
    for item in text.split(separator, MAX_PARTS)[:MAX_PARTS]:
        name, _, value = item.strip().partition("=")
        if separator == "&":
            name, value = name.replace("+", " "), value.replace("+", " ")
        name = decoded(name)
        place = f"{kind}.{name[:100]}"
        if value:
            yield Part(place, decoded(value))
        if name:
            yield Part(place, name)


def leaves(value: Any) -> Iterator[Part]:
    """Keys and texts of a JSON document."""
    stack: list[tuple[str, Any]] = [("body", value)]
    count = 0
    while stack and count < MAX_PARTS:
        place, one = stack.pop()
        count += 1
        if isinstance(one, str):
            yield Part(place, one)
        elif isinstance(one, dict):
            for name, inner in one.items():
                yield Part(f"{place}.{name[:100]}", name)
                stack.append((f"{place}.{name[:100]}", inner))
        elif isinstance(one, list):
            stack += [(place, inner) for inner in one]


def parameters(content_type: str) -> tuple[str, dict[str, str]]:
    """RFC 9110 §8.3.1: type/subtype in lower case, and its parameters."""
    kind, *rest = content_type.split(";")
    pairs = (item.partition("=") for item in rest)
    return kind.strip().lower(), {name.strip().lower(): value.strip().strip('"') for name, _, value in pairs}


def form_parts(body: bytes, boundary: str) -> Iterator[Part]:
    """RFC 7578: the fields of a multipart form; of files the name, and the content of those that say they are text."""
    if not boundary or len(boundary) > 70:
        raise Unreadable("bad-multipart")
    pieces = body.split(b"--" + boundary.encode("latin-1", "replace"), MAX_PARTS)
    if len(pieces) < 2 or not body.rstrip().endswith(b"--"):
        raise Unreadable("bad-multipart")
    for piece in pieces[1:]:
        head, found, content = piece.partition(b"\r\n\r\n")
        if not found:
            continue
        lines = head.decode("utf-8", "replace")
        named = re.search(r'\bname="?([^"\r\n;]*)', lines)
        place = f"body.{named[1][:100]}" if named else "body"
        yield Part(place, lines)
        if "filename" not in lines.lower() or re.search(r"content-type:\s*(?:text/|[^\r\n]*(?:xml|json))", lines, re.I):
            yield Part(place, content.removesuffix(b"\r\n").decode("utf-8", "replace"))


BINARY = ("image/", "video/", "audio/", "font/", "application/octet-stream", "application/grpc", "application/zip",
          "application/pdf", "application/gzip", "application/x-protobuf", "application/protobuf",
          "application/vnd.apache.")  # fmt: skip


def is_text(content_type: str) -> bool:
    """Whether a body of that type is looked at."""
    return not parameters(content_type)[0].startswith(BINARY)


def inflated(body: bytes, encoding: str, limit: int) -> bytes:
    """The body without its Content-Encoding. Unreadable for one we do not have, and beyond `limit` bytes."""
    for name in reversed([one.strip().lower() for one in encoding.split(",") if one.strip()]):
        if name in ("identity", ""):
            continue
        if name not in ("gzip", "x-gzip", "deflate"):
            raise Unreadable("encoded-body")
        machine = zlib.decompressobj(47 if "gzip" in name else zlib.MAX_WBITS)
        try:
            body = machine.decompress(body, limit)
        except zlib.error:
            raise Unreadable("encoded-body") from None
        if machine.unconsumed_tail or not machine.eof:
            raise Unreadable("encoded-body")
    return body


def body_parts(body: bytes, content_type: str) -> Iterator[Part]:
    """Unreadable when it is not what it says."""
    kind, given = parameters(content_type)
    if given.get("charset", "utf-8").lower() not in CHARSETS:
        raise Unreadable("odd-charset")
    if kind == "application/x-www-form-urlencoded":
        if body.count(b"&") >= MAX_PARTS:
            raise Unreadable("too-many-arguments")
        yield from arguments("body", body.decode("utf-8", "replace"))
    elif kind == "multipart/form-data":
        yield from form_parts(body, given.get("boundary", ""))
    elif kind == "application/json" or kind.endswith("+json"):
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise Unreadable("bad-json") from None
        yield from leaves(value)
    else:
        yield Part("body", body.decode("utf-8", "replace"))
