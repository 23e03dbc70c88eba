"""What goes on without its client, and may be sent again: requests whose answer a policy keeps."""
from libc.stdint cimport int64_t

from fastgw._core.exchange cimport Downstream, Exchange
from fastgw._core.policy cimport PythonHook


cdef class Enduring(PythonHook):
    cdef int64_t most                           # bytes of an answer that is read for nobody
    cdef bint holds(self, Exchange ex) noexcept          # the answer to it will be kept
    cdef bint may_repeat(self, Exchange ex) noexcept     # whatever its method


cdef class Nobody(Downstream):
    cdef int64_t left


cdef bint keyed(Exchange ex) noexcept                        # may it be sent again, whatever its method
cdef bint outlives(Exchange ex, str code) except -1          # its client left, and it goes on
