"""What was stored and purged in the memory of the cache, for the level on disk: its writer follows both, and its readers
bring answers back.

A ring of the last answers that were stored, and the one of the last purges (`cache_purge.pyx`), tell one process of the host what
to write and what to forget. How far it has come stands beside them, so that its successor goes on from there. Nobody waits for
it: what it comes too late for is not written, and it is told that it missed something.
"""
cimport cython
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from fastgw._core.cache_access cimport Filling, Hit
from fastgw._core.cache_access import CacheBusy
from fastgw._core.cache_layout cimport (
    BLOCK, LIVE, MAIN, META, NEWS, PURGES, Entry, Memory, News, Purge, bucket_of, fgw_fence, fgw_load32, fgw_load64,
    fgw_store16,
)
from fastgw._core.cache_purge cimport DOOMED, STALED, doom_since
from fastgw._core.cache_store cimport FILL_OK, TAGS_MOST, Fill, Found, Storage, Times
from fastgw._core.cache_tags cimport own_tag
from fastgw._core.clock cimport monotonic_ns

cdef int64_t SECOND = 1_000_000_000
cdef enum:
    PIECE = 262144


@cython.no_gc_clear
cdef class Copy(Hit):
    """An answer of the memory that is held: a Hit with its name and the hashes of its tags, 8 bytes each. The first is that
    of its own primary key."""
    def piece(self, uint64_t at):
        """The body from there on, as far as it lies in one piece, 256 KiB at most; b"" at the end."""
        cdef size_t n = 0
        cdef const char *p = self.storage.piece(&self.found, at, &n)
        return b"" if p == NULL else PyBytes_FromStringAndSize(p, min(n, PIECE))


cdef class Feed:
    """`Feed(storage)`, of a process that is attached to it; one at a time follows."""

    def __init__(self, Storage storage not None):
        self.storage = storage

    cdef int _lock(self) except -1:
        # with the GIL: who waits for it while he has the lock, and who has it and waits for the lock, would wait for each other
        if not self.storage.lock(SECOND):
            raise CacheBusy("the cache cannot be read now: a process that changes it is stopped")
        return 0

    @property
    def seed(self):
        """16 bytes, under which keys and tags are hashed."""
        return (<char*>self.storage.m.head.seed)[:16]

    def follow(self):
        """From now on what is stored is noted; what was purged always is, and is read from the beginning."""
        self._lock()
        if not self.storage.m.head.followed:
            self.storage.m.head.news_read = self.storage.m.head.news_at
            self.storage.m.head.followed = 1
        self.storage.unlock()

    @property
    def waiting(self):
        """(answers, purges) that were noted and not read."""
        cdef Memory *m = &self.storage.m
        return (fgw_load64(&m.head.news_at) - fgw_load64(&m.head.news_read),
                fgw_load64(&m.head.purge_at) - fgw_load64(&m.head.purges_read))

    def purges(self):
        """(purges, number of the first, lost, now): those since `purged` was called last, each (kind, hash, bytes of the prefix,
        soft). `lost`: there were more than are remembered. All that came before `now` (ns, monotonic) is among them."""
        cdef Memory *m = &self.storage.m
        cdef Purge *note
        cdef uint64_t at
        cdef list found = []
        self._lock()
        try:
            now = monotonic_ns()
            at = first = m.head.purges_read
            lost = m.head.purge_at - at > PURGES
            if lost:
                at = first = m.head.purge_at
            while at < m.head.purge_at:
                note = &m.purges[at % PURGES]
                found.append((note.kind, note.tag, note.n, bool(note.soft)))
                at += 1
        finally:
            self.storage.unlock()
        return found, first, lost, now

    def purged(self, uint64_t at):
        """Those up to this number are done."""
        self.storage.m.head.purges_read = at

    def news(self, int most=1024):
        """(answers, lost): the next ones, each (key: 16 bytes, version, entry, promoted, purges before it), as far as `seen` was
        not called for them."""
        cdef Memory *m = &self.storage.m
        cdef News *note
        cdef uint64_t at
        cdef list found = []
        self._lock()
        try:
            at = m.head.news_read
            lost = m.head.news_at - at > NEWS
            if lost:
                at = m.head.news_read = m.head.news_at - NEWS
            while at < m.head.news_at and len(found) < most:
                note = &m.news[at % NEWS]
                found.append((PyBytes_FromStringAndSize(<char*>&note.hi, 16), note.version, note.entry,
                              bool(note.promoted), note.purges))
                at += 1
        finally:
            self.storage.unlock()
        return found, lost

    def seen(self, uint64_t count):
        """So many of what `news` gave are done."""
        self.storage.m.head.news_read += count

    def copy(self, uint32_t entry, uint64_t version, uint64_t purges):
        """A Copy of this entry; None: it is not there any more. What is purged is gone, or stale, also where the purge has not
        come to it yet; so are those it had been spared by, from number `purges` on."""
        cdef Memory *m = &self.storage.m
        cdef Entry *e = &m.entries[entry]
        cdef Found *found
        cdef Copy copy
        cdef uint16_t *pin
        cdef uint32_t node
        cdef int doom
        cdef list tags = []
        if self.storage.process < 0 or entry == 0 or entry >= m.entry_count or fgw_load32(&e.state) != LIVE:
            return None
        pin = &m.pins[<uint64_t>self.storage.process * m.entry_count + entry]
        if pin[0] == 0xffff:
            return None
        fgw_store16(pin, pin[0] + 1)
        fgw_fence()
        if fgw_load32(&e.state) != LIVE or e.version != version:
            fgw_store16(pin, pin[0] - 1)
            return None
        copy = Copy.__new__(Copy)
        copy.storage = self.storage
        found = &copy.found
        found.entry = entry
        # of a live entry nothing but its times, `meta` and head changes; they do under the lock
        self._lock()
        found.version, found.stored, found.expires, found.keep_until = e.version, e.stored, e.expires, e.keep_until
        memcpy(found.meta, e.meta, META)
        found.head_len, found.body_len = e.head_len, e.body_len
        found.head = m.data + <uint64_t>e.head_run * BLOCK if e.head_run != 0 \
            else m.data + <uint64_t>e.first * BLOCK + e.name_len
        doom = doom_since(m, entry, 0, 0, purges)
        self.storage.unlock()
        if doom == DOOMED:
            return None
        if doom == STALED:
            found.expires = 0
        found.run = 0
        found.run_at = 0
        node = e.tags
        while node != 0 and len(tags) <= TAGS_MOST:
            tags.append(PyBytes_FromStringAndSize(<char*>&m.nodes[node].tag, 8))
            node = m.nodes[node].sibling
        copy.name = PyBytes_FromStringAndSize(m.data + <uint64_t>e.first * BLOCK, e.name_len)
        own = own_tag(m, PyBytes_AS_STRING(copy.name), e.name_len)
        mine = PyBytes_FromStringAndSize(<char*>&own, 8)
        copy.tags = mine + b"".join([tag for tag in tags if tag != mine])
        return copy

    def used(self, bytes key not None):
        """(entry, version) of what the memory has of a key, and was asked for since it came; None: nothing."""
        cdef Memory *m = &self.storage.m
        cdef uint64_t *words = <uint64_t*>PyBytes_AS_STRING(key)
        cdef uint32_t entry, looks = 64
        if PyBytes_GET_SIZE(key) != 16:
            raise ValueError("a key has 16 bytes")
        entry = fgw_load32(bucket_of(m, words[1]))
        while entry != 0 and entry < m.entry_count and looks != 0:
            if m.entries[entry].lo == words[1] and m.entries[entry].hi == words[0]:
                if m.entries[entry].freq < 2 and m.entries[entry].queue != MAIN:
                    return None
                return entry, m.entries[entry].version
            entry = fgw_load32(&m.entries[entry].chain)
            looks -= 1
        return None


cdef class Recall:
    """`Recall(storage)`: brings answers back into the memory that a level behind it has kept."""

    def __init__(self, Storage storage not None):
        self.storage = storage

    def key(self, bytes name not None):
        key = self.storage.key(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        return PyBytes_FromStringAndSize(<char*>&key.hi, 8) + PyBytes_FromStringAndSize(<char*>&key.lo, 8)

    def begin(self, bytes name not None, const uint8_t[::1] head not None, bytes meta not None, times, bytes tags not None,
              int64_t expected, int64_t asked):
        """A Filling, or None: there is no room. It gives way to a newer answer, and to what was purged since `asked` (ns,
        monotonic) it does not come back. `times`: (stored, expires, keep_until); `tags`: hashes, 8 bytes each."""
        cdef Filling filling = Filling.__new__(Filling)
        cdef Storage storage = self.storage
        cdef const char *p = PyBytes_AS_STRING(name)
        cdef size_t n = PyBytes_GET_SIZE(name), count = PyBytes_GET_SIZE(tags) // 8
        cdef uint64_t hashes[TAGS_MOST + 1]
        cdef Times given
        if PyBytes_GET_SIZE(meta) != META or count > TAGS_MOST + 1:
            raise ValueError("it is not what was kept")
        memcpy(hashes, PyBytes_AS_STRING(tags), count * 8)
        given.stored, given.expires, given.keep_until = times
        given.asked = asked
        # the first hash is of its own key, which the storage puts there itself
        if storage.begin(&filling.fill, storage.key(p, n), p, n, <const char*>&head[0] if head.shape[0] else NULL,
                         head.shape[0], <const uint8_t*>PyBytes_AS_STRING(meta), &given, hashes + 1,
                         count - 1 if count else 0, expected) != FILL_OK:
            return None
        filling.fill.promoted = True
        filling.storage = storage
        return filling
