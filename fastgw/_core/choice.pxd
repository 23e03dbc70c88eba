"""Ways to choose one of some endpoints: by turns, by chance, by load, by latency."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastgw._core.exchange cimport Exchange
from fastgw._core.pool cimport Endpoint, Picker

ctypedef struct Turn:
    uint64_t due             # of its next turn, in virtual time
    uint32_t index


cdef class Group(Picker):
    """A fixed list of endpoints with their weights."""
    cdef readonly tuple members           # Endpoint
    cdef readonly list given              # weights, whole numbers from 1
    cdef int n
    cdef bint even                        # all weights are the same
    cdef uint64_t total                   # of the weights
    cdef uint64_t upto                    # of several groups: this one is taken when a random number is below
    cdef int succeed(self, Group before) except -1      # takes over what the group before it knows


cdef class Turns(Group):
    cdef int at
    cdef int64_t *weights                 # of at most SMOOTH members
    cdef int64_t *current
    cdef Turn *heap                       # of more
    cdef Endpoint _smooth(self)
    cdef Endpoint _first_due(self)
    cdef void _sink(self, int at) noexcept


cdef class Chance(Group):
    cdef uint32_t *cut                    # alias tables; NULL where all weights are the same
    cdef uint32_t *alias
    cdef int64_t *weights
    cdef int _fill(self) except -1
    cdef int draw(self) noexcept
    cdef int other(self, int first) noexcept


cdef class Fewest(Chance):
    pass


cdef class Fastest(Chance):
    cdef double decay                     # ns
    cdef double cost(self, Endpoint endpoint, int64_t weight) noexcept
