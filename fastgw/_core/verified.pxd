"""Verified tokens, remembered until they expire."""
from libc.stdint cimport int64_t, uint32_t

from fastgw._core.exchange cimport Consumer, Exchange
from fastgw._core.policy cimport PythonHook


cdef class Verified:
    cdef readonly Consumer consumer
    cdef readonly dict claims
    cdef readonly bytes lines         # ready identity header lines
    cdef readonly int64_t until       # ns since the epoch, 0 = for ever
    cdef readonly int64_t since       # likewise, 0 = always
    cdef readonly object refusal      # Problem: the token is good, and not enough for this route
    cdef readonly object key          # whose signature it has; compared by identity
    cdef public int64_t recheck       # ns since the epoch: from then on `verify` is asked again, 0 = never


cdef class TokenCache:
    cdef dict young, old
    cdef int half
    cdef Verified find(self, bytes token, int64_t now)
    cdef int keep(self, bytes token, Verified verified) except -1


cdef class TokenAuth(PythonHook):
    cdef object verify
    cdef readonly TokenCache cache
    cdef uint32_t max_size
    cdef bytes user, scopes, cookie, query
    cdef bint header, forward
    cdef tuple excluded
    cdef bytes _token(self, Exchange ex)
    cdef bytes _from_header(self, Exchange ex)
    cdef int _settle(self, Exchange ex, Verified found) except -1
    cdef int _hide(self, Exchange ex) except -1
    cdef object _refusal(self, str code, str detail)
