"""Messages of a WebSocket, whole, for policies that look at them before they go on."""
from libc.stdint cimport int64_t, uint8_t

from fastgw._core.exchange cimport Exchange
from fastgw._core.ws_frames cimport Reader


cdef class Inspection:
    """What a route's policies want to see. Made at plan time, never changed."""
    cdef readonly tuple client, service   # (policy, method) each, in their order
    cdef readonly int64_t limit           # bytes of one message

    cdef tuple of(self, int side)


cdef class Collector(Reader):
    """The messages of one side: held until they are whole and were looked at, then let go as they came."""
    cdef tuple inspectors
    cdef int64_t limit
    cdef str side
    cdef bytearray held                   # the frames of the message that is under way, as they came
    cdef bytearray text                   # its payload, unmasked
    cdef bytearray aside                  # a control frame among them
    cdef int kind                         # its opcode
    cdef bytearray out                    # what may go on; the caller empties it
    cdef object problem                   # of the policy that refused
    cdef int feed(self, Exchange ex, const uint8_t *p, size_t n) except -1    # 0, or the code to close with
    cdef int _take(self, const uint8_t *p, size_t n) except -1
    cdef int _judge_message(self, Exchange ex) except -1


cdef Collector collector_of(Inspection wanted, int side)
