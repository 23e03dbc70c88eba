"""Consistent hashing with points on a ring (D. Karger et al., STOC 1997; weights as in ketama).

Each endpoint has points by its weight, made of its own hash alone; a key belongs to the first point after its hash. So
when an endpoint comes or goes no key moves between two others. Shares are those of chance: with some 160 points an
endpoint has its share to within 8 % (one standard deviation). Keys that an endpoint may not have, because it is down or
has more than its bound, go on round the ring (V. Mirrokni et al., Consistent Hashing with Bounded Loads, 2016).

The points are sorted by buckets: hashes are even, so a bucket has one or two, and the first of a key is found by one look
at the bucket's start.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

from fastgw._core.exchange cimport Exchange
from fastgw._core.hashing cimport WALK, Hashing, may_ask, mix
from fastgw._core.pool cimport Endpoint

cdef enum:
    COUNT = 0                # what filling does: counts the points of each bucket, adds up where buckets start,
    ADD = 1
    PUT = 2                  #   puts the points into theirs, and sorts each
    SORT = 3
    FULL = 4

cdef uint64_t POINTS = 160                   # of an endpoint with the mean weight, at least
cdef uint64_t MOST = 1 << 20                 # of all: 8 MiB

cdef uint64_t GOLDEN = 0x9e3779b97f4a7c15u


cdef uint64_t points_of(uint64_t weight, uint64_t scale) noexcept:
    """In parts of POINTS / scale for a weight of 1; one at least."""
    cdef uint64_t n = weight * POINTS // scale
    return n if n else 1


cdef class Ring(Hashing):
    """`Ring(members, weights)`"""

    def __init__(self, tuple members, list weights):
        cdef int i, bits = 1
        # In steps of two: as long as the mean weight changes little, an endpoint's points depend on its own alone.
        cdef uint64_t scale = 1, count
        super().__init__(members, weights)
        while scale * 2 * <uint64_t>self.n <= self.total:
            scale *= 2
        while True:
            count = 0
            for i in range(self.n):
                count += points_of(<int64_t>weights[i], scale)
            if count <= MOST or scale > self.total * POINTS:
                break
            scale *= 2
        while <uint64_t>1 << (bits + 1) < count:
            bits += 1
        self.count = <uint32_t>count
        self.shift = 64 - bits
        self.buckets = <uint32_t>1 << bits
        self.many = <uint32_t*>malloc(self.n * sizeof(uint32_t))
        self.points = <Point*>malloc(count * sizeof(Point))
        self.start = <uint32_t*>calloc(self.buckets + 1, sizeof(uint32_t))
        if self.many == NULL or self.points == NULL or self.start == NULL:
            raise MemoryError()
        for i in range(self.n):
            self.many[i] = <uint32_t>points_of(<int64_t>weights[i], scale)
        self.start[self.buckets] = self.count

    def __dealloc__(self):
        free(self.many)
        free(self.points)
        free(self.start)

    # ------------------------------------------------------------------ filling

    cdef bint fill(self, int looks) noexcept:
        while looks > 0 and self.phase != FULL:
            looks = self._points(looks) if self.phase == COUNT or self.phase == PUT else self._buckets(looks)
            if looks > 0:                # there was nothing left of this phase
                self.phase += 1
                self.i = self.k = 0
        return self.phase == FULL

    cdef int _points(self, int looks) noexcept:
        """Counts the points, or puts each before what its bucket has. The looks that are left."""
        cdef uint64_t h
        cdef uint32_t bucket, at
        while self.i < <uint32_t>self.n:
            if self.k == self.many[self.i]:
                self.i += 1
                self.k = 0
                continue
            if looks <= 0:
                return 0
            looks -= 1
            self.k += 1
            h = mix(self.ids[self.i] + GOLDEN * self.k)
            bucket = <uint32_t>(h >> self.shift)
            if self.phase == COUNT:
                self.start[bucket] += 1
            else:
                at = self.start[bucket] - 1
                self.start[bucket] = at
                self.points[at].at = <uint32_t>(h >> 32)
                self.points[at].owner = self.i
        return max(looks, 1)

    cdef int _buckets(self, int looks) noexcept:
        """Adds up where they end (PUT counts down from there), or sorts them. The looks that are left."""
        while self.i < self.buckets:
            if looks <= 0:
                return 0
            looks -= 1
            if self.phase == SORT:
                self._sort(self.i)
            elif self.i:
                self.start[self.i] += self.start[self.i - 1]
            self.i += 1
        return max(looks, 1)

    cdef void _sort(self, uint32_t bucket) noexcept:
        cdef uint32_t a, b, first = self.start[bucket], end = self.start[bucket + 1]
        cdef Point point
        for a in range(first + 1, end):
            point = self.points[a]
            b = a
            # of two at one place the higher hash is later, in whatever order members are told
            while b > first and (self.points[b - 1].at > point.at or (
                    self.points[b - 1].at == point.at and self.ids[self.points[b - 1].owner] > self.ids[point.owner])):
                self.points[b] = self.points[b - 1]
                b -= 1
            self.points[b] = point

    # ------------------------------------------------------------------ asking

    cdef Endpoint look(self, Exchange ex, uint64_t point, bint panic, double bound):
        cdef Endpoint endpoint, first = None
        cdef uint32_t p = self.start[point >> self.shift], left = self.count, index, last = 0xffffffffu
        cdef int others = 0
        while p < self.count and self.points[p].at < <uint32_t>(point >> 32):
            p += 1
        while others < WALK and left:
            if p >= self.count:
                p = 0
            index = self.points[p].owner
            p += 1
            left -= 1
            if index == last:
                continue
            last = index
            others += 1
            endpoint = <Endpoint>self.members[index]
            if may_ask(endpoint, ex, panic):
                if bound == 0 or endpoint.in_flight < bound * <int64_t>self.given[index]:
                    return endpoint
                if first is None:
                    first = endpoint
        return first
