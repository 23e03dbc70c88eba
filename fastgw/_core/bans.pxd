"""Addresses that may not come in for some time, in memory that all processes of one gateway share."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from fastgw._core.bucket cimport BucketTable
from fastgw._core.exchange cimport Exchange, Hook

ctypedef struct Ban:
    int64_t until                        # ns, monotonic; the word that makes the others valid
    uint8_t address[16]                  # IPv4 mapped, or the first 8 bytes of an IPv6 address
    uint32_t status                      # that brought it about
    uint32_t spare


cdef class BanTable:
    cdef object memory
    cdef Ban *slots
    cdef uint64_t sets
    cdef Ban* set_of(self, BucketTable hashing, const uint8_t *address) noexcept
    cdef int64_t until(self, BucketTable hashing, const uint8_t *address, int64_t now) noexcept
    cdef bint put(self, BucketTable hashing, const uint8_t *address, int64_t now, int64_t until, int status) noexcept


cdef class BanHook(Hook):
    cdef BanTable table
    cdef BucketTable counts
    cdef uint64_t identity
    cdef int64_t interval, burst, length
    cdef uint8_t counted[200]            # by status - 400
    cdef frozenset codes
    cdef object exempt                   # cidr.CidrTable, or None
    cdef object report
    cdef bint enforce
    cdef bint _exempt(self, Exchange ex) noexcept


cdef class MemoryHook(Hook):
    cdef object sample                   # → is there too little?
    cdef int64_t every, next
    cdef bint short
    cdef object report
    cdef str retry_after


cdef void who(const uint8_t *address, uint8_t *out) noexcept nogil
