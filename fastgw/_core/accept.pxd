"""Stage `accept`: listening sockets, and one HTTP/1.1 connection of a client."""
from libc.stdint cimport int64_t, uint8_t, uint32_t

from fastgw._core.clock cimport Timer
from fastgw._core.exchange cimport Downstream, Exchange
from fastgw._core.headers cimport Head
from fastgw._core.parse cimport Authorities, Authority, Chunked
from fastgw._core.reactor cimport Channel, Handler, Reactor
from fastgw._core.respond cimport Relay
from fastgw._core.settings cimport Settings

cdef enum DownPhase:
    D_IDLE               # between requests; the first byte of the next one has not come
    D_HEAD               # part of a head is here
    D_BODY               # the request's body is coming
    D_BUSY               # the request is whole, its answer is not
    D_DISCARD            # the answer is out, the rest of the body is read and dropped
    D_CLOSING            # our last bytes are leaving
    D_GONE


cdef class Listener(Handler):
    cdef Reactor reactor
    cdef Relay relay
    cdef Authorities checks
    cdef readonly str name
    cdef bint is_unix, secure
    cdef int listen_fd                    # kept while it rests
    cdef Timer pause                      # out of descriptors: a short rest
    cdef set connections                  # shared by the engine's listeners
    cdef dict per_address
    cdef int start(self, int fd) except -1
    cdef int stop(self) except -1
    cdef int _accepted(self, int fd, const uint8_t *address, const char *text, int text_len) except -1


cdef class H1Downstream(Downstream):
    # connection
    cdef Listener listener
    cdef Reactor reactor
    cdef Relay relay
    cdef Channel channel
    cdef uint8_t address[16]
    cdef char text[48]
    cdef int text_len
    cdef int64_t requests
    cdef Timer timer
    cdef int phase
    cdef bint in_process, fresh, counted
    # request
    cdef Exchange ex
    cdef Settings settings
    cdef int64_t rest
    cdef Chunked chunk
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
    cdef Py_ssize_t _drop(self, char *p, size_t n) except -2
    cdef int _refuse(self, Exchange ex, str code, object detail) except -2
    cdef Py_ssize_t _partial(self) except -2
    cdef int _begin(self, Exchange ex) except -1
    cdef int _close(self, bint reset) except -1
    cdef int _shut(self) except -1
    cdef int _idle(self) except -1
    cdef int _left(self) except -1
    cdef int _stalled(self) except -1
    cdef int _head_timeout(self) except -1
    cdef int _decide(self, Exchange ex) noexcept
    cdef int drain(self) except -1
