"""Request templates, compiled: literal pieces and variables, written for one exchange into a buffer."""
from libc.stdint cimport uint8_t

from fastgw._core.exchange cimport Consumer, Exchange

cdef enum Variable:
    V_TEXT = 0
    V_ID, V_METHOD, V_PATH, V_HOST, V_HEADER, V_QUERY, V_COOKIE, V_CLIENT, V_ROUTE, V_PARAM
    V_CONSUMER, V_GROUPS, V_PLAN, V_SCOPES, V_CREDENTIAL, V_METADATA, V_CLAIM, V_SERVICE

cdef enum Escape:
    ESCAPE_HEADER = 0        # captures and query values decoded; bytes no header may hold stay encoded
    ESCAPE_URL = 1           # values percent-encoded, so that each stays one piece of a URL

ctypedef struct Part:
    int kind
    const char *text         # literal, or the variable's NAME
    size_t n


cdef class Compiled:
    cdef Part *parts
    cdef int count
    cdef tuple kept          # owns what `parts` points to
    cdef readonly bytes constant       # the text when there is no variable, else None
    cdef char *out
    cdef size_t len, cap
    cdef int write(self, Exchange ex, int escape) except -1       # fills out, len
    cdef int _part(self, Exchange ex, Part *part, int escape) except -1
    cdef int _consumer(self, Consumer consumer, Part *part, int escape) except -1
    cdef int _capture(self, Exchange ex, object name, int escape) except -1
    cdef int _raw(self, const char *p, size_t n) except -1
    cdef int _value(self, const char *p, size_t n, bint encoded, bint plus, int escape, bint path) except -1
    cdef int _object(self, object value, int escape) except -1

cdef bint find_query(Exchange ex, const char *name, size_t n, const char **value, size_t *length) noexcept
cdef bint find_cookie(Exchange ex, const char *name, size_t n, const char **value, size_t *length) noexcept
cdef size_t decode(const char *p, size_t n, bint plus, uint8_t *out) noexcept nogil
cdef object claim_of(object claims, str name)
