"""Before a connection exists: the PROXY protocol, read from connections of those who may send it."""
from libc.stdint cimport int64_t

from fastgw._core.accept cimport Codec, Gate, Listener, Peer
from fastgw._core.clock cimport Timer
from fastgw._core.reactor cimport Handler
from fastgw._core.settings cimport Settings


cdef class ProxyGate(Gate):
    cdef Settings trusted                 # only for its `is_trusted`
    cdef bint required
    cdef int64_t timeout_ns
    cdef set told                         # reasons that were logged
    cdef int tell(self, Listener listener, str peer, str reason) except -1


cdef class Prelude(Handler):
    """An accepted socket until its header is whole."""
    cdef ProxyGate gate
    cdef Listener listener
    cdef Codec codec
    cdef Peer peer
    cdef Timer timer
    cdef int begin(self, int fd, const Peer *peer) except -1
    cdef int _release(self) except -1             # the descriptor, no longer ours
    cdef int _pass(self) except -1                # on to the listener
    cdef int _fail(self, int counter, str reason) except -1
    cdef int cut(self) except -1
