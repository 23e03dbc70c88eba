"""The shared memory of the cache: where what lies.

    head       counters, list heads, the lock; the table of processes
    entries    one record of 192 bytes per answer; number 0 is none
    buckets    key → first entry of a chain
    ghosts     fingerprints of what was evicted lately
    tags       tag → first node of a list; nodes
    claims     who fetches what
    purges     the last ones
    link, prev, order   of each block
    data       blocks of 512 bytes: names, heads, bodies
    pins       a row per process: how often it reads each entry
    news       what was stored lately, where a level on disk follows it

All of it is zeros at first, and what was never used takes no memory: the file is sparse. `memory` bounds everything but
the pins, which take 2 bytes per entry and process, and the news, 640 KiB where they are used.
"""
from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    PAGE = 4096
    TAG_NODES = 4            # per entry, on average: one is for its key

assert sizeof(Entry) == 192
assert sizeof(Node) == 24
assert sizeof(Purge) == 32
assert sizeof(News) == 40
assert sizeof(Process) == 64
assert sizeof(Head) <= PAGE


cdef uint64_t _pages(uint64_t n) noexcept nogil:
    return (n + PAGE - 1) // PAGE * PAGE


cdef uint64_t _power(uint64_t n) noexcept nogil:
    cdef uint64_t p = 64
    while p < n:
        p *= 2
    return p


cdef uint64_t entries_for(uint64_t memory) noexcept nogil:
    """By default: answers of 2 KiB fill the memory before its entries are used up."""
    cdef uint64_t n = memory // 2048
    return 1024 if n < 1024 else 8_388_608 if n > 8_388_608 else n


cdef uint64_t lay(Memory *m, char *base, uint64_t memory, uint64_t entries) except? 0:
    """Bytes of the segment; sets the pointers of `m`, from `base`. ValueError when there is no room for answers."""
    cdef uint64_t records = entries + 1
    cdef uint64_t buckets = _power(entries)
    cdef uint64_t claims = _power(entries // 8)
    cdef uint64_t nodes = entries * TAG_NODES + 1
    cdef uint64_t at = PAGE
    cdef uint64_t blocks
    if claims > 16384:
        claims = 16384
    m.head = <Head*>base
    m.processes = <Process*>(base + at)
    at += _pages(PROCESSES * sizeof(Process))
    m.entries = <Entry*>(base + at)
    at += _pages(records * sizeof(Entry))
    m.buckets = <uint32_t*>(base + at)
    at += _pages(buckets * 4)
    m.ghosts = <uint64_t*>(base + at)
    at += _pages(buckets * 8)
    m.tag_buckets = <uint32_t*>(base + at)
    at += _pages(buckets * 4)
    m.nodes = <Node*>(base + at)
    at += _pages(nodes * sizeof(Node))
    m.claims = <ClaimCell*>(base + at)
    at += _pages(claims * sizeof(ClaimCell))
    m.purges = <Purge*>(base + at)
    at += _pages(PURGES * sizeof(Purge))
    if memory < at + 4 * PAGE:
        raise ValueError(f"{memory} bytes are too few for {entries} entries, whose index takes {at}")
    # 9 bytes of bookkeeping per block; the blocks that are never used stand for the NULL of runs and cost nothing
    blocks = (memory - at - 4 * PAGE) // (BLOCK + 9) // MAX_RUN * MAX_RUN + MAX_RUN
    if blocks < 4 * MAX_RUN:
        raise ValueError(f"{memory} bytes leave too little for answers: the index of {entries} entries takes {at}")
    if blocks >= <uint64_t>1 << 32:
        raise ValueError(f"{memory} bytes are too many")
    m.link = <uint32_t*>(base + at)
    at += _pages(blocks * 4)
    m.prev = <uint32_t*>(base + at)
    at += _pages(blocks * 4)
    m.order = <uint8_t*>(base + at)
    at += _pages(blocks)
    m.data = base + at
    at += blocks * BLOCK
    m.pins = <uint16_t*>(base + at)
    at += _pages(<uint64_t>PROCESSES * records * 2)
    m.news = <News*>(base + at)
    at += _pages(NEWS * sizeof(News))
    m.bucket_mask = <uint32_t>(buckets - 1)
    m.claim_mask = <uint32_t>(claims // CLAIM_WAYS - 1)
    m.node_count = <uint32_t>nodes
    m.entry_count = <uint32_t>records
    m.block_count = <uint32_t>blocks
    return at


cdef bint pinned(Memory *m, uint32_t entry) noexcept nogil:
    """Whether anybody reads it. After a fence that follows the store of its state: who comes later sees that state."""
    cdef uint32_t i
    for i in range(m.head.processes_end):
        if fgw_load16(&m.pins[<uint64_t>i * m.entry_count + entry]) != 0:
            return True
    return False
