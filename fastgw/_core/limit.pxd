"""The hot half of `rate_limit`."""
from libc.stdint cimport int64_t, uint8_t, uint64_t

from fastgw._core.bucket cimport BucketTable
from fastgw._core.exchange cimport Exchange, Hook
from fastgw._core.headers cimport Head

cdef enum:
    MAX_PARTS = 8


cdef class RateLimit(Hook):
    cdef BucketTable table
    cdef uint64_t identity
    cdef int64_t interval, burst
    cdef int kinds[MAX_PARTS]
    cdef int parts
    cdef tuple names, lower
    cdef readonly str label
    cdef bint headers, open_when_full
    cdef bytes policy_value, limit_value, ratelimit_start
    cdef size_t _put(self, uint8_t *out, int kind, const char *p, size_t n) noexcept
    cdef size_t _client(self, Exchange ex, uint8_t *out) noexcept
    cdef int _key(self, Exchange ex, uint8_t *out, size_t *length, int *fallbacks) except -1
    cdef size_t _claim(self, Exchange ex, bytes name, uint8_t *out) except? 0
    cdef int _refuse(self, Exchange ex, int fallbacks, int64_t retry) except -1
    cdef bint _tighter(self, Head head, int64_t remaining) noexcept
