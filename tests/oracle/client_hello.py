"""What a ClientHello asks for, by the words of RFC 8446 and RFC 6066: slow, plain, and written apart from the gateway.

`look(data)` is what `fastgw._core.sni.read` should say of it: the name in lower case, 0 when more is needed, or "none",
"malformed", "too_long".
"""

import re

LIMIT = 16384
NAME = re.compile(rb"[a-z0-9_-]+(\.[a-z0-9_-]+)*", re.IGNORECASE)


class Malformed(Exception):
    pass


class Reader:
    def __init__(self, data):
        self.data = data

    def take(self, n):
        if len(self.data) < n:
            raise Malformed
        piece, self.data = self.data[:n], self.data[n:]
        return piece

    def number(self, size):
        return int.from_bytes(self.take(size), "big")

    def vector(self, size):
        return self.take(self.number(size))


def look(data):
    if not data:
        return 0
    if data[0] != 22 or (len(data) > 1 and data[1] != 3):
        return "none"
    try:
        return name_of(message(data))
    except Malformed:
        return "malformed"
    except EOFError:
        return 0
    except OverflowError:
        return "too_long"


def message(data):
    """The body of the first handshake message, out of its records."""
    got, at = b"", 0
    while True:
        head = data[at : at + 5]
        if len(head) < 5:
            if at + 5 > LIMIT:
                raise OverflowError
            raise EOFError
        size = int.from_bytes(head[3:], "big")
        if head[0] != 22 or head[1] != 3 or not 0 < size <= 16384:
            raise Malformed
        if at + 5 + size > LIMIT:
            raise OverflowError
        piece = data[at + 5 : at + 5 + size]
        if not got and piece[:1] not in (b"", b"\x01"):
            raise Malformed
        if len(piece) < size:
            raise EOFError
        got += piece
        at += 5 + size
        if len(got) >= 4:
            wanted = 4 + int.from_bytes(got[1:4], "big")
            if wanted > LIMIT:
                raise OverflowError
            if len(got) > wanted:
                raise Malformed
            if len(got) == wanted:
                return got[4:]


def name_of(body):
    reader = Reader(body)
    if reader.take(2)[0] != 3:
        raise Malformed
    reader.take(32)
    session, ciphers, methods = reader.vector(1), reader.vector(2), reader.vector(1)
    if len(session) > 32 or not ciphers or len(ciphers) % 2 or not methods:
        raise Malformed
    if not reader.data:
        return b""
    extensions = Reader(reader.vector(2))
    if reader.data:
        raise Malformed
    found = []
    while extensions.data:
        kind, content = extensions.number(2), Reader(extensions.vector(2))
        if kind == 0:
            names = Reader(content.vector(2))
            if content.data:
                raise Malformed
            if names.number(1) != 0:
                raise Malformed
            name = names.vector(2)
            if names.data or len(name) > 255 or not NAME.fullmatch(name):
                raise Malformed
            found.append(name.lower())
            if len(found) > 1:
                raise Malformed
    return found[0] if found else b""
