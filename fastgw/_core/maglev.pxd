"""Consistent hashing with a lookup table."""
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

from fastgw._core.choice cimport Group
from fastgw._core.exchange cimport Exchange
from fastgw._core.pool cimport Endpoint

cdef uint64_t mix(uint64_t x) noexcept nogil
cdef uint64_t hash_of(const char *p, size_t n) noexcept nogil


cdef class Ring(Group):
    cdef readonly bint ready
    cdef uint32_t size                    # of the table: a prime
    cdef uint16_t *table                  # the index of a member
    cdef uint64_t *ids                    # a member's hash
    cdef uint32_t *place                  # while it is filled: where a member looks next, how far it steps,
    cdef uint32_t *step
    cdef uint64_t *due                    #   and the round of its next turn, times the largest weight
    cdef uint64_t largest
    cdef uint64_t round
    cdef uint32_t filled
    cdef int next
    cdef Ring before                      # asked until this one is ready
    cdef bint fill(self, int looks) noexcept
    cdef int begin(self, Ring before) except -1
    cdef int finish(self) except -1
    cdef Endpoint at(self, Exchange ex, uint64_t point, bint panic, double bound)
    cdef Endpoint rendezvous(self, Exchange ex, uint64_t point, bint panic)
