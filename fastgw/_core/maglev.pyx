"""Consistent hashing with the table of Maglev (D. Eisenbud et al., NSDI 2016, 3.4).

Each endpoint has an order of its own in which it wants the places of the table, and by turns, as often as its weight
says, takes the first that is free. So each has its share of the places almost exactly, and when one comes or goes few
others change.
"""
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from fastgw._core.exchange cimport Exchange
from fastgw._core.hashing cimport WALK, Hashing, may_ask, mix
from fastgw._core.pool cimport Endpoint

cdef enum:
    FREE = 0xffff

# Primes: 32 places for an endpoint at least, so that shares differ by 3 % at most.
cdef uint32_t SMALL = 65537
cdef uint32_t LARGE = 655373


cdef class Maglev(Hashing):
    """`Maglev(members, weights)`"""

    def __init__(self, tuple members, list weights):
        cdef int i
        cdef uint64_t h
        super().__init__(members, weights)
        self.size = SMALL if <uint32_t>self.n * 32 <= SMALL else LARGE
        self.largest = max(weights)
        self.table = <uint16_t*>malloc(self.size * sizeof(uint16_t))
        self.place = <uint32_t*>malloc(self.n * sizeof(uint32_t))
        self.step = <uint32_t*>malloc(self.n * sizeof(uint32_t))
        self.due = <uint64_t*>malloc(self.n * sizeof(uint64_t))
        if self.table == NULL or self.place == NULL or self.step == NULL or self.due == NULL:
            raise MemoryError()
        memset(self.table, 0xff, self.size * sizeof(uint16_t))
        for i in range(self.n):
            h = self.ids[i]
            self.place[i] = (h >> 32) % self.size
            self.step[i] = <uint32_t>h % (self.size - 1) + 1
            self.due[i] = 0

    def __dealloc__(self):
        free(self.table)
        free(self.place)
        free(self.step)
        free(self.due)

    cdef bint fill(self, int looks) noexcept:
        cdef int i
        cdef uint32_t place
        while self.filled < self.size and looks > 0:
            i = self.next
            if i == 0:
                self.round += 1
            self.next = i + 1 if i + 1 < self.n else 0
            looks -= 1
            # by weight: a turn in each round for the heaviest, for one half as heavy in every second
            if self.round * <uint64_t>(<int64_t>self.given[i]) < self.due[i] + self.largest:
                continue
            self.due[i] += self.largest
            place = self.place[i]
            while self.table[place] != FREE:
                looks -= 1
                place += self.step[i]
                if place >= self.size:
                    place -= self.size
            self.table[place] = i
            self.place[i] = place
            self.filled += 1
        return self.filled == self.size

    cdef int finish(self) except -1:
        Hashing.finish(self)
        free(self.place)
        free(self.step)
        free(self.due)
        self.place = self.step = NULL
        self.due = NULL
        return 0

    cdef Endpoint look(self, Exchange ex, uint64_t point, bint panic, double bound):
        cdef Endpoint endpoint, first = None
        cdef uint32_t place = (point >> 32) % self.size, step = 0, index
        cdef int i
        for i in range(WALK):
            index = self.table[place]
            endpoint = <Endpoint>self.members[index]
            if may_ask(endpoint, ex, panic):
                if bound == 0 or endpoint.in_flight < bound * <int64_t>self.given[index]:
                    return endpoint
                if first is None:
                    first = endpoint
            if step == 0:
                step = <uint32_t>mix(point) % (self.size - 1) + 1
            place += step
            if place >= self.size:
                place -= self.size
        return first
