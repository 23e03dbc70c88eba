"""The life of an entry: taken, filled, live, dead, free. The caller holds the lock."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastgw._core.cache_layout cimport Entry, Memory

cdef uint32_t entry_take(Memory *m, int64_t now, int *steps) noexcept nogil
cdef void entry_free(Memory *m, uint32_t entry) noexcept nogil
cdef void dead_in(Memory *m, uint32_t entry) noexcept nogil
cdef void entry_kill(Memory *m, uint32_t entry) noexcept nogil
cdef void entry_resize(Memory *m, Entry *e, uint32_t blocks) noexcept nogil
cdef void index_in(Memory *m, uint32_t entry) noexcept nogil
cdef uint32_t index_find(Memory *m, uint64_t hi, uint64_t lo, const char *name, size_t n) noexcept nogil
cdef void bury(Memory *m, int looks) noexcept nogil
cdef bint make_room(Memory *m, uint32_t blocks, int64_t now, int *steps) noexcept nogil
cdef uint32_t take_run(Memory *m, int order, int least, int64_t now, int *steps) noexcept nogil
cdef uint32_t chain_blocks(Memory *m, uint32_t first, uint32_t *last) noexcept nogil
cdef void process_clear(Memory *m, uint32_t process) noexcept nogil
