"""The handshake of a WebSocket, as a client sends it."""
from fastgw._core.headers cimport Head

cdef enum Handshake:
    NOT_ASKED = 0
    ASKED
    MALFORMED
    OTHER_VERSION


cdef Handshake handshake(Head head) noexcept
