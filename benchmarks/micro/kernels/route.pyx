"""route: look-ups in tables of 10, 1,000 and 100,000 routes, all of them visited in a scattered order."""
from libc.stdint cimport uint8_t
from libc.string cimport memset

from fastgw._core.headers cimport Head
from fastgw._core.route cimport Match, Router

cdef bytes HEAD = b"GET / HTTP/1.1\r\nHost: api.example.com\r\nX-Api-Key: client-0001\r\n\r\n"
cdef enum:
    PATHS = 4096


def table(int count):
    """Routes /api/svcNNNNNN/{id}."""
    router = Router()
    for i in range(count):
        segments = [("literal", b"api"), ("literal", b"svc%06d" % i), ("param", None)]
        router.add(i, [], segments, "exact", [], [])
    return router


def paths(int count):
    """Paths into the table, far apart: 7,919 is prime and divides none of the counts."""
    return [b"/api/svc%06d/item-7" % (i * 7919 % count) for i in range(PATHS)]


cdef int look_up(Router router, list wanted, long n) except -1:
    cdef Head head = Head.request(HEAD)
    cdef uint8_t[16] address
    cdef Match match
    cdef bytes path
    cdef long i
    cdef int missed = 0
    memset(address, 0, sizeof(address))
    for i in range(n):
        path = <bytes>wanted[i % PATHS]
        router.match(head, b"api.example.com", 15, path, len(path), b"", 0, address, &match)
        missed += match.status != 200
    assert missed == 0, missed
    return 0


def in_table_of(int count):
    router, wanted = table(count), paths(count)

    def run(long n):
        look_up(router, wanted, n)

    return run


CASES = [(f"look-up, {count:,} routes", in_table_of(count)) for count in (10, 1_000, 100_000)]
