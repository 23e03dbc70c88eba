"""The hot half of `mirror`: a copy of a request goes to a second service, and nobody waits for it."""
from libc.stdint cimport int64_t, uint64_t

from fastgw._core.exchange cimport Downstream, Exchange, Hook
from fastgw._core.pool cimport Service
from fastgw._core.reactor cimport Handler
from fastgw._core.respond cimport Relay
from fastgw._core.retry cimport Retry


cdef class Mirror


cdef class Tally:
    """Copies of one policy under way in this worker, over plans."""
    cdef readonly int in_flight


cdef class Answer:
    """An answer, as far as it is compared."""
    cdef int status
    cdef int grpc                         # grpc-status, -1: none
    cdef bytes lines                      # None: there was no answer
    cdef bytearray body
    cdef bint whole                       # body is all of it
    cdef int take(self, Exchange ex) except -1
    cdef int add(self, const char *p, size_t n, int64_t limit) except -1


cdef class Shadow(Downstream):
    """One copy. Of the live exchange it gets the request's body as that passes, of its own the answer."""
    cdef Mirror home
    cdef Relay relay
    cdef Service service
    cdef Exchange ex                      # its own; None when it is over
    cdef bint copying                     # the request's body is on its way,
    cdef bint complete                    # or has come just now
    cdef int64_t drained                  # bytes of its answer
    cdef Answer live, own                   # None where nothing is compared
    cdef bint live_over
    cdef str route
    cdef object what                      # method, path and id of the request, for examples
    cdef int copied(self, Exchange ex, const char *p, size_t n) except -1
    cdef int drop(self, int word) except -1
    cdef int launch(self) except -1
    cdef int compare(self) except -1


cdef class Launch(Handler):
    cdef Mirror home


cdef class Mirror(Hook):
    cdef str service
    cdef uint64_t share
    cdef int64_t timeout, max_body, compare_body
    cdef int max_in_flight
    cdef Tally tally
    cdef tuple removed                    # names in lower case
    cdef tuple added                      # (name, value)
    cdef object compare                   # see policies/_mirror.py; None: answers are not compared
    cdef Retry once                       # a copy is not sent again
    cdef dict routes                      # index of a route → the copy's Route
    cdef dict live                        # exchange → Shadow, while something of it is still wanted
    cdef list ready
    cdef Launch launcher
    cdef bint wanted(self, Exchange ex, Service service, Relay relay) except -1
    cdef Shadow begin(self, Exchange ex, Service service, Relay relay)
    cdef int run_ready(self) except -1
