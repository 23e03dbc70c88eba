"""Single flight: who fetches an answer for the cache, and who waits for it."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastgw._core.cache_answer cimport Portion
from fastgw._core.cache_head cimport Meta
from fastgw._core.cache_store cimport Claim, Fill, Found, Key, Storage
from fastgw._core.clock cimport Timed, Timer, Wheel
from fastgw._core.exchange cimport Exchange, Hook
from fastgw._core.reactor cimport Handler
from fastgw._core.respond cimport Relay

cdef enum What:
    FETCH = 1                # its answer may be kept
    PASS                     # it may not, or what is kept cannot answer it
    UNSAFE                   # it may change what is kept
    WAITS                    # for the answer of another


cdef class Flights
cdef class Flight


cdef class Call:
    """What the cache has to know of a request that it could not answer at once."""
    cdef Flights home
    cdef Storage storage
    cdef Exchange ex
    cdef int at                           # where in the chain the policy stands
    cdef int what
    cdef bytes primary                    # the name without its variant
    cdef bytes name
    cdef Key key                          # of `name`
    cdef bytes names                      # that tell the variants apart, as the kept list has them; b"" none
    cdef uint64_t nonce                   # of that list, 0 none
    cdef int64_t names_until
    cdef Found found                      # the old answer, pinned; found.entry 0: none
    cdef Meta meta                        # of it
    cdef int lines                        # of the client's own request
    cdef bint conditional                 # the service is asked whether the old answer still holds
    cdef bint identified                  # the request says who asks
    cdef bytes forward                    # why the service is asked, a word of Cache-Status
    cdef Fill fill                        # fill.entry 0: none is under way
    cdef Flight flight                    # that it leads
    cdef bint background                  # nobody waits for its answer
    cdef int64_t asked                    # ns, monotonic
    cdef Portion portion                  # what the client gets of the old answer,
    cdef bint serving                     # at the end of the 304 that says it holds
    cdef int64_t until                    # of the answer that is being kept: for the list of variants
    cdef bytes kept                       # its name, and
    cdef list tags                        # its tags, for slower levels
    cdef bint part                        # it asks for less than the whole: nobody may wait for its answer
    cdef int release(self) except -1


cdef class Flight(Timed):
    cdef Flights home
    cdef bytes key
    cdef Key hashed
    cdef Claim claim
    cdef bint claimed                     # in the whole host
    cdef bint foreign                     # another worker has it
    cdef bint over
    cdef Call leader
    cdef object seek                      # slower levels are being asked: what they tell
    cdef object generation                # of the leader's exchange meanwhile
    cdef bint sought                      # they were
    cdef bint refused                     # it ended without an answer that is kept
    cdef dict waiters                     # exchange → its generation, in order of arrival
    cdef Timer timer
    cdef Wheel wheel
    cdef int64_t deadline, pause          # ns; the pause between two looks at another worker's claim


cdef class Release(Handler):
    cdef Flights home


cdef class Seek:
    cdef Flight flight


cdef class Flights(Hook):
    cdef Storage storage
    cdef object tiers                     # slower levels behind the memory; None
    cdef object teller                    # tells other hosts what is forgotten; None
    cdef bytes sought                     # the name of what they had just now
    cdef bytes level                      # and which one it was, for Cache-Status
    cdef int64_t wait                     # ns
    cdef int max_waiters
    cdef dict flights                     # key → Flight
    cdef list released                    # (exchange, generation, how)
    cdef Release release
    cdef int join(self, Exchange ex, Call call, bytes key) except -1      # WAIT, or CONTINUE: it leads, or goes alone
    cdef Flight lead(self, Call call, bytes key, bint foreign_too)
    cdef int hand_on(self, Flight flight) except -1
    cdef int land(self, Flight flight) except -1
    cdef int scatter(self, Flight flight) except -1
    cdef int fail(self, Flight flight, str code) except -1
    cdef int poll(self, Flight flight) except -1
    cdef int leave(self, Exchange ex, Call call) except -1
    cdef int run_released(self) except -1
    cdef int again(self, Exchange ex, int how, object detail) except -1   # one that waited goes on
    cdef bint seek(self, Flight flight, Call call) except -1
    cdef int seek_over(self, Flight flight, object level) except -1
    cdef int _let_go(self, Flight flight, int how, object detail) except -1
    cdef int _resume(self, Exchange ex, object generation, int how, object detail) except -1
    cdef int _close(self, Flight flight) except -1

cdef enum How:
    LOOK_AGAIN = 1           # the answer is there
    GO_ALONE                 # there will be none for it
    GO_LEAD                  # it is the one that fetches now
    FAILED                   # as the one did that fetched
    TAKEN                    # a slower level had it, and it is in the memory now
    GO_ON                    # no slower level has it: the leader fetches
    ANSWERED                 # PURGE: all is done, with this answer
