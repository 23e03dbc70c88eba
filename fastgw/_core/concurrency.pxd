"""How many requests may be under way at once."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastgw._core.admission cimport Admission, Ticket
from fastgw._core.clock cimport Timed, Timer
from fastgw._core.exchange cimport Exchange
from fastgw._core.fair_queue cimport LEVELS, FairQueue
from fastgw._core.hedge cimport BINS
from fastgw._core.priorities cimport Tenants
from fastgw._core.reactor cimport Handler, Reactor

cdef enum:
    WAITS = 14               # bins of how long they waited

cdef enum Shed:
    FULL = 0                 # there was no room, nor in the queue
    TOO_LATE                 # it waited for too long
    DISPLACED                # its place went to one more important, or of one who has fewer
    DELAYED                  # the queue has been standing for some time
    REASONS


cdef class Gradient:
    """A limit that is learnt from how long answers take."""
    cdef readonly double limit
    cdef readonly double least, most, share, buffer, jitter
    cdef readonly int64_t window, interval
    cdef readonly uint32_t probes
    cdef readonly int64_t ideal           # ns: what an answer takes when next to nothing is under way; 0: not known
    cdef readonly int64_t sampled         # ns: of the last window
    cdef readonly bint probing            # it is being found out, so next to nothing is let through
    cdef double before                    # the limit to go on with afterwards
    cdef uint32_t bins[BINS]
    cdef uint32_t total
    cdef int64_t window_at, probe_at
    cdef int observe(self, int64_t took, int64_t now, int in_flight) except -1
    cdef int64_t _percentile(self) noexcept
    cdef int _probe(self, int64_t now) except -1


cdef class Wake(Handler):
    cdef Concurrency home


cdef class Late(Timed):
    cdef Concurrency home
    cdef Timer timer


cdef class Concurrency(Admission):
    cdef readonly Gradient gradient       # None: `most` holds always
    cdef readonly int most, room
    cdef readonly int64_t patience        # ns that one may wait
    cdef readonly int in_flight
    cdef readonly uint64_t refused
    cdef readonly tuple classes           # their names, those of retries and copies at the end
    cdef readonly Tenants tenants         # None: all are one
    cdef Reactor reactor
    cdef FairQueue queue                  # of (Exchange, Ticket); None without room
    cdef bint shared                      # some classes may have a part of the limit only
    cdef double shares[LEVELS]
    cdef object dropped                   # deque of those to be refused, outside of the call that found that
    cdef Late late                        # while somebody waits
    cdef bint waking
    cdef str retry_after
    cdef uint64_t sheds[LEVELS * REASONS]            # by class, then Shed
    cdef uint64_t waits[LEVELS * WAITS]
    cdef int64_t waited_ns[LEVELS]
    cdef object __weakref__
    cdef int limit_now(self) noexcept
    cdef int bound(self, int level) noexcept
    cdef int level_of(self, Exchange ex) except -1
    cdef int _ask(self, Exchange ex, Ticket ticket, int64_t now) except -1
    cdef int _refuse(self, Ticket ticket, int level, int why) except -1
    cdef int _shed(self, int waiter, int why) except -1
    cdef int _wake(self) except -1
    cdef int _next(self) except -2
    cdef int _waited(self, int level, int64_t took) except -1
    cdef int _refuse_dropped(self) except -1
    cdef int _enter(self, Ticket ticket, int64_t now) except -1
    cdef int _free(self) except -1
    cdef int _arm(self) except -1
    cdef int run_waiting(self) except -1
    cdef int run_late(self) except -1
