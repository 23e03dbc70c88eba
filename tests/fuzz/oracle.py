"""What h11 makes of the same bytes, and where the gateway is stricter on purpose."""

import re
from dataclasses import dataclass

import h11

from fastgw._core.headers import METHODS

HOP_BY_HOP = {
    "connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
    "content-length", "expect", "http2-settings",
}  # fmt: skip
OWN = {"host", "via", "forwarded", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-request-id",
       "traceparent", "tracestate", "date", "server"}  # fmt: skip
"""What the gateway writes itself; compared elsewhere."""

HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]+)(:\d{0,5})?\Z")
NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
TARGET = re.compile(rb"(/|https?://[^/?#@]|\*\Z)(?:[!\"$&-\[\]-~]|%(?!00)[0-9A-Fa-f]{2})*\Z", re.IGNORECASE)


@dataclass
class Seen:
    """One message as h11 saw it, with the bytes it was."""

    method: bytes
    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    raw: bytes
    version: bytes = b"1.1"
    status: int = 0

    def values(self, name):
        return [value for key, value in self.headers if key == name]


def passed_on(headers):
    """The headers that reach the other side: (lower name, value), in order."""
    named = {
        option.strip().lower() for name, value in headers if name.lower() == "connection" for option in value.split(",")
    }
    return [
        (name.lower(), value)
        for name, value in headers
        if name.lower() not in HOP_BY_HOP | OWN and name.lower() not in named and "_" not in name
    ]


def text(headers):
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]


def requests(data):
    """(messages, how it ended): "closed" after Connection: close, "error", or "more" when it wants more bytes.

    Empty lines before a message are skipped, as RFC 9112 2.2 asks of servers; h11 does not.
    """
    found = []
    while True:
        while data.startswith(b"\r\n"):
            data = data[2:]
        seen, how, rest = one_request(data)
        if seen is None:
            return found, how
        found.append(seen)
        if how == "closed" and not kept(seen):
            return found, how
        data = rest


def kept(seen):
    """RFC 9112 C.2.2: HTTP/1.0 with `Connection: keep-alive`, which h11 always closes."""
    options = {option.strip().lower() for value in seen.values(b"connection") for option in value.split(b",")}
    return seen.version == b"1.0" and b"keep-alive" in options and b"close" not in options


def one_request(data):
    """(message or None, "next", "closed", "error" or "more", the bytes after it)"""
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    server.receive_data(data)
    head, body = None, b""
    while True:
        try:
            event = server.next_event()
        except h11.RemoteProtocolError:
            return None, "error", data
        if event is h11.NEED_DATA or event is h11.PAUSED:
            return None, "more", data
        if isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.EndOfMessage):
            break
        else:
            body += event.data
    rest = server.trailing_data[0]
    raw = data[: len(data) - len(rest)]
    seen = Seen(head.method, head.target, list(head.headers), bytes(body), raw, head.http_version)
    server.send(h11.Response(status_code=404, headers=[("Content-Length", "0")]))
    server.send(h11.EndOfMessage())
    done = server.our_state is h11.DONE and server.their_state is h11.DONE
    return seen, "next" if done else "closed", rest


def response(data, method):
    """(the final answer or None, how it ended): "whole", "error"."""
    client = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "h")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    client.receive_data(b"")
    head, body = None, b""
    try:
        while True:
            event = client.next_event()
            if event is h11.NEED_DATA or event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                return None, "error"
            if isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                seen = Seen(b"", b"", list(head.headers), bytes(body), data, head.http_version, head.status_code)
                return seen, "whole"
    except h11.RemoteProtocolError:
        return None, "error"


def stricter_syntax(raw, headers):
    """Reasons, common to both sides, for which the gateway refuses what h11 accepts."""
    head, _, rest = raw.lstrip(b"\r\n").partition(b"\r\n\r\n")
    if re.search(rb"(?<!\r)\n", head) or re.match(rb"(\r\n)*\n", raw):
        return "bare LF (RFC 9112 2.2 allows a recipient to take it for a line end; we do not)"
    if re.search(rb"\r\n[ \t]", head):
        return "obs-fold (RFC 9112 5.2)"
    if re.search(rb"[\0-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)", head):
        return "control characters"
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    written = len(re.findall(rb"^content-length\s*:", head, re.IGNORECASE | re.MULTILINE))
    if written > 1 or re.search(rb"^content-length[ \t]*:[^\r\n]*,", head, re.IGNORECASE | re.MULTILINE):
        return "Content-Length more than once"
    if re.search(rb"^content-length:[ \t]*\r?$", head, re.IGNORECASE | re.MULTILINE):
        return "empty Content-Length"
    if re.search(rb"^content-length:[ \t]*[0-9]{19,}", head, re.IGNORECASE | re.MULTILINE):
        return "a Content-Length of more than 18 digits"
    if codings and written:
        return "Content-Length beside Transfer-Encoding (RFC 9112 6.1)"
    if any(value.lower() != b"chunked" for value in codings) or len(codings) > 1:
        return "a coding that is not chunked"
    if codings:
        return stricter_chunks(rest)
    return None


def stricter_chunks(rest):
    if re.search(rb"^[0-9A-Fa-f]{16,}", rest, re.MULTILINE):
        return "a chunk size of more than 15 digits"
    if re.search(rb"^[0-9A-Fa-f]+[ \t]*;?[^\r\n]*(?<!\r)\n", rest, re.MULTILINE):
        return "LF alone in the framing of chunks"
    if re.search(rb"^[0-9A-Fa-f]+[ \t]", rest, re.MULTILINE):
        return "white space after a chunk size"
    if re.search(rb"^[0-9A-Fa-f]+;[^\r\n]*[^\x20-\x7e\t\r\n]", rest, re.MULTILINE) or re.search(rb";\r?\n", rest):
        return "a chunk extension with bytes that belong in none"
    if re.search(rb"^0+[^\r\n]*\r?\n.", rest, re.MULTILINE):
        return "trailers: framing names, folds, LF"
    return None


def stricter_request(seen):
    """The documented reason for which the gateway refuses this request, which h11 accepts; None when there is none."""
    if seen.method not in {m.encode() for m in METHODS} - {b"CONNECT", b"TRACE"}:
        return "a method we do not know or do not serve"
    if seen.version not in (b"1.0", b"1.1"):
        return "a version that does not exist"
    if not TARGET.match(seen.target) or (seen.target == b"*" and seen.method != b"OPTIONS"):
        return "a target that is none"
    hosts = seen.values(b"host")
    authority = re.match(rb"https?://([^/?#]*)", seen.target, re.IGNORECASE)
    if any(not HOST.match(host) for host in hosts) or (authority and not HOST.match(authority[1])):
        return "a host that is none"
    if seen.version == b"1.0" and seen.values(b"transfer-encoding"):
        return "Transfer-Encoding in HTTP/1.0"
    if seen.values(b"expect") and any(value.lower() != b"100-continue" for value in seen.values(b"expect")):
        return "an expectation nobody knows"
    options = b",".join(seen.values(b"connection")).lower()
    has_body = seen.values(b"transfer-encoding") or any(v.strip(b"0") for v in seen.values(b"content-length"))
    if seen.values(b"upgrade") and b"upgrade" in options and (has_body or seen.values(b"content-length")):
        return "an upgrade with a body"
    return stricter_syntax(seen.raw, seen.headers)
