"""How important a request is, and whose it is."""
from libc.stdint cimport uint64_t

from fastgw._core.cidr cimport CidrTable
from fastgw._core.exchange cimport Exchange
from fastgw._core.template cimport Compiled


cdef class Rule:
    cdef object routes, plans, consumers, groups      # frozenset of text, or None
    cdef CidrTable callers                            # or None
    cdef tuple headers                                # pairs of bytes; the name in lower case, the value None for any
    cdef int level                                    # -1: what `words` give
    cdef Compiled words
    cdef bint fits(self, Exchange ex) except -1


cdef class Priorities:
    cdef readonly tuple names
    cdef readonly int default
    cdef tuple rules
    cdef dict levels                                  # by name, as bytes
    cdef dict routes                                  # level by name of a route
    cdef int level_of(self, Exchange ex) except -1


cdef class Tenants:
    cdef Compiled key                                 # None: the client's address
    cdef dict weights                                 # by plan
    cdef readonly bint secret                         # names are not to be shown
    cdef bytes name_of(self, Exchange ex)
    cdef int weight_of(self, Exchange ex) except -1
