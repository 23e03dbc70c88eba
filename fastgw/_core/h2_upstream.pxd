"""HTTP/2 to services."""
from libc.stdint cimport int32_t, int64_t, uint32_t

from fastgw._core.clock cimport Timer
from fastgw._core.exchange cimport Exchange, UpstreamStream
from fastgw._core.h2_wire cimport Flow
from fastgw._core.headers cimport Head
from fastgw._core.nghttp2 cimport fgw_block, nghttp2_session
from fastgw._core.pool cimport Opener
from fastgw._core.reactor cimport Reactor
from fastgw._core.shared cimport SharedConnection
from fastgw._core.upstream cimport H1Opener


cdef class H2Opener(Opener):
    """What is spoken to the endpoints of a service, and the bounds of it."""
    cdef Reactor reactor
    cdef H1Opener plain                   # for those that agree on HTTP/1.1
    cdef readonly bint negotiate, demand  # by ALPN; ALPN must say h2
    cdef readonly int max_streams, window, max_head, max_headers
    cdef readonly int64_t ping_ns, pong_ns


cdef class H2Upstream(SharedConnection):
    cdef H2Opener opener
    cdef nghttp2_session *session
    cdef fgw_block block
    cdef dict streams                     # id → H2UpstreamStream, the references that keep them
    cdef list eager                       # streams whose kept bytes are to be delivered
    cdef list early                       # streams that want a socket, before its SETTINGS are here
    cdef list thirsty                     # streams whose client waits until there is room
    cdef H2UpstreamStream unflushed       # its client may have the head of an answer in the buffer of the worker
    cdef object failure                   # an exception of a callback
    cdef int64_t frames_at                # budget for frames that are no answers
    cdef int64_t heard_at, ping_at        # ns; ping_at: one is on its way since
    cdef uint32_t carried                 # exchanges so far
    cdef int most                         # at once
    cdef bint dirty, going, freed
    cdef bint told, sockets               # its SETTINGS are here; it takes WebSockets (RFC 8441)
    cdef void learn(self) noexcept
    cdef int mark(self) except -1
    cdef int turn_to(self, H2UpstreamStream stream) except -1
    cdef int _work(self) except -1
    cdef int _part(self) except -1
    cdef int _rest(self) except -1
    cdef int _leave(self) except -1
    cdef int _lose(self, str code) except -1
    cdef int _close(self) except -1


cdef class H2UpstreamStream(UpstreamStream):
    cdef H2Upstream connection
    cdef Exchange ex
    cdef int32_t id                       # 0: not opened yet
    cdef Timer timer
    cdef int interims
    cdef bint reused, got_byte, answered, held, ended, queued, blocked
    cdef bint deferred, finished_out, sent_end, closed
    cdef uint32_t unused                  # bytes passed on, whose window is not given back yet
    cdef Flow kept                        # body bytes that came while a policy waited
    cdef Flow out                         # body bytes of the request
    cdef bytes accept                     # of a WebSocket: what its client wants to see
    cdef Head after                       # trailers of the request, for when its body is out
    cdef int head(self, fgw_block *block, bint end) except -1
    cdef int trailers(self, fgw_block *block) except -1
    cdef int _socket(self, Exchange ex, bint *wait) except -1
    cdef int data(self, const char *p, size_t n) except -1
    cdef int end_data(self) except -1
    cdef int _deliver(self) except -1
    cdef int _complete(self) except -1
    cdef int _resume(self) except -1
    cdef int _let_go(self, uint32_t code) except -1
    cdef int fail(self, str code, int untouched) except -1
    cdef int lost(self, uint32_t code) except -1
