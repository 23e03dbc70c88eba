"""What is looked after in an open WebSocket: bounds, pings, times, and a proper end."""
from libc.stdint cimport int64_t, uint8_t

from fastgw._core.clock cimport Timed, Timer
from fastgw._core.exchange cimport Exchange
from fastgw._core.reactor cimport Reactor
from fastgw._core.record cimport Stats
from fastgw._core.ws_frames cimport Reader
from fastgw._core.ws_messages cimport Collector, Inspection

cdef enum:
    CLIENT
    SERVICE


cdef class Rules:
    """`websocket:` of a route. Durations in ns, sizes in bytes, 0 = none."""
    cdef readonly int64_t idle_ns, max_age_ns, max_frame, max_message
    cdef readonly int64_t every_ns, burst_ns      # messages of one side
    cdef readonly int64_t ping_ns, pong_ns
    cdef readonly bint limited[2]                 # whose messages: CLIENT, SERVICE
    cdef readonly bint pinged[2]                  # who is pinged
    cdef readonly bint recheck                    # close when the token expires
    cdef readonly bint strict                     # frames are read, not only followed
    cdef readonly Inspection inspection           # policies that see the messages; None: nobody does


cdef class Ear(Reader):
    """What comes from one side."""
    cdef Watch watch
    cdef int side
    cdef Collector collector                      # None: its messages are not looked at
    cdef int refused                              # the code of a policy's refusal, or 0
    cdef int64_t heard_at                         # when something came last
    cdef int64_t pong_by                          # until then something must come; 0: nothing was asked
    cdef bint ping_owed                           # it is to be pinged at the next border of frames
    # while it closes
    cdef int code                                 # it is told
    cdef bint told                                # a close frame went to it
    cdef bint cut                                 # part of a frame of its has gone on, the rest must follow
    cdef bint passed_close                        # its own close frame has gone on
    cdef bint answered(self) noexcept


cdef class Watch(Timed):
    cdef Exchange ex
    cdef Rules rules
    cdef Reactor reactor
    cdef Stats stats
    cdef set home                                 # the relay's open sockets
    cdef Ear client, service
    cdef Timer timer
    cdef int64_t age_at, expires_at, leave_at, until      # ns, 0 = never
    cdef bint closing
    cdef bytes reason
    cdef str word
    cdef bytes nonce                              # the gateway's pings begin with it
    cdef int pings
    cdef int data(self, int side, const char *p, size_t n) except -1
    cdef int leave(self, int64_t at) except -1    # 1012 to both sides then
    cdef int ended(self) except -1                # the exchange is over
    cdef int close(self, int to_client, int to_service, bytes reason, str word, int side) except -1
    cdef int _send(self, int side, int opcode, const char *payload, size_t n) except -1
    cdef int _pass(self, int side, const char *p, size_t n) except -1
    cdef int _closing_data(self, Ear ear, const char *p, size_t n) except -1
    cdef int _tell(self) except -1
    cdef int _refuse(self, Ear ear, int code) except -1
    cdef int _inspect(self, Ear ear, const uint8_t *p, size_t n) except -1
    cdef int _over(self) except -1
    cdef int _ping(self, Ear ear) except -1
    cdef int _ping_due(self, Ear ear, int64_t now) except -1
    cdef int _arm(self) except -1


cdef int withhold_extensions(Exchange ex) except -1
cdef int begin_watch(Exchange ex, Rules rules, Reactor reactor, Stats stats, set home, bint draining) except -1
