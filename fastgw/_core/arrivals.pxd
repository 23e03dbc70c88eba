"""Who may open connections, and how fast: rates and bans of peers' addresses, before anything of theirs is read."""
from libc.stdint cimport int64_t, uint8_t, uint64_t

from fastgw._core.bans cimport BanTable
from fastgw._core.bucket cimport BucketTable

cdef enum Arrival:
    LET_IN = 0
    TOO_FAST
    KEPT_OUT


cdef class Arrivals:
    cdef BucketTable counts
    cdef BanTable bans
    cdef int64_t every, burst                     # ns for one connection, how many at once; 0: at any rate
    cdef int64_t failure_every, failures          # the same of failures, until a ban; 0: nobody is banned here
    cdef int64_t length                           # of a ban, ns
    cdef int64_t told_at
    cdef int64_t untold
    cdef Arrival judge(self, const uint8_t *address) except *
    cdef int failed(self, const uint8_t *address) except -1
