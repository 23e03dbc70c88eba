"""`websocket_broadcast`: one stream of a service for many sockets of clients."""
from libc.stdint cimport int64_t, uint8_t

from fastgw._core.exchange cimport Downstream, Exchange, Route, UpstreamStream
from fastgw._core.pool cimport Endpoint, Service
from fastgw._core.respond cimport Relay


ctypedef struct Frame:                    # the one under way
    int opcode
    bint fin
    int64_t rest                          # bytes of its payload still to come
    int at                                # and how many came
    uint8_t mask[4]


cdef class Feed(Endpoint):
    """One per route and worker. In the place of an endpoint: what is checked out is a place among the listeners."""
    cdef Relay relay
    cdef object __weakref__
    cdef public Service service           # where the stream comes from
    cdef Route route                      # of the gateway's own request
    cdef readonly bint events             # Server-Sent Events, else a WebSocket
    cdef bytes path
    cdef int queue_messages
    cdef int64_t queue_bytes, max_message, retry_ns, retry_max_ns, backoff_ns
    cdef bint drops                       # the oldest message of a listener that is slow; else it is closed
    cdef set listeners
    cdef Intake intake                    # the stream that is open, or on its way
    cdef bytes last_id                    # of the last event, for the next stream
    cdef bint complained
    cdef int publish(self, int opcode, bytes payload) except -1
    cdef int join(self, Listening listening) except -1
    cdef int leave(self, Listening listening) except -1
    cdef int lost(self, Intake intake) except -1
    cdef int _start(self) except -1


cdef class Intake(Downstream):
    """The gateway's own request for the stream, from the side where a client would be."""
    cdef Feed feed
    cdef Exchange ex
    cdef Frame frame
    cdef bytearray partial                # of a message, or of a line
    cdef int opcode                       # of the message under way, 0: none
    cdef list lines                       # of data, of the event under way
    cdef int64_t size                     # their bytes
    cdef bytes id
    cdef bint after_cr, begun             # of a stream of events
    cdef bint useful                      # something came
    cdef bint stopped, said_close
    cdef str problem
    cdef int begin(self) except -1
    cdef int stop(self, str problem) except -1
    cdef int _frames(self, const char *p, size_t n) except -1
    cdef int _frame(self, const char *p, size_t n) except -1
    cdef int _events(self, bytes data) except -1
    cdef int _line(self, bytes line) except -1


cdef class Listening(UpstreamStream):
    """A client's socket, from the side where a service would be."""
    cdef Feed feed
    cdef Exchange ex
    cdef Frame frame
    cdef bytearray control                # payload of a control frame
    cdef object queue                     # deque of frames that wait for a client that is slow
    cdef int64_t queued                   # their bytes
    cdef bint joined, said_close
    cdef int offer(self, bytes frame) except -1
    cdef int _begin(self) except -1
    cdef int _flush(self) except -1
    cdef int _whole(self) except -1
