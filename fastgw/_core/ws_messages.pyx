"""Messages of a WebSocket, whole, for policies that look at them before they go on.

It gets frames that `ws_frames` has judged already. The frames of a message are held until its last one is here; the
policies are asked with the payload, unmasked, and then the frames go on as they came, with their masks. Control frames
do not wait (RFC 6455 5.4). So what has gone on always ends with a message. Compression is negotiated away for these
sockets: there is nothing to inflate, and no bomb.
"""
from libc.stdint cimport int64_t, uint8_t
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.unicode cimport PyUnicode_DecodeUTF8

from fastgw._core.exchange cimport Exchange
from fastgw._core.ws_frames cimport (
    INTERNAL_ERROR, INVALID_DATA, O_CLOSE, O_CONTINUATION, O_TEXT, POLICY_VIOLATION, TOO_BIG, W_HEAD, W_PAYLOAD, Reader,
)

import logging

from fastgw._core.exchange import Problem

logger = logging.getLogger("fastgw.websocket")

cdef enum:
    FRAMES_ROOM = 65536      # bytes that the heads of a message's frames may take: empty ones cost, too


cdef class Inspection:
    """`Inspection(client, service, limit)`: tuples of (policy's name, function(exchange, payload, text, side))."""

    def __init__(self, tuple client, tuple service, int64_t limit):
        self.client = client
        self.service = service
        self.limit = limit

    cdef tuple of(self, int side):
        return self.client if side == 0 else self.service


cdef Collector collector_of(Inspection wanted, int side):
    """None when nobody looks at the messages of this side."""
    cdef tuple inspectors = wanted.of(side) if wanted is not None else ()
    cdef Collector self
    if not inspectors:
        return None
    self = Collector()
    self.inspectors = inspectors
    self.limit = wanted.limit
    self.side = "client" if side == 0 else "service"
    self.held = bytearray()
    self.text = bytearray()
    self.aside = bytearray()
    self.out = bytearray()
    return self


cdef class Collector(Reader):
    cdef int feed(self, Exchange ex, const uint8_t *p, size_t n) except -1:
        """What may go on is in `out` then, also when the answer is a code."""
        cdef size_t k
        cdef int code
        while n:
            if self.state == W_HEAD:
                if not self._head(&p, &n):
                    return 0
                self.state = W_PAYLOAD
                if self.opcode >= O_CLOSE:
                    self.aside += (<const char*>self.head)[:self.head_n]
                else:
                    if self.opcode != O_CONTINUATION:
                        self.kind = self.opcode
                    if self.rest > self.limit - <int64_t>len(self.text):
                        return TOO_BIG
                    self.held += (<const char*>self.head)[:self.head_n]
                    if <int64_t>len(self.held) > self.limit + FRAMES_ROOM:
                        return TOO_BIG
            k = n if <int64_t>n < self.rest else <size_t>self.rest
            if k:
                self._take(p, k)
                p += k
                n -= k
            if self.rest:
                return 0
            self.state = W_HEAD
            self.head_n = self.payload_n = 0
            if self.opcode >= O_CLOSE:
                self.out += self.aside
                self.aside.clear()
            elif self.fin:
                code = self._judge_message(ex)
                if code:
                    return code
                self.out += self.held
                self.held.clear()
                self.text.clear()
        return 0

    cdef int _take(self, const uint8_t *p, size_t n) except -1:
        cdef size_t i, start
        cdef int at = 0
        cdef uint8_t *mask
        cdef uint8_t *text
        self.rest -= n
        if self.opcode >= O_CLOSE:
            self.aside += (<const char*>p)[:n]
            return 0
        self.held += (<const char*>p)[:n]
        start = len(self.text)
        self.text += (<const char*>p)[:n]
        if self.masked:
            # RFC 6455 5.3: octet i of a frame's payload with octet i modulo 4 of its key; payload_n is i modulo 4
            text = <uint8_t*>PyByteArray_AS_STRING(self.text) + start
            mask = self.head + self.head_n - 4
            at = self.payload_n
            for i in range(n):
                text[i] ^= mask[(at + i) & 3]
            self.payload_n = (at + n) & 3
        return 0

    cdef int _judge_message(self, Exchange ex) except -1:
        cdef bytes payload = bytes(self.text)
        cdef bint text = self.kind == O_TEXT
        if text:
            try:
                PyUnicode_DecodeUTF8(PyByteArray_AS_STRING(self.text), len(self.text), NULL)
            except UnicodeDecodeError:
                return INVALID_DATA                   # RFC 6455 8.1
        for policy, look in self.inspectors:
            try:
                self.problem = look(ex, payload, text, self.side)
            except Exception as error:
                logger.error("the policy %s failed on a message: %s", policy, type(error).__name__)
                self.problem = Problem(500, "policy_failed", side=2)
                return INTERNAL_ERROR
            if self.problem is not None:
                return POLICY_VIOLATION
        return 0
