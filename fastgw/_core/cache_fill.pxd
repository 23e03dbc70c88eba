"""What comes from the service: kept, refreshed, or a reason to forget."""
from libc.stdint cimport int64_t

from fastgw._core.cache_flight cimport Call, Flights
from fastgw._core.cache_freshness cimport Fate, Rules
from fastgw._core.cache_head cimport Packer
from fastgw._core.cache_key cimport Keys
from fastgw._core.cache_store cimport Times
from fastgw._core.exchange cimport Exchange
from fastgw._core.headers cimport Head

cdef enum:
    ALONE = 16               # bit of Meta.flags: it was stale when it came, so that nobody should wait for the next one


cdef class Filler(Flights):
    cdef Keys keys
    cdef Rules rules
    cdef Packer packer
    cdef bytes label                      # of Cache-Status
    cdef int64_t largest                  # bytes of a body
    cdef int64_t pass_ns                  # how long it is remembered that something is not to be kept; 0: not at all
    cdef tuple tags                       # names of the headers that have tags, in lower case
    cdef bint strip_tags, told            # taken out of the answer; Cache-Status is given
    cdef int status(self, Head head, const char *what, bytes more) except -1
    cdef int keep(self, Exchange ex, Call call) except -1
    cdef int begin(self, Exchange ex, Call call, Fate *fate, int64_t now) except -1
    cdef int mark(self, Exchange ex, Call call, bytes names, int64_t keep_until, int64_t now) except -1
    cdef int hand_over(self, Call call) except -1
    cdef int refuse(self, Exchange ex, Call call, int64_t now) except -1
    cdef int refreshed(self, Exchange ex, Call call) except -1
    cdef int head_seen(self, Exchange ex, Call call) except -1
    cdef int invalidate(self, Exchange ex) except -1
    cdef int _forget(self) except -1
    cdef int _other(self, Exchange ex, const char *name, size_t n) except -1
    cdef list tags_of(self, Head head)
    cdef int tell(self, Exchange ex, Call call) except -1
    cdef int forget(self, Exchange ex, Call call) except -1
    cdef int times(self, Fate *fate, int64_t now, int64_t asked, Times *into) except -1
