"""Which answer goes when there is no room: S3-FIFO with frequencies and sizes. The caller holds the lock."""
from libc.stdint cimport int64_t, uint32_t

from fastgw._core.cache_layout cimport Entry, Memory

cdef void queue_in(Memory *m, uint32_t entry, int queue) noexcept nogil
cdef void queue_out(Memory *m, uint32_t entry) noexcept nogil
cdef void queue_new(Memory *m, uint32_t entry) noexcept nogil
cdef uint32_t victim(Memory *m, int64_t now, int *steps) noexcept nogil
cdef void remember(Memory *m, Entry *e) noexcept nogil
