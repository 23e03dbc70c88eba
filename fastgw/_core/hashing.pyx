"""Consistent hashing: the same key finds the same endpoint, in every worker and after every restart.

There are two tables: `maglev.pyx`, with the most even shares, and `ring.pyx`, which moves the fewest keys. Here is how
one is filled and asked. It is filled some thousand looks at a time, a turn of the loop each, between requests; until it
is full, the one before it answers. Without one (the first endpoints that discovery tells) the highest of the hashes of key
and endpoint decides. An endpoint that is down is not taken out of the table: its keys look at another place, all others
stay where they are.
"""
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastgw._core.choice cimport Group
from fastgw._core.exchange cimport Exchange
from fastgw._core.pool cimport Endpoint
from fastgw._core.reactor cimport Reactor


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


cdef bint may_ask(Endpoint endpoint, Exchange ex, bint panic):
    if endpoint.retired or endpoint.open or (endpoint.down and not panic):
        return False
    return ex.tried is None or endpoint not in ex.tried


cdef class Hashing(Group):
    """`Hashing(members, weights)`; it is empty until `begin` or `finish`."""

    def __init__(self, tuple members, list weights):
        cdef int i
        cdef bytes url
        super().__init__(members, weights)
        self.ids = <uint64_t*>malloc(self.n * sizeof(uint64_t))
        if self.ids == NULL:
            raise MemoryError()
        for i in range(self.n):
            url = (<Endpoint>members[i]).url.encode()
            self.ids[i] = hash_of(PyBytes_AS_STRING(url), PyBytes_GET_SIZE(url))

    def __dealloc__(self):
        free(self.ids)

    # ------------------------------------------------------------------ filling

    cdef bint fill(self, int looks) noexcept:
        return True

    cdef int begin(self, Hashing before) except -1:
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
        return 0

    # ------------------------------------------------------------------ asking

    cdef Endpoint at(self, Exchange ex, uint64_t point, bint panic, double bound):
        """The endpoint of a key's hash. `bound`: requests under way at most for a weight of 1; 0 for no bound."""
        cdef Endpoint found = None
        if self.ready:
            found = self.look(ex, point, panic, bound)
        elif self.before is not None:
            return self.before.at(ex, point, panic, bound)
        return found if found is not None else self.rendezvous(ex, point, panic)

    cdef Endpoint look(self, Exchange ex, uint64_t point, bint panic, double bound):
        """The same by the table; None: there is none in the places that are looked at."""
        return None

    cdef Endpoint rendezvous(self, Exchange ex, uint64_t point, bint panic):
        """The highest hash of key and endpoint (D. Thaler and C. Ravishankar, 1998): no table, but a look at each."""
        cdef Endpoint endpoint, best = None
        cdef uint64_t score, highest = 0
        cdef int i
        for i in range(self.n):
            endpoint = <Endpoint>self.members[i]
            if may_ask(endpoint, ex, panic):
                score = mix(self.ids[i] ^ point)
                if best is None or score > highest:
                    best = endpoint
                    highest = score
        return best
