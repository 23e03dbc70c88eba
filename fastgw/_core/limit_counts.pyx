"""What became of requests at limits, counted by route and name of the limit, for all workers of the host.

1024 rows: a name that was never seen takes a free one for good; those beyond count together in the first. A process adds up
what it counts and writes it by 64, and all of it when somebody wants to read (`flush`). One that is killed loses less than 64
of each.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize

from fastgw._core.bucket cimport fgw_add, fgw_load, fgw_siphash

import mmap

cdef extern from *:
    """
    static inline int fgw_name_swap(uint64_t *p, uint64_t have, uint64_t want) {
      return __atomic_compare_exchange_n(p, &have, want, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
    }
    #define FGW_NAME_READY(p) __atomic_store_n((p), 1, __ATOMIC_RELEASE)
    #define FGW_NAME_IS(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    """
    int fgw_name_swap(uint64_t *p, uint64_t have, uint64_t want) noexcept nogil
    void FGW_NAME_READY(uint32_t *p) noexcept nogil
    uint32_t FGW_NAME_IS(uint32_t *p) noexcept nogil

KINDS = ("allowed", "refused", "delayed", "would_refuse", "no_room", "over_admitted")

cdef enum:
    ROW = 320
    TEXT = 240
    BATCH = 64

ctypedef struct Row:
    uint64_t hash              # 0: free
    uint32_t ready             # the text is there
    uint16_t route_len, limit_len
    uint64_t counts[8]
    char text[TEXT]

assert sizeof(Row) == ROW and N_KINDS == len(KINDS)


cdef class LimitCounts:
    """Over a writable buffer of `size()` zeroed bytes, the same in all processes."""

    def __init__(self, buffer):
        cdef Py_buffer view
        PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE | PyBUF_WRITABLE)
        self._rows = <unsigned char*>view.buf
        cdef Py_ssize_t n = view.len
        PyBuffer_Release(&view)
        if n < MAX_NAMES * ROW:
            raise ValueError("the memory of LimitCounts is too small")
        self._owner = memoryview(buffer)
        memset(self.pending, 0, sizeof(self.pending))

    @staticmethod
    def size():
        return MAX_NAMES * ROW

    @staticmethod
    def private():
        return LimitCounts(mmap.mmap(-1, MAX_NAMES * ROW))

    def slot(self, str route, str limit):
        """The row of a limit; 0 when all are taken."""
        cdef bytes where = route.encode("utf-8", "replace")[:TEXT - 80], what = limit.encode("utf-8", "replace")[:80]
        cdef bytes text = where + what
        cdef bytes both = where + b"\0" + what
        cdef uint64_t wanted = fgw_siphash(PyBytes_AS_STRING(both), len(both), 0, 0) or 1
        cdef uint64_t found
        cdef Row *row
        cdef int i, at
        for i in range(MAX_NAMES - 1):
            at = 1 + <int>((wanted + <uint64_t>i) % (MAX_NAMES - 1))
            row = <Row*>(self._rows + at * ROW)
            found = fgw_load(&row.hash)
            if found == 0 and fgw_name_swap(&row.hash, 0, wanted):
                memcpy(row.text, PyBytes_AS_STRING(text), len(text))
                row.route_len = len(where)
                row.limit_len = len(what)
                FGW_NAME_READY(&row.ready)
                return at
            if fgw_load(&row.hash) == wanted:
                return at
        return 0

    cdef void add(self, int slot, int kind) noexcept:
        cdef int at = slot * 8 + kind
        self.pending[at] += 1
        self.dirty = True
        if self.pending[at] >= BATCH:
            self._flush_one(at)

    cdef void _flush_one(self, int at) noexcept:
        cdef Row *row = <Row*>(self._rows + (at >> 3) * ROW)
        fgw_add(&row.counts[at & 7], self.pending[at])
        self.pending[at] = 0

    def add_over(self, int slot, uint32_t requests):
        """So many were admitted beyond a limit that several hosts share."""
        if not 0 <= slot < MAX_NAMES:
            raise ValueError("no row of this table")
        self.pending[slot * 8 + N_OVER] += requests
        self.dirty = True

    def flush(self):
        """What this process has counted is there for all to read."""
        cdef int i
        if self.dirty:
            self.dirty = False
            for i in range(MAX_NAMES * 8):
                if self.pending[i]:
                    self._flush_one(i)

    def rows(self):
        """(route or `*`, limit, counts by kind), of limits that were ever built."""
        cdef Row *row
        cdef int i, k
        cdef list found = []
        for i in range(MAX_NAMES):
            row = <Row*>(self._rows + i * ROW)
            counts = {kind: row.counts[k] for k, kind in enumerate(KINDS)}
            if i == 0:
                if any(counts.values()):
                    found.append(("other", "other", counts))
            elif fgw_load(&row.hash) and FGW_NAME_IS(&row.ready):
                route = PyBytes_FromStringAndSize(row.text, row.route_len).decode("utf-8", "replace")
                limit = PyBytes_FromStringAndSize(row.text + row.route_len, row.limit_len).decode("utf-8", "replace")
                found.append((route, limit, counts))
        return sorted(found, key=lambda one: one[:2])
