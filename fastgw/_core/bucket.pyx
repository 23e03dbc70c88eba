"""Token buckets in memory that all workers of a host share: N workers together admit exactly what one would.

The limiter is GCRA (the virtual scheduling form of the leaky bucket, ITU-T I.371 Annex A). A bucket is one number,
the theoretical arrival time `tat`: the moment at which the bucket is full again. A request at `now` is admitted if

    max(tat, now) + interval  <=  now + burst * interval

and then the left side becomes the new `tat`. A bucket whose `tat` has passed is full: *idle equals absent*.

Layout. A header page (magic, number of groups, hash seed), then groups of 16 pairs of 64-bit words, aligned to 16. Pairs 0
to 14 are *slots*, pair 15 is the group's *door*. A key (64-bit keyed hash; 0 is no key) lives in one of the slots of its
group, `key mod groups`, and nowhere else; mostly in the first four, which are one line of the cache. These lines of all groups
lie together, before the rest of all groups: with a million keys four of five decisions stay within 16 MiB, which
the processor's table of pages (TLB) can hold.

    slot   (key, tat)        a bucket      (0, version)   free
    door   (key, number|j)   an insertion of `key` into slot j, whose version is `number`, is under way
           (0, number|j)     none is        (`number|j` is number * 16 + j)

Every change is one 128-bit compare-and-swap of one pair, `X → Y` below:

    take       slot (K, t) → (K, t')        t' = max(t, now) + interval > t; other algorithms likewise: see algorithms.pyx
    undo       slot (K, t') → (K, t'')      t'' ≥ the value the bucket was filled with, and only while it is not idle
    free       slot (X, t) → (0, w)         X is 0, or t < now: an idle bucket, nothing is forgotten;
                                            w = max(t, number of the door as it was read) + 1
    announce   door (0, n|i) → (K, w|j)     K was seen in no slot since the door was read; j was freed with w > n
    fill       slot j (0, w) → (K, v)       by anybody, for an announced (K, w|j); v = max(w + 1, now)
    close      door (K, w|j) → (0, w|j)     by anybody who saw that slot j is not (0, w), or no longer

Why no request is counted twice or forgotten:
1. A slot's second word grows with every change, a door's number with every announcement. (An `undo` takes back what
   was added since the slot was filled: never below a time at which the bucket was not idle, so what a `free` has seen,
   idle, does not come again.) So no pair that decides anything has an old value again, and a swap that succeeds proves that nothing changed since its pair was read, however long its
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

When all slots of a group hold buckets that are not idle, NO_ROOM: the caller's declared behaviour decides. Sized by
`size(keys)` a group has 4 keys on average; more than 15 then happens to one group in 200,000.
"""
from libc.stdint cimport int64_t, uint8_t, uint64_t, uintptr_t
from libc.string cimport memcmp, memcpy
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastgw._core.clock cimport monotonic_ns, realtime_ns

import mmap
import os

cdef enum:
    HEADER = 4096
    DOOR = 15
    GROUP = FRONT_BYTES + BACK_BYTES
    EPOCH_AT = 32          # in the header: the wall clock less the monotonic one when the table was made
    COUNTS_AT = 64         # three words: slots that were filled, idle buckets that gave their place, keys without one

cdef bytes MAGIC = b"fgwbkt03"


cdef inline fgw_pair* _slot(Group group, int i) noexcept nogil:
    """Of a group: 0 to 14, and the door."""
    return group.front + i if i < FRONT else group.back + (i - FRONT)


cdef void _finish(Group group, uint64_t key, uint64_t ticket) noexcept nogil:
    """Fills the announced slot and closes the door; harmless when somebody else did it already."""
    cdef uint64_t version = ticket >> 4
    cdef uint64_t now = <uint64_t>monotonic_ns()
    swap(_slot(group, ticket & 15), 0, version, key, version + 1 if version >= now else now)
    swap(_slot(group, DOOR), key, ticket, 0, ticket)


cdef fgw_pair* _insert(Group group, uint64_t key, uint64_t *counts) noexcept nogil:
    """The slot of a key that was not there; NULL when the group is full."""
    cdef fgw_pair *slot
    cdef uint64_t lo, hi, ticket, opened, now, version, oldest
    cdef int i, free, rounds
    for rounds in range(ROUNDS):
        if not read(_slot(group, DOOR), &opened, &ticket):
            continue
        if opened != 0:
            _finish(group, opened, ticket)
            continue
        slot = find_in(group, key)
        if slot != NULL:
            return slot
        free = -1
        now = <uint64_t>monotonic_ns()
        # a free slot, else the one that has been idle for longest
        oldest = now
        for i in range(DOOR):
            if not read(_slot(group, i), &lo, &hi) or (lo != 0 and hi >= oldest):
                continue
            free = i
            if lo == 0:
                break
            oldest = hi
        if free < 0:
            if fgw_load(&group.back[BACK].hi) == ticket:
                fgw_add(&counts[2], 1)
                return NULL
            continue
        if not read(_slot(group, free), &lo, &hi) or (lo != 0 and hi >= now):
            continue
        version = (hi if hi > ticket >> 4 else ticket >> 4) + 1
        if not swap(_slot(group, free), lo, hi, 0, version):
            continue
        if swap(_slot(group, DOOR), 0, ticket, key, version << 4 | <uint64_t>free):
            _finish(group, key, version << 4 | <uint64_t>free)
            fgw_add(&counts[0 if lo == 0 else 1], 1)
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
        memcpy(&self.epoch, base + EPOCH_AT, 8)
        self._counts = <uint64_t*>(base + COUNTS_AT)
        if self.groups == 0 or self.groups & (self.groups - 1) or HEADER + self.groups * GROUP > n:
            raise ValueError("the memory of the BucketTable was cut")
        self._front = base + HEADER
        self._back = self._front + self.groups * FRONT_BYTES
        self._mask = self.groups - 1
        self.capacity = self.groups * DOOR

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
        view[EPOCH_AT:EPOCH_AT + 8] = (realtime_ns() - monotonic_ns()).to_bytes(8, "little")
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

    cdef fgw_pair* claim(self, uint64_t key) noexcept nogil:
        """Where it is from now on. NULL: its group holds 15 buckets that are not idle.

        Its second word may be later than a clock reading from before the call: one that goes on reads the clock again."""
        cdef Group group = self._group(key & self._mask)
        cdef fgw_pair *slot = find_in(group, key)
        return slot if slot != NULL else _insert(group, key, self._counts)

    cdef int take(self, uint64_t key, int64_t now, int64_t interval, int64_t burst, Level *level) noexcept nogil:
        """One token; `interval` ns per token, `burst` the capacity, `now` monotonic ns. Fills `level`."""
        cdef fgw_pair *slot
        cdef uint64_t lo, hi
        cdef int64_t tat, limit = now + burst * interval
        cdef int rounds
        level.now = now
        level.delay_ns = 0
        for rounds in range(ROUNDS):
            slot = self.find(key)
            if slot == NULL:
                slot = self.claim(key)
                if slot == NULL:
                    return NO_ROOM
                # a new bucket is full as of a later clock reading than `now`
                if monotonic_ns() > now:
                    level.now = now = monotonic_ns()
                    limit = now + burst * interval
            if not read(slot, &lo, &hi) or lo != key:
                continue                       # it was reclaimed: look again
            tat = <int64_t>hi
            if tat < now:
                tat = now
            if tat + interval > limit:
                level.remaining = 0
                level.full_ns = tat - now
                level.retry_ns = tat + interval - limit
                return EXHAUSTED
            if swap(slot, key, hi, key, <uint64_t>(tat + interval)):
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

    def counts(self):
        """Slots that hold a key, idle or not; idle buckets that gave their place to another key; keys there was no
        room for. A process that is killed may leave one uncounted."""
        return {"keys": self._counts[0], "evicted": self._counts[1], "no_room": self._counts[2]}

    def occupied(self):
        """How many slots hold a key that is not idle now."""
        cdef uint64_t g, lo, hi, now = <uint64_t>monotonic_ns()
        cdef int i, count = 0
        cdef Group group
        for g in range(self.groups):
            group = self._group(g)
            for i in range(DOOR):
                if read(_slot(group, i), &lo, &hi) and lo != 0 and hi >= now:
                    count += 1
        return count

    def announce(self, uint64_t key):
        """Leaves an insertion half done, as a process does that dies in the middle of one. For tests."""
        cdef Group group = self._group(key & self._mask)
        cdef uint64_t opened, ticket, lo, hi, version
        cdef int i
        if not read(_slot(group, DOOR), &opened, &ticket) or opened != 0 or find_in(group, key) != NULL:
            raise ValueError("an insertion is under way, or the key is there")
        for i in range(DOOR):
            if read(_slot(group, i), &lo, &hi) and lo == 0:
                version = (hi if hi > ticket >> 4 else ticket >> 4) + 1
                swap(_slot(group, i), lo, hi, 0, version)
                return swap(_slot(group, DOOR), 0, ticket, key, version << 4 | <uint64_t>i)
        raise ValueError("the group is full")
