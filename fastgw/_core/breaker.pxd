"""Circuit breakers: what fails is not asked for a time."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastgw._core.admission cimport Admission
from fastgw._core.exchange cimport Exchange
from fastgw._core.pool cimport Endpoint

cdef enum:
    SPANS = 10               # parts of the window

ctypedef struct Span:
    uint32_t number          # of the part of time it counts; another one has its place taken
    uint32_t total, failed, slow

ctypedef struct Circuit:
    uint64_t key             # hash of scope, service and name; 0: free
    int64_t touched          # ns, monotonic: when somebody last said that it is used
    uint64_t word            # state, probes let in, probes that were well, epoch; see breaker.pyx
    int64_t until            # ns: when probes are let in, or others in the place of those that did not come back
    int64_t since            # ns: of the last transition
    uint32_t reason          # why it opened last
    uint32_t row             # failures in a row
    uint64_t refused
    uint64_t entered[5]      # transitions, by the state they led to
    Span spans[SPANS]        # four lines of the cache in all


cdef class CircuitTable:
    cdef object memory
    cdef Circuit *circuits
    cdef Py_ssize_t sets
    cdef Circuit* at(self, Py_ssize_t index) noexcept


cdef class BreakerRules:
    cdef readonly uint32_t failures, least         # 0: a row opens nothing
    cdef readonly double error_rate, slow_rate     # 0: they open nothing
    cdef readonly int64_t open_ns, span_ns, slow_ns
    cdef readonly int probes
    cdef char statuses[600]
    cdef uint32_t grpc


cdef class Breaker(Admission):
    cdef CircuitTable table
    cdef BreakerRules rules
    cdef str service
    cdef Py_ssize_t place                          # of `scope: service` and of a route's own, else -1
    cdef dict places                               # of `scope: route`: name → place
    cdef uint64_t *version                         # of `scope: endpoint`: grows when an endpoint is to be looked at
    cdef Py_ssize_t find(self, str scope, str name) except -2
    cdef bint enter(self, Exchange ex, Endpoint endpoint, int64_t now) except -1
    cdef bint shut(self, Endpoint endpoint, int64_t now, int64_t *until) noexcept
    cdef int bad(self, Py_ssize_t place, int64_t mark, int64_t now, bint counted) noexcept
    cdef int64_t good(self, Py_ssize_t place, int64_t mark, int64_t now, bint slow) noexcept
    cdef int64_t _ask(self, Py_ssize_t place, int64_t now) noexcept
    cdef void moved(self) noexcept
    cdef object refused(self, Py_ssize_t place, int64_t now)
    cdef object none_left(self, Endpoint first, int64_t now)       # of `scope: endpoint`: all are open
