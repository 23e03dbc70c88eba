"""The life of an entry: taken, filled, live, dead, free; the index; and how room is made.

A reader pins an entry in its own row of `pins`, looks whether it is still the live one that it saw, and then may read it for
as long as it likes. A writer first makes it DEAD and then looks at the pins: with a fence on both sides, either the reader
sees that it is dead, or the writer that it is read. What is read waits in the list of the dead.

The records are the truth, with the chains of blocks and the tag nodes that hang on them; everything else is made from
them again when somebody died while he held the lock (`cache_recovery.pyx`). So the order of writes matters here: a state
that says less is stored first, one that says more is stored last.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset

from fastgw._core.cache_blocks cimport chain_release, run_take, run_take_upto
from fastgw._core.cache_layout cimport (
    BLOCK, DEAD, FILLING, FREE, FREEING, LIVE, MAIN, MAX_RUN, NO_QUEUE, SMALL, Entry, Memory, bucket_of, fgw_fence,
    fgw_load32, fgw_store32, pinned,
)
from fastgw._core.cache_queues cimport queue_out, remember, victim
from fastgw._core.cache_tags cimport tags_free, tags_unlink


cdef void index_in(Memory *m, uint32_t entry) noexcept nogil:
    cdef Entry *e = &m.entries[entry]
    cdef uint32_t *bucket = bucket_of(m, e.lo)
    fgw_store32(&e.chain, bucket[0])
    fgw_store32(bucket, entry)


cdef void _index_out(Memory *m, uint32_t entry) noexcept nogil:
    cdef Entry *e = &m.entries[entry]
    cdef uint32_t *place = bucket_of(m, e.lo)
    while place[0] != 0:
        if place[0] == entry:
            fgw_store32(place, e.chain)
            return
        place = &m.entries[place[0]].chain


cdef uint32_t index_find(Memory *m, uint64_t hi, uint64_t lo, const char *name, size_t n) noexcept nogil:
    """The live entry of a key."""
    cdef uint32_t entry = bucket_of(m, lo)[0]
    cdef Entry *e
    while entry != 0:
        e = &m.entries[entry]
        if e.lo == lo and e.hi == hi and e.state == LIVE and e.name_len == n \
                and memcmp(m.data + <uint64_t>e.first * BLOCK, name, n) == 0:
            return entry
        entry = e.chain
    return 0


cdef void entry_free(Memory *m, uint32_t entry) noexcept nogil:
    """Of an entry that is in no list and that nobody reads."""
    cdef Entry *e = &m.entries[entry]
    fgw_store32(&e.state, FREEING)
    # who stands here while he walks a chain must see that he was led astray, before he is
    fgw_store32(&m.head.index_seq, m.head.index_seq + 2)
    chain_release(m, e.first)
    chain_release(m, e.head_run)
    chain_release(m, e.retired)
    tags_free(m, entry)
    e.first = e.head_run = e.retired = e.blocks = 0
    e.hi = e.lo = e.version = 0
    e.queue = NO_QUEUE
    e.next = m.head.entry_free
    e.prev = 0
    m.head.entry_free = entry
    fgw_store32(&e.chain, 0)
    fgw_store32(&e.state, FREE)


cdef void dead_in(Memory *m, uint32_t entry) noexcept nogil:
    cdef Entry *e = &m.entries[entry]
    e.next = 0
    e.prev = m.head.dead_last
    if m.head.dead_last != 0:
        m.entries[m.head.dead_last].next = entry
    else:
        m.head.dead_first = entry
    m.head.dead_last = entry
    m.head.dead += 1


cdef void entry_kill(Memory *m, uint32_t entry) noexcept nogil:
    """A live one: nobody finds it any more. Its memory is free when its readers are done."""
    cdef Entry *e = &m.entries[entry]
    fgw_store32(&e.state, DEAD)
    _index_out(m, entry)
    queue_out(m, entry)
    tags_unlink(m, entry)
    m.head.live -= 1
    m.head.body_bytes -= e.body_len
    fgw_fence()
    if pinned(m, entry):
        dead_in(m, entry)
    else:
        entry_free(m, entry)


cdef void bury(Memory *m, int looks) noexcept nogil:
    """The dead that nobody reads any more, of the first so many; the others go to the end."""
    cdef uint32_t entry
    while looks > 0 and m.head.dead_first != 0:
        looks -= 1
        entry = m.head.dead_first
        m.head.dead_first = m.entries[entry].next
        if m.head.dead_first != 0:
            m.entries[m.head.dead_first].prev = 0
        else:
            m.head.dead_last = 0
        m.head.dead -= 1
        if pinned(m, entry):
            dead_in(m, entry)
        else:
            entry_free(m, entry)


cdef bint _evict(Memory *m, int64_t now, int *steps) noexcept nogil:
    cdef uint32_t entry = victim(m, now, steps)
    if entry == 0:
        return False
    if m.entries[entry].keep_until <= now:
        m.head.expirations += 1
    else:
        remember(m, &m.entries[entry])
    m.head.evictions += 1
    entry_kill(m, entry)
    return True


cdef uint32_t entry_take(Memory *m, int64_t now, int *steps) noexcept nogil:
    """A free record; 0: there is none, and none could be made free in so many steps."""
    cdef uint32_t entry
    while True:
        entry = m.head.entry_free
        if entry != 0:
            m.head.entry_free = m.entries[entry].next
            m.entries[entry].next = 0
            return entry
        if m.head.entry_end < m.entry_count:
            m.head.entry_end += 1
            return m.head.entry_end - 1
        if not _evict(m, now, steps):
            return 0


cdef bint make_room(Memory *m, uint32_t blocks, int64_t now, int *steps) noexcept nogil:
    while m.head.free_blocks < blocks:
        if not _evict(m, now, steps):
            return False
    return True


cdef uint32_t take_run(Memory *m, int order, int least, int64_t now, int *steps) noexcept nogil:
    """A run of that order; a shorter one, of `least` or more, when the free blocks lie apart. 0: there is none."""
    cdef uint32_t run
    cdef int have
    if not make_room(m, <uint32_t>1 << order, now, steps):
        return 0
    while True:
        have = order
        while have >= least:
            run = run_take(m, have)
            if run != 0:
                return run
            have -= 1
        if not _evict(m, now, steps):
            return 0


cdef uint32_t chain_blocks(Memory *m, uint32_t first, uint32_t *last) noexcept nogil:
    """How many blocks from that run on, and which run is the last."""
    cdef uint32_t blocks = 0
    last[0] = first
    while first != 0:
        blocks += <uint32_t>1 << (m.order[first] & 15)
        last[0] = first
        first = m.link[first]
    return blocks


cdef void entry_resize(Memory *m, Entry *e, uint32_t blocks) noexcept nogil:
    """The queues count blocks."""
    if e.queue == SMALL:
        m.head.small_blocks += blocks - e.blocks
    elif e.queue == MAIN:
        m.head.main_blocks += blocks - e.blocks
    e.blocks = blocks


cdef void process_clear(Memory *m, uint32_t process) noexcept nogil:
    """What a process that is gone held: pins, fills, claims, its place in the table."""
    cdef uint32_t i
    cdef Entry *e
    memset(&m.pins[<uint64_t>process * m.entry_count], 0, <size_t>m.entry_count * 2)
    for i in range(1, m.head.entry_end):
        e = &m.entries[i]
        if e.state == FILLING and e.owner == process:
            m.head.filling -= 1
            entry_free(m, i)
    for i in range((m.claim_mask + 1) * 8):
        if m.claims[i].until != 0 and m.claims[i].owner == process:
            m.claims[i].until = 0
    m.head.gone_hits += m.processes[process].hits
    m.head.gone_misses += m.processes[process].misses
    m.head.gone_waits += m.processes[process].waits
    m.head.gone_waited += m.processes[process].waited
    m.processes[process].hits = m.processes[process].misses = 0
    m.processes[process].waits = m.processes[process].waited = 0
    fgw_store32(&m.processes[process].pid, 0)
