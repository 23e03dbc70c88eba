"""The index of the cache's level on disk: memory that all processes of a host share. One of them writes, all read.

    head       counters; positions of the rings; how far purges are done
    slots      a ring: one of 80 bytes per answer, in the order in which answers lie in the files
    buckets    key → first slot of a chain
    nodes      a ring: tag of an answer, in the lists of the tags
    tags       tag → first node of a list

The files are a log (`fastgw/store/disk`): what came first goes first, a segment of the log at a time, and with it its slots and nodes,
so that neither has a list of free ones. A look-up takes no lock; should it be led astray by the writer, it finds nothing, or a place
where something else lies: what is read there says itself what it is, and is checked. When the writer died, its successor
makes the index anew from the files.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy, memset
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from fastgw._core.cache_layout cimport (
    fgw_add64, fgw_fence, fgw_fence_loads, fgw_fence_stores, fgw_load32, fgw_load64, fgw_siphash128, fgw_store32,
    fgw_store64,
)
from fastgw._core.clock cimport realtime_ns

cdef enum:
    PAGE = 4096
    NODES = 3                # per slot, on average: one is for its key
    LOOKS = 64               # slots of a chain
    MAX_TAGS = 129
    OF_TAGS = 0x746167       # as in cache_tags.pyx
    LIVE = 0                 # states of a record
    STALE = 1
    DEAD = 2

cdef int64_t NS = 1_000_000_000
cdef uint32_t MARK = 0x6d776766

COUNTERS = (
    "entries", "bytes", "hits", "misses", "bytes_read", "writes", "bytes_written", "evictions", "purged", "late", "too_large",
    "broken", "errors", "busy",
)  # fmt: skip

assert sizeof(Slot) == 80
assert sizeof(Record) == 160
assert sizeof(Head) <= PAGE

RECORD_SIZE = sizeof(Record)


cdef uint64_t _power(uint64_t n):
    cdef uint64_t p = 64
    while p < n:
        p *= 2
    return p


cdef uint64_t _pages(uint64_t n):
    return (n + PAGE - 1) // PAGE * PAGE


def seal(bytes record not None, bytes seed not None):
    """What stands in `check` of a record: SipHash-2-4 under the seed of the cache."""
    cdef uint64_t lo, hi
    cdef uint64_t *words = <uint64_t*>PyBytes_AS_STRING(seed)
    if PyBytes_GET_SIZE(record) < 16 or PyBytes_GET_SIZE(seed) != 16:
        raise ValueError("that is no record, or no seed")
    fgw_siphash128(PyBytes_AS_STRING(record) + 16, PyBytes_GET_SIZE(record) - 16, words[0], words[1], &lo, &hi)
    return lo


cdef class DiskIndex:
    """`DiskIndex(buffer, slots, seed)` over zeroed memory of `DiskIndex.size(slots)` bytes. `slots`: answers at most."""

    def __cinit__(self, buffer, uint64_t slots, bytes seed not None):
        cdef Py_buffer view
        cdef char *base
        PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE | PyBUF_WRITABLE)
        base = <char*>view.buf
        cdef uint64_t n = view.len
        PyBuffer_Release(&view)
        if n < DiskIndex.size(slots) or len(seed) != 16 or <uintptr_t>base & 63:
            raise ValueError("the memory is too small for this index")
        self.memory = memoryview(buffer)
        memcpy(self.seed, PyBytes_AS_STRING(seed), 16)
        self.count = slots
        self.node_count = slots * NODES
        self.mask = <uint32_t>(_power(slots) - 1)
        self.head = <Head*>base
        base += PAGE
        self.slots = <Slot*>base
        base += _pages((slots + 1) * sizeof(Slot))
        self.buckets = <uint32_t*>base
        base += _pages((<uint64_t>self.mask + 1) * 4)
        self.tags = <uint32_t*>base
        base += _pages((<uint64_t>self.mask + 1) * 4)
        self.nodes = <Node*>base

    @staticmethod
    def size(uint64_t slots):
        if not 1 <= slots < 1 << 30:
            raise ValueError(f"{slots} answers are none, or too many")
        return PAGE + _pages((slots + 1) * sizeof(Slot)) + 2 * _pages(_power(slots) * 4) \
            + _pages((slots * NODES + 1) * sizeof(Node))

    def __repr__(self):
        return f"<DiskIndex of {self.head.counters[0]} answers>"

    # ------------------------------------------------------------------ for readers

    def look(self, bytes key not None):
        """(segment, offset, bytes of the record, stale, number, done): where a key lies; None: nowhere. Purges since `done`
        (ns, monotonic) may mean it."""
        cdef uint64_t *words = <uint64_t*>PyBytes_AS_STRING(key)
        cdef uint64_t serial
        cdef uint32_t at, looks = LOOKS
        cdef Slot *slot
        cdef Slot found
        cdef int64_t done
        if PyBytes_GET_SIZE(key) != 16:
            raise ValueError("a key has 16 bytes")
        if fgw_load32(&self.head.open) == 0:
            return None
        done = <int64_t>fgw_load64(<uint64_t*>&self.head.purged_until)
        at = fgw_load32(&self.buckets[<uint32_t>words[1] & self.mask])
        while at != 0 and at <= self.count and looks != 0:
            slot = &self.slots[at]
            serial = fgw_load64(&slot.serial)
            if serial != 0 and slot.hi == words[0] and slot.lo == words[1]:
                found = slot[0]
                fgw_fence_loads()
                if fgw_load64(&slot.serial) == serial:
                    if <int64_t>found.until * NS < realtime_ns():
                        return None
                    return found.segment, found.offset, found.size, found.stale != 0, serial, done
            at = fgw_load32(&slot.chain)
            looks -= 1
        return None

    def add(self, int counter, uint64_t n):
        """To one of COUNTERS, from any process."""
        fgw_add64(&self.head.counters[counter], n)

    def counts(self):
        return {name: self.head.counters[i] for i, name in enumerate(COUNTERS)}

    @property
    def first_segment(self):
        """The oldest that is not gone; 0: there is none."""
        cdef uint64_t first = fgw_load64(&self.head.slot_first)
        return 0 if first == fgw_load64(&self.head.slot_end) else self.slots[first % self.count + 1].segment

    @property
    def room(self):
        """(slots, nodes) that are left."""
        cdef Head *h = self.head
        return self.count - (h.slot_end - h.slot_first), self.node_count - (h.node_end - h.node_first)

    # ------------------------------------------------------------------ for the writer

    def clear(self):
        """Nothing is found until `open`; counters of what there is begin at zero."""
        cdef Head *h = self.head
        fgw_store32(&h.open, 0)
        fgw_fence()
        memset(self.buckets, 0, (<uint64_t>self.mask + 1) * 4)
        memset(self.tags, 0, (<uint64_t>self.mask + 1) * 4)
        h.slot_first = h.slot_end
        h.node_first = h.node_end
        h.counters[0] = h.counters[1] = 0

    def open(self, int64_t done):
        """All purges before `done` (ns, monotonic) are in it."""
        fgw_store64(<uint64_t*>&self.head.purged_until, <uint64_t>done)
        fgw_store32(&self.head.open, 1)

    def close(self):
        fgw_store32(&self.head.open, 0)

    cdef uint32_t _find(self, uint64_t hi, uint64_t lo) noexcept:
        cdef uint32_t at = self.buckets[<uint32_t>lo & self.mask]
        while at != 0 and not (self.slots[at].hi == hi and self.slots[at].lo == lo and self.slots[at].serial != 0):
            at = self.slots[at].chain
        return at

    cdef void _kill(self, uint32_t at) noexcept:
        cdef Slot *slot = &self.slots[at]
        cdef uint32_t *place = &self.buckets[<uint32_t>slot.lo & self.mask]
        cdef uint64_t i
        cdef uint32_t node
        cdef Node *one
        if slot.serial == 0:
            return
        fgw_store64(&slot.serial, 0)
        while place[0] != at:
            place = &self.slots[place[0]].chain
        fgw_store32(place, slot.chain)
        for i in range(slot.nodes, slot.nodes + slot.n_nodes):
            node = <uint32_t>(i % self.node_count) + 1
            one = &self.nodes[node]
            if one.prev != 0:
                self.nodes[one.prev].next = one.next
            else:
                self.tags[<uint32_t>one.tag & self.mask] = one.next
            if one.next != 0:
                self.nodes[one.next].prev = one.prev
            one.slot = 0
        self.head.counters[0] -= 1
        self.head.counters[1] -= slot.size

    cdef bint _put(self, Record *r, const uint64_t *tags, uint64_t size, uint32_t at, uint64_t purges) noexcept:
        """False: there is no room. The one before of the same key is dead."""
        cdef Head *h = self.head
        cdef uint32_t place, node, old = self._find(r.hi, r.lo)
        cdef uint32_t *bucket = &self.buckets[<uint32_t>r.lo & self.mask]
        cdef uint32_t *first
        cdef uint32_t i
        cdef Slot *slot
        if h.slot_end - h.slot_first >= self.count or h.node_end - h.node_first + r.n_tags > self.node_count:
            return False
        place = <uint32_t>(h.slot_end % self.count) + 1
        slot = &self.slots[place]
        slot.hi, slot.lo = r.hi, r.lo
        slot.offset, slot.size = r.offset, size
        slot.segment, slot.at = r.segment, at
        slot.stale = 1 if r.state == STALE else 0
        slot.until = <uint32_t>min(max(r.keep_until // NS, 0), 0xffffffff)
        slot.purges = purges
        slot.nodes, slot.n_nodes = h.node_end, r.n_tags
        for i in range(r.n_tags):
            node = <uint32_t>(h.node_end % self.node_count) + 1
            first = &self.tags[<uint32_t>tags[i] & self.mask]
            self.nodes[node].tag = tags[i]
            self.nodes[node].slot = place
            self.nodes[node].prev = 0
            self.nodes[node].next = first[0]
            if first[0] != 0:
                self.nodes[first[0]].prev = node
            first[0] = node
            h.node_end += 1
        fgw_store32(&slot.chain, bucket[0])
        h.serial += 1
        fgw_fence_stores()
        fgw_store64(&slot.serial, h.serial)
        fgw_store32(bucket, place)
        fgw_store64(&h.slot_end, h.slot_end + 1)
        h.counters[0] += 1
        h.counters[1] += size
        if old != 0:
            self._kill(old)
        return True

    def put(self, bytes record not None, uint64_t size, uint32_t at, uint64_t purges):
        """A record that was written: `size` bytes in the file with the answers, at `at` of that with the names; `purges` had been
        before it. False: there is no room."""
        cdef Record *r = <Record*>PyBytes_AS_STRING(record)
        if <uint64_t>PyBytes_GET_SIZE(record) < sizeof(Record) + r.name_len + 8 * <uint64_t>r.n_tags:
            raise ValueError("that is no record")
        return bool(self._put(r, <uint64_t*>(PyBytes_AS_STRING(record) + _tags_at(r)), size, at, purges))

    def load(self, const uint8_t[::1] names not None, uint64_t at, uint32_t segment, uint64_t data_size):
        """Reads the records of a file with names, from `at` on. (position, full): it stops at the end, at what is no whole
        record, or (full) where there is no room."""
        cdef uint64_t n = names.shape[0], lo, hi, size
        cdef const uint8_t *base = &names[0] if n else NULL
        cdef Record r
        cdef const uint8_t *p
        cdef uint32_t old
        cdef int64_t now = realtime_ns()
        cdef uint64_t tags[MAX_TAGS]
        while at + sizeof(Record) <= n:
            p = base + at
            memcpy(&r, p, sizeof(Record))
            if r.mark != MARK or r.length < sizeof(Record) or r.length > n - at or r.segment != segment \
                    or r.n_tags == 0 or r.n_tags > MAX_TAGS or r.length != _length(&r):
                break
            fgw_siphash128(p + 16, r.length - 16, self.seed[0], self.seed[1], &lo, &hi)
            if lo != r.check:
                break
            size = r.length + <uint64_t>r.head_len + r.body_len
            if r.state != LIVE and r.state != STALE or r.offset + size > data_size or r.keep_until < now:
                # also what it had replaced is not found any more
                old = self._find(r.hi, r.lo)
                if old != 0:
                    self._kill(old)
            else:
                memcpy(tags, p + _tags_at(&r), 8 * r.n_tags)
                if not self._put(&r, tags, size, <uint32_t>at, 0):
                    return at, True
            at += r.length
        return at, False

    def forget(self, bytes key not None):
        """Of one key: where its record's state stands, 8 bytes (segment << 32 | position); b"": it is not there."""
        cdef uint64_t *words = <uint64_t*>PyBytes_AS_STRING(key)
        cdef uint32_t at
        cdef uint64_t place
        if PyBytes_GET_SIZE(key) != 16:
            raise ValueError("a key has 16 bytes")
        at = self._find(words[0], words[1])
        if at == 0:
            return b""
        place = <uint64_t>self.slots[at].segment << 32 | self.slots[at].at
        self._kill(at)
        return PyBytes_FromStringAndSize(<char*>&place, 8)

    def near_end(self, bytes key not None, uint32_t before):
        """Is it there, in a segment of at least this number? None: it is not there."""
        cdef uint64_t *words = <uint64_t*>PyBytes_AS_STRING(key)
        cdef uint32_t at
        if PyBytes_GET_SIZE(key) != 16:
            raise ValueError("a key has 16 bytes")
        at = self._find(words[0], words[1])
        return None if at == 0 else self.slots[at].segment < before

    def purge_tag(self, uint64_t tag, uint64_t purge, bint soft):
        """Those with this tag that came before purge number `purge`: where their states stand, as `forget` gives them."""
        cdef uint32_t node = self.tags[<uint32_t>tag & self.mask], after, at
        cdef uint64_t place
        cdef Slot *slot
        cdef bytearray places = bytearray()
        while node != 0:
            after = self.nodes[node].next
            at = self.nodes[node].slot
            # the nodes of one slot may follow each other, so that `after` is gone with this one: not if its tags differ
            if self.nodes[node].tag == tag and self.slots[at].purges <= purge and not (soft and self.slots[at].stale):
                slot = &self.slots[at]
                place = <uint64_t>slot.segment << 32 | slot.at
                places += (<char*>&place)[:8]
                if soft:
                    fgw_store32(&slot.stale, 1)
                else:
                    after = self._after(node, at)
                    self._kill(at)
            node = after
        return bytes(places)

    cdef uint32_t _after(self, uint32_t node, uint32_t at) noexcept:
        """The next of its list that is another slot's."""
        node = self.nodes[node].next
        while node != 0 and self.nodes[node].slot == at:
            node = self.nodes[node].next
        return node

    def purge_names(self, const uint8_t[::1] names not None, uint32_t segment, uint64_t tag, uint32_t n, uint64_t purge,
                    bint soft):
        """Those in this file with names whose first `n` bytes have the hash of a purged prefix; all with 0. As `purge_tag`."""
        cdef uint64_t size = names.shape[0], at = 0, lo, hi, where
        cdef Record r
        cdef uint32_t place
        cdef bytearray places = bytearray()
        while at + sizeof(Record) <= size:
            memcpy(&r, &names[at], sizeof(Record))
            if r.mark != MARK or r.length < sizeof(Record) or r.length > size - at or r.length != _length(&r):
                break
            place = self._find(r.hi, r.lo) if r.name_len >= n else 0
            if place != 0 and self.slots[place].segment == segment and self.slots[place].at == at \
                    and self.slots[place].purges <= purge and not (soft and self.slots[place].stale):
                if n:
                    fgw_siphash128(&names[at] + sizeof(Record), n, self.seed[0] ^ OF_TAGS, self.seed[1], &lo, &hi)
                if n == 0 or lo == tag:
                    where = <uint64_t>segment << 32 | at
                    places += (<char*>&where)[:8]
                    if soft:
                        fgw_store32(&self.slots[place].stale, 1)
                    else:
                        self._kill(place)
            at += r.length
        return bytes(places)

    def keys_of(self, uint32_t segment):
        """Keys of what is alive in the oldest segments up to this one."""
        cdef uint64_t i
        cdef Slot *slot
        cdef list keys = []
        for i in range(self.head.slot_first, self.head.slot_end):
            slot = &self.slots[i % self.count + 1]
            if slot.segment > segment:
                break
            if slot.serial != 0:
                keys.append(PyBytes_FromStringAndSize(<char*>&slot.hi, 16))
        return keys

    def drop(self, uint32_t segment):
        """The oldest segments up to this one are gone: how many answers."""
        cdef Head *h = self.head
        cdef Slot *slot
        cdef uint64_t count = 0
        while h.slot_first < h.slot_end:
            slot = &self.slots[h.slot_first % self.count + 1]
            if slot.segment > segment:
                break
            if slot.serial != 0:
                count += 1
                self._kill(<uint32_t>(h.slot_first % self.count) + 1)
            h.node_first = slot.nodes + slot.n_nodes
            fgw_store64(&h.slot_first, h.slot_first + 1)
        return count

    def audit(self):
        """What is wrong with the index: nothing may be. For tests."""
        cdef Head *h = self.head
        cdef uint64_t i, live = 0, used = 0, found = 0
        cdef uint32_t at, steps
        cdef Slot *slot
        cdef list wrong = []
        for i in range(h.slot_first, h.slot_end):
            slot = &self.slots[i % self.count + 1]
            if slot.serial == 0:
                continue
            live += 1
            used += slot.size
            if self._find(slot.hi, slot.lo) != i % self.count + 1:
                wrong.append(f"slot {i} is not found by its key")
            for k in range(slot.nodes, slot.nodes + slot.n_nodes):
                if self.nodes[k % self.node_count + 1].slot != i % self.count + 1:
                    wrong.append(f"node {k} is not of slot {i}")
        for i in range(<uint64_t>self.mask + 1):
            at, steps = self.buckets[i], 0
            while at != 0 and steps <= self.count:
                found += 1
                steps += 1
                if self.slots[at].serial == 0:
                    wrong.append("a dead slot is in the index")
                at = self.slots[at].chain
        if found != live or h.counters[0] != live or h.counters[1] != used:
            wrong.append(f"{found} are in the index, {live} of {used} bytes in the ring, counted {h.counters[0]}, {h.counters[1]}")
        return wrong


cdef inline uint64_t _tags_at(const Record *r) noexcept nogil:
    return (sizeof(Record) + <uint64_t>r.name_len + 7) & ~<uint64_t>7


cdef inline uint64_t _length(const Record *r) noexcept nogil:
    return _tags_at(r) + 8 * <uint64_t>r.n_tags
