"""Token buckets in memory that all workers of a host share."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

# What take() answers.
cdef enum Taken:
    TAKEN = 0            # admitted
    EXHAUSTED = 1        # the bucket is empty
    NO_ROOM = 2          # the table has no room for this key

ctypedef struct Level:
    int64_t remaining    # whole tokens left
    int64_t full_ns      # until the bucket is full again
    int64_t retry_ns     # until the next token is there; 0 when admitted
    int64_t now          # the clock reading it was decided at


cdef class BucketTable:
    cdef object _owner               # keeps the memory alive
    cdef uint8_t *_base
    cdef uint64_t _mask
    cdef uint64_t _seed0, _seed1
    cdef readonly uint64_t groups
    cdef readonly uint64_t capacity  # slots
    cdef uint64_t hash(self, const char *p, size_t n) noexcept nogil
    cdef int take(self, uint64_t key, int64_t now, int64_t interval, int64_t burst, Level *level) noexcept nogil
