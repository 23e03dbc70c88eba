"""sliding_log: each request that still counts has an entry of its own."""
from libc.stdint cimport int64_t, uint64_t

from fastgw._core.bucket cimport BucketTable, Level

cdef int log_step(BucketTable table, int64_t requests, int64_t per, uint64_t key, int64_t cost, int64_t now, bint taking,
                  bint forced, Level *level) noexcept nogil
cdef void log_undo(BucketTable table, int64_t requests, int64_t per, uint64_t key, int64_t cost,
                   const Level *level) noexcept nogil
cdef bint log_forget(BucketTable table, int64_t requests, uint64_t key) noexcept nogil
