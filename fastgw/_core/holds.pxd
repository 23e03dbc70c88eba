"""How many requests of a key are under way, in memory that all workers of a host share."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from fastgw._core.bucket cimport Level


cdef class HoldTable:
    cdef object _owner
    cdef uint8_t *_base
    cdef uint64_t _mask
    cdef uint64_t _group             # bytes of one
    cdef uint32_t *_used             # a bit for each group that has, or had, a key
    cdef readonly int me             # the worker whose requests these are
    cdef readonly int workers
    cdef readonly uint64_t groups
    cdef int take(self, uint64_t key, int64_t limit, int64_t now, bint taking, Level *level) noexcept nogil
    cdef void give(self, int64_t mark) noexcept nogil
    cdef int64_t _sum(self, uint32_t *counts) noexcept nogil
    cdef int _find(self, uint8_t *group, uint64_t key) noexcept nogil
    cdef int _insert(self, uint8_t *group, uint64_t number, uint64_t key) noexcept nogil
