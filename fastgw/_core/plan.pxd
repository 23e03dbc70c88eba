"""What a worker serves by: routes, settings and services, made once and never changed."""
from fastgw._core.route cimport Router
from fastgw._core.settings cimport Settings


cdef class Plan:
    cdef readonly Router router
    cdef readonly list routes             # exchange.Route by the index the router knows
    cdef readonly Settings settings
    cdef readonly dict services           # name → pool.Service
    cdef readonly dict error_pages        # code or status text → page
    cdef readonly int generation
    cdef readonly dict codecs             # listener's name → accept.Codec, where it is not plain HTTP
    cdef readonly dict gates              # listener's name → accept.Gate; None for none
    cdef readonly dict public             # path → Route, answered before the router is asked; None for none
    cdef readonly int alive               # exchanges under way on it
    cdef public object priorities         # priorities.Priorities, or None
    cdef public object trial              # trial.Trial that gives some of its exchanges to another plan, or None
    cdef public object strays            # exchange.Route: hooks that hear of requests no route took, or None
    cdef object __weakref__
