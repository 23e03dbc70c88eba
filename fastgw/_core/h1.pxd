"""One HTTP/1.1 connection of a client."""
from libc.stdint cimport int64_t, uint32_t

from fastgw._core.accept cimport Codec, Connection
from fastgw._core.exchange cimport Exchange
from fastgw._core.parse cimport Authorities, Authority, Chunked

cdef enum DownPhase:
    D_IDLE               # between requests; the first byte of the next one has not come
    D_HEAD               # part of a head is here
    D_BODY               # the request's body is coming
    D_BUSY               # the request is whole, its answer is not
    D_DISCARD            # the answer is out, the rest of the body is read and dropped
    D_CLOSING            # our last bytes are leaving
    D_GONE


cdef bytes date_line()                    # "Date: …" with its CRLF, made anew each second


cdef class H1Codec(Codec):
    cdef Authorities checks
    cdef readonly Codec h2                # for clients that begin with its preface; None: not spoken


cdef class H1Downstream(Connection):
    # connection
    cdef Authorities checks
    cdef Codec h2
    cdef int64_t requests
    cdef int phase
    cdef bint in_process, fresh
    # request
    cdef Exchange ex
    cdef int64_t rest
    cdef Chunked chunk
    cdef bint tunnel                      # a WebSocket: bytes both ways
    cdef bint chunked, body_wanted, keep, interim_100
    cdef Authority authority
    cdef char *stash
    cdef uint32_t stash_len, stash_cap
    cdef int early                        # heads among the bytes that wait
    # response
    cdef uint32_t head_n                  # bytes of a head that wait in reactor.dbuf for their first body bytes
    cdef int framing                      # upstream.Framing of what goes to the client
    cdef int64_t unsent                   # body bytes still owed, for F_LENGTH
    cdef int _keep_bytes(self, const char *p, size_t n) except -1
    cdef int _process_stash(self) except -1
    cdef int _early(self, const char *p, size_t n) except -1
    cdef int _process(self, char *p, size_t n) except -1
    cdef Py_ssize_t _head(self, char *p, size_t n) except -2
    cdef Py_ssize_t _body(self, char *p, size_t n) except -2
    cdef Py_ssize_t _pipe(self, char *p, size_t n) except -2
    cdef Py_ssize_t _drop(self, char *p, size_t n) except -2
    cdef int _refuse(self, Exchange ex, str code, object detail) except -2
    cdef Py_ssize_t _partial(self) except -2
    cdef int _begin(self, Exchange ex) except -1
    cdef int _start(self, Exchange ex) except -1
    cdef int _hand_over(self, char *p, size_t n) except -2
    cdef int _close(self, bint reset) except -1
    cdef int _shut(self) except -1
    cdef int _idle(self) except -1
    cdef int _left(self) except -1
    cdef int _stalled(self) except -1
    cdef int _head_timeout(self) except -1
    cdef int _decide(self, Exchange ex) noexcept


cdef class RedirectCodec(H1Codec):
    cdef int port
    cdef str name
    cdef dict ports


cdef class H1Redirect(H1Downstream):
    cdef int port
