"""Consistent hashing with points on a ring."""
from libc.stdint cimport uint32_t

from fastgw._core.hashing cimport Hashing

ctypedef struct Point:
    uint32_t at                           # the upper half of its hash
    uint32_t owner                        # the index of a member


cdef class Ring(Hashing):
    cdef readonly uint32_t count          # points
    cdef uint32_t *many                   # of each member
    cdef Point *points                    # in their order
    cdef uint32_t *start                  # of each bucket: its first point; one more at the end
    cdef uint32_t buckets                 # a power of two
    cdef int shift                        # from a hash to its bucket
    cdef int phase
    cdef uint32_t i, k                    # where filling is: a member and its next point, or a bucket
    cdef int _points(self, int looks) noexcept
    cdef int _buckets(self, int looks) noexcept
    cdef void _sort(self, uint32_t bucket) noexcept
