"""How many requests of a key are under way, in memory that all workers of a host share.

Each worker counts its own; a key's requests are the sum over the workers. So a worker that is killed leaks nothing: what it
counted is one column, which `forget` sets to zero, when it is known to have died and when its successor begins.

    take     adds one to the worker's own count, then looks at the sum. More than the limit: takes it away again. Of those who
             come at the same time the last one, in the order of the additions (sequentially consistent), sees all others; so
             never are more than the limit let in. Two who come for the last place at the same moment may both see each other
             and both be refused; they look again a few times before that.
    give     takes one from the worker's own count.

Layout. A header page; then groups: a line with the lock, 16 keys (64 bits, 0 is none), 16 rows of counts, one for each
worker. A key lives in its group, `key mod groups`, in one place. Only who has the group's lock puts a key anywhere. It takes
the place of one whose counts are all zero:

    key → 0, look at the counts once more, and only when they are zero still: 0 → new key

and whoever adds to a count looks at the key afterwards: if it is not there any more, the addition is taken back. One of the
two sees the other. The lock has its owner's number and is held for some hundred nanoseconds; `forget` takes it from the
dead. Who does not get it in time has no room.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcmp, memcpy
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING

from fastgw._core.bucket cimport EXHAUSTED, NO_ROOM, TAKEN, Level

import mmap

cdef extern from *:
    """
    #include <sched.h>
    #define FGW_HOLD_ADD(p, n) __atomic_add_fetch((p), (n), __ATOMIC_SEQ_CST)
    #define FGW_HOLD_OR(p, n) __atomic_or_fetch((p), (n), __ATOMIC_SEQ_CST)
    #define FGW_HOLD_LOAD(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
    #define FGW_HOLD_STORE(p, v) __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)
    static inline int fgw_hold_swap(uint32_t *p, uint32_t have, uint32_t want) {
      return __atomic_compare_exchange_n(p, &have, want, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
    """
    uint32_t add32 "FGW_HOLD_ADD"(uint32_t *p, uint32_t n) noexcept nogil
    uint32_t or32 "FGW_HOLD_OR"(uint32_t *p, uint32_t n) noexcept nogil
    uint32_t load32 "FGW_HOLD_LOAD"(uint32_t *p) noexcept nogil
    uint64_t load64 "FGW_HOLD_LOAD"(uint64_t *p) noexcept nogil
    void store32 "FGW_HOLD_STORE"(uint32_t *p, uint32_t v) noexcept nogil
    void store64 "FGW_HOLD_STORE"(uint64_t *p, uint64_t v) noexcept nogil
    int fgw_hold_swap(uint32_t *p, uint32_t have, uint32_t want) noexcept nogil
    int sched_yield() nogil

cdef enum:
    HEADER = 4096
    KEYS = 16
    KEYS_AT = 64
    ROWS_AT = 64 + 8 * KEYS
    MAX_WORKERS = 1024
    AGAIN = 4                # looks for the last place
    SPINS = 200              # for the lock, without letting others go on,
    YIELDS = 2000            # and with

cdef bytes MAGIC = b"fgwhld01"
cdef int64_t SECOND = 1_000_000_000


cdef class HoldTable:
    """Counts in a writable buffer that begins at a multiple of 64; `me` is the number of this worker, from 0.

    `HoldTable.format(buffer, workers)` prepares it, once."""

    def __init__(self, buffer, int me=0):
        cdef Py_buffer view
        cdef uint32_t workers
        PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE | PyBUF_WRITABLE)
        cdef uint8_t *base = <uint8_t*>view.buf
        cdef size_t n = view.len
        PyBuffer_Release(&view)
        self._owner = memoryview(buffer)
        if n < HEADER or <uintptr_t>base & 63 or memcmp(base, PyBytes_AS_STRING(MAGIC), 8) != 0:
            raise ValueError("the memory is not a HoldTable of this version")
        memcpy(&self.groups, base + 8, 8)
        memcpy(&workers, base + 16, 4)
        self.workers = workers
        if not 0 <= me < self.workers:
            raise ValueError(f"there are workers 0 to {self.workers - 1}")
        self.me = me
        self._mask = self.groups - 1
        self._group = group_size(self.workers)
        self._used = <uint32_t*>(base + HEADER)
        self._base = base + HEADER + bitmap_size(self.groups)
        if self.groups == 0 or self.groups & self._mask or whole_size(self.groups, self.workers) > n:
            raise ValueError("the memory of the HoldTable was cut")

    def __repr__(self):
        return f"<HoldTable {self.groups} groups, worker {self.me} of {self.workers}>"

    @staticmethod
    def size(int keys, int workers):
        """Bytes for so many keys with requests under way. Pages that no key fell on cost nothing."""
        if not 1 <= workers <= MAX_WORKERS:
            raise ValueError(f"1 to {MAX_WORKERS} workers")
        return whole_size(groups_for(keys), workers)

    @staticmethod
    def format(buffer, int keys, int workers):
        """Prepares zeroed memory, before any other process uses it."""
        view = memoryview(buffer).cast("B")
        view[8:16] = int(groups_for(keys)).to_bytes(8, "little")
        view[16:20] = workers.to_bytes(4, "little")
        view[0:8] = MAGIC
        view.release()

    @staticmethod
    def private(int keys=256):
        """A table of this process by itself."""
        memory = mmap.mmap(-1, HoldTable.size(keys, 1))
        HoldTable.format(memory, keys, 1)
        return HoldTable(memory)

    cdef int64_t _sum(self, uint32_t *counts) noexcept nogil:
        cdef int64_t total = 0
        cdef int i
        for i in range(self.workers):
            total += load32(&counts[i])
        return total

    cdef int _find(self, uint8_t *group, uint64_t key) noexcept nogil:
        cdef uint64_t *keys = <uint64_t*>(group + KEYS_AT)
        cdef int i
        for i in range(KEYS):
            if load64(&keys[i]) == key:
                return i
        return -1

    cdef int _insert(self, uint8_t *group, uint64_t number, uint64_t key) noexcept nogil:
        """The place of a key; -1: none is free, or the lock cannot be had."""
        cdef uint32_t *lock = <uint32_t*>group
        cdef uint64_t *keys = <uint64_t*>(group + KEYS_AT)
        cdef uint32_t *rows = <uint32_t*>(group + ROWS_AT)
        cdef uint64_t before
        cdef int i, spins = 0
        or32(&self._used[number >> 5], <uint32_t>1 << (number & 31))      # first: `forget` looks here for locks too
        while not fgw_hold_swap(lock, 0, self.me + 1):
            spins += 1
            if spins > SPINS:
                sched_yield()
            if spins > SPINS + YIELDS:
                return -1
        i = self._find(group, key)                    # somebody may have been faster
        if i < 0:
            for i in range(KEYS):
                before = load64(&keys[i])
                if self._sum(rows + i * self.workers):
                    continue
                store64(&keys[i], 0)
                if self._sum(rows + i * self.workers) == 0:
                    store64(&keys[i], key)
                    break
                store64(&keys[i], before)
            else:
                i = -1
        store32(lock, 0)
        return i

    cdef int take(self, uint64_t key, int64_t limit, int64_t now, bint taking, Level *level) noexcept nogil:
        """One more of the key is under way: bucket.Taken. `level.mark` is for `give`. Without `taking` only looks."""
        cdef uint64_t number = key & self._mask
        cdef uint8_t *group = self._base + number * self._group
        cdef uint64_t *keys = <uint64_t*>(group + KEYS_AT)
        cdef uint32_t *counts
        cdef int64_t under_way = 0
        cdef int place, rounds
        level.now = now
        level.full_ns = level.delay_ns = level.retry_ns = 0
        level.mark = -1
        for rounds in range(AGAIN):
            place = self._find(group, key)
            if place < 0 and taking:
                place = self._insert(group, number, key)
                if place < 0:
                    return NO_ROOM
            if place < 0:
                level.remaining = limit
                return TAKEN
            counts = <uint32_t*>(group + ROWS_AT) + place * self.workers
            if not taking:
                under_way = self._sum(counts)
                level.remaining = limit - under_way if under_way < limit else 0
                if under_way < limit:
                    return TAKEN
                break
            add32(&counts[self.me], 1)
            under_way = self._sum(counts)
            if under_way <= limit and load64(&keys[place]) == key:
                level.remaining = limit - under_way
                level.mark = <int64_t>(number * KEYS + place)
                return TAKEN
            add32(&counts[self.me], -1)
            if under_way > limit + self.workers:
                break
        level.remaining = 0
        level.retry_ns = SECOND                        # nobody knows: the shortest that can be told
        return EXHAUSTED

    cdef void give(self, int64_t mark) noexcept nogil:
        cdef uint8_t *group
        cdef uint32_t *counts
        if mark < 0:
            return
        group = self._base + (<uint64_t>mark // KEYS) * self._group
        counts = <uint32_t*>(group + ROWS_AT) + (mark % KEYS) * self.workers
        if load32(&counts[self.me]):                   # it was set to zero meanwhile
            add32(&counts[self.me], -1)

    def forget(self, int worker):
        """What a dead worker counted, and held locked."""
        cdef uint64_t number
        cdef uint8_t *group
        cdef int i
        if not 0 <= worker < self.workers:
            raise IndexError(worker)
        for number in range(self.groups):
            if not load32(&self._used[number >> 5]) >> (number & 31) & 1:
                continue
            group = self._base + number * self._group
            for i in range(KEYS):
                store32(<uint32_t*>(group + ROWS_AT) + i * self.workers + worker, 0)
            fgw_hold_swap(<uint32_t*>group, worker + 1, 0)

    def of(self, int me):
        """The same table, for another worker."""
        return HoldTable(self._owner.obj, me)

    def under_way(self):
        """Requests, of all keys."""
        return sum(self.counts().values())

    def counts(self):
        """Key → requests under way, where there are any."""
        cdef uint64_t number
        cdef uint8_t *group
        cdef int64_t n
        cdef int i
        cdef dict found = {}
        for number in range(self.groups):
            if not load32(&self._used[number >> 5]) >> (number & 31) & 1:
                continue
            group = self._base + number * self._group
            for i in range(KEYS):
                n = self._sum(<uint32_t*>(group + ROWS_AT) + i * self.workers)
                if n:
                    found[load64(&(<uint64_t*>(group + KEYS_AT))[i])] = n
        return found

    # ------------------------------------------------------------------ for tests

    def try_take(self, uint64_t key, int64_t limit):
        """A mark for `release`; None when it is refused; -1 when there is no room."""
        cdef Level level
        cdef int outcome = self.take(key, limit, 0, True, &level)
        return None if outcome == EXHAUSTED else -1 if outcome == NO_ROOM else level.mark

    def release(self, int64_t mark):
        self.give(mark)

    def lock(self, uint64_t key):
        """Takes the lock of a key's group and keeps it, as a process does that dies with it."""
        cdef uint64_t number = key & self._mask
        or32(&self._used[number >> 5], <uint32_t>1 << (number & 31))
        return bool(fgw_hold_swap(<uint32_t*>(self._base + number * self._group), 0, self.me + 1))


cdef uint64_t groups_for(int keys) noexcept:
    """Four keys to a group on average: more than 16 in one group in ten million."""
    cdef uint64_t groups = 1
    while groups * 4 < <uint64_t>keys:
        groups *= 2
    return groups


cdef uint64_t group_size(int workers) noexcept:
    return (ROWS_AT + 4 * KEYS * workers + 63) & ~<uint64_t>63


cdef uint64_t bitmap_size(uint64_t groups) noexcept:
    return ((groups + 31) // 32 * 4 + 4095) & ~<uint64_t>4095


cdef uint64_t whole_size(uint64_t groups, int workers) noexcept:
    return HEADER + bitmap_size(groups) + groups * group_size(workers)
