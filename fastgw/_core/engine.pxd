"""The data plane of one worker: a reactor, a relay, listeners and endpoints."""
from fastgw._core.h1 cimport H1Codec
from fastgw._core.reactor cimport Reactor
from fastgw._core.record cimport Stats
from fastgw._core.respond cimport Relay
from fastgw._core.upstream cimport H1Opener


cdef class Engine:
    cdef readonly object loop
    cdef readonly Reactor reactor
    cdef readonly Relay relay
    cdef readonly Stats stats
    cdef readonly H1Opener opener
    cdef readonly H1Codec h1
    cdef readonly dict ports              # listener's name → its TCP port, also when 0 was asked for
    cdef object plans                     # those that still live: the one in force, and others with exchanges
    cdef readonly dict kept               # what outlives a plan, by whoever needs it
    cdef dict listeners                   # id → (Listener, socket)
    cdef int next_listener
    cdef set clients                      # accept.Connection
    cdef set preludes                     # prelude.Prelude: sockets that are no connections yet
    cdef dict per_address
    cdef dict endpoints                   # (service name, url, identity) → pool.Endpoint
    cdef readonly bint closed

    cdef int _leave(self, bint patient, double spread) except -1
