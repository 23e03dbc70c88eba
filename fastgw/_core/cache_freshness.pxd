"""May an answer be kept, and how long is it fresh?"""
from libc.stdint cimport int64_t, uint32_t

from fastgw._core.cache_directives cimport Directives
from fastgw._core.headers cimport Head

cdef enum Refused:
    KEPT = 0
    W_STATUS                 # why an answer is not kept, as WHY in the .pyx has it
    W_NO_STORE
    W_PRIVATE
    W_IDENTITY
    W_COOKIE
    W_VARY
    W_TYPE
    W_SIZE
    W_FRESHNESS
    W_OWN

cdef enum Cookies:
    COOKIES_REFUSE = 0
    COOKIES_STRIP
    COOKIES_STORE

# What holds for a kept answer; bits of Meta.flags.
cdef enum Flag:
    F_STRICT = 1             # may not be used stale, whatever happens
    F_ALWAYS = 2             # is to be revalidated each time
    F_WEAK_ETAG = 4
    F_PERSONAL = 8           # of one identity

ctypedef struct Fate:
    int why                  # Refused
    int64_t lifetime, age    # seconds
    int64_t while_revalidate, if_error, keep      # seconds after it is no longer fresh
    uint32_t flags
    bint explicit            # the service, or the operator, gave a lifetime
    Directives said


cdef class Rules:
    cdef double heuristic                 # share of the age of Last-Modified; 0 = off
    cdef int64_t heuristic_max            # seconds, as all below
    cdef int64_t ttls[600]                # by status, for answers that say nothing; -1 = none
    cdef bint override                    # `ttls` hold whatever they say
    cdef int64_t while_revalidate, if_error, keep
    cdef int cookies                      # Cookies
    cdef tuple targets                    # fields that go before Cache-Control, in lower case
    cdef tuple types                      # Content-Types in lower case, "text/" for all of them; () = any
    cdef bint personal                    # the key has the identity
    cdef int judge(self, Head head, bint identified, int64_t now, int64_t delay, Fate *fate) except -1
    cdef bint _typed(self, Head head) except -1
    cdef bint _targeted(self, Head head, Directives *d) except -1


cdef int64_t current_age(int64_t initial, int64_t stored_ns, int64_t now_ns) noexcept nogil      # seconds
cdef int64_t plus_seconds(int64_t ns, int64_t seconds) noexcept nogil                            # saturates
