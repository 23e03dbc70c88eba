"""The storage of the HTTP cache: answers in memory that all workers of a host share.

A look-up takes no lock: it walks a chain of the index, pins what it finds in its process's own row of counts, and looks again
whether that is still it. Everything that changes lists holds a robust lock of the processes, for microseconds; when its
holder died, the next one puts the memory in order (`cache_recovery.pyx`). Nobody waits for it longer than LOCK_WAIT: then
an answer is not kept, which is all that is lost.

A fill writes into runs of its own, which nobody else touches while its process lives: it needs the lock for each run, not for
each piece. Keys are 128 bits of SipHash-2-4 under a seed of the segment, and the name itself is compared.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcmp, memcpy, memset
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer

from fastgw._core.cache_blocks cimport chain_release, order_for, run_take_upto, run_trim
from fastgw._core.cache_claims cimport claim_end, claim_find, claim_put
from fastgw._core.cache_entries cimport (
    bury, chain_blocks, entry_free, entry_kill, entry_resize, entry_take, index_find, index_in, make_room,
    process_clear, take_run,
)
from fastgw._core.cache_layout cimport (
    BLOCK, FILLING, FREQ_MOST, LIVE, MAX_RUN, META, NO_QUEUE, PROCESSES, PURGE_KEY, Entry, Head, Memory,
    bucket_of, entries_for, fgw_fence, fgw_fence_loads, fgw_fence_stores, fgw_life, fgw_load16, fgw_load32,
    fgw_mutex_consistent, fgw_mutex_format, fgw_mutex_lock, fgw_mutex_unlock, fgw_siphash128, fgw_store16,
    fgw_store32, lay, pinned, FGW_NOT_LOCKED, FGW_OWNER_DIED,
)
from fastgw._core.cache_news cimport news_note
from fastgw._core.cache_purge cimport DOOMED, SPARED, STALED, doom_of, purge_note, purge_tagged
from fastgw._core.cache_queues cimport queue_in, queue_new
from fastgw._core.cache_recovery cimport recover
from fastgw._core.cache_tags cimport own_tag, tag_hash, tags_link, tags_put
from fastgw._core.clock cimport monotonic_ns, realtime_ns

import mmap
import os

cdef int64_t LOCK_WAIT = 20_000_000
cdef enum:
    STEPS = 2048             # looks for victims, per call
    LOOKS = 64               # entries of a chain
    TRIES = 32               # of a look-up that was led astray
    SLICE = 256              # variants that are purged under the lock at a time
    RETIRED = 16             # runs of heads that an entry which is always being read keeps

cdef bytes MAGIC = b"fgwcch03"


cdef class Storage:
    """`Storage(buffer)` over memory that `Storage.format` prepared; `attach()` in the process that uses it, after a fork.

    ValueError when the memory is another's."""

    def __cinit__(self, buffer):
        cdef Py_buffer view
        PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE | PyBUF_WRITABLE)
        cdef char *base = <char*>view.buf
        cdef uint64_t n = view.len
        PyBuffer_Release(&view)
        self.owner = buffer
        self.memory = memoryview(buffer)
        self.process = -1
        self.m.head = <Head*>base
        if n < 4096 or <uintptr_t>base & 63 or memcmp(base, <char*>MAGIC, 8) != 0:
            raise ValueError("the memory is not a cache of this version")
        if lay(&self.m, base, self.m.head.memory, self.m.head.entries - 1) > n:
            raise ValueError("the memory of the cache was cut")
        self.largest = <uint64_t>(self.m.block_count - MAX_RUN) * BLOCK // 4

    def __repr__(self):
        return f"<Storage of {self.m.head.live} answers>"

    @staticmethod
    def size(memory, entries=None):
        """Bytes of the segment, most of which nothing is ever written to. ValueError when they leave no room."""
        cdef Memory m
        cdef uint64_t bytes_asked = memory
        memset(&m, 0, sizeof(m))
        return lay(&m, NULL, bytes_asked, entries_for(bytes_asked) if entries is None else entries)

    @staticmethod
    def format(buffer, memory, entries=None, seed=None):
        """Prepares zeroed memory, before any other process uses it. `seed`: 16 bytes, by default random."""
        cdef Py_buffer view
        cdef Memory m
        cdef bytes secret = os.urandom(16) if seed is None else seed
        cdef uint64_t bytes_asked = memory
        cdef uint64_t count = entries_for(bytes_asked) if entries is None else entries
        PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE | PyBUF_WRITABLE)
        cdef char *base = <char*>view.buf
        cdef uint64_t n = view.len
        PyBuffer_Release(&view)
        if lay(&m, base, bytes_asked, count) > n or len(secret) != 16:
            raise ValueError("the buffer is too small for a cache of this size")
        m.head.memory = bytes_asked
        m.head.entries = count + 1
        m.head.blocks = m.block_count
        memcpy(m.head.seed, <char*>secret, 16)
        m.head.entry_end = m.head.node_end = 1
        m.head.block_end = MAX_RUN
        m.head.small_share = (1 << 32) // 10
        m.head.free_blocks = m.block_count - MAX_RUN
        if fgw_mutex_format(m.head.lock) != 0:
            raise OSError("this system has no lock that survives the process that holds it")
        memcpy(m.head.magic, <char*>MAGIC, 8)

    @classmethod
    def private(cls, memory, entries=None):
        """One of this process, attached."""
        buffer = mmap.mmap(-1, cls.size(memory, entries))
        cls.format(buffer, memory, entries)
        storage = cls(buffer)
        storage.attach()
        return storage

    def attach(self):
        """Takes a row of pins for this process, and clears up after those that are gone. False: the table is full, or
        the lock could not be had within seconds; then everything misses."""
        cdef uint32_t i, place = PROCESSES
        cdef Memory *m = &self.m
        if self.process >= 0:
            return True
        if not self.lock(100 * LOCK_WAIT):
            return False
        for i in range(m.head.processes_end):
            if m.processes[i].pid != 0 and fgw_life(m.processes[i].pid) != m.processes[i].began:
                process_clear(m, i)
            if m.processes[i].pid == 0 and place == PROCESSES:
                place = i
        if place == PROCESSES and m.head.processes_end < PROCESSES:
            place = m.head.processes_end
            m.head.processes_end += 1
        if place < PROCESSES:
            m.processes[place].began = fgw_life(os.getpid())
            fgw_store32(&m.processes[place].pid, os.getpid())
            self.process = place
        self.unlock()
        return self.process >= 0

    def detach(self):
        """What this process holds is given back; whatever `look` gave may not be read any more."""
        if self.process >= 0 and self.lock(100 * LOCK_WAIT):
            process_clear(&self.m, self.process)
            self.process = -1
            self.unlock()

    # ------------------------------------------------------------------ the lock

    cdef bint lock(self, int64_t wait) noexcept nogil:
        """False: somebody else has held it for all that time."""
        cdef uint64_t waited = 0
        cdef int got = fgw_mutex_lock(self.m.head.lock, wait, &waited)
        if waited != 0 and self.process >= 0:
            self.m.processes[self.process].waited += waited
        if got == FGW_OWNER_DIED:
            recover(&self.m)
            fgw_mutex_consistent(self.m.head.lock)
        elif got == FGW_NOT_LOCKED:
            if self.process >= 0:
                self.m.processes[self.process].waits += 1
            return False
        return True

    cdef void unlock(self) noexcept nogil:
        fgw_mutex_unlock(self.m.head.lock)

    # ------------------------------------------------------------------ reading

    cdef Key key(self, const char *p, size_t n) noexcept nogil:
        cdef Key key
        fgw_siphash128(p, n, self.m.head.seed[0], self.m.head.seed[1], &key.lo, &key.hi)
        return key

    cdef uint64_t tag(self, const char *p, size_t n) noexcept nogil:
        """Of the bytes of a tag, as the purge will write them."""
        return tag_hash(&self.m, p, n)

    cdef int look(self, Key key, const char *name, size_t n, Found *found) noexcept nogil:
        """LOOK_HIT: `found` is filled and has to be released."""
        cdef Memory *m = &self.m
        cdef Entry *e
        cdef uint16_t *pin
        cdef uint32_t entry, seq, left
        cdef uint64_t version
        cdef int tries
        found.entry = 0
        if self.process < 0:
            return LOOK_MISS
        for tries in range(TRIES):
            seq = fgw_load32(&m.head.index_seq)
            entry = fgw_load32(bucket_of(m, key.lo))
            left = LOOKS
            while entry != 0 and entry < m.entry_count and left != 0:
                left -= 1
                e = &m.entries[entry]
                if e.lo == key.lo and e.hi == key.hi and fgw_load32(&e.state) == LIVE:
                    version = e.version
                    pin = &m.pins[<uint64_t>self.process * m.entry_count + entry]
                    if pin[0] == 0xffff:
                        break
                    fgw_store16(pin, pin[0] + 1)
                    fgw_fence()
                    if fgw_load32(&e.state) == LIVE and e.version == version and e.lo == key.lo and e.hi == key.hi \
                            and e.name_len == n and memcmp(m.data + <uint64_t>e.first * BLOCK, name, n) == 0 \
                            and _copy(m, e, found):
                        if e.freq < FREQ_MOST:
                            e.freq += 1
                        found.entry = entry
                        m.processes[self.process].hits += 1
                        return LOOK_HIT
                    fgw_store16(pin, pin[0] - 1)
                entry = fgw_load32(&e.chain)
            # what left the index meanwhile may have led this walk astray
            if fgw_load32(&m.head.index_seq) == seq:
                break
        m.processes[self.process].misses += 1
        return LOOK_MISS

    cdef const char* piece(self, Found *found, uint64_t at, size_t *n) noexcept nogil:
        """The body from `at` on, as far as it lies in one piece, of `n` bytes."""
        cdef Memory *m = &self.m
        cdef Entry *e = &m.entries[found.entry]
        cdef uint64_t run_size, end
        cdef uint32_t run, after
        n[0] = 0
        if found.entry == 0 or at >= found.body_len:
            return NULL
        at += e.body_at                      # from the beginning of the first run
        if found.run == 0 or at < found.run_at:
            found.run = e.first
            found.run_at = 0
        run = found.run
        while True:
            run_size = <uint64_t>BLOCK << (m.order[run] & 15)
            if at < found.run_at + run_size:
                break
            found.run_at += run_size
            run = m.link[run]                # (one assignment at a time: a chained one is read twice)
            found.run = run
            if run == 0:
                return NULL
        end = found.run_at + run_size
        after = m.link[run]
        while after == run + (<uint32_t>1 << (m.order[run] & 15)):
            run = after
            end += <uint64_t>BLOCK << (m.order[run] & 15)
            after = m.link[run]
        if end > e.body_at + found.body_len:
            end = e.body_at + found.body_len
        n[0] = <size_t>(end - at)
        return m.data + <uint64_t>found.run * BLOCK + (at - found.run_at)

    cdef void release(self, Found *found) noexcept nogil:
        cdef uint16_t *pin
        if found.entry != 0 and self.process >= 0:
            pin = &self.m.pins[<uint64_t>self.process * self.m.entry_count + found.entry]
            fgw_store16(pin, pin[0] - 1)
        found.entry = 0

    # ------------------------------------------------------------------ single flight

    cdef int claim(self, Key key, int64_t lease_ns, Claim *claim) noexcept nogil:
        """CLAIM_MINE: whoever asks for it gets CLAIM_OTHERS, until `unclaim`, the end of the lease or of this process."""
        cdef int64_t now = monotonic_ns()
        claim.key = key
        claim.cell = -1
        claim.serial = 0
        if claim_find(&self.m, key.hi, key.lo, now) >= 0:
            return CLAIM_OTHERS
        if self.process < 0 or not self.lock(LOCK_WAIT):
            return CLAIM_MINE
        if claim_find(&self.m, key.hi, key.lo, now) >= 0:
            self.unlock()
            return CLAIM_OTHERS
        claim.cell = claim_put(&self.m, key.hi, key.lo, now + lease_ns, self.process, &claim.serial)
        self.unlock()
        return CLAIM_MINE

    cdef bint claimed(self, Key key) noexcept nogil:
        return claim_find(&self.m, key.hi, key.lo, monotonic_ns()) >= 0

    cdef void unclaim(self, Claim *claim) noexcept nogil:
        if claim.cell >= 0 and self.lock(LOCK_WAIT):
            claim_end(&self.m, claim.cell, claim.serial)
            self.unlock()
        claim.cell = -1

    # ------------------------------------------------------------------ filling

    cdef int begin(self, Fill *fill, Key key, const char *name, size_t n, const char *head, size_t head_len,
                   const uint8_t *meta, const Times *times, const uint64_t *tags, size_t n_tags,
                   int64_t expected) noexcept nogil:
        """FILL_OK: it has to come to `finish` or `drop`."""
        cdef int result
        fill.entry = 0
        if self.process < 0:
            return FILL_NO_ROOM
        if not self.lock(LOCK_WAIT):
            return FILL_NO_ROOM
        if n == 0 or n + head_len > HEAD_MOST or n_tags > TAGS_MOST or expected > <int64_t>self.largest:
            result = FILL_TOO_LARGE
        else:
            if self.left_count > 0:
                self._drop_left()
            bury(&self.m, 16)
            result = self._begin(fill, key, name, n, head, head_len, meta, times, tags, n_tags, expected)
        if result != FILL_OK:
            self.m.head.refused += 1
        self.unlock()
        return result

    cdef int _begin(self, Fill *fill, Key key, const char *name, size_t n, const char *head, size_t head_len,
                    const uint8_t *meta, const Times *times, const uint64_t *tags, size_t n_tags,
                    int64_t expected) noexcept nogil:
        cdef Memory *m = &self.m
        cdef int steps = STEPS
        cdef int64_t now = realtime_ns()
        cdef uint64_t wanted = n + head_len + (expected if expected >= 0 else 1024)
        cdef uint32_t entry = entry_take(m, now, &steps)
        cdef uint32_t last, blocks
        cdef Entry *e
        cdef char *base
        if entry == 0:
            return FILL_NO_ROOM
        e = &m.entries[entry]
        e.head_run = e.retired = 0
        e.first = take_run(m, order_for(wanted), order_for(n + head_len), now, &steps)
        if e.first == 0 or not tags_put(m, entry, own_tag(m, name, n), tags, <uint32_t>n_tags):
            entry_free(m, entry)
            return FILL_NO_ROOM
        if expected >= 0:
            blocks = <uint32_t>((wanted + BLOCK - 1) // BLOCK)
            if blocks < <uint32_t>1 << m.order[e.first]:
                run_trim(m, e.first, blocks)
        e.hi, e.lo = key.hi, key.lo
        m.head.version += 1
        e.version = m.head.version
        e.seq = 0
        e.stored, e.expires, e.keep_until = times.stored, times.expires, times.keep_until
        e.name_len, e.head_len, e.body_len = <uint32_t>n, <uint32_t>head_len, 0
        e.body_at = <uint32_t>(n + head_len)
        e.blocks = chain_blocks(m, e.first, &last)
        e.owner = <uint32_t>self.process
        e.freq, e.queue = 0, NO_QUEUE
        memcpy(e.meta, meta, META)
        base = m.data + <uint64_t>e.first * BLOCK
        memcpy(base, name, n)
        memcpy(base + n, head, head_len)
        fill.asked = fill.own = times.asked if times.asked != 0 else monotonic_ns()
        fill.entry, fill.run, fill.version = entry, last, e.version
        fill.body_len, fill.expected, fill.promoted = 0, expected, False
        fill.at = base + e.body_at
        fill.room = <size_t>e.blocks * BLOCK - e.body_at
        m.head.filling += 1
        fgw_store32(&e.state, FILLING)
        return FILL_OK

    cdef int append(self, Fill *fill, const char *p, size_t n) noexcept nogil:
        """All of it, or FILL_NO_ROOM or FILL_TOO_LARGE: then it is over, and `finish` would say the same."""
        cdef size_t some
        cdef int result
        if fill.entry == 0:
            return FILL_NO_ROOM
        if fill.body_len + n > (self.largest if fill.expected < 0 else <uint64_t>fill.expected):
            self._give_up(fill)
            return FILL_TOO_LARGE
        while n != 0:
            if fill.room == 0:
                result = self._grow(fill, n)
                if result != FILL_OK:
                    self._give_up(fill)
                    return result
            some = n if n < fill.room else fill.room
            memcpy(fill.at, p, some)
            fill.at += some
            fill.room -= some
            fill.body_len += some
            p += some
            n -= some
        return FILL_OK

    cdef int _grow(self, Fill *fill, size_t more) noexcept nogil:
        """Another run: what is missing, or as much as there is already, of 256 KiB at most."""
        cdef Memory *m = &self.m
        cdef Entry *e = &m.entries[fill.entry]
        cdef uint64_t wanted = more if more > fill.body_len else fill.body_len
        cdef uint32_t run, last, blocks
        cdef int order, steps = STEPS
        if fill.expected >= 0:
            wanted = <uint64_t>fill.expected - fill.body_len
        order = order_for(wanted)
        if not self.lock(LOCK_WAIT):
            return FILL_NO_ROOM
        run = run_take_upto(m, order) if make_room(m, <uint32_t>1 << order, realtime_ns(), &steps) else 0
        if run == 0:
            self.unlock()
            return FILL_NO_ROOM
        blocks = <uint32_t>((wanted + BLOCK - 1) // BLOCK) if wanted < <uint64_t>MAX_RUN * BLOCK else MAX_RUN
        if fill.expected >= 0 and blocks < <uint32_t>1 << m.order[run]:
            run_trim(m, run, blocks)
        blocks = chain_blocks(m, run, &last)
        m.link[fill.run] = run
        fill.run = last
        e.blocks += blocks
        fill.at = m.data + <uint64_t>run * BLOCK
        fill.room = <size_t>blocks * BLOCK
        self.unlock()
        return FILL_OK

    cdef int finish(self, Fill *fill) noexcept nogil:
        """It is found from now on, and what had its key is not."""
        cdef Memory *m = &self.m
        cdef Entry *e
        cdef uint32_t entry = fill.entry, old, spare
        cdef int doom
        if entry == 0:
            return FILL_NO_ROOM
        e = &m.entries[entry]
        if fill.expected >= 0 and fill.body_len != <uint64_t>fill.expected:
            self._give_up(fill)
            return FILL_CUT
        if not self.lock(LOCK_WAIT):
            self._give_up(fill)
            return FILL_NO_ROOM
        fill.entry = 0
        m.head.filling -= 1
        doom = doom_of(m, entry, fill.asked, fill.own)
        if doom == DOOMED:
            entry_free(m, entry)
            self.unlock()
            return FILL_PURGED
        if doom == STALED:
            e.expires = 0
        spare = <uint32_t>(fill.room // BLOCK)
        if spare != 0:
            e.blocks -= run_trim(m, fill.run, (<uint32_t>1 << m.order[fill.run]) - spare)
        e.body_len = fill.body_len
        old = index_find(m, e.hi, e.lo, m.data + <uint64_t>e.first * BLOCK, e.name_len)
        if old != 0 and fill.promoted:
            entry_free(m, entry)
            self.unlock()
            return FILL_OK
        fgw_store32(&e.state, LIVE)
        m.head.live += 1
        m.head.fills += 1
        m.head.body_bytes += e.body_len
        index_in(m, entry)
        tags_link(m, entry)
        if m.head.followed:
            news_note(m, entry, fill.promoted)
        if old != 0:
            e.freq, e.epoch = m.entries[old].freq, m.entries[old].epoch
            queue_in(m, entry, m.entries[old].queue)
            entry_kill(m, old)
        else:
            queue_new(m, entry)
        self.unlock()
        return FILL_OK

    cdef void _give_up(self, Fill *fill) noexcept nogil:
        self.drop(fill)
        self.m.head.refused += 1             # without the lock: one that is not counted is no harm

    cdef void drop(self, Fill *fill) noexcept nogil:
        cdef uint32_t entry = fill.entry
        fill.entry = 0
        if entry == 0 or self.process < 0:
            return
        if self.lock(LOCK_WAIT):
            self.m.head.filling -= 1
            entry_free(&self.m, entry)
            self.unlock()
        elif self.left_count < 64:           # nobody else gives this memory back while we live: at the next `begin`
            self.left[self.left_count] = entry
            self.left_count += 1

    cdef void _drop_left(self) noexcept nogil:
        while self.left_count > 0:
            self.left_count -= 1
            self.m.head.filling -= 1
            entry_free(&self.m, self.left[self.left_count])

    # ------------------------------------------------------------------ changing

    cdef int freshen(self, Key key, uint64_t version, const char *head, size_t head_len, const uint8_t *meta,
                     const Times *times) noexcept nogil:
        """RFC 9111, Section 4.3.4: the same body has been found valid."""
        cdef Memory *m = &self.m
        cdef uint32_t entry, old
        cdef int doom, result = FRESHEN_GONE
        cdef int64_t asked
        cdef Entry *e
        if self.process < 0 or not self.lock(LOCK_WAIT):
            return FRESHEN_GONE
        entry = bucket_of(m, key.lo)[0]
        while entry != 0 and m.entries[entry].version != version:
            entry = m.entries[entry].chain
        if entry != 0 and m.entries[entry].state == LIVE:
            e = &m.entries[entry]
            asked = times.asked if times.asked != 0 else monotonic_ns()
            doom = doom_of(m, entry, asked, asked)
            fgw_store32(&e.seq, e.seq + 1)
            fgw_fence()
            result = FRESHEN_OK
            if head != NULL and not self._replace_head(entry, head, head_len):
                result = FRESHEN_TIMES
            e.stored, e.keep_until = times.stored, times.keep_until
            e.expires = times.expires if doom == SPARED else 0
            memcpy(e.meta, meta, META)
            fgw_store32(&e.seq, e.seq + 1)
            fgw_fence()
            if e.retired != 0 and not pinned(m, entry):
                old = e.retired
                e.retired = 0
                entry_resize(m, e, e.blocks - chain_release(m, old))
        self.unlock()
        return result

    cdef bint _replace_head(self, uint32_t entry, const char *head, size_t head_len) noexcept nogil:
        """The old one stays where readers have it. At no moment may it hang on nothing: they go on when we die."""
        cdef Memory *m = &self.m
        cdef Entry *e = &m.entries[entry]
        cdef int64_t now = realtime_ns()
        cdef int order = order_for(head_len), steps = STEPS
        cdef uint32_t run, last, blocks, retired = chain_blocks(m, e.retired, &last)
        if head_len > HEAD_MOST or (retired > RETIRED and pinned(m, entry)):
            return False
        if m.head.free_blocks < <uint32_t>1 << order:
            return False                     # making room could evict the very entry
        run = run_take_upto(m, order)
        if run == 0 or m.order[run] != order:
            chain_release(m, run)
            return False
        if head_len > 0:
            run_trim(m, run, <uint32_t>((head_len + BLOCK - 1) // BLOCK))
        blocks = chain_blocks(m, run, &last)
        memcpy(m.data + <uint64_t>run * BLOCK, head, head_len)
        if e.head_run != 0:
            chain_blocks(m, e.head_run, &last)
            m.link[last] = e.retired
            e.retired = e.head_run
        fgw_fence_stores()
        e.head_run = run
        e.head_len = <uint32_t>head_len
        entry_resize(m, e, e.blocks + blocks)
        return True

    cdef int64_t purge_name(self, const char *name, size_t n, bint soft) noexcept nogil:
        cdef uint64_t own = own_tag(&self.m, name, n)
        cdef int64_t purged = 0, some = SLICE
        if not self.lock(LOCK_WAIT):
            return -1
        purge_note(&self.m, PURGE_KEY, own, 0, soft, False)
        while True:
            some = purge_tagged(&self.m, own, soft, SLICE)
            purged += some
            self.unlock()
            # others have a turn before the next ones go
            if soft or some < SLICE:
                return purged
            if not self.lock(LOCK_WAIT):
                return -1


cdef inline bint _copy(Memory *m, Entry *e, Found *found) noexcept nogil:
    """What may change in place, as it was at one moment. False: it is being changed by somebody who does not come to an
    end."""
    cdef uint32_t seq
    cdef int tries
    for tries in range(100_000):
        seq = fgw_load32(&e.seq)
        if seq & 1:
            continue
        found.stored, found.expires, found.keep_until = e.stored, e.expires, e.keep_until
        memcpy(found.meta, e.meta, META)
        found.head_len = e.head_len
        if e.head_run != 0:
            found.head = m.data + <uint64_t>e.head_run * BLOCK
        else:
            found.head = m.data + <uint64_t>e.first * BLOCK + e.name_len
        fgw_fence_loads()
        if fgw_load32(&e.seq) == seq:
            found.version = e.version
            found.body_len = e.body_len
            found.run = 0
            found.run_at = 0
            return True
    return False
