"""The time a service has left, told to it with each attempt."""
from fastgw._core.exchange cimport Hook
from fastgw._core.reactor cimport Reactor


cdef class RemainingTime(Hook):
    cdef Reactor reactor
    cdef readonly bytes header
    cdef bytes lower
    cdef readonly bint honour             # the client's own is believed, where it is less
    cdef readonly frozenset services      # names of those that are told; None: all of the route
