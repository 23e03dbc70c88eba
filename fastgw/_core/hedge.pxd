"""Further attempts beside the first one: the first good answer is the answer."""
from libc.stdint cimport int64_t, uint32_t

from fastgw._core.exchange cimport Driver, Exchange, UpstreamStream
from fastgw._core.reactor cimport Reactor
from fastgw._core.record cimport Stats
from fastgw._core.retry cimport Budget

cdef enum:
    BINS = 240                            # eight for each power of two, from 1 µs to 18 minutes


cdef int bin_of(int64_t ns) noexcept
cdef int64_t end_of(int bin) noexcept       # ns: the longest time of a bin


cdef class Latencies:
    """How long answers took, the later ones counting more, and one percentile of that."""
    cdef readonly double share
    cdef readonly int64_t value           # ns, as of the last look; 0: too few are known
    cdef uint32_t bins[BINS]
    cdef uint32_t total, fresh
    cdef void observe(self, int64_t ns) noexcept


cdef class Hedge:
    """When another attempt is begun, for which requests, and how many. One per route."""
    cdef readonly int64_t delay           # ns; with `latencies` the least, and the wait while nothing is known. 0: none
    cdef readonly Latencies latencies     # None: always `delay`
    cdef readonly int most
    cdef readonly Budget budget
    cdef uint32_t methods
    cdef dict by_service                  # in the place of all else: name → Hedge, of a split
    cdef int64_t wait(self) noexcept
    cdef int begin(self, Exchange ex, Reactor reactor) except -1       # its first attempt is about to be made


cdef class Race(Driver):
    """The attempts beside the first of one exchange. Each has an exchange of its own, a rival, that this one drives."""
    cdef Reactor reactor
    cdef Stats stats
    cdef Exchange ex                      # whose client waits; None once nothing is to be told to it
    cdef uint32_t generation
    cdef list rivals                      # under way, without an answer
    cdef Exchange winner                  # the rival whose answer is being passed on
    cdef bint alone                       # the first attempt has failed: what is left are the rivals
    cdef bint begin(self) except -1
    cdef int end(self) except -1
    cdef int _drop(self, Exchange rival) except -1
    cdef int _fell(self, Exchange rival, str code) except -1
    cdef int _alone(self, str code) except -1
    cdef int _win(self, Exchange rival) except -1


cdef class Adopted(UpstreamStream):
    """What an exchange has in the place of its own attempt when a rival's answer is passed on."""
    cdef Race race


# Its time has come: another attempt, if there may be one.
cdef int hedge(Exchange ex, Reactor reactor, Stats stats) except -1
# The head of its own attempt is here. True: it is no good, and was dropped for what others may bring.
cdef bint dropped(Exchange ex, int64_t now) except -1
# Its timer goes off at what is due first.
cdef int arm_next(Exchange ex, Reactor reactor) except -1


cdef inline bint outlived(Exchange ex, str code) except -1:
    """Its own attempt failed; True: there are others, and one of them may do."""
    cdef Race race = <Race>ex.race
    if race is None or not race.rivals:
        return False
    race._alone(code)
    return True


cdef inline int call_off(Exchange ex) except -1:
    """It is over: whatever is under way beside it is not wanted."""
    cdef Race race = <Race>ex.race
    ex.hedge = None
    return 0 if race is None else race.end()
