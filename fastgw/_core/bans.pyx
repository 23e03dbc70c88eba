"""Addresses that may not come in for some time, in memory that all processes of one gateway share.

The table has sets of WAYS slots; an address has its place in one set, by a keyed hash that nobody outside can steer.
Who writes a slot first claims its word `until` by a compare-and-swap of what he read for the negated present time,
then writes the rest, then `until`. A reader takes a slot for valid when `until` is the same before and after. A claim of
somebody who died in between may be taken over after a second. A full set gives up the ban that ends first.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from fastgw._core.bucket cimport EXHAUSTED, BucketTable, Level
from fastgw._core.cidr cimport ALLOWED, CidrTable
from fastgw._core.clock cimport monotonic_ns
from fastgw._core.exchange cimport CONTINUE, PHASE_RECORD, PHASE_REQUEST, Exchange, Hook
from fastgw._core.policy cimport apply_problem

import ipaddress
import mmap

from fastgw._core.exchange import Problem

cdef extern from *:
    """
    static inline int64_t fgw_ban_load(const int64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline void fgw_ban_store(int64_t *p, int64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    static inline int fgw_ban_swap(int64_t *p, int64_t have, int64_t want) {
      return __atomic_compare_exchange_n(p, &have, want, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
    }
    """
    int64_t fgw_ban_load(const int64_t *p) noexcept nogil
    void fgw_ban_store(int64_t *p, int64_t v) noexcept nogil
    int fgw_ban_swap(int64_t *p, int64_t have, int64_t want) noexcept nogil

cdef enum:
    WAYS = 8

cdef int64_t SECOND = 1_000_000_000
cdef uint8_t[12] MAPPED = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]

assert sizeof(Ban) == 32


cdef void who(const uint8_t *address, uint8_t *out) noexcept nogil:
    """An IPv4 address; of an IPv6 address the first 64 bits, as one customer has that many addresses at least."""
    memcpy(out, address, 16)
    if memcmp(address, MAPPED, 12) != 0:
        memset(out + 8, 0, 8)


cdef bytes packed(str address):
    """16 bytes, as `who` gives them. ValueError for what is no address."""
    cdef uint8_t out[16]
    cdef bytes raw
    parsed = ipaddress.ip_address(address)
    raw = (b"\0" * 10 + b"\xff\xff" if parsed.version == 4 else b"") + parsed.packed
    who(<const uint8_t*>PyBytes_AS_STRING(raw), out)
    return PyBytes_FromStringAndSize(<char*>out, 16)


cdef class BanTable:
    """`BanTable(buffer)` over a writable buffer of `BanTable.size(bans)` bytes; zeros are an empty table."""

    def __init__(self, buffer):
        cdef Py_buffer view
        PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        try:
            self.sets = view.len // <Py_ssize_t>(WAYS * sizeof(Ban))
            if self.sets < 1:
                raise ValueError(f"a table has {WAYS * sizeof(Ban)} bytes at least, not {view.len}")
            self.slots = <Ban*>view.buf
        finally:
            PyBuffer_Release(&view)
        self.memory = buffer

    @staticmethod
    def size(int bans):
        """Bytes for so many bans, with room for an uneven hash."""
        return (bans * 2 // WAYS + 1) * WAYS * sizeof(Ban)

    @classmethod
    def private(cls, int bans):
        """A table of this process alone."""
        return cls(mmap.mmap(-1, cls.size(bans)))

    cdef Ban* set_of(self, BucketTable hashing, const uint8_t *address) noexcept:
        return &self.slots[(hashing.hash(<const char*>address, 16) % self.sets) * WAYS]

    cdef int64_t until(self, BucketTable hashing, const uint8_t *address, int64_t now) noexcept:
        """When the ban of an address (16 bytes of `who`) ends; 0: it has none."""
        cdef Ban *slot = self.set_of(hashing, address)
        cdef int64_t end
        cdef int i
        for i in range(WAYS):
            end = fgw_ban_load(&slot[i].until)
            if end > now and memcmp(slot[i].address, address, 16) == 0 and fgw_ban_load(&slot[i].until) == end:
                return end
        return 0

    cdef bint put(self, BucketTable hashing, const uint8_t *address, int64_t now, int64_t until, int status) noexcept:
        """False when somebody else did it at the same moment."""
        cdef Ban *slot = self.set_of(hashing, address)
        cdef Ban *place = NULL
        cdef int64_t end, least = 0
        cdef int i
        for i in range(WAYS):
            end = fgw_ban_load(&slot[i].until)
            if end > now and memcmp(slot[i].address, address, 16) == 0:
                # A ban that stands is made longer in one step: claimed as below, it would not hold meanwhile.
                if not fgw_ban_swap(&slot[i].until, end, until if until > end else end):
                    return False
                slot[i].status = status
                return True
            if end < 0:
                if -end > now - SECOND:
                    continue                      # somebody writes it
                if place == NULL or least > 0:
                    place, least = &slot[i], end
            elif place == NULL or end < least:
                place, least = &slot[i], end
        if place == NULL or not fgw_ban_swap(&place.until, least, -now):
            return False
        memcpy(place.address, address, 16)
        place.status = status
        fgw_ban_store(&place.until, until)
        return True

    def add(self, BucketTable hashing not None, str address, double seconds, int status=0):
        """True when it stands there. ValueError for what is no address."""
        cdef bytes raw = packed(address)
        cdef int64_t now = monotonic_ns()
        return self.put(hashing, <const uint8_t*>PyBytes_AS_STRING(raw), now, now + <int64_t>(seconds * 1e9), status)

    def seconds_left(self, BucketTable hashing not None, str address):
        """Of the ban of an address; 0 when it has none. ValueError for what is no address."""
        cdef bytes raw = packed(address)
        cdef int64_t now = monotonic_ns()
        cdef int64_t end = self.until(hashing, <const uint8_t*>PyBytes_AS_STRING(raw), now)
        return (end - now) / 1e9 if end else 0.0

    def lift(self, BucketTable hashing not None, str address):
        """True when there was a ban. ValueError for what is no address."""
        cdef bytes raw = packed(address)
        cdef const uint8_t *wanted = <const uint8_t*>PyBytes_AS_STRING(raw)
        cdef Ban *slot = self.set_of(hashing, wanted)
        cdef int64_t end, now = monotonic_ns()
        cdef int i
        for i in range(WAYS):
            end = fgw_ban_load(&slot[i].until)
            if end > now and memcmp(slot[i].address, wanted, 16) == 0:
                return bool(fgw_ban_swap(&slot[i].until, end, 0))
        return False

    def entries(self):
        """(address or IPv6 range, seconds left, status that brought it about), of all bans."""
        cdef int64_t end, now = monotonic_ns()
        cdef uint64_t i
        cdef list found = []
        for i in range(self.sets * WAYS):
            end = fgw_ban_load(&self.slots[i].until)
            if end <= now:
                continue
            raw = PyBytes_FromStringAndSize(<char*>self.slots[i].address, 16)
            status = self.slots[i].status
            if fgw_ban_load(&self.slots[i].until) != end:
                continue
            four = raw[:12] == b"\0" * 10 + b"\xff\xff"
            text = str(ipaddress.IPv4Address(raw[12:])) if four else f"{ipaddress.IPv6Address(raw)}/64"
            found.append((text, (end - now) / 1e9, status))
        return found


cdef class BanHook(Hook):
    """`BanHook(table, counts, identity, events, window_ns, length_ns, statuses, codes, exempt, report, enforce)`

    Who comes to `events` of these outcomes within the window is banned; `report(exchange)` is called then.
    """

    def __init__(self, BanTable table not None, BucketTable counts not None, bytes identity, int64_t events,
                 int64_t window, int64_t length, statuses, codes, CidrTable exempt, report, bint enforce):
        if events < 2 or window < events or length < 1:
            raise ValueError("2 events at least, and some time for them and for the ban")
        self.name = "ban"
        self.phases = PHASE_REQUEST | PHASE_RECORD
        self.table = table
        self.counts = counts
        self.identity = counts.hash(PyBytes_AS_STRING(identity), PyBytes_GET_SIZE(identity))
        self.interval = window // events
        self.burst = events - 1
        self.length = length
        memset(self.counted, 0, sizeof(self.counted))
        for status in statuses:
            self.counted[status - 400] = 1
        self.codes = frozenset(codes)
        self.exempt = exempt
        self.report = report
        self.enforce = enforce

    cdef bint _exempt(self, Exchange ex) noexcept:
        return self.exempt is not None and (<CidrTable>self.exempt).find(ex.client_addr) == ALLOWED

    cdef int request(self, Exchange ex) except -1:
        cdef uint8_t address[16]
        cdef int64_t now = monotonic_ns(), end
        if ex.client_len == 0:
            return CONTINUE                       # a unix socket: nobody in particular
        who(ex.client_addr, address)
        end = self.table.until(self.counts, address, now)
        if end == 0 or not self.enforce or self._exempt(ex):
            return CONTINUE
        ex.close_after = True
        seconds = str((end - now + SECOND - 1) // SECOND)
        return apply_problem(ex, Problem(403, "banned", None, headers=(("Retry-After", seconds),)))

    cdef int record(self, Exchange ex) except -1:
        cdef uint8_t key[24]
        cdef int status = ex.response.status
        cdef int64_t now
        cdef Level level
        if not (400 <= status < 600 and self.counted[status - 400]) and not (
                ex.code is not None and ex.code in self.codes):
            return 0
        if ex.client_len == 0 or ex.code == "banned" or self._exempt(ex):
            return 0
        now = monotonic_ns()
        memcpy(key, &self.identity, 8)
        who(ex.client_addr, key + 8)
        if self.counts.take(self.counts.hash(<const char*>key, 24), now, self.interval, self.burst, &level) == EXHAUSTED:
            if not self.enforce or self.table.put(self.counts, key + 8, now, now + self.length, status):
                self.report(ex)
        return 0


cdef class MemoryHook(Hook):
    """`MemoryHook(sample, every_ns, retry_after, report)`: while `sample()` is true, 503.

    It is asked at most every so often, when a request comes: an idle worker looks at nothing.
    """

    def __init__(self, sample, int64_t every, int retry_after, report):
        self.name = "memory"
        self.phases = PHASE_REQUEST
        self.sample = sample
        self.every = every
        self.retry_after = str(retry_after)
        self.report = report

    cdef int request(self, Exchange ex) except -1:
        cdef int64_t now = monotonic_ns()
        if now >= self.next:
            self.next = now + self.every
            self.short = self.sample()
        if not self.short:
            return CONTINUE
        self.report(ex)
        ex.close_after = True
        return apply_problem(ex, Problem(503, "short_of_memory", None, side=2,
                                         headers=(("Retry-After", self.retry_after),)))
