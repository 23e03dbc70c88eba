"""Shares of a route's requests between services."""
from libc.stdint cimport uint32_t, uint64_t

from fastgw._core.exchange cimport Exchange


cdef class Split:
    cdef readonly tuple services
    cdef readonly tuple weights
    cdef readonly str kind                # "", "header" or "cookie"
    cdef bytes name
    cdef uint64_t total
    cdef int pick(self, Exchange ex) except -1
    cdef int at(self, uint64_t point) noexcept
