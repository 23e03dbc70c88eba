"""Stage `route`: from the head of a request to the first hook of its route."""
from fastgw._core.exchange cimport Driver, Exchange
from fastgw._core.plan cimport Plan
from fastgw._core.reactor cimport Reactor


cdef class Arrivals(Driver):
    cdef Reactor reactor
    cdef public Plan plan                 # the current one
    cdef readonly int active
    # the other half of the way, which is respond.Relay's
    cdef int hooks(self, Exchange ex) except -1       # the request hooks, from ex.at on
    cdef int answer(self, Exchange ex) except -1      # ex.response is to be the answer
    cdef int reply(self, Exchange ex) except -1       # a hook answered in the place of the upstream
    cdef int started(self, Exchange ex) except -1
    cdef int understand(self, Exchange ex) except -1  # 1: it is answered already
    cdef int _route(self, Exchange ex) except -1
    cdef int _upgrade(self, Exchange ex) except -1
    cdef int _slash(self, Exchange ex) except -1
    cdef int _preflight(self, Exchange ex) except -1
