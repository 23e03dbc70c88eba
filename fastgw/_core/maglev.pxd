"""Consistent hashing with a lookup table."""
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from fastgw._core.hashing cimport Hashing


cdef class Maglev(Hashing):
    cdef uint32_t size                    # of the table: a prime
    cdef uint16_t *table                  # the index of a member
    cdef uint32_t *place                  # while it is filled: where a member looks next, how far it steps,
    cdef uint32_t *step
    cdef uint64_t *due                    #   and the round of its next turn, times the largest weight
    cdef uint64_t largest
    cdef uint64_t round
    cdef uint32_t filled
    cdef int next
