"""Whose requests are counted together: the key of a request."""
from libc.stdint cimport int64_t, uint8_t, uint64_t

from fastgw._core.bucket cimport BucketTable
from fastgw._core.exchange cimport Exchange

cdef enum:
    MAX_PARTS = 8
    KEY_SPACE = 2048


cdef class LimitKey:
    cdef BucketTable table
    cdef int kinds[MAX_PARTS]
    cdef readonly int parts
    cdef tuple names, lower
    cdef size_t _put(self, uint8_t *out, int kind, const char *p, size_t n) noexcept
    cdef size_t _client(self, Exchange ex, uint8_t *out) noexcept
    cdef size_t _claim(self, Exchange ex, bytes name, uint8_t *out) except? 0
    cdef int write(self, Exchange ex, uint8_t *out, size_t *length, int *fallbacks) except -1
