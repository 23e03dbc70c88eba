"""Tag → entries. The caller holds the lock."""
from libc.stdint cimport uint32_t, uint64_t

from fastgw._core.cache_layout cimport Memory

cdef uint64_t tag_hash(Memory *m, const char *p, size_t n) noexcept nogil
cdef uint64_t own_tag(Memory *m, const char *name, size_t n) noexcept nogil
cdef bint tags_put(Memory *m, uint32_t entry, uint64_t own, const uint64_t *tags, uint32_t n) noexcept nogil
cdef void tags_link(Memory *m, uint32_t entry) noexcept nogil
cdef void tags_unlink(Memory *m, uint32_t entry) noexcept nogil
cdef void tags_free(Memory *m, uint32_t entry) noexcept nogil
cdef bint tags_have(Memory *m, uint32_t entry, uint64_t tag) noexcept nogil
cdef uint32_t tagged(Memory *m, uint64_t tag, uint32_t after) noexcept nogil
