"""How often each API key is used, in memory that all processes of one gateway share.

Open addressing over a power of two; a name (64 bits of the key's digest) is put once, by one compare-and-swap, and stays
while the gateway lives. Slot 0 is `other`: it takes what has no place within PROBES steps. Words are added to one by
one: a process that dies in between has counted what it counted.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastgw._core.clock cimport realtime_ns

import mmap

cdef extern from *:
    """
    static inline uint64_t fgw_use_load(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline void fgw_use_store(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
    static inline void fgw_use_add(uint64_t *p) { __atomic_add_fetch(p, 1, __ATOMIC_RELAXED); }
    static inline int fgw_use_put(uint64_t *p, uint64_t want) {
      uint64_t have = 0;
      return __atomic_compare_exchange_n(p, &have, want, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
    }
    """
    uint64_t fgw_use_load(const uint64_t *p) noexcept nogil
    void fgw_use_store(uint64_t *p, uint64_t v) noexcept nogil
    void fgw_use_add(uint64_t *p) noexcept nogil
    int fgw_use_put(uint64_t *p, uint64_t want) noexcept nogil

cdef enum:
    PROBES = 32


cdef uint64_t _name(bytes digest) except? 0:
    cdef uint64_t name
    if PyBytes_GET_SIZE(digest) < 8:
        raise ValueError("a digest has 8 bytes at least")
    memcpy(&name, PyBytes_AS_STRING(digest), 8)
    return name or 1


cdef class UsageTable:
    """`UsageTable(memory)`: zeroed memory of `size(names)` bytes."""

    def __cinit__(self, memory):
        cdef uint32_t slots = 1
        PyObject_GetBuffer(memory, &self.view, PyBUF_WRITABLE)
        self.held = True
        self.memory = memory
        self.uses = <Use*>self.view.buf
        while slots * 2 * sizeof(Use) <= <size_t>self.view.len:
            slots *= 2
        if <size_t>self.view.len < 2 * sizeof(Use):
            raise ValueError("there is no room for a name")
        self.mask = slots - 1

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.view)

    @staticmethod
    def size(int names):
        """Bytes for so many names with room to spare."""
        slots = 2
        while slots < 2 * names:
            slots *= 2
        return slots * sizeof(Use)

    @classmethod
    def private(cls, int names):
        return cls(mmap.mmap(-1, cls.size(names)))

    cdef uint32_t slot(self, uint64_t name) noexcept nogil:
        cdef uint32_t at = <uint32_t>(name ^ name >> 32) & self.mask
        cdef uint64_t found
        cdef int i
        for i in range(PROBES):
            if at != 0:
                found = fgw_use_load(&self.uses[at].name)
                if found == 0 and fgw_use_put(&self.uses[at].name, name):
                    return at
                if fgw_use_load(&self.uses[at].name) == name:
                    return at
            at = (at + 1) & self.mask
        return 0

    cdef void used(self, uint32_t slot) noexcept nogil:
        fgw_use_add(&self.uses[slot].count)
        fgw_use_store(&self.uses[slot].last, <uint64_t>(realtime_ns() // 1_000_000_000))

    def note(self, bytes digest):
        """One more use."""
        self.used(self.slot(_name(digest)))

    def read(self, bytes digest):
        """(uses, seconds since 1970 of the last one); zeros for what was never used."""
        cdef uint64_t name = _name(digest)
        cdef uint32_t at = <uint32_t>(name ^ name >> 32) & self.mask
        cdef int i
        for i in range(PROBES):
            if at != 0:
                if self.uses[at].name == name:
                    return self.uses[at].count, self.uses[at].last
                if self.uses[at].name == 0:
                    break
            at = (at + 1) & self.mask
        return 0, 0

    @property
    def other(self):
        """The same of all that have no place of their own."""
        return self.uses[0].count, self.uses[0].last
