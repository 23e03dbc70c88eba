"""Purging: by key, by prefix of the name, by tag, all; hard, or soft, which makes an answer stale and keeps it.

What is purged while it is fetched must not come back: the last purges are remembered, and what was asked for before one of
them that means it is not kept (or kept stale). When there were more since than are remembered, it is not kept either.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcmp

from fastgw._core.cache_entries cimport entry_kill
from fastgw._core.cache_layout cimport (
    BLOCK, LIVE, PURGE_ALL, PURGE_PREFIX, PURGES, Entry, Memory, Purge,
)
from fastgw._core.cache_tags cimport tag_hash, tagged, tags_have
from fastgw._core.clock cimport monotonic_ns


cdef void purge_note(Memory *m, int kind, uint64_t tag, size_t n, bint soft, bint foreign) noexcept nogil:
    cdef Purge *note = &m.purges[m.head.purge_at % PURGES]
    note.at = monotonic_ns()
    note.kind = kind
    note.tag = tag
    note.soft = soft
    note.n = <uint32_t>n
    note.foreign = foreign
    m.head.purge_at += 1
    m.head.purges += 1


cdef int doom_of(Memory *m, uint32_t entry, int64_t asked, int64_t own) noexcept nogil:
    """What the purges since `asked` mean for this entry; those of this host since `own`, which is no later."""
    return doom_since(m, entry, asked, own, 0)


cdef int doom_since(Memory *m, uint32_t entry, int64_t asked, int64_t own, uint64_t number) noexcept nogil:
    """The same of those that are not older than that one either."""
    cdef uint64_t at = m.head.purge_at
    cdef uint64_t oldest = at - PURGES if at > PURGES else 0
    cdef int doom = SPARED
    cdef Entry *e = &m.entries[entry]
    cdef const char *name = m.data + <uint64_t>e.first * BLOCK
    cdef Purge *note
    cdef bint meant
    while at > oldest:
        at -= 1
        note = &m.purges[at % PURGES]
        if note.at < own or at < number:
            return doom
        if note.foreign and note.at < asked:
            continue
        if note.kind == PURGE_ALL:
            meant = True
        elif note.kind == PURGE_PREFIX:
            meant = e.name_len >= note.n and tag_hash(m, name, note.n) == note.tag
        else:
            meant = tags_have(m, entry, note.tag)
        if meant and not note.soft:
            return DOOMED
        if meant:
            doom = STALED
    return doom if oldest <= number else DOOMED


cdef inline void _purge(Memory *m, uint32_t entry, bint soft) noexcept nogil:
    m.head.purged += 1
    if soft:
        m.entries[entry].expires = 0
    else:
        entry_kill(m, entry)


cdef int64_t purge_tagged(Memory *m, uint64_t tag, bint soft, int64_t most) noexcept nogil:
    """How many. Hard ones are gone when it returns, so it may be called again for the rest; soft ones are done at once."""
    cdef uint32_t node = tagged(m, tag, 0), after
    cdef int64_t count = 0
    while node != 0 and (soft or count < most):
        after = tagged(m, tag, node)
        _purge(m, m.nodes[node].entry, soft)
        count += 1
        # the nodes of an entry that is killed are free, but no entry has a tag twice: the next one is another's
        node = after
    return count


cdef int64_t purge_some(Memory *m, const char *prefix, size_t n, bint soft, uint32_t *at, uint32_t most) noexcept nogil:
    """Of `most` records from `at` on, those whose name begins so; `at` is then where to go on, 0 at the end."""
    cdef Entry *e
    cdef int64_t count = 0
    cdef uint32_t i = at[0]
    while most > 0 and i < m.head.entry_end:
        e = &m.entries[i]
        if e.state == LIVE and e.name_len >= n and memcmp(m.data + <uint64_t>e.first * BLOCK, prefix, n) == 0:
            _purge(m, i, soft)
            count += 1
        i += 1
        most -= 1
    at[0] = i if i < m.head.entry_end else 0
    return count
