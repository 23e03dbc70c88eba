"""HTTP/2 of clients."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

from fastgw._core.accept cimport Codec, Connection
from fastgw._core.clock cimport Timer
from fastgw._core.exchange cimport Downstream, Exchange
from fastgw._core.grpc cimport Messages
from fastgw._core.h2_wire cimport Flow
from fastgw._core.headers cimport Head
from fastgw._core.nghttp2 cimport fgw_block, nghttp2_frame, nghttp2_session
from fastgw._core.respond cimport Relay


cdef class H2Codec(Codec):
    """What HTTP/2 is allowed to do on a listener."""
    cdef readonly int max_streams, window, header_list, resets, spare_frames


cdef class H2Connection(Connection):
    cdef H2Codec codec
    cdef nghttp2_session *session
    cdef fgw_block block
    cdef dict streams                     # id → H2Stream, the references that keep them
    cdef list eager                       # streams whose kept bytes are to be delivered
    cdef list thirsty                     # streams whose upstream waits until there is room
    cdef list over                        # streams whose answer is out while the request is not
    cdef object failure                   # an exception of a callback
    cdef int64_t requests
    cdef int32_t highest, skipped_from, skipped_to      # ids of streams
    cdef int64_t resets_at, frames_at     # budgets: ns of the clock up to which they are used up
    cdef int64_t head_at                  # a block of headers has begun
    cdef bint dirty, inside, closing, going, gone
    cdef int reason                       # counter of why we end it
    cdef int mark(self) except -1
    cdef int pump(self) except -1
    cdef int pay_reset(self) noexcept
    cdef int calm(self, int reason) noexcept
    cdef int malformed(self, int32_t id) noexcept
    cdef bint spend(self, int64_t *at, int64_t cost_ns, int64_t burst_ns) noexcept
    cdef int head(self, int32_t id, bint end) except -1
    cdef int end(self) except -1
    cdef int _wake(self) except -1
    cdef int _work(self) except -1
    cdef int _abandon(self) except -1
    cdef int _close(self, bint reset) except -1


cdef class H2Stream(Downstream):
    cdef H2Connection connection
    cdef Relay relay
    cdef Exchange ex
    cdef int32_t id
    cdef Timer timer
    cdef bint ended                       # the client has sent everything
    cdef bint socket                      # an extended CONNECT (RFC 8441): a WebSocket, or nothing
    cdef bint wanted                      # the upstream takes body bytes
    cdef bint queued                      # in connection.eager
    cdef bint blocked                     # in connection.thirsty
    cdef bint submitted, deferred, finished_out, sent_end, reset_after, closed
    cdef int64_t received, limit
    cdef int64_t promised, arrived        # bytes: Content-Length, or -1; of DATA frames so far
    cdef bint faulty                      # malformed: nothing of it is taken any more
    cdef int64_t moved                    # when output last moved, ns
    cdef Messages messages                # of a gRPC call
    cdef uint32_t unused                  # bytes taken, whose window is not given back yet
    cdef char *kept                       # body bytes that wait for the upstream
    cdef uint32_t kept_n, kept_cap
    cdef Flow out                         # body bytes of the answer
    cdef Head after                       # trailers of the answer, for when its body is out
    cdef int _deliver(self) except -1
    cdef int data(self, const char *p, size_t n) except -1
    cdef int take_data(self, const char *p, size_t n) except -1
    cdef int malformed(self) noexcept
    cdef int end_data(self) except -1
    cdef int _half_close(self) except -1
    cdef int _hang_up(self) except -1
    cdef int trailers(self) except -1
    cdef int refuse(self, str code, object detail) except -1
    cdef int lost(self) except -1
    cdef int reactor_timer(self, int64_t after) except -1
    cdef int _resume(self) except -1
