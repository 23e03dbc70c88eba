"""Whether a request that changes something comes from a page of another site.

The rules are those of Go's http.CrossOriginProtection: browsers say where a request comes from by Sec-Fetch-Site (all
since 2023) and before that by Origin; what sends neither is no browser, and has no user's cookies to misuse. Beyond it,
handshakes of WebSockets are looked at too: browsers let every page open one, with the user's cookies.
"""
from libc.string cimport memcmp
from cpython.bytes cimport PyBytes_FromStringAndSize

from fastgw._core.cors cimport OriginPattern
from fastgw._core.exchange cimport CONTINUE, PHASE_REQUEST, Exchange, Hook
from fastgw._core.headers cimport H_ORIGIN, Head, Header, equals_lower, method_id
from fastgw._core.policy cimport apply_problem

from fastgw._core.exchange import Problem

cdef enum:
    MAX_ORIGIN = 300

cdef int GET = method_id(b"GET", 3), HEAD = method_id(b"HEAD", 4), OPTIONS = method_id(b"OPTIONS", 7)


cdef bint same_host(const char *origin, size_t n, const char *host, size_t m) noexcept:
    """`scheme://host:port` and the Host of the request name the same authority, in any case of letters."""
    cdef size_t i = 0
    cdef char a, b
    while i + 2 < n and not (origin[i] == c":" and origin[i + 1] == c"/" and origin[i + 2] == c"/"):
        i += 1
    i += 3
    if i >= n or n - i != m:
        return False
    origin += i
    for i in range(m):
        a, b = origin[i], host[i]
        if c"A" <= a <= c"Z":
            a += 32
        if c"A" <= b <= c"Z":
            b += 32
        if a != b:
            return False
    return True


cdef class Csrf(Hook):
    """`Csrf(trusted origins, sockets, report)`: with a `report` (called with exchange and reason) nobody is refused."""

    def __init__(self, trusted, bint sockets, report=None):
        self.name = "csrf"
        self.phases = PHASE_REQUEST
        self.trusted = frozenset([origin for origin in trusted if b"*" not in origin])
        self.patterns = tuple([OriginPattern(origin) for origin in trusted if b"*" in origin])
        self.sockets = sockets
        self.report = report

    cdef int request(self, Exchange ex) except -1:
        cdef Head head = ex.request
        cdef Header *site
        cdef Header *origin
        cdef const char *v
        if ex.upgrading or ex.extended:
            if not self.sockets:
                return CONTINUE
        elif head.method == GET or head.method == HEAD or head.method == OPTIONS:
            return CONTINUE
        origin = head.find_id(H_ORIGIN)
        site = head.find(b"sec-fetch-site", 14)
        if head.count_of(b"sec-fetch-site", 14) > 1 or head.count_of(b"origin", 6) > 1:
            return self._cross(ex, "Origin or Sec-Fetch-Site came twice")
        if site != NULL and site.value_len:
            v = head.buf + site.value
            if (site.value_len == 11 and memcmp(v, b"same-origin", 11) == 0) \
                    or (site.value_len == 4 and memcmp(v, b"none", 4) == 0):
                return CONTINUE
            return CONTINUE if self._is_trusted(head, origin) else self._cross(ex, "by Sec-Fetch-Site")
        if origin == NULL or origin.value_len == 0:
            return CONTINUE
        if same_host(head.buf + origin.value, origin.value_len, head.buf + ex.authority, ex.authority_len):
            return CONTINUE
        return CONTINUE if self._is_trusted(head, origin) else self._cross(ex, "by Origin")

    cdef bint _is_trusted(self, Head head, Header *origin) except -1:
        cdef OriginPattern pattern
        if origin == NULL or not 0 < origin.value_len <= MAX_ORIGIN:
            return False
        if self.trusted and PyBytes_FromStringAndSize(head.buf + origin.value, origin.value_len) in self.trusted:
            return True
        for pattern in self.patterns:
            if pattern.match(head.buf + origin.value, origin.value_len):
                return True
        return False

    cdef int _cross(self, Exchange ex, str how) except -1:
        if self.report is not None:
            self.report(ex, how)
            return CONTINUE
        return apply_problem(ex, Problem(403, "cross_site"))
