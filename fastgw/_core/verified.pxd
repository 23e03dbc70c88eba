"""Verified tokens, remembered until they expire."""
from libc.stdint cimport int64_t, uint32_t

from fastgw._core.exchange cimport Consumer, Exchange, Hook


cdef class Verified:
    cdef readonly Consumer consumer
    cdef readonly dict claims
    cdef readonly bytes lines         # ready identity header lines
    cdef readonly int64_t until       # ns since the epoch, 0 = for ever
    cdef readonly int64_t since       # likewise, 0 = always
    cdef readonly object refusal      # Problem: the token is good, and not enough for this route


cdef class TokenCache:
    cdef dict young, old
    cdef int half
    cdef Verified find(self, bytes token, int64_t now)
    cdef int keep(self, bytes token, Verified verified) except -1


cdef class TokenAuth(Hook):
    cdef object verify
    cdef readonly TokenCache cache
    cdef uint32_t max_size
    cdef bytes user, scopes
    cdef bint forward
    cdef tuple excluded
    cdef bint _is_excluded(self, Exchange ex) noexcept
    cdef int _refuse(self, Exchange ex, str code, str detail) except -1
