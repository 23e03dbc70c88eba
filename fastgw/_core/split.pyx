"""Shares of a route's requests between services: by chance, or the same one for the same header or cookie."""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memchr, memcmp
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastgw._core.exchange cimport Exchange
from fastgw._core.forwarding cimport random64
from fastgw._core.headers cimport H_COOKIE, Head, Header


cdef uint64_t _point(const char *p, size_t n) noexcept nogil:
    """FNV-1a, mixed: the same value has the same place in every worker and after every restart."""
    cdef uint64_t h = 0xcbf29ce484222325u
    cdef size_t i
    for i in range(n):
        h = (h ^ <unsigned char>p[i]) * 0x100000001b3u
    h ^= h >> 32
    h *= 0x9fb21c651e98df25u
    return h ^ (h >> 28)


cdef class Split:
    """`Split(services, weights, by)`; `by` is "header:NAME", "cookie:NAME" or None."""

    def __init__(self, tuple services, tuple weights, by=None):
        self.services = services
        self.weights = weights
        self.total = sum(weights)
        self.kind, _, name = (by or "").partition(":")
        self.name = name.lower().encode() if self.kind == "header" else name.encode()
        if self.total == 0 or len(services) != len(weights):
            raise ValueError("a split needs a weight for each service, and one above 0")

    cdef int at(self, uint64_t point) noexcept:
        cdef uint64_t seen = 0
        cdef int i
        point %= self.total
        for i in range(len(self.weights)):
            seen += <uint64_t>self.weights[i]
            if point < seen:
                return i
        return 0

    cdef int pick(self, Exchange ex) except -1:
        """The index of a service. Without the header or cookie, by chance."""
        cdef Header *h
        cdef Head head = ex.request
        cdef const char *s
        cdef const char *e
        cdef const char *end
        cdef size_t n = PyBytes_GET_SIZE(self.name)
        if self.kind == "header":
            h = head.find(PyBytes_AS_STRING(self.name), n)
            if h != NULL:
                return self.at(_point(head.buf + h.value, h.value_len))
        elif self.kind == "cookie":
            h = head.find_id(H_COOKIE)
            if h != NULL:
                s = head.buf + h.value
                e = s + h.value_len
                while s < e:
                    while s < e and (s[0] == c" " or s[0] == c";"):
                        s += 1
                    end = <const char*>memchr(s, c";", e - s) if s < e else NULL
                    if end == NULL:
                        end = e
                    if end - s > <Py_ssize_t>n and s[n] == c"=" and memcmp(s, PyBytes_AS_STRING(self.name), n) == 0:
                        return self.at(_point(s + n + 1, end - s - n - 1))
                    s = end + 1
        return self.at(random64())

    def __repr__(self):
        return f"<Split {[(service.name, weight) for service, weight in zip(self.services, self.weights)]}>"
