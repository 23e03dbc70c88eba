"""Hooks without sockets."""
from fastgw._core.exchange cimport Exchange, Hook


cdef class Probe:
    cdef readonly Exchange exchange
    cdef int load(self, bytes raw, str client_ip, bint secure, str route, dict captures,
                  settings, bint trusted) except -1
