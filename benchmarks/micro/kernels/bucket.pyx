"""bucket: hashing a key and taking a token."""
from libc.stdint cimport int64_t, uint64_t

from fastgw._core.bucket cimport BucketTable, Level
from fastgw._core.clock cimport monotonic_ns


def hash_key(long n):
    """A key of 40 bytes: a policy's identity and a consumer's name."""
    cdef BucketTable table = BucketTable.private(1024)
    cdef long i
    cdef uint64_t last = 0
    for i in range(n):
        last ^= table.hash(b"0123456789012345678901234567890123456789", 40)
    assert n < 2 or last != 1


def take_one_key(long n):
    cdef BucketTable table = BucketTable.private(1024)
    cdef Level level
    cdef int64_t now = monotonic_ns()
    cdef long i
    cdef int admitted = 0
    for i in range(n):
        admitted += table.take(77, now, 1, 1_000_000_000_000, &level) == 0
    assert admitted == n


def take_of_a_hundred_thousand_keys(long n):
    """Buckets that are there, far apart in memory."""
    cdef BucketTable table = BucketTable.private(100_000)
    cdef Level level
    cdef int64_t now = monotonic_ns()
    cdef long i
    for i in range(n):
        table.take((<uint64_t>(i % 100_000) + 1) * <uint64_t>0x9e3779b97f4a7c15, now, 3_600_000_000_000, 1000, &level)


def refuse(long n):
    cdef BucketTable table = BucketTable.private(1024)
    cdef Level level
    cdef int64_t now = monotonic_ns()
    cdef long i
    cdef int refused = 0
    for i in range(n):
        refused += table.take(77, now, 3_600_000_000_000, 1, &level) == 1
    assert refused >= n - 1


def take_new_keys(long n):
    """Each key for the first time: an idle slot is taken over."""
    cdef BucketTable table = BucketTable.private(1024)
    cdef Level level
    cdef long i
    for i in range(n):
        table.take((<uint64_t>i + 1) * <uint64_t>0x9e3779b97f4a7c15, monotonic_ns(), 1, 1, &level)


CASES = [
    ("hash a key of 40 bytes", hash_key),
    ("take, one key", take_one_key),
    ("take, of 100,000 keys", take_of_a_hundred_thousand_keys),
    ("refuse", refuse),
    ("take, a new key", take_new_keys),
]
