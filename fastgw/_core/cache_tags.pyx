"""Tag → entries: an inverted index, so that a purge by tag looks at what it purges and at nothing else.

The alternative, a generation per tag that every hit compares, makes a purge one store but costs each hit a cache miss per
tag of its answer; hits are what there are millions of. A tag is known by 64 bits of its keyed hash. The first tag of an entry
is that of its own primary key, so that a purge of a key finds all its variants.

The nodes of an entry hang on it from `tags_put` on and are not changed any more; the lists of the tags are made of them
(`tags_link`) when it becomes live.
"""
from libc.stdint cimport uint32_t, uint64_t

from libc.string cimport memchr

from fastgw._core.cache_layout cimport Entry, Memory, Node, fgw_siphash128

cdef enum:
    OF_TAGS = 0x746167       # keeps their hashes apart from those of keys


cdef uint64_t tag_hash(Memory *m, const char *p, size_t n) noexcept nogil:
    cdef uint64_t lo, hi
    fgw_siphash128(p, n, m.head.seed[0] ^ OF_TAGS, m.head.seed[1], &lo, &hi)
    return lo


cdef uint64_t own_tag(Memory *m, const char *name, size_t n) noexcept nogil:
    """That of the primary key: what stands before the first NUL of the name of a variant."""
    cdef uint64_t lo, hi
    cdef const char *end = <const char*>memchr(name, 0, n)
    fgw_siphash128(name, end - name if end != NULL else n, m.head.seed[0] ^ OF_TAGS, m.head.seed[1], &lo, &hi)
    return hi


cdef inline uint32_t* _bucket(Memory *m, uint64_t tag) noexcept nogil:
    return &m.tag_buckets[<uint32_t>tag & m.bucket_mask]


cdef uint32_t _node(Memory *m) noexcept nogil:
    cdef uint32_t node = m.head.node_free
    if node != 0:
        m.head.node_free = m.nodes[node].sibling
    elif m.head.node_end < m.node_count:
        node = m.head.node_end
        m.head.node_end += 1
    else:
        return 0
    m.head.nodes_used += 1
    return node


cdef bint tags_put(Memory *m, uint32_t entry, uint64_t own, const uint64_t *tags, uint32_t n) noexcept nogil:
    """False when the nodes are used up: what cannot be found by its tags is not kept."""
    cdef Entry *e = &m.entries[entry]
    cdef uint32_t node, i
    e.tags = 0
    for i in range(n + 1):
        if i > 0 and tags_have(m, entry, tags[i - 1]):
            continue
        node = _node(m)
        if node == 0:
            tags_free(m, entry)
            return False
        m.nodes[node].tag = own if i == 0 else tags[i - 1]
        m.nodes[node].entry = entry
        m.nodes[node].next = m.nodes[node].prev = 0
        m.nodes[node].sibling = e.tags
        e.tags = node
    return True


cdef void tags_link(Memory *m, uint32_t entry) noexcept nogil:
    cdef uint32_t node = m.entries[entry].tags
    cdef uint32_t *first
    while node != 0:
        first = _bucket(m, m.nodes[node].tag)
        m.nodes[node].next = first[0]
        m.nodes[node].prev = 0
        if first[0] != 0:
            m.nodes[first[0]].prev = node
        first[0] = node
        node = m.nodes[node].sibling


cdef void tags_unlink(Memory *m, uint32_t entry) noexcept nogil:
    cdef uint32_t node = m.entries[entry].tags
    cdef Node *one
    while node != 0:
        one = &m.nodes[node]
        if one.prev != 0:
            m.nodes[one.prev].next = one.next
        else:
            _bucket(m, one.tag)[0] = one.next
        if one.next != 0:
            m.nodes[one.next].prev = one.prev
        one.next = one.prev = 0
        node = one.sibling


cdef void tags_free(Memory *m, uint32_t entry) noexcept nogil:
    """Of an entry that is in no list of a tag (any more)."""
    cdef uint32_t node = m.entries[entry].tags, after
    m.entries[entry].tags = 0
    while node != 0:
        after = m.nodes[node].sibling
        m.nodes[node].sibling = m.head.node_free
        m.head.node_free = node
        m.head.nodes_used -= 1
        node = after


cdef bint tags_have(Memory *m, uint32_t entry, uint64_t tag) noexcept nogil:
    cdef uint32_t node = m.entries[entry].tags
    while node != 0:
        if m.nodes[node].tag == tag:
            return True
        node = m.nodes[node].sibling
    return False


cdef uint32_t tagged(Memory *m, uint64_t tag, uint32_t after) noexcept nogil:
    """The first node with a tag, or the next one after a node of it; 0: there is none."""
    cdef uint32_t node = _bucket(m, tag)[0] if after == 0 else m.nodes[after].next
    while node != 0 and m.nodes[node].tag != tag:
        node = m.nodes[node].next
    return node
