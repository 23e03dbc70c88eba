"""How often things are used, in memory that all processes of one gateway share."""
from libc.stdint cimport uint32_t, uint64_t

ctypedef struct Use:
    uint64_t name            # 64 bits of a digest; 0: free
    uint64_t count
    uint64_t last            # seconds since 1970
    uint64_t spare


cdef class UsageTable:
    cdef object memory
    cdef Py_buffer view
    cdef bint held
    cdef Use *uses
    cdef uint32_t mask
    cdef uint32_t slot(self, uint64_t name) noexcept nogil
    cdef void used(self, uint32_t slot) noexcept nogil
