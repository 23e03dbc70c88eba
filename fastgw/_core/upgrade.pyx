"""The handshake of a WebSocket, as a client sends it."""
from libc.string cimport memcmp

from fastgw._core.headers cimport H_UPGRADE, Head, Header, equals_lower

cdef enum:
    GET = 0


cdef Handshake handshake(Head head) noexcept:
    """RFC 6455 4.2.1. An upgrade to anything else is not seen, as everywhere (RFC 9110 7.8)."""
    cdef Header *h
    cdef int i
    cdef bint asked = False
    for i in range(head.count):
        h = &head.items[i]
        if h.id == H_UPGRADE and h.value_len == 9 and equals_lower(head.buf + h.value, b"websocket", 9):
            asked = True
    if not asked or head.minor == 0:
        return NOT_ASKED
    if head.method != GET or head.count_of(b"sec-websocket-key", 17) != 1:
        return MALFORMED
    h = head.find(b"sec-websocket-version", 21)
    if h == NULL or h.value_len != 2 or memcmp(head.buf + h.value, b"13", 2) != 0:
        return OTHER_VERSION
    return ASKED
