"""Purging. The caller holds the lock."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastgw._core.cache_layout cimport Memory

cdef enum Doom:
    SPARED = 0
    DOOMED = 1               # it may not be kept
    STALED = 2               # it may be kept, stale

cdef void purge_note(Memory *m, int kind, uint64_t tag, size_t n, bint soft, bint foreign) noexcept nogil
cdef int doom_of(Memory *m, uint32_t entry, int64_t asked, int64_t own) noexcept nogil
cdef int doom_since(Memory *m, uint32_t entry, int64_t asked, int64_t own, uint64_t number) noexcept nogil
cdef int64_t purge_tagged(Memory *m, uint64_t tag, bint soft, int64_t most) noexcept nogil
cdef int64_t purge_some(Memory *m, const char *prefix, size_t n, bint soft, uint32_t *at, uint32_t most) noexcept nogil
