"""What was stored, for who follows it. The caller holds the lock."""
from libc.stdint cimport uint32_t

from fastgw._core.cache_layout cimport Memory

cdef void news_note(Memory *m, uint32_t entry, bint promoted) noexcept nogil
