"""Runs of blocks: a buddy allocator over the data of the cache. The caller holds the lock."""
from libc.stdint cimport uint32_t, uint64_t

from fastgw._core.cache_layout cimport Memory

cdef uint32_t run_take(Memory *m, int order) noexcept nogil              # 0: there is none so long
cdef uint32_t run_take_upto(Memory *m, int order) noexcept nogil         # the longest there is, up to that
cdef void run_release(Memory *m, uint32_t run) noexcept nogil
cdef uint32_t run_trim(Memory *m, uint32_t run, uint32_t used) noexcept nogil
cdef uint32_t chain_release(Memory *m, uint32_t first) noexcept nogil
cdef void range_release(Memory *m, uint32_t begin, uint32_t end) noexcept nogil
cdef int order_for(uint64_t size) noexcept nogil
