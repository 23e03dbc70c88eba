"""Headers that tell browsers what they must not do with an answer: lines that are made ready once."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastgw._core.exchange cimport CONTINUE, PHASE_RESPONSE, Exchange, Hook
from fastgw._core.headers cimport Head


cdef class SecurityHeaders(Hook):
    """`SecurityHeaders(headers, hsts, removed, replace)`: (name, value) pairs of bytes, the value of
    Strict-Transport-Security or None, names to take off; whether headers of the service are replaced."""

    def __init__(self, headers, bytes hsts, removed, bint replace):
        self.name = "security_headers"
        self.phases = PHASE_RESPONSE
        self.names = tuple([name.lower() for name, _ in headers])
        self.lines = tuple([name + b": " + value + b"\r\n" for name, value in headers])
        self.removed = tuple([name.lower() for name in removed])
        self.hsts = None if hsts is None else b"Strict-Transport-Security: " + hsts + b"\r\n"
        self.replace = replace

    cdef int response(self, Exchange ex) except -1:
        cdef Head head = ex.response
        cdef bytes name
        cdef int i
        for name in self.removed:
            head.remove_name(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        for i in range(len(self.names)):
            self._put(head, <bytes>self.names[i], <bytes>self.lines[i])
        # RFC 6797 7.2: not over plain HTTP, where anybody on the way could have written it
        if self.hsts is not None and ex.secure:
            self._put(head, b"strict-transport-security", self.hsts)
        return CONTINUE

    cdef int _put(self, Head head, bytes name, bytes line) except -1:
        if self.replace:
            head.remove_name(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        elif head.find(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name)) != NULL:
            return 0
        return head.append_lines(PyBytes_AS_STRING(line), PyBytes_GET_SIZE(line), 1)
