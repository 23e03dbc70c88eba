"""The hot half of `rate_limit`."""
from libc.stdint cimport int64_t, uint8_t, uint64_t

from fastgw._core.algorithms cimport MAX_LIMITS, Limit, Verdict
from fastgw._core.bucket cimport BucketTable, Level
from fastgw._core.cidr cimport CidrTable
from fastgw._core.clock cimport Timed, Timer, Wheel
from fastgw._core.exchange cimport Exchange, Hook
from fastgw._core.headers cimport Head, Header, equals_lower
from fastgw._core.holds cimport HoldTable
from fastgw._core.limit_counts cimport LimitCounts
from fastgw._core.limit_key cimport LimitKey
from fastgw._core.template cimport Compiled

# What a request keeps of its limits until its answer, in its own head (see note.pxd); no more of `limits` than there are.
ctypedef struct KeptLimit:
    int64_t remaining
    int64_t seconds            # until all of it is there again; of the one that refuses, until it can be admitted
    int64_t mark               # of a place that is held (concurrency); -1: none

ctypedef struct Kept:
    uint64_t hash
    int which                  # of RateLimit.sets
    int count
    KeptLimit limits[MAX_LIMITS]


cdef inline bint told_x(Head head, Header *h) noexcept:
    """One of X-RateLimit-Limit, -Remaining and -Reset; its name has 17 or 21 bytes."""
    cdef const char *name = head.buf + h.name
    if not equals_lower(name, b"x-ratelimit-", 12):
        return False
    if h.name_len == 21:
        return equals_lower(name + 12, b"remaining", 9)
    return equals_lower(name + 12, b"limit", 5) or equals_lower(name + 12, b"reset", 5)


cdef class Limits:
    """Limits that are decided together."""
    cdef Limit items[MAX_LIMITS]
    cdef readonly int count
    cdef readonly int number              # in RateLimit.sets
    cdef readonly tuple labels
    cdef readonly tuple rows              # as they were given
    cdef readonly bint held               # one of them is `concurrency`
    cdef readonly bint waits              # one of them is a leaky bucket with a queue
    cdef int64_t most                     # the greatest cost that all of them could admit
    cdef int slots[MAX_LIMITS]            # of LimitCounts
    cdef bytes policy_value
    cdef tuple starts, values


cdef class Case:
    """What a request must be for limits of its own; None: anything."""
    cdef frozenset plans, consumers, groups, methods, routes
    cdef Limits limits
    cdef bint fits(self, Exchange ex) except -1


cdef class Decider:
    """Decides in the place of this host's tables; see limit.pyx."""
    cdef int ask(self, Exchange ex, RateLimit hook, Limits limits, const uint8_t *key, size_t n, int64_t cost,
                 Verdict *verdict) except -1
    cdef int charge(self, Exchange ex, RateLimit hook, Limits limits, int64_t cost) except -1
    cdef int over(self, Exchange ex, RateLimit hook) except -1


cdef class Waiter(Timed):
    cdef Timer timer
    cdef Wheel wheel
    cdef RateLimit home
    cdef Exchange ex
    cdef uint64_t generation


cdef class RateLimit(Hook):
    cdef BucketTable table
    cdef HoldTable holds
    cdef LimitCounts counts
    cdef readonly LimitKey key
    cdef readonly tuple sets              # of Limits: the first is the default, or None
    cdef Limits default
    cdef tuple cases                      # of Case, or None
    cdef CidrTable exempt                 # or None
    cdef frozenset exempt_consumers, exempt_groups
    cdef bint exempts, keeps, open_when_full
    cdef int styles
    cdef object report                    # `mode: log`: called instead of refusing; None: refuse
    cdef int64_t cost
    cdef Compiled cost_template
    cdef bytes response_cost              # the header's name in lower case, or None
    cdef bint strip_cost
    cdef int most_waiting
    cdef dict waiting                     # exchange → Waiter
    cdef readonly Decider decider         # or None: the tables of this host
    cdef dict asked                       # exchange → (generation, Limits, fallbacks, hash), while the decider is asked
    cdef bint _exempt(self, Exchange ex) except -1
    cdef Limits _limits(self, Exchange ex)
    cdef int64_t _cost(self, Exchange ex, Limits limits) except -1
    cdef int conclude(self, Exchange ex, Limits limits, uint64_t hash, int fallbacks, Verdict *verdict) except -1
    cdef int _keep(self, Exchange ex, Limits limits, uint64_t hash, Verdict *verdict) except -1
    cdef bint _kept(self, Exchange ex, Kept *kept) noexcept
    cdef int _wait(self, Exchange ex, int64_t delay) except -1
    cdef int _refuse(self, Exchange ex, Limits limits, int which, int fallbacks, int64_t retry) except -1
    cdef int _late_cost(self, Exchange ex, Kept *kept) except -1
    cdef int _tell(self, Exchange ex, Limits limits, KeptLimit *kept) except -1
    cdef int _tell_x(self, Head head, Limits limits, KeptLimit *kept) except -1
    cdef bint _tighter(self, Head head, int64_t remaining) noexcept
