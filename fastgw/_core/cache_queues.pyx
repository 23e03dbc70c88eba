"""Which answer goes when there is no room: S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP
2023).

What comes in goes to the small queue, a tenth of the bytes; what was asked for more than once until it comes to the end
of that goes on to the main queue, the rest is forgotten, but for a fingerprint: what comes again while its fingerprint is
remembered goes to the main queue at once. At the end of the main queue, what was asked for since it came or was spared is
spared again. So a scan passes through a tenth of the memory and leaves the rest as it was; and a hit writes no list, but a
counter up to 3, which every reader can do without a lock.

A fingerprint has 32 bits of the key and the tick of its evicton, four to a bucket; as many evictions are remembered as there
are answers in the main queue.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from fastgw._core.cache_layout cimport MAIN, NO_QUEUE, SMALL, Entry, Memory, pinned

cdef enum:
    WAYS = 4
    FORCED = 1024            # victims that are taken though they are in use, per call


cdef void queue_in(Memory *m, uint32_t entry, int queue) noexcept nogil:
    """As the newest."""
    cdef Entry *e = &m.entries[entry]
    cdef uint32_t *first = &m.head.small_first if queue == SMALL else &m.head.main_first
    cdef uint32_t *last = &m.head.small_last if queue == SMALL else &m.head.main_last
    e.queue = <uint8_t>queue
    e.next = first[0]
    e.prev = 0
    if first[0] != 0:
        m.entries[first[0]].prev = entry
    else:
        last[0] = entry
    first[0] = entry
    if queue == SMALL:
        m.head.small_blocks += e.blocks
    else:
        m.head.main_blocks += e.blocks
        m.head.main_count += 1


cdef void queue_out(Memory *m, uint32_t entry) noexcept nogil:
    cdef Entry *e = &m.entries[entry]
    if e.queue == NO_QUEUE:
        return
    cdef uint32_t *first = &m.head.small_first if e.queue == SMALL else &m.head.main_first
    cdef uint32_t *last = &m.head.small_last if e.queue == SMALL else &m.head.main_last
    if e.prev != 0:
        m.entries[e.prev].next = e.next
    else:
        first[0] = e.next
    if e.next != 0:
        m.entries[e.next].prev = e.prev
    else:
        last[0] = e.prev
    if e.queue == SMALL:
        m.head.small_blocks -= e.blocks
    else:
        m.head.main_blocks -= e.blocks
        m.head.main_count -= 1
    e.queue = NO_QUEUE
    e.next = e.prev = 0


cdef inline uint64_t* _ghosts_of(Memory *m, uint64_t hi) noexcept nogil:
    return &m.ghosts[(<uint32_t>hi & m.bucket_mask) & ~<uint32_t>(WAYS - 1)]


cdef void remember(Memory *m, Entry *e) noexcept nogil:
    cdef uint64_t *ghost = _ghosts_of(m, e.hi)
    cdef uint32_t age, oldest = 0
    cdef int i, place = 0
    m.head.ghost_tick += 1
    for i in range(WAYS):
        if ghost[i] == 0:
            place = i
            break
        age = m.head.ghost_tick - <uint32_t>ghost[i]
        if age >= oldest:
            oldest = age
            place = i
    ghost[place] = (e.hi >> 32 | 1) << 32 | m.head.ghost_tick


cdef int queue_for(Memory *m, Entry *e) noexcept nogil:
    """Where one that comes in goes."""
    cdef uint64_t *ghost = _ghosts_of(m, e.hi)
    cdef uint64_t mark = e.hi >> 32 | 1
    cdef int i
    for i in range(WAYS):
        if ghost[i] >> 32 == mark:
            if m.head.ghost_tick - <uint32_t>ghost[i] <= m.head.main_count + 64:
                ghost[i] = 0
                m.head.ghost_hits += 1
                return MAIN
            ghost[i] = 0
    return SMALL


cdef uint32_t victim(Memory *m, int64_t now, int *steps) noexcept nogil:
    """The entry that goes next, still in its queue; 0: there is none, or all that was looked at is being read. `now` is the wall
    clock: what is useless by then goes whatever its use was."""
    cdef uint32_t entry
    cdef Entry *e
    while steps[0] > 0:
        steps[0] -= 1
        if m.head.small_last != 0 and (m.head.small_blocks > m.head.main_blocks // 9 or m.head.main_last == 0):
            entry = m.head.small_last
            e = &m.entries[entry]
            if e.keep_until > now and (e.freq > 1 or pinned(m, entry)):
                # one that is being read gives no room now: it would only be lost
                queue_out(m, entry)
                e.freq = 0
                queue_in(m, entry, MAIN)
                continue
        elif m.head.main_last != 0:
            entry = m.head.main_last
            e = &m.entries[entry]
            if e.keep_until > now and (e.freq > 0 or pinned(m, entry)):
                queue_out(m, entry)
                if e.freq > 0:
                    e.freq -= 1
                queue_in(m, entry, MAIN)
                continue
        else:
            return 0
        return entry
    # everything that was looked at is in use: the oldest that nobody reads just now
    if steps[0] <= -FORCED:
        return 0
    steps[0] -= 1
    entry = m.head.small_last
    if entry == 0 or pinned(m, entry):
        entry = m.head.main_last
    return 0 if entry == 0 or pinned(m, entry) else entry
