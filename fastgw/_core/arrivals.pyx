"""Who may open connections, and how fast: rates and bans of peers' addresses, before anything of theirs is read.

Levels and bans are in the memory that all workers of the host share. Of an IPv6 address the first 64 bits count. Where the
table has no room for one more address, it comes in: the rate protects the gateway, it is no lock.
"""
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

from fastgw._core.bans cimport BanTable, who
from fastgw._core.bucket cimport EXHAUSTED, BucketTable, Level
from fastgw._core.clock cimport monotonic_ns

import logging

logger = logging.getLogger("fastgw.accept")

cdef int64_t SECOND = 1_000_000_000


cdef class Arrivals:
    """`Arrivals(counts, bans, every_ns=0, burst=0, failures=0, window_ns=0, length_ns=0)`

    One connection of an address in `every_ns`, `burst` at once; `failures` within `window_ns` ban it for `length_ns`.
    """

    def __init__(self, BucketTable counts not None, BanTable bans not None, *, int64_t every_ns=0, int64_t burst=0,
                 int64_t failures=0, int64_t window_ns=0, int64_t length_ns=0):
        self.counts = counts
        self.bans = bans
        self.every = every_ns
        self.burst = burst
        self.failures = max(failures - 1, 1) if failures else 0
        self.failure_every = window_ns // failures if failures else 0
        self.length = length_ns

    cdef Arrival judge(self, const uint8_t *address) except *:
        cdef uint8_t key[17]
        cdef int64_t now = monotonic_ns()
        cdef Level level
        who(address, key)
        if self.failures and self.bans.until(self.counts, key, now):
            return KEPT_OUT
        if self.every:
            key[16] = c"a"
            if self.counts.take(self.counts.hash(<const char*>key, 17), now, self.every, self.burst, &level) == EXHAUSTED:
                self.failed(address)
                return TOO_FAST
        return LET_IN

    cdef int failed(self, const uint8_t *address) except -1:
        """A connection was refused, or its TLS handshake came to nothing."""
        cdef uint8_t key[17]
        cdef int64_t now
        cdef Level level
        if self.failures == 0:
            return 0
        now = monotonic_ns()
        who(address, key)
        key[16] = c"f"
        if self.counts.take(self.counts.hash(<const char*>key, 17), now, self.failure_every, self.failures,
                            &level) != EXHAUSTED:
            return 0
        if self.bans.put(self.counts, key, now, now + self.length, 0):
            self.untold += 1
            if now >= self.told_at + SECOND:
                logger.warning("%d addresses are banned for connections that came to nothing", self.untold)
                self.told_at = now
                self.untold = 0
        return 0

    def look(self, bytes address):
        """For tests: what is said to a connection of an address, 16 bytes; 0, 1 too fast, 2 banned."""
        assert len(address) == 16
        return <int>self.judge(<const uint8_t*><const char*>address)

    def fail(self, bytes address):
        assert len(address) == 16
        self.failed(<const uint8_t*><const char*>address)
