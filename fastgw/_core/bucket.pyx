"""Token buckets in memory that all workers of a host share: N workers together admit exactly what one would.

The limiter is GCRA (the virtual scheduling form of the leaky bucket, ITU-T I.371 Annex A). A bucket is one number,
the theoretical arrival time `tat`: the moment at which the bucket is full again. A request at `now` is admitted if

    max(tat, now) + interval  <=  now + burst * interval

and then the left side becomes the new `tat`. A bucket whose `tat` has passed is full: *idle equals absent*.

Layout. A header page (magic, number of groups, hash seed), then groups of 256 bytes: 16 pairs of 64-bit words,
aligned to 16. Pair 0 is the group's *door*, pairs 1 to 15 are *slots*. A key (64-bit keyed hash; 0 is no key) lives
in one of the slots of its group, `key mod groups`, and nowhere else.

    slot   (key, tat)        a bucket      (0, version)   free
    door   (key, number|j)   an insertion of `key` into slot j, whose version is `number`, is under way
           (0, number|j)     none is        (`number|j` is number * 16 + j)

Every change is one 128-bit compare-and-swap of one pair, `X → Y` below:

    take       slot (K, t) → (K, t')        t' = max(t, now) + interval > t
    free       slot (X, t) → (0, w)         X is 0, or t < now: an idle bucket, nothing is forgotten;
                                            w = max(t, number of the door as it was read) + 1
    announce   door (0, n|i) → (K, w|j)     K was seen in no slot since the door was read; j was freed with w > n
    fill       slot j (0, w) → (K, v)       by anybody, for an announced (K, w|j); v = max(w + 1, now)
    close      door (K, w|j) → (0, w|j)     by anybody who saw that slot j is not (0, w), or no longer

Why no request is counted twice or forgotten:
1. A slot's second word grows with every change, a door's number with every announcement. So no pair ever has an old
   value again, and a swap that succeeds proves that nothing changed since its pair was read, however long its
   process slept in between (no ABA).
2. A key is in at most one slot. Only `fill` puts a key into a slot. It needs the slot to be (0, w) for the announced
   w, and when the door is closed the slot is not (0, w), nor ever again (1): an announcement fills at most once, and
   never after it is closed. `announce` needs the door as it was read, closed, before the scan; so no fill happened
   since, and K, which the scan saw in no slot, is still in none. Therefore all processes take from one and the same pair.
   (If somebody freed slot j anew after it was announced, nothing is filled, the door closes, and one tries again.)
3. `take` is the whole transaction: read, decide, one swap. A refusal changes nothing; it is decided on a pair that was
   read with the same second word before and after, hence on a state that was true.
4. An inserted bucket starts at a clock reading made after the scan, which is later than the `tat` any earlier bucket
   of that key had when it was freed; so a process with an old `now` in its hand gains nothing.
5. kill -9 anywhere leaves a valid table: after `announce` the next one that finds the door open fills and closes it;
   nothing else takes more than one step. There is no lock, so nobody can wait for the dead.

When all 15 slots of a group hold buckets that are not idle, NO_ROOM: the caller's declared behaviour decides. Sized by
`size(keys)` a group has 4 keys on average; more than 15 then happens to one group in 200,000.
"""
from libc.stdint cimport int64_t, uint8_t, uint64_t, uintptr_t
from libc.string cimport memcmp, memcpy
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastgw._core.clock cimport monotonic_ns

import mmap
import os

cdef extern from *:
    """
    /* one 128-bit compare-and-swap, and SipHash-2-4 (Aumasson and Bernstein) */
    #include <stdint.h>
    #include <string.h>

    typedef struct { uint64_t lo, hi; } __attribute__((aligned(16))) fgw_pair;

    static inline uint64_t fgw_load(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }

    /* Replaces *p by `want` if it is `have`: one atomic step over both words. 1 when it did. */
    static inline int fgw_cas(fgw_pair *p, fgw_pair have, fgw_pair want) {
    #if defined(__x86_64__)
      unsigned char ok;
      __asm__ __volatile__("lock cmpxchg16b %1\\n\\tsetz %0"
                           : "=q"(ok), "+m"(*p), "+a"(have.lo), "+d"(have.hi)
                           : "b"(want.lo), "c"(want.hi) : "cc", "memory");
      return ok;
    #elif defined(__aarch64__)
      uint64_t lo, hi; uint32_t failed;
      do {
        __asm__ __volatile__("ldaxp %0, %1, %2" : "=&r"(lo), "=&r"(hi) : "Q"(*p) : "memory");
        int same = lo == have.lo && hi == have.hi;
        /* storing back what was read makes the pair of loads one atomic read */
        uint64_t wl = same ? want.lo : lo, wh = same ? want.hi : hi;
        __asm__ __volatile__("stlxp %w0, %2, %3, %1" : "=&r"(failed), "=Q"(*p) : "r"(wl), "r"(wh) : "memory");
        if (!failed) return same;
      } while (1);
    #else
    #error "fastgw needs a 128-bit compare-and-swap: x86-64 or aarch64"
    #endif
    }

    #define FGW_ROTL(x, b) (((x) << (b)) | ((x) >> (64 - (b))))
    #define FGW_ROUND do { \\
      v0 += v1; v1 = FGW_ROTL(v1, 13); v1 ^= v0; v0 = FGW_ROTL(v0, 32); \\
      v2 += v3; v3 = FGW_ROTL(v3, 16); v3 ^= v2; \\
      v0 += v3; v3 = FGW_ROTL(v3, 21); v3 ^= v0; \\
      v2 += v1; v1 = FGW_ROTL(v1, 17); v1 ^= v2; v2 = FGW_ROTL(v2, 32); } while (0)

    static inline uint64_t fgw_siphash(const void *data, size_t n, uint64_t k0, uint64_t k1) {
      const unsigned char *p = (const unsigned char *)data;
      uint64_t v0 = k0 ^ 0x736f6d6570736575ULL, v1 = k1 ^ 0x646f72616e646f6dULL;
      uint64_t v2 = k0 ^ 0x6c7967656e657261ULL, v3 = k1 ^ 0x7465646279746573ULL;
      uint64_t m, tail = (uint64_t)n << 56;
      size_t left = n & 7;
      const unsigned char *end = p + (n - left);
      for (; p != end; p += 8) {
        memcpy(&m, p, 8);
    #if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        m = __builtin_bswap64(m);
    #endif
        v3 ^= m; FGW_ROUND; FGW_ROUND; v0 ^= m;
      }
      for (size_t i = 0; i < left; i++) tail |= (uint64_t)p[i] << (8 * i);
      v3 ^= tail; FGW_ROUND; FGW_ROUND; v0 ^= tail;
      v2 ^= 0xff; FGW_ROUND; FGW_ROUND; FGW_ROUND; FGW_ROUND;
      return v0 ^ v1 ^ v2 ^ v3;
    }
    """
    ctypedef struct fgw_pair:
        uint64_t lo
        uint64_t hi
    uint64_t fgw_load(const uint64_t *p) noexcept nogil
    int fgw_cas(fgw_pair *p, fgw_pair have, fgw_pair want) noexcept nogil
    uint64_t fgw_siphash(const void *data, size_t n, uint64_t k0, uint64_t k1) noexcept nogil

cdef enum:
    HEADER = 4096
    GROUP = 256
    PAIRS = 16
    ROUNDS = 1000          # of a lock-free loop before it gives up; 3 is already rare

cdef bytes MAGIC = b"fgwbkt01"


cdef inline bint _swap(fgw_pair *p, uint64_t lo, uint64_t hi, uint64_t new_lo, uint64_t new_hi) noexcept nogil:
    cdef fgw_pair have, want
    have.lo = lo
    have.hi = hi
    want.lo = new_lo
    want.hi = new_hi
    return fgw_cas(p, have, want)


cdef inline bint _read(fgw_pair *p, uint64_t *lo, uint64_t *hi) noexcept nogil:
    """Both words as they were at one moment. The second only grows: the same before and after proves it."""
    cdef int i
    for i in range(ROUNDS):
        hi[0] = fgw_load(&p.hi)
        lo[0] = fgw_load(&p.lo)
        if fgw_load(&p.hi) == hi[0]:
            return True
    return False


cdef inline fgw_pair* _find(fgw_pair *group, uint64_t key) noexcept nogil:
    cdef int i
    for i in range(1, PAIRS):
        if fgw_load(&group[i].lo) == key:
            return &group[i]
    return NULL


cdef void _finish(fgw_pair *group, uint64_t key, uint64_t ticket) noexcept nogil:
    """Fills the announced slot and closes the door; harmless when somebody else did it already."""
    cdef uint64_t version = ticket >> 4
    cdef uint64_t now = <uint64_t>monotonic_ns()
    _swap(&group[ticket & 15], 0, version, key, version + 1 if version >= now else now)
    _swap(&group[0], key, ticket, 0, ticket)


cdef fgw_pair* _insert(fgw_pair *group, uint64_t key) noexcept nogil:
    """The slot of a key that was not there; NULL when the group is full."""
    cdef fgw_pair *slot
    cdef uint64_t lo, hi, ticket, opened, now, version, oldest
    cdef int i, free, rounds
    for rounds in range(ROUNDS):
        if not _read(&group[0], &opened, &ticket):
            continue
        if opened != 0:
            _finish(group, opened, ticket)
            continue
        slot = _find(group, key)
        if slot != NULL:
            return slot
        free = 0
        now = <uint64_t>monotonic_ns()
        # a free slot, else the one that has been idle for longest
        oldest = now
        for i in range(1, PAIRS):
            if not _read(&group[i], &lo, &hi) or (lo != 0 and hi >= oldest):
                continue
            free = i
            if lo == 0:
                break
            oldest = hi
        if free == 0:
            if fgw_load(&group[0].hi) == ticket:
                return NULL
            continue
        if not _read(&group[free], &lo, &hi) or (lo != 0 and hi >= now):
            continue
        version = (hi if hi > ticket >> 4 else ticket >> 4) + 1
        if not _swap(&group[free], lo, hi, 0, version):
            continue
        if _swap(&group[0], 0, ticket, key, version << 4 | <uint64_t>free):
            _finish(group, key, version << 4 | <uint64_t>free)
    return NULL


cdef class BucketTable:
    """Buckets in a writable buffer that begins at a multiple of 64, such as an `mmap` of a memfd.

    `BucketTable.format(buffer)` prepares it, once; `BucketTable(buffer)` uses it, in every process.
    """

    def __init__(self, buffer):
        cdef Py_buffer view
        PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE | PyBUF_WRITABLE)
        cdef uint8_t *base = <uint8_t*>view.buf
        cdef size_t n = view.len
        PyBuffer_Release(&view)
        # an mmap cannot be resized or closed while this holds on to it
        self._owner = memoryview(buffer)
        if n < HEADER + GROUP or <uintptr_t>base & 63:
            raise ValueError("the memory of a BucketTable is too small or not aligned to 64 bytes")
        if memcmp(base, PyBytes_AS_STRING(MAGIC), 8) != 0:
            raise ValueError("the memory is not a BucketTable of this version")
        memcpy(&self.groups, base + 8, 8)
        memcpy(&self._seed0, base + 16, 8)
        memcpy(&self._seed1, base + 24, 8)
        if self.groups == 0 or self.groups & (self.groups - 1) or HEADER + self.groups * GROUP > n:
            raise ValueError("the memory of the BucketTable was cut")
        self._base = base + HEADER
        self._mask = self.groups - 1
        self.capacity = self.groups * (PAIRS - 1)

    def __repr__(self):
        return f"<BucketTable {self.groups} groups, {self.capacity} slots>"

    @staticmethod
    def size(int keys):
        """Bytes of memory for so many keys at the same time. Pages that no key fell on cost nothing."""
        cdef uint64_t groups = 1
        while groups * 4 < <uint64_t>max(keys, 4):
            groups *= 2
        return HEADER + groups * GROUP

    @staticmethod
    def format(buffer, bytes seed=None):
        """Prepares zeroed memory, before any other process uses it. `seed`: 16 bytes, by default random."""
        view = memoryview(buffer).cast("B")
        groups = 1
        while HEADER + groups * 2 * GROUP <= len(view):
            groups *= 2
        view[8:16] = groups.to_bytes(8, "little")
        view[16:32] = os.urandom(16) if seed is None else seed
        view[0:8] = MAGIC
        view.release()

    @staticmethod
    def private(int keys):
        """A table of this process (and of those that it forks)."""
        memory = mmap.mmap(-1, BucketTable.size(keys))
        BucketTable.format(memory)
        return BucketTable(memory)

    cdef uint64_t hash(self, const char *p, size_t n) noexcept nogil:
        """SipHash-2-4 under the table's seed: a client cannot choose keys that meet in one group."""
        cdef uint64_t key = fgw_siphash(p, n, self._seed0, self._seed1)
        return key if key != 0 else 1

    cdef int take(self, uint64_t key, int64_t now, int64_t interval, int64_t burst, Level *level) noexcept nogil:
        """One token; `interval` ns per token, `burst` the capacity, `now` monotonic ns. Fills `level`."""
        cdef fgw_pair *group = <fgw_pair*>(self._base + (key & self._mask) * GROUP)
        cdef fgw_pair *slot
        cdef uint64_t lo, hi
        cdef int64_t tat, limit = now + burst * interval
        cdef int rounds
        level.now = now
        for rounds in range(ROUNDS):
            slot = _find(group, key)
            if slot == NULL:
                slot = _insert(group, key)
                if slot == NULL:
                    return NO_ROOM
                # a new bucket is full as of a later clock reading than `now`
                if monotonic_ns() > now:
                    level.now = now = monotonic_ns()
                    limit = now + burst * interval
            if not _read(slot, &lo, &hi) or lo != key:
                continue                       # it was reclaimed: look again
            tat = <int64_t>hi
            if tat < now:
                tat = now
            if tat + interval > limit:
                level.remaining = 0
                level.full_ns = tat - now
                level.retry_ns = tat + interval - limit
                return EXHAUSTED
            if _swap(slot, key, hi, key, <uint64_t>(tat + interval)):
                level.remaining = (limit - tat - interval) // interval
                level.full_ns = tat + interval - now
                level.retry_ns = 0
                return TAKEN
        return NO_ROOM

    # ------------------------------------------------------------------ for tools and tests

    def key_of(self, bytes text):
        """The hash under which a key is kept."""
        return self.hash(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))

    def try_take(self, uint64_t key, int64_t interval, int64_t burst, now=None):
        """(admitted, remaining, full_ns, retry_ns, the clock reading it was decided at); None when there is no room."""
        cdef Level level
        cdef int64_t at = monotonic_ns() if now is None else now
        if key == 0 or interval < 1 or burst < 1:
            raise ValueError("key, interval and burst are at least 1")
        cdef int taken = self.take(key, at, interval, burst, &level)
        if taken == NO_ROOM:
            return None
        return (taken == TAKEN, level.remaining, level.full_ns, level.retry_ns, level.now)

    def occupied(self):
        """How many slots hold a key that is not idle now."""
        cdef uint64_t g, lo, hi, now = <uint64_t>monotonic_ns()
        cdef int i, count = 0
        cdef fgw_pair *group
        for g in range(self.groups):
            group = <fgw_pair*>(self._base + g * GROUP)
            for i in range(1, PAIRS):
                if _read(&group[i], &lo, &hi) and lo != 0 and hi >= now:
                    count += 1
        return count

    def announce(self, uint64_t key):
        """Leaves an insertion half done, as a process does that dies in the middle of one. For tests."""
        cdef fgw_pair *group = <fgw_pair*>(self._base + (key & self._mask) * GROUP)
        cdef uint64_t opened, ticket, lo, hi, version
        cdef int i
        if not _read(&group[0], &opened, &ticket) or opened != 0 or _find(group, key) != NULL:
            raise ValueError("an insertion is under way, or the key is there")
        for i in range(1, PAIRS):
            if _read(&group[i], &lo, &hi) and lo == 0:
                version = (hi if hi > ticket >> 4 else ticket >> 4) + 1
                _swap(&group[i], lo, hi, 0, version)
                return _swap(&group[0], 0, ticket, key, version << 4 | <uint64_t>i)
        raise ValueError("the group is full")
