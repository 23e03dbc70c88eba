"""Sets of address ranges: the longest prefix that holds an address says what is to become of it."""
from libc.stdint cimport uint8_t, uint32_t

from fastgw._core.exchange cimport Exchange, Hook


cdef extern from *:
    ctypedef unsigned long long u128 "unsigned __int128"

# What a range is for. Of the same range with two words, the larger one counts.
cpdef enum Listed:
    NOWHERE = 0
    ALLOWED = 1
    DENIED = 2


cdef class CidrTable:
    cdef uint32_t *starts4               # where each range begins, ascending; the first is 0
    cdef u128 *starts6
    cdef uint8_t *words4                 # Listed, of the range that begins there
    cdef uint8_t *words6
    cdef uint32_t count4, count6
    cdef readonly int entries
    cdef int find(self, const uint8_t *address) noexcept nogil


cdef class IpFilter(Hook):
    cdef CidrTable table
    cdef object keep                     # what brings new ranges to the table
    cdef bint closed                     # who is in no list is refused
    cdef object report                   # called instead of refusing; None: refuse
