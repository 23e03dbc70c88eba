"""What of a request's target goes to the upstream: a prefix less, a prefix more, or a template with captures.

The result is stored in the request's own buffer (`out_target`). A capture in a path stays as it was matched; in a
query everything but unreserved characters is encoded, so that `1&admin=1` stays one value.
"""
from libc.stdint cimport uint32_t
from libc.string cimport memcmp, memcpy
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastgw._core.exchange cimport Exchange
from fastgw._core.headers cimport Head


cdef class Rewrite:
    """`Rewrite(strip, add)` or `Rewrite(path=…, query=…)`; parts are bytes or capture indexes."""

    def __init__(self, bytes strip=b"", bytes add=b"", tuple path=None, tuple query=()):
        self.strip = strip
        self.add = add
        self.template = path is not None
        self.path_parts = path or ()
        self.query_parts = query
        self.has_query = bool(query)

    cdef int apply(self, Exchange ex) except -1:
        cdef Head head = ex.request
        cdef uint32_t start = ex.path, n = ex.path_len, strip = PyBytes_GET_SIZE(self.strip)
        cdef uint32_t add = PyBytes_GET_SIZE(self.add), need
        cdef char *o
        cdef char *begin
        if self.template:
            return self._template(ex)
        if strip and n >= strip and memcmp(head.buf + start, PyBytes_AS_STRING(self.strip), strip) == 0 \
                and (n == strip or head.buf[start + strip] == c"/"):
            start += strip
            n -= strip
        head.reserve(add + n + ex.query_len + 4)
        begin = o = head.buf + head.len
        memcpy(o, PyBytes_AS_STRING(self.add), add)
        o += add
        if n == 0 and add == 0 or n and head.buf[start] != c"/":
            o[0] = c"/"
            o += 1
        memcpy(o, head.buf + start, n)
        o += n
        if ex.has_query:
            o[0] = c"?"
            memcpy(o + 1, head.buf + ex.query, ex.query_len)
            o += 1 + ex.query_len
        ex.out_target = head.len
        ex.out_target_len = o - begin
        head.len += o - begin
        return 0

    cdef int _template(self, Exchange ex) except -1:
        cdef Head head = ex.request
        cdef uint32_t need = ex.query_len + 4, i
        cdef char *o
        cdef char *begin
        cdef const char *p
        cdef int index
        for part in self.path_parts + self.query_parts:
            if isinstance(part, bytes):
                need += PyBytes_GET_SIZE(part)
            elif <int>part < ex.n_captures:
                need += 3 * ex.captures[<int>part].len
        head.reserve(need)
        begin = o = head.buf + head.len
        for part in self.path_parts:
            if isinstance(part, bytes):
                memcpy(o, PyBytes_AS_STRING(part), PyBytes_GET_SIZE(part))
                o += PyBytes_GET_SIZE(part)
            elif <int>part < ex.n_captures:
                index = part
                memcpy(o, head.buf + ex.path + ex.captures[index].start, ex.captures[index].len)
                o += ex.captures[index].len
        if self.has_query:
            o[0] = c"?"
            o += 1
            for part in self.query_parts:
                if isinstance(part, bytes):
                    memcpy(o, PyBytes_AS_STRING(part), PyBytes_GET_SIZE(part))
                    o += PyBytes_GET_SIZE(part)
                elif <int>part < ex.n_captures:
                    index = part
                    p = head.buf + ex.path + ex.captures[index].start
                    for i in range(ex.captures[index].len):
                        o = _encoded(o, p, i, ex.captures[index].len)
        if ex.has_query and ex.query_len:
            o[0] = c"&" if self.has_query else c"?"
            memcpy(o + 1, head.buf + ex.query, ex.query_len)
            o += 1 + ex.query_len
        ex.out_target = head.len
        ex.out_target_len = o - begin
        head.len += o - begin
        return 0


cdef inline char* _encoded(char *o, const char *p, uint32_t i, uint32_t n) noexcept nogil:
    """RFC 3986 2.1: one character of a path, for a query. An escape of the path stays that escape."""
    cdef unsigned char c = <unsigned char>p[i]
    if (c"a" <= (c | 0x20) <= c"z") or (c"0" <= c <= c"9") or c == c"-" or c == c"." or c == c"_" or c == c"~" \
            or c == c"%":
        o[0] = c
        return o + 1
    o[0] = c"%"
    o[1] = c"0" + (c >> 4) if (c >> 4) < 10 else c"A" + (c >> 4) - 10
    o[2] = c"0" + (c & 15) if (c & 15) < 10 else c"A" + (c & 15) - 10
    return o + 3


def rewritten(Rewrite rewrite, path, query=None, captures=()):
    """For tools and tests: the target for the upstream, as text. `captures` are (start, length) pairs."""
    cdef Exchange ex = Exchange()
    cdef bytes p = path.encode(), q = (query or "").encode()
    ex.path = ex.request.store(PyBytes_AS_STRING(p), len(p))
    ex.path_len = len(p)
    ex.has_query = query is not None
    ex.query = ex.request.store(PyBytes_AS_STRING(q), len(q))
    ex.query_len = len(q)
    for start, length in captures:
        ex.captures[ex.n_captures].start = start
        ex.captures[ex.n_captures].len = length
        ex.n_captures += 1
    rewrite.apply(ex)
    return ex.request.buf[ex.out_target:ex.out_target + ex.out_target_len].decode()
