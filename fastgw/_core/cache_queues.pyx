"""Which answer goes when there is no room: the queues of S3-FIFO (Yang et al., "FIFO queues are all you need for cache
eviction", SOSP 2023), with frequencies, sizes, and a small queue that finds its own share.

What comes in goes to the small queue. At the end of it, what was asked for again goes on to the main queue; the rest goes, but
for a fingerprint with its frequency, which it has again when it comes back soon. So a scan passes through the small queue and
leaves the rest as it was; and a hit writes no list, but a counter up to 15, which every reader can do without a lock.

Out of the main queue goes the weakest of the next 8 that a hand comes to: weight is frequency² ÷ blocks. (By frequency
÷ blocks more requests hit, but fewer bytes than with LRU; by frequency alone it is the other way round.) What is at the end of
the small queue, when that has just its share, must also be stronger than the weakest of 8, or goes itself. Frequencies are halved
each time four times as many answers went as there are: only when they are looked at, and never below one.

The share of the small queue is what traffic makes it, between 2 and 80 %. Where an answer comes back that went out of the small
queue just now, a little more room there would have kept it: the share grows. Where it went out of the main queue, that one would
have: the share shrinks. (Where what is popular stays so, a small one is best; where requests for a thing come close together and
no more after that, a large one.)

A fingerprint has 23 bits of the key, the queue, the epoch and the frequency, and the tick of that queue, four to a bucket; it
counts for as many evictions as there are answers.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from fastgw._core.cache_layout cimport FREQ_MOST, MAIN, NO_QUEUE, SMALL, Entry, Memory, pinned

cdef enum:
    WAYS = 4
    HAND = 8                 # answers of the main queue of which the weakest goes
    EPOCH = 4                # times the answers there are: so many go until frequencies are halved
    NEAR = 16                # of the last 1/16 of the evictions: what tells which queue lacks room
    FORCED = 1024            # victims that are taken though they are in use, per call

# shares of the small queue are parts of 2**32
cdef uint64_t SHARE_LEAST = <uint64_t>(0.02 * 4294967296.0)
cdef uint64_t SHARE_MOST = <uint64_t>(0.8 * 4294967296.0)
cdef uint64_t SLACK = <uint64_t>1 << 26      # 1/64: with more than that over its share it is not just full
cdef uint64_t MARK = <uint64_t>0x7fffff << 41


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
    if m.head.hand == entry:
        m.head.hand = e.prev
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


cdef inline void _age(Memory *m, Entry *e) noexcept nogil:
    """Its frequency as it is by now. (A hit at the same moment may be lost.)"""
    cdef uint8_t epochs = <uint8_t>(m.head.epoch - e.epoch)
    if epochs != 0:
        e.freq = <uint8_t>(e.freq >> epochs) if epochs < 8 else 0
        if e.freq == 0:
            e.freq = 1
        e.epoch = <uint8_t>m.head.epoch


cdef inline bint _weaker(Entry *a, Entry *b) noexcept nogil:
    return <uint64_t>a.freq * a.freq * b.blocks < <uint64_t>b.freq * b.freq * a.blocks


cdef inline uint64_t* _ghosts_of(Memory *m, uint64_t hi) noexcept nogil:
    return &m.ghosts[(<uint32_t>hi & m.bucket_mask) & ~<uint32_t>(WAYS - 1)]


cdef inline uint32_t _ghost_age(Memory *m, uint64_t ghost) noexcept nogil:
    """Evictions from its queue since."""
    return (m.head.main_tick if ghost >> 40 & 1 else m.head.small_tick) - <uint32_t>ghost


cdef void remember(Memory *m, Entry *e) noexcept nogil:
    """One that is evicted."""
    cdef uint64_t *ghost = _ghosts_of(m, e.hi)
    cdef uint32_t age, oldest = 0
    cdef uint64_t told = e.hi & MARK
    cdef int i, place = 0
    if m.head.evictions >= m.head.epoch_end:
        # (the first epoch is that in which nothing has to go yet)
        m.head.epoch += m.head.epoch_end != 0
        m.head.epoch_end = m.head.evictions + EPOCH * <uint64_t>m.head.live + 100
    _age(m, e)
    if e.queue == MAIN:
        m.head.main_tick += 1
        told |= <uint64_t>1 << 40 | m.head.main_tick
    else:
        m.head.small_tick += 1
        told |= m.head.small_tick
    for i in range(WAYS):
        if ghost[i] == 0:
            place = i
            break
        age = _ghost_age(m, ghost[i])
        if age >= oldest:
            oldest = age
            place = i
    ghost[place] = told | <uint64_t>(e.epoch & 15) << 36 | <uint64_t>(e.freq if e.freq != 0 else 1) << 32


cdef uint8_t _recall(Memory *m, Entry *e) noexcept nogil:
    """How often it was asked for before, if that is known; and what its return tells of the queues."""
    cdef uint64_t *ghost = _ghosts_of(m, e.hi)
    cdef uint64_t found
    cdef uint32_t age, epochs
    cdef int i
    for i in range(WAYS):
        found = ghost[i]
        if found == 0 or (found ^ e.hi) & MARK != 0:
            continue
        ghost[i] = 0
        age = _ghost_age(m, found)
        if age > m.head.live + 64:
            return 0
        m.head.ghost_hits += 1
        if age <= m.head.live // NEAR + 16:
            _shift(m, e.blocks, found >> 40 & 1)
        epochs = (m.head.epoch - <uint32_t>(found >> 36)) & 15
        found = (found >> 32 & 15) >> epochs
        return <uint8_t>found if found != 0 else 1
    return 0


cdef void _shift(Memory *m, uint32_t blocks, bint to_main) noexcept nogil:
    """Half of what came back is room that the other queue gives."""
    cdef uint64_t share = m.head.small_share
    cdef uint64_t step = (<uint64_t>blocks << 31) // (<uint64_t>m.head.small_blocks + m.head.main_blocks + 1)
    if to_main:
        share = share - step if share > SHARE_LEAST + step else SHARE_LEAST
    else:
        share = share + step if share + step < SHARE_MOST else SHARE_MOST
    m.head.small_share = <uint32_t>share


cdef void queue_new(Memory *m, uint32_t entry) noexcept nogil:
    """One that comes in, live already."""
    cdef Entry *e = &m.entries[entry]
    cdef uint8_t known
    known = _recall(m, e)
    e.freq = <uint8_t>(known + 1) if known < FREQ_MOST else FREQ_MOST
    e.epoch = <uint8_t>m.head.epoch
    queue_in(m, entry, SMALL)


cdef uint32_t _weakest(Memory *m, int64_t now, int *steps) noexcept nogil:
    """Of the next ones of the main queue that nobody reads; 0: all of them are being read."""
    cdef uint32_t entry, best = 0
    cdef uint32_t looks = HAND if m.head.main_count > HAND else m.head.main_count
    cdef Entry *e
    while looks > 0:
        looks -= 1
        steps[0] -= 1
        entry = m.head.hand if m.head.hand != 0 else m.head.main_last
        e = &m.entries[entry]
        m.head.hand = e.prev
        _age(m, e)
        if best != 0 and e.keep_until > now and not _weaker(e, &m.entries[best]):
            continue
        if not pinned(m, entry):
            if e.keep_until <= now:
                return entry
            best = entry
    return best


cdef inline bint _over(Memory *m, uint64_t share) noexcept nogil:
    return <uint64_t>m.head.small_blocks << 32 > share * (<uint64_t>m.head.small_blocks + m.head.main_blocks)


cdef uint32_t victim(Memory *m, int64_t now, int *steps) noexcept nogil:
    """The entry that goes next, still in its queue; 0: there is none, or all that was looked at is being read. `now` is the wall
    clock: what is useless by then goes whatever its use was."""
    cdef uint32_t entry, weakest
    cdef Entry *e
    while steps[0] > 0:
        steps[0] -= 1
        entry = m.head.small_last
        if entry != 0 and (m.head.main_last == 0 or _over(m, m.head.small_share)):
            e = &m.entries[entry]
            _age(m, e)
            if e.keep_until <= now or (e.freq < 2 and not pinned(m, entry)):
                return entry
            # one that is being read gives no room now: it would only be lost
            weakest = 0
            if m.head.main_last != 0 and not _over(m, m.head.small_share + SLACK) and not pinned(m, entry):
                weakest = _weakest(m, now, steps)
                if weakest != 0 and m.entries[weakest].keep_until > now and not _weaker(&m.entries[weakest], e):
                    return entry
            queue_out(m, entry)
            queue_in(m, entry, MAIN)
            if weakest != 0:
                return weakest
        elif m.head.main_last != 0:
            entry = _weakest(m, now, steps)
            if entry != 0:
                return entry
        else:
            return 0
    # everything that was looked at is in use: the oldest that nobody reads just now
    if steps[0] <= -FORCED:
        return 0
    steps[0] -= 1
    entry = m.head.small_last
    if entry == 0 or pinned(m, entry):
        entry = m.head.main_last
    return 0 if entry == 0 or pinned(m, entry) else entry
