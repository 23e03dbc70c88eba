"""Consistent hashing: the same key finds the same endpoint, in every worker and after every restart.

The table is that of Maglev (D. Eisenbud et al., NSDI 2016, 3.4): each endpoint has an order of its own in which it
wants the places of the table, and by turns, as often as its weight says, takes the first that is free. So each has its
share of the places almost exactly, and when one comes or goes few others change.

A table is filled some thousand looks at a time, a turn of the loop each, between requests; until it is full, the one
before it answers. Without one (the first endpoints that discovery tells) the highest of the hashes of key and endpoint decides.
An endpoint that is down is not taken out of the table: its keys look at another place, all others stay where they are.
"""
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastgw._core.choice cimport Group
from fastgw._core.exchange cimport Exchange
from fastgw._core.pool cimport Endpoint
from fastgw._core.reactor cimport Reactor

cdef enum:
    FREE = 0xffff
    LOOKS = 30_000           # a slice: about a tenth of a millisecond
    WALK = 64                # places that are looked at for a key whose endpoint cannot be taken

# Primes: 32 places for an endpoint at least, so that shares differ by 3 % at most.
cdef uint32_t SMALL = 65537
cdef uint32_t LARGE = 655373


cdef uint64_t mix(uint64_t x) noexcept nogil:
    """The finisher of SplitMix64 (G. Steele et al., 2014)."""
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu
    return x ^ (x >> 31)


cdef uint64_t hash_of(const char *p, size_t n) noexcept nogil:
    """Eight bytes at a time; the same in every process. Not keyed: who chooses keys chooses endpoints anyway."""
    cdef uint64_t h = 0x9e3779b97f4a7c15u ^ n
    cdef uint64_t word
    while n >= 8:
        memcpy(&word, p, 8)
        h = mix(h ^ word)
        p += 8
        n -= 8
    if n:
        word = 0
        memcpy(&word, p, n)
        h = mix(h ^ word)
    return mix(h + 0x9e3779b97f4a7c15u)


cdef bint _free(Endpoint endpoint, Exchange ex, bint panic):
    """May it be asked?"""
    if endpoint.retired or (endpoint.down and not panic):
        return False
    return ex.tried is None or endpoint not in ex.tried


cdef class Ring(Group):
    """`Ring(members, weights)`; it is empty until `begin` or `finish`."""

    def __init__(self, tuple members, list weights):
        cdef int i
        cdef bytes url
        cdef uint64_t h
        super().__init__(members, weights)
        self.size = SMALL if self.n * 32 <= SMALL else LARGE
        self.largest = max(weights)
        self.table = <uint16_t*>malloc(self.size * sizeof(uint16_t))
        self.ids = <uint64_t*>malloc(self.n * sizeof(uint64_t))
        self.place = <uint32_t*>malloc(self.n * sizeof(uint32_t))
        self.step = <uint32_t*>malloc(self.n * sizeof(uint32_t))
        self.due = <uint64_t*>malloc(self.n * sizeof(uint64_t))
        if self.table == NULL or self.ids == NULL or self.place == NULL or self.step == NULL or self.due == NULL:
            raise MemoryError()
        memset(self.table, 0xff, self.size * sizeof(uint16_t))
        for i in range(self.n):
            url = (<Endpoint>members[i]).url.encode()
            h = self.ids[i] = hash_of(PyBytes_AS_STRING(url), PyBytes_GET_SIZE(url))
            self.place[i] = (h >> 32) % self.size
            self.step[i] = <uint32_t>h % (self.size - 1) + 1
            self.due[i] = 0

    def __dealloc__(self):
        free(self.table)
        free(self.ids)
        free(self.place)
        free(self.step)
        free(self.due)

    # ------------------------------------------------------------------ filling

    cdef bint fill(self, int looks) noexcept:
        """Goes on filling, for so many looks at most. True: the table is full."""
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

    cdef int begin(self, Ring before) except -1:
        """Fills itself from now on, in the loop of its endpoints; `before` answers meanwhile."""
        self.before = before if before is None or before.ready else before.before
        (<Endpoint>self.members[0]).reactor.loop.call_soon(self._go_on)
        return 0

    def _go_on(self):
        cdef Reactor reactor = (<Endpoint>self.members[0]).reactor
        if self.ready or reactor.closed:
            return
        if self.fill(LOOKS):
            self.finish()
        else:
            reactor.loop.call_soon(self._go_on)

    cdef int finish(self) except -1:
        while not self.fill(LOOKS):
            pass
        self.ready = True
        self.before = None
        free(self.place)
        free(self.step)
        free(self.due)
        self.place = self.step = NULL
        self.due = NULL
        return 0

    # ------------------------------------------------------------------ asking

    cdef Endpoint at(self, Exchange ex, uint64_t point, bint panic, double bound):
        """The endpoint of a key's hash. `bound`: requests under way at most for a weight of 1; 0 for no bound."""
        cdef Ring ring = self if self.ready else self.before
        cdef Endpoint endpoint, first = None
        cdef uint32_t place, step, index
        cdef int i
        if ring is None:
            return self.rendezvous(ex, point, panic)
        place = (point >> 32) % ring.size
        step = 0
        for i in range(WALK):
            index = ring.table[place]
            endpoint = <Endpoint>ring.members[index]
            if _free(endpoint, ex, panic):
                if bound == 0 or endpoint.in_flight < bound * <int64_t>ring.given[index]:
                    return endpoint
                if first is None:
                    first = endpoint
            if step == 0:
                step = <uint32_t>mix(point) % (ring.size - 1) + 1
            place += step
            if place >= ring.size:
                place -= ring.size
        return first if first is not None else self.rendezvous(ex, point, panic)

    cdef Endpoint rendezvous(self, Exchange ex, uint64_t point, bint panic):
        """The highest hash of key and endpoint (D. Thaler and C. Ravishankar, 1998): no table, but a look at each."""
        cdef Endpoint endpoint, best = None
        cdef uint64_t score, highest = 0
        cdef int i
        for i in range(self.n):
            endpoint = <Endpoint>self.members[i]
            if _free(endpoint, ex, panic):
                score = mix(self.ids[i] ^ point)
                if best is None or score > highest:
                    best = endpoint
                    highest = score
        return best
