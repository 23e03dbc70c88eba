"""Runs of blocks: a buddy allocator over the data of the cache.

A run has 2^order blocks and begins at a multiple of that. `order` of its first block says how long it is and whether it
is free; `link` leads to the next run, of an answer or of the free runs of that order. A freed run and its free neighbour
of the same length are one again. What an answer does not need of its last run is given back block by block
(`run_trim`), so that 255 bytes per answer are lost on average, and no more; and an answer need not lie in one piece, so
that nothing but a long head is ever refused because the free blocks lie apart.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastgw._core.cache_layout cimport BLOCK, MAX_ORDER, MAX_RUN, RUN_FREE, Memory


cdef int order_for(uint64_t size) noexcept nogil:
    """Of the shortest run with so many bytes; the longest when there is none."""
    cdef int order = 0
    while order < MAX_ORDER and (<uint64_t>BLOCK << order) < size:
        order += 1
    return order


cdef inline void _push(Memory *m, uint32_t run, int order) noexcept nogil:
    cdef uint32_t first = m.head.free[order]
    m.order[run] = <uint8_t>(RUN_FREE | order)
    m.link[run] = first
    m.prev[run] = 0
    if first != 0:
        m.prev[first] = run
    m.head.free[order] = run


cdef inline void _unlink(Memory *m, uint32_t run, int order) noexcept nogil:
    cdef uint32_t before = m.prev[run], after = m.link[run]
    if before != 0:
        m.link[before] = after
    else:
        m.head.free[order] = after
    if after != 0:
        m.prev[after] = before


cdef uint32_t run_take(Memory *m, int order) noexcept nogil:
    """A run of that length, split off a longer one or never used so far; 0 when the free blocks lie too far apart."""
    cdef int have = order
    cdef uint32_t run
    while have <= MAX_ORDER and m.head.free[have] == 0:
        have += 1
    if have > MAX_ORDER:
        if m.head.block_end + MAX_RUN > m.block_count:
            return 0
        run = m.head.block_end
        m.head.block_end += MAX_RUN
        have = MAX_ORDER
    else:
        run = m.head.free[have]
        _unlink(m, run, have)
    while have > order:
        have -= 1
        _push(m, run + (<uint32_t>1 << have), have)
    m.order[run] = <uint8_t>order
    m.link[run] = 0
    m.head.free_blocks -= <uint32_t>1 << order
    return run


cdef uint32_t run_take_upto(Memory *m, int order) noexcept nogil:
    cdef uint32_t run = 0
    while order >= 0 and run == 0:
        run = run_take(m, order)
        order -= 1
    return run


cdef void run_release(Memory *m, uint32_t run) noexcept nogil:
    cdef int order = m.order[run] & 15
    cdef uint32_t buddy
    m.head.free_blocks += <uint32_t>1 << order
    while order < MAX_ORDER:
        buddy = run ^ (<uint32_t>1 << order)
        if m.order[buddy] != (RUN_FREE | order):
            break
        _unlink(m, buddy, order)
        m.order[buddy] = 0
        if buddy < run:
            m.order[run] = 0
            run = buddy
        order += 1
    _push(m, run, order)


cdef uint32_t chain_release(Memory *m, uint32_t first) noexcept nogil:
    """All runs from that one on; how many blocks they were."""
    cdef uint32_t after, blocks = 0
    while first != 0:
        after = m.link[first]
        blocks += <uint32_t>1 << (m.order[first] & 15)
        run_release(m, first)
        first = after
    return blocks


cdef uint32_t run_trim(Memory *m, uint32_t run, uint32_t used) noexcept nogil:
    """Keeps the first `used` blocks, one at least, of the last run of a chain, as runs that lie behind each other. How
    many were given back."""
    cdef int order = m.order[run] & 15
    cdef uint32_t half, given = 0
    if used < 1:
        used = 1
    while used < <uint32_t>1 << order:
        order -= 1
        half = <uint32_t>1 << order
        m.order[run] = <uint8_t>order
        m.order[run + half] = <uint8_t>order
        if used <= half:
            m.link[run] = 0
            given += half
            run_release(m, run + half)
        else:
            m.link[run] = run + half
            m.link[run + half] = 0
            run += half
            used -= half
    return given


cdef void range_release(Memory *m, uint32_t begin, uint32_t end) noexcept nogil:
    """Blocks that belong to no run, as the longest runs they make. Free neighbours of theirs stay apart."""
    cdef int order
    while begin < end:
        order = 0
        while order < MAX_ORDER and begin & ((<uint32_t>2 << order) - 1) == 0 and begin + (<uint32_t>2 << order) <= end:
            order += 1
        _push(m, begin, order)
        m.head.free_blocks += <uint32_t>1 << order
        begin += <uint32_t>1 << order
