"""A kept answer as one client gets it."""
from libc.stdint cimport int64_t, uint64_t

from fastgw._core.cache_conditional cimport RANGES, Range
from fastgw._core.cache_head cimport Meta
from fastgw._core.cache_reader cimport Reader
from fastgw._core.cache_store cimport Found, Storage
from fastgw._core.exchange cimport Exchange

cdef enum:
    COPIED = 65536           # bytes of a body that is copied, where it takes the place of another answer

ctypedef struct Portion:
    int count                # parts of the body that are sent, in this order; 0: none
    Range parts[RANGES]

cdef int shape(Exchange ex, Found *found, Meta *meta, int lines, Portion *portion) except -1
cdef Reader reader(Exchange ex, Storage storage, Found *found, Portion *portion)
cdef int instead(Exchange ex, Storage storage, Found *found, Portion *portion) except -1
