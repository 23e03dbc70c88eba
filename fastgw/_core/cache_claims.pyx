"""Who fetches what: the host's part of single flight.

A claim is a note with an end, in one of 8 cells of its key. Full cells mean that somebody fetches without a note, not that he
waits. A claim of a process that is gone counts as none.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastgw._core.cache_layout cimport CLAIM_WAYS, ClaimCell, Memory, fgw_gone
from fastgw._core.clock cimport monotonic_ns


cdef inline int _first(Memory *m, uint64_t hi) noexcept nogil:
    return <int>((<uint32_t>hi & m.claim_mask) * CLAIM_WAYS)


cdef int claim_find(Memory *m, uint64_t hi, uint64_t lo, int64_t now) noexcept nogil:
    """Its cell; -1: there is none that holds. Without the lock it may be a moment late."""
    cdef ClaimCell *cell
    cdef int i, first = _first(m, hi)
    for i in range(first, first + CLAIM_WAYS):
        cell = &m.claims[i]
        if cell.until > now and cell.lo == lo and cell.hi == hi and not fgw_gone(cell.pid):
            return i
    return -1


cdef int claim_put(Memory *m, uint64_t hi, uint64_t lo, int64_t until, int process, uint64_t *serial) noexcept nogil:
    """The cell it was noted in; -1: none is free."""
    cdef ClaimCell *cell
    cdef int64_t now = monotonic_ns()
    cdef int i, first = _first(m, hi)
    for i in range(first, first + CLAIM_WAYS):
        cell = &m.claims[i]
        if cell.until <= now or fgw_gone(cell.pid):
            cell.until = 0
            m.head.serial += 1
            cell.owner = <uint32_t>process
            cell.pid = m.processes[process].pid
            cell.hi = hi
            cell.lo = lo
            cell.serial = serial[0] = m.head.serial
            cell.until = until
            return i
    return -1


cdef void claim_end(Memory *m, int cell, uint64_t serial) noexcept nogil:
    """Unless it ended already and the cell is another's."""
    if m.claims[cell].serial == serial:
        m.claims[cell].until = 0
