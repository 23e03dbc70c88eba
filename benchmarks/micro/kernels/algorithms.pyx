"""algorithms: one decision, its key known, by algorithm; several limits at once; and many keys."""
from libc.stdint cimport int64_t, uint64_t

from fastgw._core.algorithms cimport Limit, Verdict, decide, set_limit
from fastgw._core.bucket cimport BucketTable
from fastgw._core.clock cimport monotonic_ns
from fastgw._core.holds cimport HoldTable

cdef int64_t SECOND = 1_000_000_000
cdef dict TABLES = {}


cdef int run(long n, list wanted, uint64_t keys, int size) except -1:
    cdef BucketTable table = TABLES.get(size)
    if table is None:
        table = TABLES[size] = BucketTable.private(size)
    cdef HoldTable holds = HoldTable.private()
    cdef Limit limits[4]
    cdef Verdict verdict
    cdef int64_t now = monotonic_ns()
    cdef uint64_t at = 88172645463325252
    cdef long i
    cdef int count = len(wanted)
    for i in range(count):
        name, requests, per = wanted[i]
        set_limit(&limits[i], table, name, requests, per, requests, 0, 0, b"%d" % i)
    for i in range(n):
        at ^= at << 13
        at ^= at >> 7
        at ^= at << 17
        decide(table, holds, limits, count, (at % keys + 1) * <uint64_t>0x9e3779b97f4a7c15, 1, now, &verdict)
        holds.give(verdict.levels[0].mark if wanted[0][0] == "concurrency" else -1)
    return 0


def token_bucket(long n):
    run(n, [("token_bucket", 100_000_000, SECOND)], 1, 1024)


def fixed_window(long n):
    run(n, [("fixed_window", 100_000_000, SECOND)], 1, 1024)


def sliding_window(long n):
    run(n, [("sliding_window", 31_000, SECOND)], 1, 1024)


def sliding_log_of_100(long n):
    """It is full: the oldest entry says no."""
    run(n, [("sliding_log", 100, 3600 * SECOND)], 1, 1024)


def concurrency(long n):
    run(n, [("concurrency", 100, SECOND)], 1, 1024)


def two_limits(long n):
    run(n, [("token_bucket", 100_000_000, SECOND), ("sliding_window", 244_000, 60 * SECOND)], 1, 1024)


def a_thousand_keys(long n):
    """In any order, in a table for a million."""
    run(n, [("token_bucket", 100_000_000, SECOND)], 1000, 1_048_576)


def a_million_keys(long n):
    run(n, [("token_bucket", 100_000_000, SECOND)], 1_000_000, 1_048_576)


CASES = [
    ("token_bucket", token_bucket),
    ("fixed_window", fixed_window),
    ("sliding_window", sliding_window),
    ("sliding_log of 100, full", sliding_log_of_100),
    ("concurrency", concurrency),
    ("two limits", two_limits),
    ("token_bucket, of a thousand keys", a_thousand_keys),
    ("token_bucket, of a million keys", a_million_keys),
]
