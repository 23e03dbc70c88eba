"""Stage `respond`: moves exchanges through their hooks, to the upstream and back."""
from libc.stdint cimport int64_t

from fastgw._core.arrive cimport Arrivals
from fastgw._core.exchange cimport Exchange
from fastgw._core.record cimport Stats


cdef class Relay(Arrivals):
    cdef Stats stats
    cdef list spare                       # exchanges to use again
    cdef public object access_log         # callable(exchange) or None
    cdef public dict services             # of the current plan, for subrequests
    cdef public bint draining
    cdef public bint patient              # draining, but a kept connection may have one more request
    cdef set sockets                      # ws.Watch of each open WebSocket
    cdef Exchange take(self)
    cdef int give(self, Exchange ex) except -1
    cdef int _dispatch(self, Exchange ex) except -1
    cdef int dispatch(self, Exchange ex) except -1
    cdef int _checkout(self, Exchange ex, bint fresh) except -1
    cdef int _admit(self, Exchange ex, int verdict) except -1
    cdef int _pick(self, Exchange ex) except -1
    cdef int _send(self, Exchange ex) except -1
    cdef int _discard(self, Exchange ex) except -1
    cdef int _again(self, Exchange ex) except -1
    cdef int _pass(self, Exchange ex, const char *p, size_t n, bint end) except -1
    cdef int _send_parts(self, Exchange ex) except -1
    cdef int _end(self, Exchange ex) except -1
    cdef int _finish(self, Exchange ex) except -1
    cdef int _record(self, Exchange ex) except -1
    cdef int _collect_request(self, Exchange ex, int64_t limit) except -1
    cdef int _collect_whole(self, Exchange ex) except -1
    cdef int _end_by(self, Exchange ex, object problem) except -1
    cdef int _continue_100(self, Exchange ex) except -1
    cdef int _answer_on(self, Exchange ex) except -1
    cdef int _filter_request(self, Exchange ex, bytes chunk, bint end) except -1
    cdef int _send_whole(self, Exchange ex) except -1
