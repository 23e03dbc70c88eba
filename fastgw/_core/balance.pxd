"""The load balancer of a service."""
from libc.stdint cimport int64_t, uint64_t

from fastgw._core.breaker cimport Breaker
from fastgw._core.choice cimport Group
from fastgw._core.exchange cimport Exchange, Hook
from fastgw._core.health cimport HealthTable, Outliers
from fastgw._core.pool cimport Balancer, Endpoint, Picker
from fastgw._core.template cimport Compiled


cdef class Load:
    """What the balancers of one service share, those of the plans that live in one worker."""
    cdef object __weakref__
    cdef readonly int64_t in_flight
    cdef bint begun                       # it had endpoints
    cdef dict tables                      # (priority, not our zone) → the last Hashing


cdef class Cookie:
    """How the cookie of a sticky service looks."""
    cdef readonly bytes name
    cdef bytes plain, secure              # what follows the value


cdef class LoadBalancer(Balancer):
    cdef readonly str kind
    cdef Compiled key
    cdef Load load
    cdef Cookie cookie
    cdef bint ring
    cdef double bounded, decay, min_healthy
    cdef int64_t slow_start, next_at      # ns
    cdef bint panic, live
    cdef readonly bint panicking          # all are down, and one is asked all the same
    cdef str zone
    cdef dict labels
    cdef int subset
    cdef uint64_t seed
    cdef str service
    cdef HealthTable health               # None: all are up, as far as is known
    cdef Outliers outliers                # None: requests say nothing about health
    cdef Breaker breaker                  # None: the circuits of endpoints are always closed
    cdef uint64_t *version                # of the service, in the table
    cdef uint64_t seen
    cdef readonly int ejected             # of the endpoints, as last seen
    cdef tuple endpoints                  # those that labels and subset leave
    cdef list weights
    cdef readonly list groups             # Group, in the order of preference
    cdef dict kept                        # (priority, not our zone) → its Group
    cdef int count
    cdef double up_weight
    cdef dict by_id                       # bytes → Endpoint, and back: for cookies
    cdef dict ids
    cdef Group make(self, tuple tier, tuple members, list weights)
    cdef int _look(self, int64_t now) except -1
    cdef int _count(self, Exchange ex, bint error, bint failure, int64_t latency) except -1
    cdef list weigh(self, int64_t now)
    cdef uint64_t point(self, Exchange ex) except? 0
    cdef Group which(self, uint64_t x)
    cdef Endpoint stuck(self, Exchange ex)
    cdef int _ended(self, Exchange ex) except -1
    cdef int _observe(self, Endpoint endpoint, Exchange ex, bint failed) except -1


cdef class StickyCookie(Hook):
    pass
