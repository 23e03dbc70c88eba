"""The hot half of `cache`."""
from libc.stdint cimport int64_t

from fastgw._core.cache_directives cimport Directives
from fastgw._core.cache_flight cimport Call
from fastgw._core.cache_head cimport Meta
from fastgw._core.cache_refresh cimport Refresher
from fastgw._core.cache_store cimport Found
from fastgw._core.exchange cimport Exchange


ctypedef struct Asked:           # what a request says of caches, and what it wants
    bint conditional, ranged, told
    Directives said


cdef class Cache


cdef class Purged:
    cdef Cache home
    cdef Exchange ex
    cdef object generation


cdef class Cache(Refresher):
    cdef bint honour                      # what clients say of freshness counts
    cdef object purger                    # (exchange, told) → a Reply or Problem, for PURGE, or None: it is told later;
                                          # None: it is a method like others
    cdef int ask(self, Exchange ex, int how) except -1
    cdef int read(self, Exchange ex, Asked *asked) noexcept
    cdef bint good(self, Asked *asked, Found *found, Meta *meta, int64_t now, int64_t age) noexcept
    cdef int serve(self, Exchange ex, Found *found, Meta *meta, Asked *asked, int64_t now, int result) except -1
    cdef int say_hit(self, Exchange ex, Found *found, int64_t age, int64_t now, int result) except -1
    cdef int bypass(self, Exchange ex, bytes why) except -1
    cdef Call call_of(self, Exchange ex, int what, bytes forward)
    cdef int fetch(self, Exchange ex, Call call, Asked *asked, bint collapse) except -1
    cdef int go_on(self, Exchange ex, Call call) except -1
    cdef int purged(self, Exchange ex, object answer) except -1
    cdef int other_method(self, Exchange ex) except -1
    cdef bint fallback_allowed(self, Exchange ex, Call call, int64_t now) except -1
    cdef int unneeded(self, Exchange ex, Call call) except -1
