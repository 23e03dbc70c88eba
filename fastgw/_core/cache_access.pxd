"""The storage of the cache as Python has it: for the admin API, levels behind the memory, and tests."""
from libc.stdint cimport uint64_t

from fastgw._core.cache_store cimport Fill, Found, Storage


cdef class Hit:
    cdef Storage storage
    cdef Found found


cdef class Filling:
    cdef Storage storage
    cdef Fill fill


cdef class Access:
    cdef readonly Storage storage
    cdef int _lock(self) except -1
    cdef object _slices(self, bytes prefix, bint soft)
    cdef object _note(self, int kind, uint64_t tag, size_t n, bint soft, bint foreign)
    cdef object _tagged(self, int kind, uint64_t tag, bint soft, bint foreign)
