"""Consistent hashing: what its two tables, `maglev.pyx` and `ring.pyx`, have in common."""
from libc.stdint cimport uint32_t, uint64_t

from fastgw._core.choice cimport Group
from fastgw._core.exchange cimport Exchange
from fastgw._core.pool cimport Endpoint

cdef enum:
    LOOKS = 30_000           # a slice of filling: about a tenth of a millisecond
    WALK = 64                # places that are looked at for a key whose endpoint cannot be taken

cdef uint64_t mix(uint64_t x) noexcept nogil
cdef uint64_t hash_of(const char *p, size_t n) noexcept nogil
cdef bint may_ask(Endpoint endpoint, Exchange ex, bint panic)


cdef class Hashing(Group):
    cdef readonly bint ready
    cdef uint64_t *ids                    # a member's hash
    cdef Hashing before                   # asked until this one is ready
    cdef bint fill(self, int looks) noexcept             # goes on, for so many looks at most; True: it is full
    cdef int begin(self, Hashing before) except -1
    cdef int finish(self) except -1
    cdef Endpoint at(self, Exchange ex, uint64_t point, bint panic, double bound)
    cdef Endpoint look(self, Exchange ex, uint64_t point, bint panic, double bound)
    cdef Endpoint rendezvous(self, Exchange ex, uint64_t point, bint panic)
