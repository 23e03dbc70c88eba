"""What was stored and purged in the memory of the cache, for the level on disk."""
from fastgw._core.cache_access cimport Hit
from fastgw._core.cache_store cimport Storage


cdef class Copy(Hit):
    cdef readonly bytes name
    cdef readonly bytes tags


cdef class Feed:
    cdef readonly Storage storage
    cdef int _lock(self) except -1


cdef class Recall:
    cdef readonly Storage storage
