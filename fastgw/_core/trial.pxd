"""Two plans at once: a share of the clients is served by the one that is tried."""
from libc.stdint cimport int64_t, uint64_t

from fastgw._core.exchange cimport Exchange
from fastgw._core.plan cimport Plan

# Words of one plan's block: four counters, then the histogram.
cdef enum:
    T_REQUESTS
    T_ERRORS                 # 5xx, and failures of the gateway or the service after the head
    T_REFUSED                # 4xx
    T_LEFT                   # the client went away
    T_TIMES = 8
    T_BUCKETS = 768
    T_WORDS = T_TIMES + T_BUCKETS


cdef class TrialCounts:
    cdef object memory                    # keeps the buffer alive
    cdef uint64_t *words
    cdef int add(self, int side, Exchange ex) except -1


cdef class Trial:
    cdef readonly Plan old, new
    cdef readonly TrialCounts counts
    cdef readonly str kind                # "", "header" or "cookie"
    cdef bytes name
    cdef uint64_t below, seed
    cdef int64_t since                    # ns: exchanges that began before are not compared
    cdef public object sink               # who hears of each exchange besides: the access log, or None
    cdef Plan choose(self, Exchange ex)
    cdef uint64_t _place(self, Exchange ex) noexcept
