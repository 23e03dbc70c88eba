"""target: normalising a request target, where nothing has to change and where something has."""
from libc.stdint cimport uint32_t

from fastgw._core.headers cimport Head
from fastgw._core.target cimport MODE_NORMALIZE, normalize


cdef int normalise(const char *request, long n) except -1:
    cdef bytes whole = request
    cdef Head head = Head()
    cdef uint32_t path, path_len, query, query_len, authority, authority_len
    cdef bint has_query
    cdef int got = 0
    cdef long i
    for i in range(n):
        # a changed path is stored behind the head: each turn begins with the head as it came
        head.scan_request(request, len(whole), 100)
        head.take(request, len(whole))
        got = normalize(head, MODE_NORMALIZE, True, &path, &path_len, &query, &query_len, &has_query, &authority,
                        &authority_len)
    assert got == 0, got
    return 0


def plain(long n):
    normalise(b"GET /api/svc0042/item-7?page=2 HTTP/1.1\r\nHost: a\r\n\r\n", n)


def changed(long n):
    normalise(b"GET /api//svc0042/./x/../item%2d7?page=2 HTTP/1.1\r\nHost: a\r\n\r\n", n)


CASES = [
    ("scan, take and normalise, nothing to change", plain),
    ("scan, take and normalise a path with dots and escapes", changed),
]
