"""split: choosing a service of two, by chance and by a header."""
from fastgw._core.probe cimport Probe
from fastgw._core.split cimport Split


cdef int pick(Split split, long n) except -1:
    cdef Probe probe = Probe(b"GET / HTTP/1.1\r\nHost: a\r\nX-User: user-0001\r\n\r\n")
    cdef long i
    cdef int last = 0
    for i in range(n):
        last = split.pick(probe.exchange)
    assert last in (0, 1)
    return 0


def by_chance(long n):
    pick(Split((None, None), (95, 5)), n)


def by_header(long n):
    pick(Split((None, None), (95, 5), "header:X-User"), n)


CASES = [("by chance", by_chance), ("by a header", by_header)]
