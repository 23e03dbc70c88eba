"""The cache's memory in order again, after somebody died while he changed it."""
from fastgw._core.cache_layout cimport Memory

cdef void recover(Memory *m) noexcept nogil
cdef list audit(Memory *m)
