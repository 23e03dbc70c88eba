"""The request target, normalised once, before routing."""
from libc.stdint cimport uint32_t

from fastgw._core.headers cimport Head

cdef enum:
    MODE_NORMALIZE = 0
    MODE_STRICT = 1
    MODE_RAW = 2

# Offsets are into head.buf. Negative: the target is refused.
cdef int normalize(Head head, int mode, bint merge_slashes, uint32_t *path, uint32_t *path_len, uint32_t *query,
                   uint32_t *query_len, bint *has_query, uint32_t *authority, uint32_t *authority_len) except -2
