"""The hot half of `cors`: pre-flights, and what a response says about who may read it (Fetch standard, 3.2)."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcmp

from fastgw._core.exchange cimport CONTINUE, PHASE_REQUEST, PHASE_RESPONSE, REPLIED, Exchange, Hook
from fastgw._core.headers cimport H_ORIGIN, Head, Header, equals_lower, valid_name
from fastgw._core.policy cimport apply_problem

from fastgw._core.exchange import Problem

cdef enum:
    OPTIONS = 6
    MAX_ORIGIN = 300
    MAX_ASKED = 4096


cdef bytes VARY = (b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers, "
                   b"Access-Control-Request-Private-Network")


cdef class OriginPattern:
    """`scheme://host`, `scheme://*.host`, either with `:port` or `:*`. All in lower case."""

    def __init__(self, bytes text):
        scheme, _, rest = text.partition(b"://")
        host, colon, port = rest.rpartition(b":") if rest.rfind(b":") > rest.rfind(b"]") else (rest, b"", b"")
        self.scheme = scheme + b"://"
        self.subdomains = host.startswith(b"*.")
        self.host = host[1:] if self.subdomains else host       # with its dot: ".example.com"
        self.any_port = port == b"*"
        self.port = colon + port

    cdef bint match(self, const char *p, size_t n) noexcept:
        cdef size_t m = PyBytes_GET_SIZE(self.scheme), i, colon
        cdef char c
        if n <= m or memcmp(p, PyBytes_AS_STRING(self.scheme), m) != 0:
            return False
        p += m
        n -= m
        colon = n
        while colon > 0 and c"0" <= p[colon - 1] <= c"9":
            colon -= 1
        if colon > 0 and colon < n and p[colon - 1] == c":":
            colon -= 1
        else:
            colon = n
        # p[:colon] is the host, p[colon:] the port with its colon
        if not self.any_port and (n - colon != <size_t>PyBytes_GET_SIZE(self.port)
                                  or memcmp(p + colon, PyBytes_AS_STRING(self.port), n - colon) != 0):
            return False
        m = PyBytes_GET_SIZE(self.host)
        if not self.subdomains:
            return colon == m and memcmp(p, PyBytes_AS_STRING(self.host), m) == 0
        if colon <= m or memcmp(p + colon - m, PyBytes_AS_STRING(self.host), m) != 0:
            return False
        for i in range(colon - m):
            c = p[i]
            if not (c"a" <= c <= c"z" or c"0" <= c <= c"9" or c == c"-" or c == c"." or c == c"_"):
                return False
        return p[0] != c"."


cdef class Cors(Hook):
    """`Cors(origins, methods, headers, expose, credentials, max_age, private_network)`, lists of bytes; `*` in them
    means all."""

    def __init__(self, origins, methods, headers, expose, bint credentials, int max_age, bint private_network=False):
        self.name = "cors"
        self.preflight = True
        self.phases = PHASE_REQUEST | PHASE_RESPONSE
        self.any_origin = b"*" in origins
        if self.any_origin and credentials:
            raise ValueError("the origin `*` and credentials exclude each other")
        self.exact = frozenset([o for o in origins if b"*" not in o])
        self.first = next(iter(self.exact)) if len(self.exact) == 1 else None
        self.patterns = tuple([OriginPattern(o) for o in origins if b"*" in o and o != b"*"])
        self.credentials = credentials
        self.private_network = private_network
        self.extra = b"Access-Control-Allow-Credentials: true\r\n" if credentials else b""
        ready = self.extra
        if expose:
            self.extra += b"Access-Control-Expose-Headers: " + b", ".join(expose) + b"\r\n"
        self.extra_count = self.extra.count(b"\r\n")
        self.any_method = b"*" in methods
        self.reflect_headers = b"*" in headers
        if not self.any_method:
            ready += b"Access-Control-Allow-Methods: " + b", ".join(methods) + b"\r\n"
        if headers and not self.reflect_headers:
            ready += b"Access-Control-Allow-Headers: " + b", ".join(headers) + b"\r\n"
        self.preflight_lines = ready + b"Access-Control-Max-Age: " + str(max_age).encode() + b"\r\n"

    cdef bint _allowed(self, const char *p, size_t n) except -1:
        cdef OriginPattern pattern
        if self.any_origin:
            return True
        if n > MAX_ORIGIN:
            return False
        if self.first is not None:
            if n == <size_t>PyBytes_GET_SIZE(self.first) and memcmp(p, PyBytes_AS_STRING(self.first), n) == 0:
                return True
        elif self.exact and PyBytes_FromStringAndSize(p, n) in self.exact:
            return True
        for pattern in self.patterns:
            if pattern.match(p, n):
                return True
        return False

    cdef int request(self, Exchange ex) except -1:
        """Fetch 3.2.2: a pre-flight is OPTIONS with Origin and Access-Control-Request-Method."""
        cdef Head head = ex.request
        cdef Header *origin
        cdef Header *method
        if head.method != OPTIONS:
            return CONTINUE
        origin = head.find_id(H_ORIGIN)
        method = head.find(b"access-control-request-method", 29)
        if origin == NULL or method == NULL:
            return CONTINUE
        if not self._allowed(head.buf + origin.value, origin.value_len):
            return apply_problem(ex, Problem(403, "cors_refused", None, headers=(("Vary", "Origin"),)))
        return self._answer(ex, origin, method)

    cdef int _answer(self, Exchange ex, Header *origin, Header *method) except -1:
        cdef Head head = ex.request
        cdef Header *asked
        ex.set_reply(204, b"", None)
        self._origin(ex.response, head.buf + origin.value, origin.value_len)
        if self.any_method and valid_name(head.buf + method.value, method.value_len):
            ex.response.append(b"Access-Control-Allow-Methods", 28, head.buf + method.value, method.value_len)
        if self.reflect_headers:
            # "*" would not cover Authorization, and is no wildcard with credentials: name what was asked for
            asked = head.find(b"access-control-request-headers", 30)
            if asked != NULL and 0 < asked.value_len <= MAX_ASKED:
                ex.response.append(b"Access-Control-Allow-Headers", 28, head.buf + asked.value, asked.value_len)
        if self.private_network:
            # Private Network Access 3.1: only who asks for it is told
            asked = head.find(b"access-control-request-private-network", 38)
            if asked != NULL and asked.value_len == 4 and memcmp(head.buf + asked.value, b"true", 4) == 0:
                ex.response.append(b"Access-Control-Allow-Private-Network", 36, b"true", 4)
        ex.response.append_lines(PyBytes_AS_STRING(self.preflight_lines), PyBytes_GET_SIZE(self.preflight_lines), 0)
        ex.response.append(b"Vary", 4, PyBytes_AS_STRING(VARY), PyBytes_GET_SIZE(VARY))
        return REPLIED

    cdef int _origin(self, Head head, const char *p, size_t n) except -1:
        if self.any_origin:
            return head.append(b"Access-Control-Allow-Origin", 27, b"*", 1)
        return head.append(b"Access-Control-Allow-Origin", 27, p, n)

    cdef int response(self, Exchange ex) except -1:
        cdef Head head = ex.response
        cdef Header *h
        cdef int i
        if ex.request.method == OPTIONS and ex.request.find(b"access-control-request-method", 29) != NULL:
            return CONTINUE                        # a pre-flight: `request` has said everything
        # what an upstream says of CORS would contradict this policy, or double its headers
        for i in range(head.count):
            h = &head.items[i]
            if h.name_len >= 22 and not h.drop and equals_lower(head.buf + h.name, b"access-control-", 15):
                h.drop = 1
                head.dropped += 1
        h = ex.request.find_id(H_ORIGIN)
        if h != NULL and self._allowed(ex.request.buf + h.value, h.value_len):
            self._origin(head, ex.request.buf + h.value, h.value_len)
            if self.extra_count:
                head.append_lines(PyBytes_AS_STRING(self.extra), PyBytes_GET_SIZE(self.extra), self.extra_count)
        if not self.any_origin and not self._varies(head):
            # also without Origin and for others: a cache in between must keep the answers apart
            head.append(b"Vary", 4, b"Origin", 6)
        return CONTINUE

    cdef bint _varies(self, Head head) noexcept:
        """Vary names Origin already, or is `*`."""
        cdef int i
        cdef Header *h
        cdef const char *v
        cdef unsigned int k
        for i in range(head.count):
            h = &head.items[i]
            if h.drop or h.name_len != 4 or not equals_lower(head.buf + h.name, b"vary", 4):
                continue
            v = head.buf + h.value
            if h.value_len == 1 and v[0] == c"*":
                return True
            for k in range(h.value_len):
                if h.value_len - k >= 6 and equals_lower(v + k, b"origin", 6) \
                        and (k == 0 or v[k - 1] == c"," or v[k - 1] == c" ") \
                        and (h.value_len - k == 6 or v[k + 6] == c"," or v[k + 6] == c" "):
                    return True
        return False
