"""Token buckets, and other limits of one word, in memory that all workers of a host share."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef extern from "bucket.h":
    ctypedef struct fgw_pair:
        uint64_t lo
        uint64_t hi
    uint64_t fgw_load(const uint64_t *p) noexcept nogil
    int fgw_cas(fgw_pair *p, fgw_pair have, fgw_pair want) noexcept nogil
    void fgw_add(uint64_t *p, uint64_t n) noexcept nogil
    void fgw_prefetch(const void *p) noexcept nogil
    uint64_t fgw_siphash(const void *data, size_t n, uint64_t k0, uint64_t k1) noexcept nogil
    uint64_t fgw_mix(uint64_t x) noexcept nogil
    int64_t fgw_share(int64_t a, int64_t b, int64_t c) noexcept nogil
    int64_t fgw_share_up(int64_t a, int64_t b, int64_t c) noexcept nogil

cdef enum:
    FRONT = 4            # slots of a group's first line,
    BACK = 11            # and behind it, before the door
    FRONT_BYTES = 64
    BACK_BYTES = 192
    ROUNDS = 1000        # of a lock-free loop before it gives up; 3 is already rare

# What take() answers.
cdef enum Taken:
    TAKEN = 0            # admitted
    EXHAUSTED = 1        # the bucket is empty
    NO_ROOM = 2          # the table has no room for this key

ctypedef struct Level:
    int64_t remaining    # whole tokens left
    int64_t full_ns      # until the bucket is full again
    int64_t retry_ns     # until it would be admitted; 0 when it is
    int64_t now          # the clock reading it was decided at
    int64_t delay_ns     # how long it has to wait first (leaky_bucket)
    int64_t mark         # of the algorithm: what an undo needs to know


cdef inline bint swap(fgw_pair *p, uint64_t lo, uint64_t hi, uint64_t new_lo, uint64_t new_hi) noexcept nogil:
    cdef fgw_pair have, want
    have.lo = lo
    have.hi = hi
    want.lo = new_lo
    want.hi = new_hi
    return fgw_cas(p, have, want)


cdef inline bint read(fgw_pair *p, uint64_t *lo, uint64_t *hi) noexcept nogil:
    """Both words as they were at one moment: the second one was the same before and after."""
    cdef int i
    for i in range(ROUNDS):
        hi[0] = fgw_load(&p.hi)
        lo[0] = fgw_load(&p.lo)
        if fgw_load(&p.hi) == hi[0]:
            return True
    return False


ctypedef struct Group:
    fgw_pair *front
    fgw_pair *back


cdef inline fgw_pair* find_in(Group group, uint64_t key) noexcept nogil:
    cdef int i
    for i in range(FRONT):
        if fgw_load(&group.front[i].lo) == key:
            return &group.front[i]
    for i in range(BACK):
        if fgw_load(&group.back[i].lo) == key:
            return &group.back[i]
    return NULL


cdef class BucketTable:
    cdef object _owner               # keeps the memory alive
    cdef uint8_t *_front
    cdef uint8_t *_back
    cdef uint64_t *_counts
    cdef uint64_t _mask
    cdef uint64_t _seed0, _seed1
    cdef readonly uint64_t groups
    cdef readonly uint64_t capacity  # slots
    cdef readonly int64_t epoch      # ns: the wall clock less the monotonic one, as it was when the table was made
    cdef uint64_t hash(self, const char *p, size_t n) noexcept nogil
    cdef fgw_pair* claim(self, uint64_t key) noexcept nogil
    cdef int take(self, uint64_t key, int64_t now, int64_t interval, int64_t burst, Level *level) noexcept nogil

    cdef inline Group _group(self, uint64_t number) noexcept nogil:
        cdef Group group
        group.front = <fgw_pair*>(self._front + number * FRONT_BYTES)
        group.back = <fgw_pair*>(self._back + number * BACK_BYTES)
        return group

    cdef inline fgw_pair* find(self, uint64_t key) noexcept nogil:
        """Where the key is; NULL: its bucket is not there, hence idle."""
        return find_in(self._group(key & self._mask), key)

    cdef inline void prefetch(self, uint64_t key) noexcept nogil:
        """The line that has it mostly."""
        fgw_prefetch(self._front + (key & self._mask) * FRONT_BYTES)
