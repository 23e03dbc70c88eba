"""What upstreams are told of who calls."""
from fastgw._core.exchange cimport Exchange, Hook


cdef class Identity(Hook):
    cdef tuple names, lower, values


cdef bint is_excluded(tuple patterns, Exchange ex) noexcept
