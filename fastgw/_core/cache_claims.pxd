"""Who fetches what: the host's part of single flight. The caller holds the lock, but for `claim_find`."""
from libc.stdint cimport int64_t, uint64_t

from fastgw._core.cache_layout cimport Memory

cdef int claim_find(Memory *m, uint64_t hi, uint64_t lo, int64_t now) noexcept nogil
cdef int claim_put(Memory *m, uint64_t hi, uint64_t lo, int64_t until, int process, uint64_t *serial) noexcept nogil
cdef void claim_end(Memory *m, int cell, uint64_t serial) noexcept nogil
