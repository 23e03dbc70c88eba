"""record: counting an exchange."""
from fastgw._core.record cimport C_RATE_LIMITED, Stats


def exchange_done(long n):
    """Its status, bytes and three histograms."""
    cdef Stats stats = Stats(slots=1000)
    cdef long i
    for i in range(n):
        stats.exchange_done(<int>(i % 1000), 200, 1_500_000 + i % 4096, 1_200_000, 300_000, 0, 154)


def counter(long n):
    cdef Stats stats = Stats()
    cdef long i
    for i in range(n):
        stats.add(C_RATE_LIMITED, 1)


CASES = [("an exchange, of 1,000 routes", exchange_done), ("one counter", counter)]
