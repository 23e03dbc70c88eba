"""The service is asked."""
from fastgw._core.cache_fill cimport Filler
from fastgw._core.cache_flight cimport Call
from fastgw._core.exchange cimport Downstream, Exchange
from fastgw._core.reactor cimport Handler


cdef class Refresher


cdef class Sink(Downstream):
    """Where the answer to a request of the cache's own goes: it is kept, not sent."""
    cdef Refresher home
    cdef Call call


cdef class Launch(Handler):
    cdef Refresher home


cdef class Refresher(Filler):
    cdef list launching                   # exchanges of refreshes, before they are under way
    cdef Launch launch
    cdef int strip(self, Exchange ex, Call call) except -1
    cdef int refresh(self, Exchange ex, Call call) except -1
    cdef int run_launching(self) except -1
    cdef int over(self, Call call, Exchange ex) except -1
