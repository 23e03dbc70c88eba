"""Ways to choose one of some endpoints: by turns, by chance, by load, by latency.

A group never changes: when an endpoint comes, goes, or weighs something else, another one takes its place. So that each
choice costs the same with three endpoints and with thousands, what can be worked out is, when the group is made.
"""
from libc.math cimport exp
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

from fastgw._core.exchange cimport Exchange
from fastgw._core.forwarding cimport random64
from fastgw._core.pool cimport Endpoint, Picker

cdef enum:
    SMOOTH = 32              # endpoints: beyond, turns are kept in a heap

cdef uint64_t ONE = <uint64_t>1 << 40        # of virtual time: what a weight of 1 waits from turn to turn


cdef class Group(Picker):
    """`Group(members, weights)`"""

    def __init__(self, tuple members, list weights):
        if len(members) != len(weights) or not members:
            raise ValueError("a group has an endpoint at least, and a weight for each")
        self.members = members
        self.given = weights
        self.n = len(members)
        self.total = sum(weights)
        self.even = min(weights) == max(weights)
        self.upto = 0xffffffffffffffffu

    cdef int succeed(self, Group before) except -1:
        return 0

    def __repr__(self):
        return f"<{type(self).__name__} of {self.n}>"


cdef class Turns(Group):
    """Round robin. With weights, the smooth kind: a heavy endpoint's turns are spread evenly among the others'.

    Few endpoints: each gains its weight at every turn, the richest is taken and pays the total. Many: the one whose
    turn is due first in virtual time, where each waits the inverse of its weight from turn to turn.
    """

    def __init__(self, tuple members, list weights):
        cdef int i
        super().__init__(members, weights)
        self.at = -1
        if self.even:
            return
        if self.n <= SMOOTH:
            self.weights = <int64_t*>malloc(self.n * sizeof(int64_t))
            self.current = <int64_t*>calloc(self.n, sizeof(int64_t))
            if self.weights == NULL or self.current == NULL:
                raise MemoryError()
            for i in range(self.n):
                self.weights[i] = weights[i]
            return
        self.weights = <int64_t*>malloc(self.n * sizeof(int64_t))
        self.heap = <Turn*>malloc(self.n * sizeof(Turn))
        if self.heap == NULL or self.weights == NULL:
            raise MemoryError()
        for i in range(self.n):
            self.weights[i] = ONE // <uint64_t>weights[i]
            # the first turns are scattered by the golden ratio: those of the same weight do not come in a row
            self.heap[i].due = <uint64_t>((i + 1) * 0.6180339887498949 % 1.0 * self.weights[i])
            self.heap[i].index = i
        for i in range(self.n // 2 - 1, -1, -1):
            self._sink(i)

    def __dealloc__(self):
        free(self.weights)
        free(self.current)
        free(self.heap)

    cdef int succeed(self, Group before) except -1:
        """Those that stay keep their turn."""
        cdef Turns old
        cdef int i
        if not isinstance(before, Turns):
            return 0
        old = <Turns>before
        self.at = old.at
        if self.current != NULL and old.current != NULL:
            turns = {old.members[i]: old.current[i] for i in range(old.n)}
            for i in range(self.n):
                self.current[i] = turns.get(self.members[i], 0)
        return 0

    cdef Endpoint pick(self, Exchange ex):
        if not self.even:
            return self._smooth() if self.heap == NULL else self._first_due()
        self.at += 1
        if self.at >= self.n:
            self.at = 0
        return <Endpoint>self.members[self.at]

    cdef Endpoint _smooth(self):
        cdef int i, best = 0
        for i in range(self.n):
            self.current[i] += self.weights[i]
            if self.current[i] > self.current[best]:
                best = i
        self.current[best] -= <int64_t>self.total
        return <Endpoint>self.members[best]

    cdef Endpoint _first_due(self):
        cdef uint32_t index = self.heap[0].index
        # 2^63 of virtual time are 2^23 turns of a weight of 1: begin anew before that
        cdef int i
        self.heap[0].due += self.weights[index]
        if self.heap[0].due >> 62:
            for i in range(self.n):
                self.heap[i].due -= <uint64_t>1 << 61
        self._sink(0)
        return <Endpoint>self.members[index]

    cdef void _sink(self, int at) noexcept:
        """The entry at `at` goes down to where it belongs; of two that are due together the first in the list is first."""
        cdef Turn moving = self.heap[at]
        cdef Turn *heap = self.heap
        cdef int child = 2 * at + 1
        while child < self.n:
            if child + 1 < self.n and (heap[child + 1].due < heap[child].due or (
                    heap[child + 1].due == heap[child].due and heap[child + 1].index < heap[child].index)):
                child += 1
            if moving.due < heap[child].due or (moving.due == heap[child].due and moving.index < heap[child].index):
                break
            heap[at] = heap[child]
            at = child
            child = 2 * at + 1
        heap[at] = moving


cdef class Chance(Group):
    """At random, by weight: an alias table (A. J. Walker, 1974; M. D. Vose, 1991) needs one number and one look."""

    def __init__(self, tuple members, list weights):
        cdef int i
        super().__init__(members, weights)
        self.weights = <int64_t*>malloc(self.n * sizeof(int64_t))
        if self.weights == NULL:
            raise MemoryError()
        for i in range(self.n):
            self.weights[i] = weights[i]
        if not self.even:
            self._fill()

    def __dealloc__(self):
        free(self.weights)
        free(self.cut)
        free(self.alias)

    cdef int _fill(self) except -1:
        """Each of n columns holds one endpoint below its cut and another one above; weights times n are shared out."""
        cdef int i, low, high, lows = 0, highs = 0
        cdef uint64_t *left = <uint64_t*>malloc(self.n * sizeof(uint64_t))
        cdef uint32_t *small = <uint32_t*>malloc(self.n * sizeof(uint32_t))
        cdef uint32_t *large = <uint32_t*>malloc(self.n * sizeof(uint32_t))
        self.cut = <uint32_t*>malloc(self.n * sizeof(uint32_t))
        self.alias = <uint32_t*>malloc(self.n * sizeof(uint32_t))
        try:
            if left == NULL or small == NULL or large == NULL or self.cut == NULL or self.alias == NULL:
                raise MemoryError()
            for i in range(self.n):
                left[i] = <uint64_t>self.weights[i] * <uint64_t>self.n
                self.cut[i] = 0xffffffffu
                self.alias[i] = i
                if left[i] < self.total:
                    small[lows] = i
                    lows += 1
                else:
                    large[highs] = i
                    highs += 1
            while lows and highs:
                lows -= 1
                low = small[lows]
                high = large[highs - 1]
                self.cut[low] = <uint32_t>(<double>left[low] / <double>self.total * 4294967295.0)
                self.alias[low] = high
                left[high] -= self.total - left[low]
                if left[high] < self.total:
                    highs -= 1
                    small[lows] = high
                    lows += 1
        finally:
            free(left)
            free(small)
            free(large)
        return 0

    cdef int draw(self) noexcept:
        cdef uint64_t x = random64()
        cdef int column = <int>((x >> 32) * <uint64_t>self.n >> 32)
        if self.cut == NULL or <uint32_t>x <= self.cut[column]:
            return column
        return self.alias[column]

    cdef int other(self, int first) noexcept:
        """A second one, by weight as well; not the first again, where there are two."""
        cdef int second = self.draw()
        if second == first and self.n > 1:
            second = (first + 1 + <int>((random64() >> 32) * <uint64_t>(self.n - 1) >> 32)) % self.n
        return second

    cdef Endpoint pick(self, Exchange ex):
        return <Endpoint>self.members[self.draw()]


cdef class Fewest(Chance):
    """Of two at random, the one with fewer requests under way for its weight (M. Mitzenmacher, 2001)."""

    cdef Endpoint pick(self, Exchange ex):
        cdef int first = self.draw(), second = self.other(first)
        cdef Endpoint a = <Endpoint>self.members[first]
        cdef Endpoint b = <Endpoint>self.members[second]
        return b if b.in_flight * self.weights[first] < a.in_flight * self.weights[second] else a


cdef class Fastest(Chance):
    """Of two at random, the one that promises to answer first: its moving peak of latency times what waits there."""

    def __init__(self, tuple members, list weights, double decay=10e9):
        super().__init__(members, weights)
        self.decay = decay

    cdef double cost(self, Endpoint endpoint, int64_t weight) noexcept:
        cdef double known = endpoint.latency
        if known == 0:
            # not measured: one request finds out, the others wait for what it says
            return 0 if endpoint.in_flight == 0 else 1e12 * (endpoint.in_flight + 1) / weight
        # what is long ago counts less: who was slow once is asked again
        known *= exp((endpoint.latency_at - endpoint.reactor.now) / self.decay)
        return known * (endpoint.in_flight + 1) / weight

    cdef Endpoint pick(self, Exchange ex):
        cdef int first = self.draw(), second = self.other(first)
        cdef Endpoint a = <Endpoint>self.members[first]
        cdef Endpoint b = <Endpoint>self.members[second]
        return b if self.cost(b, self.weights[second]) < self.cost(a, self.weights[first]) else a
