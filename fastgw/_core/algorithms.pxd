"""What a limit's word means, by algorithm, and several limits decided together."""
from libc.stdint cimport int64_t, uint64_t

from fastgw._core.bucket cimport BucketTable, Level, fgw_mix
from fastgw._core.holds cimport HoldTable

cdef enum Algorithm:
    TOKEN_BUCKET = 0
    LEAKY_BUCKET
    FIXED_WINDOW
    SLIDING_WINDOW
    SLIDING_LOG
    CONCURRENCY

cdef enum:
    MAX_LIMITS = 8             # of one request, in one policy
    MAX_LOG = 1000             # requests that a sliding_log keeps of one key
    MAX_HELD = 1_000_000       # requests under way

ctypedef struct Limit:
    int algorithm
    int64_t requests           # so many …
    int64_t per                # … in so many ns
    int64_t interval           # buckets: ns per token
    int64_t capacity           # buckets: tokens, of a leaky one also those that wait; else `requests`
    int64_t burst              # leaky: tokens that need not wait
    int64_t phase              # windows: what is to be added to the clock so that they begin with the wall clock's
    uint64_t salt              # what tells its keys from those of other limits

# What became of a request that several limits were asked about.
ctypedef struct Verdict:
    int outcome                # bucket.Taken
    int which                  # the limit that refuses, or has no room; -1
    int64_t delay_ns           # the longest of them
    Level levels[MAX_LIMITS]

cdef inline uint64_t key_of(const Limit *limit, uint64_t hash) noexcept nogil:
    """What the table knows a key by, for this limit."""
    return fgw_mix(hash ^ limit.salt)


cdef inline void expect(BucketTable table, const Limit *limits, int count, uint64_t hash) noexcept nogil:
    """`decide` will ask for these soon: memory is slow, so it begins to bring them."""
    cdef int i
    for i in range(count):
        table.prefetch(key_of(&limits[i], hash))


cdef int take(BucketTable table, HoldTable holds, const Limit *limit, uint64_t hash, int64_t cost, int64_t now,
              Level *level) noexcept nogil
cdef int peek(BucketTable table, HoldTable holds, const Limit *limit, uint64_t hash, int64_t cost, int64_t now,
              Level *level) noexcept nogil
cdef void undo(BucketTable table, HoldTable holds, const Limit *limit, uint64_t hash, int64_t cost,
               Level *level) noexcept nogil
cdef int charge(BucketTable table, const Limit *limit, uint64_t hash, int64_t cost, int64_t now,
                Level *level) noexcept nogil
cdef bint forget(BucketTable table, const Limit *limit, uint64_t hash) noexcept nogil
cdef int decide(BucketTable table, HoldTable holds, const Limit *limits, int count, uint64_t hash, int64_t cost,
                int64_t now, Verdict *verdict) noexcept nogil
cdef int set_limit(Limit *limit, BucketTable table, str algorithm, int64_t requests, int64_t per, int64_t burst,
                   int64_t queue, int64_t delay, bytes name) except -1


cdef class One:
    cdef BucketTable table
    cdef HoldTable holds
    cdef Limit limit
    cdef object _told(self, int outcome, Level *level)
