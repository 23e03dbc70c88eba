"""Stage `upstream`: one HTTP/1.1 connection to an endpoint."""
from libc.stdint cimport int64_t, uint32_t

from fastgw._core.dial cimport Dialed
from fastgw._core.exchange cimport Exchange
from fastgw._core.headers cimport Head
from fastgw._core.parse cimport Authorities, Authority, Chunked
from fastgw._core.pool cimport Opener
from fastgw._core.reactor cimport Channel, Reactor
from fastgw._core.settings cimport Settings
from fastgw._core.trailers cimport Trailers

cdef enum UpPhase:
    U_CONNECTING
    U_IDLE
    U_HEAD
    U_BODY
    U_CLOSED

cdef enum Framing:
    F_NONE
    F_LENGTH
    F_CHUNKED
    F_CLOSE
    F_TUNNEL             # the protocol was changed: bytes, both ways


cdef class H1Opener(Opener):
    cdef Reactor reactor
    cdef Authorities checks
    cdef readonly int max_head, max_headers


cdef class H1Upstream(Dialed):
    cdef H1Opener opener
    cdef Exchange ex
    cdef int phase, framing, interims
    cdef int64_t rest
    cdef size_t checked_ahead             # body bytes that were checked together with the head
    cdef Chunked chunk
    cdef Trailers trailers                # of the body under way, where the service passes them on
    cdef Authority authority              # while a body is under way
    cdef bint pass_trailers               # its service does, as the head came: a reload is not for half of them
    cdef bint keep, held, got_byte, chunked_request, request_ended, limited
    cdef char *stash
    cdef uint32_t stash_len, stash_cap
    cdef int adopt(self, Channel channel) except -1
    cdef int _keep_bytes(self, const char *p, size_t n) except -1
    cdef int _process_stash(self) except -1
    cdef int _process(self, char *p, size_t n) except -1
    cdef Py_ssize_t _head(self, char *p, size_t n) except -2
    cdef Py_ssize_t _upgraded(self, char *p, size_t n, uint32_t k) except -2
    cdef int _agreed(self, char *p, size_t n, uint32_t k) except -2
    cdef Py_ssize_t _body(self, char *p, size_t n) except -2
    cdef int _complete(self, bint clean) except -1
    cdef int _fail(self, str code) except -1
    cdef int _close(self) except -1


cdef bytes socket_accept(Head request)
