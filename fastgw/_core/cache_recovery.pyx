"""The cache's memory in order again, after somebody died while he changed it.

Kept is what its record says is whole: live entries, those that are still read, and the fills of processes that live (a fill
is changed by its owner alone, so it was not his that was being changed). Everything else is made anew from them: the index, the
queues (whose order is lost: by record then), the lists of tags, the free runs, records and nodes, the counters. It takes
milliseconds, in which look-ups may miss.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from fastgw._core.cache_blocks cimport range_release
from fastgw._core.cache_entries cimport chain_blocks, dead_in, index_in
from fastgw._core.cache_layout cimport (
    DEAD, FILLING, FREE, LIVE, MAIN, MAX_ORDER, MAX_RUN, NO_QUEUE, RUN_FREE, RUN_KEPT, SMALL, Entry, Memory, bucket_of,
    fgw_fence, fgw_gone, fgw_life, fgw_store32, pinned,
)
from fastgw._core.cache_queues cimport queue_in
from fastgw._core.cache_tags cimport tags_link


cdef bint _lives(Memory *m, uint32_t process) noexcept nogil:
    return m.processes[process].pid != 0 and fgw_life(m.processes[process].pid) == m.processes[process].began


cdef void _keep_runs(Memory *m, uint32_t run) noexcept nogil:
    while run != 0 and run < m.block_count and not m.order[run] & RUN_KEPT:
        m.order[run] = (m.order[run] & 15) | RUN_KEPT
        run = m.link[run]


cdef void _choose(Memory *m) noexcept nogil:
    """Decides of each record whether it is kept, and marks what hangs on it."""
    cdef uint32_t i
    cdef Entry *e
    for i in range(1, m.head.entry_end):
        e = &m.entries[i]
        if e.state == LIVE and e.seq & 1:
            # its head was being replaced; where that had come to its end, two chains begin with the same run
            fgw_store32(&e.state, DEAD)
            if e.head_run == e.retired:
                e.head_run = 0
            fgw_fence()
        if e.state == FILLING and not _lives(m, e.owner):
            fgw_store32(&e.state, FREE)
        elif e.state == DEAD and not pinned(m, i):
            fgw_store32(&e.state, FREE)
        elif e.state != FILLING and e.state != DEAD and e.state != LIVE:
            fgw_store32(&e.state, FREE)
        if e.state != FREE:
            _keep_runs(m, e.first)
            _keep_runs(m, e.head_run)
            _keep_runs(m, e.retired)


cdef void _free_runs(Memory *m) noexcept nogil:
    """All blocks between the runs that are kept."""
    cdef uint32_t at = MAX_RUN, begin = MAX_RUN
    memset(m.head.free, 0, sizeof(m.head.free))
    m.head.free_blocks = m.block_count - m.head.block_end
    while at < m.head.block_end:
        if m.order[at] & RUN_KEPT:
            range_release(m, begin, at)
            m.order[at] &= 15
            at += <uint32_t>1 << m.order[at]
            begin = at
        else:
            at += 1
    range_release(m, begin, m.head.block_end)


cdef void _free_nodes(Memory *m) noexcept nogil:
    """`entry` 0 marks a node that hangs on no entry."""
    cdef uint32_t i, node
    for i in range(1, m.head.node_end):
        m.nodes[i].entry = 0
        m.nodes[i].next = m.nodes[i].prev = 0
    m.head.nodes_used = 0
    for i in range(1, m.head.entry_end):
        if m.entries[i].state == FREE:
            m.entries[i].tags = 0
        node = m.entries[i].tags
        while node != 0 and node < m.head.node_end and m.nodes[node].entry == 0:
            m.nodes[node].entry = i
            m.head.nodes_used += 1
            node = m.nodes[node].sibling
    m.head.node_free = 0
    for i in range(1, m.head.node_end):
        if m.nodes[i].entry == 0:
            m.nodes[i].sibling = m.head.node_free
            m.head.node_free = i


cdef uint32_t _twin(Memory *m, Entry *e) noexcept nogil:
    """One of the same key that is in the index already: somebody died between the new one and the old one."""
    cdef uint32_t entry = bucket_of(m, e.lo)[0]
    while entry != 0:
        if m.entries[entry].lo == e.lo and m.entries[entry].hi == e.hi:
            return entry
        entry = m.entries[entry].chain
    return 0


cdef void recover(Memory *m) noexcept nogil:
    cdef uint32_t i, twin, older
    cdef Entry *e
    fgw_store32(&m.head.index_seq, m.head.index_seq | 1)
    fgw_fence()
    # of two with the same key the older goes, before anything is made from them; the index is where they meet
    memset(m.buckets, 0, (<uint64_t>m.bucket_mask + 1) * 4)
    for i in range(1, m.head.entry_end):
        e = &m.entries[i]
        if e.state != LIVE:
            continue
        twin = _twin(m, e)
        if twin != 0:
            older = twin if m.entries[twin].version < e.version else i
            fgw_store32(&m.entries[older].state, DEAD)
        index_in(m, i)
    fgw_fence()
    _choose(m)
    _free_runs(m)
    _free_nodes(m)
    memset(m.buckets, 0, (<uint64_t>m.bucket_mask + 1) * 4)
    memset(m.tag_buckets, 0, (<uint64_t>m.bucket_mask + 1) * 4)
    m.head.small_first = m.head.small_last = m.head.main_first = m.head.main_last = 0
    m.head.small_blocks = m.head.main_blocks = m.head.main_count = m.head.hand = 0
    m.head.dead_first = m.head.dead_last = 0
    m.head.entry_free = 0
    m.head.live = m.head.dead = m.head.filling = 0
    m.head.body_bytes = 0
    for i in range(1, m.head.entry_end):
        _place(m, i)
    m.head.recoveries += 1
    fgw_store32(&m.head.index_seq, (m.head.index_seq | 1) + 1)


cdef void _place(Memory *m, uint32_t i) noexcept nogil:
    """A record goes where its state says."""
    cdef Entry *e = &m.entries[i]
    cdef uint32_t last
    if e.state != FREE:
        e.blocks = chain_blocks(m, e.first, &last) + chain_blocks(m, e.head_run, &last)
        e.blocks += chain_blocks(m, e.retired, &last)
    if e.state == LIVE:
        index_in(m, i)
        tags_link(m, i)
        queue_in(m, i, MAIN if e.queue == MAIN else SMALL)
        m.head.live += 1
        m.head.body_bytes += e.body_len
    elif e.state == FILLING:
        m.head.filling += 1
    elif e.state == DEAD:
        dead_in(m, i)
        e.queue = NO_QUEUE
    else:
        e.first = e.head_run = e.retired = e.blocks = 0
        e.hi = e.lo = e.version = 0
        e.queue = 0
        e.prev = 0
        e.next = m.head.entry_free
        m.head.entry_free = i


# ---------------------------------------------------------------------- for tests

cdef uint32_t _count_runs(Memory *m, uint32_t run, bytearray seen, list wrong, str whose):
    cdef uint32_t blocks = 0, i
    while run != 0:
        if run < MAX_RUN or run >= m.head.block_end or m.order[run] & RUN_FREE or m.order[run] > MAX_ORDER:
            wrong.append(f"{whose}: the run {run} is none")
            return blocks
        for i in range(<uint32_t>1 << m.order[run]):
            if seen[run + i]:
                wrong.append(f"{whose}: the block {run + i} has two owners")
                return blocks
            seen[run + i] = 1
        blocks += <uint32_t>1 << m.order[run]
        run = m.link[run]
    return blocks


cdef list audit(Memory *m):
    """What is wrong with the memory: nothing may be. The caller holds the lock."""
    cdef list wrong = []
    cdef bytearray seen = bytearray(m.block_count)
    cdef uint32_t i, run, node, blocks, count = 0, nodes = 0, live = 0, filling = 0, dead = 0
    cdef uint64_t queued = 0
    cdef Entry *e
    for i in range(MAX_ORDER + 1):
        run = m.head.free[i]
        while run != 0:
            if m.order[run] != (RUN_FREE | i):
                wrong.append(f"the free run {run} is not marked as one of order {i}")
                return wrong
            m.order[run] = <unsigned char>i
            count += _count_one(m, run, i, seen, wrong)
            m.order[run] = <unsigned char>(RUN_FREE | i)
            run = m.link[run]
    if count + m.block_count - m.head.block_end != m.head.free_blocks:
        wrong.append(f"{m.head.free_blocks} blocks are said to be free, {count} were found")
    for i in range(1, m.head.entry_end):
        e = &m.entries[i]
        if e.state == FREE:
            continue
        blocks = sum([_count_runs(m, one, seen, wrong, f"entry {i}") for one in (e.first, e.head_run, e.retired)])
        if blocks != e.blocks:
            wrong.append(f"the entry {i} has {blocks} blocks and says {e.blocks}")
        count += blocks
        live += e.state == LIVE
        filling += e.state == FILLING
        dead += e.state == DEAD
        if e.state == LIVE:
            queued += e.blocks
            if _twin(m, e) == 0:
                wrong.append(f"the entry {i} is not in the index")
        node = e.tags
        while node != 0:
            nodes += 1
            if m.nodes[node].entry != i:
                wrong.append(f"the tag {node} of the entry {i} is another's")
                break
            node = m.nodes[node].sibling
    if count != m.head.block_end - MAX_RUN:
        wrong.append(f"{m.head.block_end - MAX_RUN} blocks were used, {count} were found")
    if (live, filling, dead, nodes) != (m.head.live, m.head.filling, m.head.dead, m.head.nodes_used):
        wrong.append(f"counted {live, filling, dead, nodes}, "
                     f"said {m.head.live, m.head.filling, m.head.dead, m.head.nodes_used}")
    if queued != m.head.small_blocks + m.head.main_blocks:
        wrong.append(f"{queued} blocks are live, the queues say {m.head.small_blocks + m.head.main_blocks}")
    return wrong + _lists(m)


cdef uint32_t _count_one(Memory *m, uint32_t run, int order, bytearray seen, list wrong):
    cdef uint32_t i
    for i in range(<uint32_t>1 << order):
        if seen[run + i]:
            wrong.append(f"the free block {run + i} is there twice")
        seen[run + i] = 1
    return <uint32_t>1 << order


cdef list _lists(Memory *m):
    """The lists lead to what they should, both ways."""
    cdef list wrong = []
    cdef uint32_t entry, before, count = 0, i
    for which, entry in ((SMALL, m.head.small_first), (MAIN, m.head.main_first)):
        before = 0
        while entry != 0 and count <= m.entry_count:
            if m.entries[entry].prev != before or m.entries[entry].queue != which or m.entries[entry].state != LIVE:
                wrong.append(f"the entry {entry} does not belong in the queue {which}")
            before = entry
            entry = m.entries[entry].next
            count += 1
    if count != m.head.live:
        wrong.append(f"{count} entries are in queues, {m.head.live} live")
    if m.head.hand >= m.entry_count or (m.head.hand != 0 and m.entries[m.head.hand].queue != MAIN):
        wrong.append(f"the hand is at the entry {m.head.hand}, which is not in the main queue")
    count = 0
    for i in range(m.bucket_mask + 1):
        entry = m.buckets[i]
        while entry != 0 and count <= m.entry_count:
            count += 1
            if m.entries[entry].state != LIVE:
                wrong.append(f"the index leads to the entry {entry}, which does not live")
            entry = m.entries[entry].chain
    if count != m.head.live:
        wrong.append(f"{count} entries are in the index, {m.head.live} live")
    return wrong
