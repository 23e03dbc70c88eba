"""The fields that follow a chunked body (RFC 9112 7.1.2): collected piece by piece, and what may go on of them."""
from libc.string cimport memcpy
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastgw._core.exchange cimport Exchange
from fastgw._core.headers cimport Head

# RFC 9110 6.5.1: no field may come after the body that frames or routes a message, authenticates, controls a
# response, or tells how to read the content. Those the scanner knows by id it drops itself.
cdef tuple _NEVER = (
    b"age", b"cache-control", b"content-encoding", b"content-range", b"content-type", b"expires", b"location",
    b"proxy-authentication-info", b"authentication-info", b"retry-after", b"set-cookie", b"vary", b"warning",
    b"www-authenticate", b"access-control-allow-origin", b"access-control-allow-credentials",
    b"content-security-policy", b"strict-transport-security",
)


cdef class Trailers:
    """What the chunk reader passed after the last chunk. The bound is the reader's own: some 32 KiB at most."""

    def __cinit__(self):
        self.kept = Head()

    cdef int settle(self, Exchange ex, int max_count) except -1:
        cdef Head fields
        # they speak of the body as it came: not of one that a policy held or changed
        if self.kept.len <= 2 or ex.collecting or ex.response_filtered:
            return 0
        fields = Head()
        if fields.scan_trailers(self.kept.buf, self.kept.len - 2, max_count) == 0:
            return 0
        ex.response_trailers = fit(fields)
        return 0


cdef Head fit(Head fields):
    cdef bytes name
    if fields is None:
        return None
    for name in _NEVER:
        fields.remove_name(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
    return fields if <int>fields.dropped < fields.count else None


cdef Trailers collect(Trailers trailers, const char *p, size_t n):
    cdef Head kept
    if trailers is None:
        trailers = Trailers()
    kept = trailers.kept
    kept.reserve(n)
    memcpy(kept.buf + kept.len, p, n)
    kept.len += n
    return trailers
