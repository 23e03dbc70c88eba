"""A ring of the last answers that were stored, for who follows the memory (`cache_feed.pyx`)."""
from libc.stdint cimport uint32_t

from fastgw._core.cache_layout cimport NEWS, Entry, Memory, News


cdef void news_note(Memory *m, uint32_t entry, bint promoted) noexcept nogil:
    cdef News *note = &m.news[m.head.news_at % NEWS]
    cdef Entry *e = &m.entries[entry]
    note.hi, note.lo, note.version = e.hi, e.lo, e.version
    note.purges = m.head.purge_at
    note.entry = entry
    note.promoted = promoted
    m.head.news_at += 1
