"""hedge: what each answer costs where the wait is a percentile."""
from libc.stdint cimport int64_t

from fastgw._core.hedge cimport Latencies


def observe(long n):
    cdef Latencies known = Latencies(0.95)
    cdef long i
    for i in range(n):
        known.observe(1_000_000 + <int64_t>(i % 4096) * 5_000)
    assert n < 1000 or known.value


CASES = [("an answer into the percentile", observe)]
