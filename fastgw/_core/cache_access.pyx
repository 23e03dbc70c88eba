"""The storage of the cache as Python has it: for the admin API, levels behind the memory, and tests."""
cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from fastgw._core.cache_entries cimport bury
from fastgw._core.cache_layout cimport (
    BLOCK, LIVE, MAX_RUN, META, PURGE_ALL, PURGE_KEY, PURGE_PREFIX, PURGE_TAG, Entry, Head, Memory, fgw_gone,
    fgw_siphash128,
)
from fastgw._core.cache_purge cimport purge_note, purge_some, purge_tagged
from fastgw._core.cache_recovery cimport audit
from fastgw._core.cache_store cimport (
    CLAIM_MINE, FILL_CUT, FILL_NO_ROOM, FILL_OK, FILL_PURGED, FILL_TOO_LARGE, FRESHEN_GONE, FRESHEN_OK, LOOK_HIT,
    TAGS_MOST, Claim, Fill, Found, Key, Storage, Times,
)
from fastgw._core.cache_tags cimport own_tag, tag_hash

cdef int64_t SECOND = 1_000_000_000
cdef enum:
    SLICE = 1024             # records that are looked at under the lock at a time
    NAMES = 1000             # of a listing, at most

FILLED = {FILL_OK: "ok", FILL_NO_ROOM: "no_room", FILL_TOO_LARGE: "too_large", FILL_CUT: "cut", FILL_PURGED: "purged"}
FRESHENED = ("gone", "ok", "times")


class CacheBusy(Exception):
    """The lock could not be had within seconds: somebody who holds it is stopped."""


cdef inline void _meta(bytes given, uint8_t *meta):
    memset(meta, 0, META)
    memcpy(meta, PyBytes_AS_STRING(given), min(<size_t>META, <size_t>PyBytes_GET_SIZE(given)))


@cython.no_gc_clear
cdef class Hit:
    """An answer that is held: readable until `release()`, at the latest when this object ends."""

    def __dealloc__(self):
        if self.storage is not None:
            self.storage.release(&self.found)

    def release(self):
        self.storage.release(&self.found)

    @property
    def version(self):
        return self.found.version

    @property
    def times(self):
        """(stored, fresh until, kept until), ns since 1970."""
        return self.found.stored, self.found.expires, self.found.keep_until

    @property
    def meta(self):
        return PyBytes_FromStringAndSize(<char*>self.found.meta, META)

    @property
    def head(self):
        if self.found.entry == 0:
            raise ValueError("it was released")
        return PyBytes_FromStringAndSize(self.found.head, self.found.head_len)

    @property
    def size(self):
        return self.found.body_len

    def read(self, uint64_t at=0):
        """The body from there on. ValueError when it was released."""
        cdef list pieces = []
        cdef size_t n = 0
        cdef const char *p
        if self.found.entry == 0:
            raise ValueError("it was released")
        while True:
            p = self.storage.piece(&self.found, at, &n)
            if p == NULL:
                return b"".join(pieces)
            pieces.append(PyBytes_FromStringAndSize(p, n))
            at += n


@cython.no_gc_clear
cdef class Filling:
    """An answer that is being stored. One that ends without `finish` is dropped."""

    def __dealloc__(self):
        if self.storage is not None:
            self.storage.drop(&self.fill)

    def append(self, bytes data not None):
        """`ok`, or why it is over: no_room, too_large."""
        return FILLED[self.storage.append(&self.fill, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))]

    def finish(self):
        """`ok`, or why it is not kept: no_room, cut (another length than was expected), purged."""
        return FILLED[self.storage.finish(&self.fill)]

    def drop(self):
        self.storage.drop(&self.fill)


cdef class Access:
    """`Access(storage)`. Times are ns since 1970; seconds where it says so."""

    def __init__(self, Storage storage not None):
        self.storage = storage

    # ------------------------------------------------------------------ one answer

    def get(self, bytes name not None):
        """A Hit, or None."""
        cdef Hit hit = Hit.__new__(Hit)
        cdef Storage storage = self.storage
        cdef const char *p = PyBytes_AS_STRING(name)
        cdef size_t n = PyBytes_GET_SIZE(name)
        hit.found.entry = 0
        if storage.look(storage.key(p, n), p, n, &hit.found) != LOOK_HIT:
            return None
        hit.storage = storage
        return hit

    def peek(self, bytes name not None):
        """As `get`, but it counts as no use, and in no figure."""
        cdef Hit hit = self.get(name)
        if hit is None:
            self.storage.m.processes[max(0, self.storage.process)].misses -= self.storage.process >= 0
            return None
        self.storage.m.processes[self.storage.process].hits -= 1
        if self.storage.m.entries[hit.found.entry].freq > 0:
            self.storage.m.entries[hit.found.entry].freq -= 1
        return hit

    def begin(self, bytes name not None, bytes head=b"", int64_t expected=-1, bytes meta=b"", tags=(), times=None,
              int64_t asked=0, int64_t own=0):
        """A Filling, or why there is none: no_room, too_large. `times`: (stored, expires, keep_until). `asked`, monotonic:
        purges since then hold for it; with `own`, which is earlier, those of this host since that."""
        cdef Filling filling = Filling.__new__(Filling)
        cdef Storage storage = self.storage
        cdef const char *p = PyBytes_AS_STRING(name)
        cdef size_t n = PyBytes_GET_SIZE(name)
        cdef uint64_t hashes[TAGS_MOST + 1]
        cdef uint8_t data[META]
        cdef Times given
        cdef int count = 0, result
        cdef bytes tag
        for tag in list(tags)[:TAGS_MOST + 1]:
            hashes[count] = storage.tag(PyBytes_AS_STRING(tag), PyBytes_GET_SIZE(tag))
            count += 1
        given.stored, given.expires, given.keep_until = (0, 1 << 62, 1 << 62) if times is None else times
        given.asked = asked
        _meta(meta, data)
        result = storage.begin(&filling.fill, storage.key(p, n), p, n, PyBytes_AS_STRING(head), PyBytes_GET_SIZE(head),
                               data, &given, hashes, count, expected)
        if result != FILL_OK:
            return FILLED[result]
        if own != 0:
            filling.fill.own = own
        filling.storage = storage
        return filling

    def put(self, bytes name not None, bytes body not None, **given):
        """`ok`, or why it is not kept. As `begin`, and the body."""
        filling = self.begin(name, expected=len(body), **given)
        if isinstance(filling, str):
            return filling
        result = filling.append(body)
        return result if result != "ok" else filling.finish()

    def freshen(self, bytes name not None, uint64_t version, times, bytes head=None, bytes meta=b"", int64_t asked=0):
        """ok, times (the head is the old one) or gone."""
        cdef Storage storage = self.storage
        cdef uint8_t data[META]
        cdef Times given
        given.stored, given.expires, given.keep_until = times
        given.asked = asked
        _meta(meta, data)
        key = storage.key(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        if head is None:
            return FRESHENED[storage.freshen(key, version, NULL, 0, data, &given)]
        return FRESHENED[storage.freshen(key, version, PyBytes_AS_STRING(head), PyBytes_GET_SIZE(head), data, &given)]

    # ------------------------------------------------------------------ claims

    def claim(self, bytes name not None, double seconds):
        """What `unclaim` takes; None when somebody else has it."""
        cdef Claim claim
        key = self.storage.key(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        if self.storage.claim(key, <int64_t>(seconds * 1e9), &claim) != CLAIM_MINE:
            return None
        return claim.cell, claim.serial

    def unclaim(self, claim):
        cdef Claim given
        given.cell, given.serial = claim
        self.storage.unclaim(&given)

    def claimed(self, bytes name not None):
        return bool(self.storage.claimed(self.storage.key(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))))

    # ------------------------------------------------------------------ purging

    cdef int _lock(self) except -1:
        if not self.storage.lock(5 * SECOND):
            raise CacheBusy("the cache cannot be changed now: a process that changes it is stopped")
        return 0

    cdef object _slices(self, bytes prefix, bint soft):
        cdef const char *p = PyBytes_AS_STRING(prefix)
        cdef size_t n = PyBytes_GET_SIZE(prefix)
        cdef uint32_t at = 1
        count = 0
        while at != 0:
            self._lock()
            count += purge_some(&self.storage.m, p, n, soft, &at, SLICE)
            self.storage.unlock()
        return count

    cdef object _note(self, int kind, uint64_t tag, size_t n, bint soft, bint foreign):
        self._lock()
        purge_note(&self.storage.m, kind, tag, n, soft, foreign)
        self.storage.unlock()

    def purge_name(self, bytes name not None, bint soft=False, bint foreign=False):
        """The answer of a primary key and its variants: how many. `foreign`: another host wants it. Raises CacheBusy."""
        cdef uint64_t own = own_tag(&self.storage.m, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        return self._tagged(PURGE_KEY, own, soft, foreign)

    def purge_tag(self, bytes tag not None, bint soft=False, bint foreign=False):
        return self._tagged(PURGE_TAG, self.storage.tag(PyBytes_AS_STRING(tag), PyBytes_GET_SIZE(tag)), soft, foreign)

    cdef object _tagged(self, int kind, uint64_t tag, bint soft, bint foreign):
        self._note(kind, tag, 0, soft, foreign)
        count = 0
        while True:
            self._lock()
            some = purge_tagged(&self.storage.m, tag, soft, SLICE)
            self.storage.unlock()
            count += some
            if soft or some < SLICE:
                return count

    def purge_prefix(self, bytes prefix not None, bint soft=False, bint foreign=False):
        """What has a name that begins so: a look at every record, some hundreds at a time."""
        cdef uint64_t tag = tag_hash(&self.storage.m, PyBytes_AS_STRING(prefix), PyBytes_GET_SIZE(prefix))
        self._note(PURGE_PREFIX, tag, PyBytes_GET_SIZE(prefix), soft, foreign)
        return self._slices(prefix, soft)

    def purge_all(self, bint soft=False, bint foreign=False):
        self._note(PURGE_ALL, 0, 0, soft, foreign)
        return self._slices(b"", soft)

    @property
    def mark(self):
        """How far the purges of other hosts were read, two numbers; (0, 0) in a new memory."""
        return self.storage.m.head.mark[0], self.storage.m.head.mark[1]

    @mark.setter
    def mark(self, value):
        self.storage.m.head.mark[0], self.storage.m.head.mark[1] = value

    # ------------------------------------------------------------------ what there is

    def entries(self, bytes prefix=b"", int most=100):
        """(name, bytes of the body, stored, expires, keep_until, uses lately up to 15) of those whose name begins so, `most` at most."""
        cdef Memory *m = &self.storage.m
        cdef Entry *e
        cdef uint32_t i = 1, end
        cdef list found = []
        most = min(most, NAMES)
        while i < m.head.entry_end and len(found) < most:
            self._lock()
            try:
                end = min(i + SLICE, m.head.entry_end)
                while i < end and len(found) < most:
                    e = &m.entries[i]
                    if e.state == LIVE:
                        name = PyBytes_FromStringAndSize(m.data + <uint64_t>e.first * BLOCK, e.name_len)
                        if name.startswith(prefix):
                            found.append((name, e.body_len, e.stored, e.expires, e.keep_until, e.freq))
                    i += 1
            finally:
                self.storage.unlock()
        return found

    def stats(self):
        """Numbers by name. Bytes are those of names, heads and bodies, rounded to blocks."""
        cdef Memory *m = &self.storage.m
        cdef Head *h = m.head
        cdef uint64_t hits = h.gone_hits, misses = h.gone_misses, waits = h.gone_waits, waited = h.gone_waited
        cdef uint32_t i
        for i in range(h.processes_end):
            hits += m.processes[i].hits
            misses += m.processes[i].misses
            waits += m.processes[i].waits
            waited += m.processes[i].waited
        room = <uint64_t>(m.block_count - MAX_RUN)
        return {
            "memory": h.memory, "bytes": (room - h.free_blocks) * BLOCK, "bytes_max": room * BLOCK,
            "body_bytes": h.body_bytes, "entries": h.live, "entries_max": m.entry_count - 1,
            "filling": h.filling, "retired": h.dead, "hits": hits, "misses": misses, "fills": h.fills,
            "refused": h.refused, "evictions": h.evictions, "expirations": h.expirations, "purges": h.purges,
            "purged": h.purged, "tags": h.nodes_used, "tags_max": m.node_count - 1, "busy": waits, "waited_us": waited // 1000,
            "recoveries": h.recoveries, "new_percent": round(h.small_share / 42949672.96),
        }

    # ------------------------------------------------------------------ for tests

    def audit(self):
        """What is wrong with the memory: nothing may be. The dead that nobody reads are buried first."""
        self._lock()
        try:
            bury(&self.storage.m, <int>self.storage.m.head.dead)
            return audit(&self.storage.m)
        finally:
            self.storage.unlock()

    def siphash(self, bytes text not None):
        """Of the keys, under the seed of the memory."""
        key = self.storage.key(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
        return key.lo.to_bytes(8, "little") + key.hi.to_bytes(8, "little")
