"""httptools decides, the scanner indexes: the agreement of the two, and body framing.

Every byte of a message goes through httptools before it goes on, without callbacks for headers or bodies.
Where the message ends is worked out twice: by the scanner of headers.pyx with the chunk reader below, and by
httptools; a message about which they disagree is refused (400 from a client, 502 from an upstream).
"""
from libc.string cimport memmove
from cpython.buffer cimport PyBuffer_FillInfo

import httptools

cdef object HttpParserUpgrade = httptools.HttpParserUpgrade
cdef object HttpParserError = httptools.HttpParserError

cdef enum:
    OVERHEAD = 16384         # bytes of chunk extensions and trailers allowed in one body

cdef enum ChunkState:
    SIZE, SIZE_MORE, EXT, SIZE_LF, DATA, DATA_CR, DATA_LF, TRAILER, TRAILER_NAME, TRAILER_VALUE, TRAILER_LF, LAST_LF


cdef void chunked_begin(Chunked *c) noexcept nogil:
    c.state = SIZE
    c.rest = 0
    c.digits = 0
    c.overhead = 0
    c.trailers = 0


cdef inline int _hex(unsigned char ch) noexcept nogil:
    if c"0" <= ch <= c"9":
        return ch - c"0"
    ch |= 0x20
    if c"a" <= ch <= c"f":
        return ch - c"a" + 10
    return -1


cdef int chunked_feed(Chunked *c, char *p, size_t n, size_t *used, size_t *data, bint compact) noexcept nogil:
    """RFC 9112 7.1. CRLF only; sizes up to 15 hex digits; extensions and trailers are bounded, and no data."""
    cdef size_t i = 0, take, out = 0
    cdef unsigned char ch
    cdef int d
    c.trailers = 0 if c.state >= TRAILER else n
    while i < n:
        ch = <unsigned char>p[i]
        if c.state == DATA:
            take = n - i
            if take > c.rest:
                take = c.rest
            if compact and out != i:
                memmove(p + out, p + i, take)
            out += take
            i += take
            c.rest -= take
            if c.rest == 0:
                c.state = DATA_CR
            continue
        i += 1
        if c.state == SIZE or c.state == SIZE_MORE:
            d = _hex(ch)
            if d >= 0:
                if c.state == SIZE:
                    c.rest = 0
                    c.digits = 0
                    c.state = SIZE_MORE
                c.digits += 1
                if c.digits > 15:
                    return -1
                c.rest = c.rest * 16 + d
                continue
            if c.state == SIZE:
                return -1
            if ch == c"\r":
                c.state = SIZE_LF
            elif ch == c";":
                c.state = EXT
            else:
                return -1
        elif c.state == EXT:
            c.overhead += 1
            if c.overhead > OVERHEAD or ch == c"\n" or (ch < 0x20 and ch != c"\t" and ch != c"\r") or ch == 0x7f:
                return -1
            if ch == c"\r":
                c.state = SIZE_LF
        elif c.state == SIZE_LF:
            if ch != c"\n":
                return -1
            c.state = DATA if c.rest else TRAILER
            if c.state == TRAILER:
                c.trailers = i
        elif c.state == DATA_CR:
            if ch != c"\r":
                return -1
            c.state = DATA_LF
        elif c.state == DATA_LF:
            if ch != c"\n":
                return -1
            c.state = SIZE
        elif c.state == TRAILER:
            if ch == c"\r":
                c.state = LAST_LF
            else:
                i -= 1
                c.state = TRAILER_NAME
                c.digits = 0
        elif c.state == TRAILER_NAME:
            c.overhead += 1
            if ch == c":":
                if c.digits == 0:
                    return -1
                c.state = TRAILER_VALUE
            elif ch <= 0x20 or ch >= 0x7f or c.overhead > OVERHEAD:
                return -1
            c.digits = 1
        elif c.state == TRAILER_VALUE:
            c.overhead += 1
            if ch == c"\r":
                c.state = TRAILER_LF
            elif (ch < 0x20 and ch != c"\t") or ch == 0x7f or c.overhead > OVERHEAD:
                return -1
        elif c.state == TRAILER_LF:
            if ch != c"\n":
                return -1
            c.state = TRAILER
        elif c.state == LAST_LF:
            if ch != c"\n":
                return -1
            used[0] = i
            data[0] = out
            return 1
    used[0] = i
    data[0] = out
    return 0


cdef class _View:
    """A window on C memory that httptools can read without a copy."""

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, <void*>self.p, self.n, 1, flags)


cdef class _Completed:
    """What httptools calls: the end of a message, nothing else."""

    cdef Authority owner

    def on_message_complete(self):
        self.owner.completed += 1


cdef class Authority:
    def __cinit__(self, bint for_requests):
        self.for_requests = for_requests
        self.view = _View()
        self.renew()

    cdef int renew(self) except -1:
        cdef _Completed events = _Completed()
        events.owner = self
        self.parser = httptools.HttpRequestParser(events) if self.for_requests \
            else httptools.HttpResponseParser(events)
        self.feed_data = self.parser.feed_data
        self.stale = False
        return 0

    cdef int check(self, const char *p, size_t n, bint complete, bint last) except? -2:
        """`complete`: these bytes end the message; `last`: the connection is not kept after it."""
        if self.stale:
            self.renew()
        self.completed = 0
        self.view.p = p
        self.view.n = n
        try:
            self.feed_data(self.view)
        except HttpParserUpgrade:
            # We do not upgrade: a declared body was refused before, so the message ends with its head.
            self.stale = True
            return 0 if complete else -1
        except HttpParserError:
            self.stale = True
            return -1
        if self.completed != complete:
            self.stale = True
            return -1
        if last:
            self.stale = True                # httptools takes nothing after "Connection: close"
        return 0


cdef class Authorities:
    def __cinit__(self, bint for_requests):
        self.for_requests = for_requests
        self.whole = Authority(for_requests)
        self.spare = []

    cdef Authority take(self):
        return <Authority>self.spare.pop() if self.spare else Authority(self.for_requests)

    cdef int give(self, Authority authority) except -1:
        if len(self.spare) < 64:
            self.spare.append(authority)
        return 0
