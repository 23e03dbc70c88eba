"""Connections of `protocol: tcp`: a client's and one to an endpoint, joined."""
from libc.stdint cimport int64_t, uint8_t, uint32_t

from fastgw._core.accept cimport Codec, Connection
from fastgw._core.dial cimport Dialed
from fastgw._core.exchange cimport Exchange
from fastgw._core.pool cimport Service

cdef enum TunnelPhase:
    T_HELLO              # TLS goes on as it is, and what it asks for is not known yet
    T_CONNECTING
    T_OPEN
    T_CLOSING            # what is still to be said to the client goes out
    T_CLOSED


cdef class Tunnels:
    """How many there are of one listener in this worker; it goes on over plans."""
    cdef readonly int open


cdef class TunnelCodec(Codec):
    cdef Service service                  # None: only those with a name
    cdef dict names, wildcards            # DNS name, or what follows `*.` → Service; None: nobody looks
    cdef int64_t hello_ns
    cdef Service find(self, bytes name)
    cdef Tunnels count
    cdef int most                         # 0: no limit of its own
    cdef int64_t idle_ns, total_ns        # total 0: none


cdef class Tunnel(Connection):
    """The client's side."""
    cdef TunnelCodec codec
    cdef Far far                          # None: no endpoint was found yet, or all is over
    cdef Exchange ex                      # for the balancer, the access log and nothing else
    cdef int phase
    cdef bint eof, counted_in
    cdef char *stash                      # what came before the endpoint answered
    cdef uint32_t stash_len, stash_cap
    cdef uint32_t needed                  # bytes before which another look at the ClientHello is no use
    cdef int64_t active_at, total_at      # ns
    cdef int _keep(self, const char *p, size_t n) except -1
    cdef int _hello(self) except -1
    cdef int _refuse(self, str code, uint8_t alert) except -1
    cdef int _dispatch(self, Service service) except -1
    cdef int _attempt(self) except -1
    cdef int attempt_failed(self, str code) except -1
    cdef int opened(self) except -1
    cdef int moved(self) except -1
    cdef int ended(self) except -1
    cdef int far_gone(self) except -1
    cdef int _arm(self) except -1
    cdef int _over(self, str code, bint reset) except -1
    cdef int _settle(self, str code) except -1
    cdef int _gone(self, bint reset) except -1
    cdef int _record(self, str code) except -1


cdef class Far(Dialed):
    """The endpoint's side."""
    cdef Tunnel tunnel
    cdef bint eof
    cdef int begin(self) except -1
    cdef int let_go(self, bint reset) except -1
