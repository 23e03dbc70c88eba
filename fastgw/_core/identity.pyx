"""The hot half of `identity`: headers that tell the upstream who calls, and that nobody else may send."""
from libc.string cimport memcmp
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.tuple cimport PyTuple_GET_SIZE

from fastgw._core.exchange cimport CONTINUE, PHASE_REQUEST, Exchange, Hook
from fastgw._core.headers cimport Head
from fastgw._core.template cimport ESCAPE_HEADER, Compiled


cdef bint is_excluded(tuple patterns, Exchange ex) noexcept:
    """Is the path one of these: exact, or `/prefix/*`, which is `/prefix` itself and what follows `/prefix/`?"""
    cdef const char *path = ex.request.buf + ex.path
    cdef size_t n = ex.path_len, m
    cdef bytes pattern
    for pattern in patterns:
        m = PyBytes_GET_SIZE(pattern)
        if m >= 2 and PyBytes_AS_STRING(pattern)[m - 1] == c"*":
            m -= 2
            if n >= m and memcmp(path, PyBytes_AS_STRING(pattern), m) == 0 and (n == m or path[m] == c"/"):
                return True
        elif n == m and memcmp(path, PyBytes_AS_STRING(pattern), m) == 0:
            return True
    return False


cdef class Identity(Hook):
    """`Identity(headers, forbidden)`: pairs of name and template, and names that are only removed.

    What the client sent under these names goes, whoever he is; a template that comes to nothing gives no header.
    """

    def __init__(self, headers, forbidden):
        given = list(headers)
        self.name = "identity"
        self.phases = PHASE_REQUEST
        self.names = tuple([name for name, _ in given])
        self.values = tuple([value for _, value in given])
        self.lower = tuple([name.lower() for name in (*self.names, *forbidden)])

    cdef int request(self, Exchange ex) except -1:
        cdef Head head = ex.request
        cdef Compiled value
        cdef bytes name
        cdef int i
        for i in range(PyTuple_GET_SIZE(self.names)):
            value = <Compiled>self.values[i]
            value.write(ex, ESCAPE_HEADER)            # before the removal: a template may read what is removed
            name = <bytes>self.lower[i]
            head.remove_name(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
            if value.len:
                name = <bytes>self.names[i]
                head.append(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name), value.out, value.len)
        for i in range(PyTuple_GET_SIZE(self.names), PyTuple_GET_SIZE(self.lower)):
            name = <bytes>self.lower[i]
            head.remove_name(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        return CONTINUE
