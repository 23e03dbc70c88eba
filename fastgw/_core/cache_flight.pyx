"""Single flight: who fetches an answer for the cache, and who waits for it.

A *flight* is one request to the service that others wait for: within the worker they stand in its list and are resumed by the
reactor; between the workers of a host the storage knows who claimed the key, and a flight of another worker's claim looks
again and again, at growing pauses. Waiting costs no Task and no thread.

    leader   request hook: lead … the answer is kept → land: all look again, and find it
                                … it may not be kept → scatter: all go on by themselves
                                … it failed          → fail: all are refused as the leader was
                                … its client left    → hand_on: the first of them fetches

Where slower levels stand behind the memory (a disk, Redis), the leader asks them before the service, and waits like the others
until they tell: what they had is in the memory then, and all look again.

A key of a request with credentials has the identity in it unless answers are known to be for all: nobody waits for an answer
to somebody else.
"""
import logging

from libc.stdint cimport int64_t
from libc.string cimport memset

from fastgw._core.cache_store cimport CLAIM_MINE, LOOK_HIT, Claim, Fill, Found, Storage
from fastgw._core.clock cimport Timed, Timer, monotonic_ns
from fastgw._core.exchange cimport CONTINUE, S_POLICY, WAIT, Exchange, Hook
from fastgw._core.reactor cimport Handler
from fastgw._core.respond cimport Relay

logger = logging.getLogger("fastgw.policy")

cdef enum:
    MAX_FLIGHTS = 65536      # keys at the same time per worker; beyond, requests go alone

cdef int64_t LEASE = 60_000_000_000       # a claim ends by itself, should nobody end it
cdef int64_t FIRST = 2_000_000
cdef int64_t LONGEST = 50_000_000


cdef class Call:
    def __cinit__(self):
        memset(&self.found, 0, sizeof(Found))
        memset(&self.fill, 0, sizeof(Fill))
        self.names = b""

    def __dealloc__(self):
        if self.storage is not None:
            self.storage.release(&self.found)
            self.storage.drop(&self.fill)

    cdef int release(self) except -1:
        self.storage.release(&self.found)
        self.found.entry = 0
        return 0


cdef class Flight(Timed):
    def __cinit__(self):
        memset(&self.timer, 0, sizeof(Timer))
        self.timer.owner = <void*>self
        self.waiters = {}

    cdef int on_timer(self, Timer *timer) except -1:
        # the timer does not own the flight, and landing it lets its last owners go
        cdef Flight alive = self
        if alive.over:
            return 0
        if monotonic_ns() >= alive.deadline:
            if alive.seek is not None:
                alive.home.seek_over(alive, None)
            return alive.home.scatter(alive)
        return alive.home.poll(alive)


cdef class Seek:
    """What slower levels call once: with the word for the one that had the answer, or None."""
    def __call__(self, level):
        cdef Flight flight = self.flight
        self.flight = None
        if flight is not None and flight.seek is self and not flight.over:
            flight.home.seek_over(flight, level)


cdef class Release(Handler):
    """Resumes those who waited, outside of the call that ended their flight."""
    cdef int on_ready(self) except -1:
        return self.home.run_released()


cdef class Flights(Hook):
    def __cinit__(self, *args, **kwargs):
        self.flights = {}
        self.released = []
        self.release = Release()
        self.release.home = self

    cdef int again(self, Exchange ex, int how, object detail) except -1:
        raise NotImplementedError

    # ------------------------------------------------------------------ at the request

    cdef int join(self, Exchange ex, Call call, bytes key) except -1:
        """A request that nothing kept can answer: it waits (WAIT), or fetches, with others behind it or alone."""
        cdef Flight flight = self.flights.get(key)
        if flight is None:
            if self.wait <= 0 or len(self.flights) >= MAX_FLIGHTS:
                return CONTINUE
            flight = self.lead(call, key, not call.part)
            if flight is None:
                return CONTINUE
            if not flight.foreign:
                if self.tiers is not None and call.name != self.sought and self.seek(flight, call):
                    return WAIT
                return CONTINUE
        elif call.part and flight.seek is None:
            return CONTINUE
        elif len(flight.waiters) >= self.max_waiters:
            return CONTINUE
        call.what = WAITS
        call.flight = flight
        flight.waiters[ex] = ex.generation
        return WAIT

    cdef Flight lead(self, Call call, bytes key, bint foreign_too):
        """A new flight. With `foreign_too` it may be one whose answer another worker fetches; else None in that case."""
        cdef Flight flight = Flight()
        cdef Relay relay = <Relay>call.ex.driver
        flight.home = self
        flight.key = key
        flight.hashed = self.storage.key(key, len(key))
        flight.wheel = relay.reactor.wheel
        flight.deadline = monotonic_ns() + self.wait
        flight.claimed = self.storage.claim(flight.hashed, LEASE, &flight.claim) == CLAIM_MINE
        flight.foreign = not flight.claimed
        if flight.foreign:
            if not foreign_too:
                return None
            flight.pause = FIRST
            flight.wheel.arm(&flight.timer, monotonic_ns() + FIRST)
        else:
            flight.leader = call
            call.flight = flight
            flight.wheel.arm(&flight.timer, flight.deadline)
        self.flights[key] = flight
        return flight

    cdef bint seek(self, Flight flight, Call call) except -1:
        """Slower levels are asked. False: none of them has it, which they know at once."""
        cdef Seek told = Seek()
        told.flight = flight
        flight.seek = told
        flight.generation = call.ex.generation
        flight.sought = True
        if self.tiers.seek(call.name, flight.key, call.asked, told):
            return True
        flight.seek = None
        return False

    cdef int seek_over(self, Flight flight, object level) except -1:
        cdef Exchange ex = flight.leader.ex
        cdef Exchange other
        cdef dict all_of_them
        flight.seek = None
        if level is None:
            for other, generation in list(flight.waiters.items()):
                if (<Call>other.caching).part:
                    (<Call>other.caching).flight = None
                    del flight.waiters[other]
                    self._resume(other, generation, GO_ALONE, None)
            return self._resume(ex, flight.generation, GO_ON, None)
        all_of_them = {ex: flight.generation}
        all_of_them.update(flight.waiters)
        flight.waiters = all_of_them
        return self._let_go(flight, TAKEN, (flight.leader.name, level))

    # ------------------------------------------------------------------ ends of a flight

    cdef int poll(self, Flight flight) except -1:
        """Another worker fetches: is it through?"""
        if not flight.foreign:
            flight.wheel.arm(&flight.timer, flight.deadline)
            return 0
        if not self.storage.claimed(flight.hashed):
            # kept, or not: the first of ours finds out. The others wait for what it finds
            return self.hand_on(flight)
        flight.pause = min(flight.pause * 2, LONGEST)
        flight.wheel.arm(&flight.timer, monotonic_ns() + flight.pause)
        return 0

    cdef int hand_on(self, Flight flight) except -1:
        """The first of those who wait looks, and fetches where there is still nothing."""
        cdef Exchange heir
        self._close(flight)
        for heir in flight.waiters:
            generation = flight.waiters.pop(heir)
            self._resume(heir, generation, GO_LEAD, flight)
            return 0
        return 0

    cdef int land(self, Flight flight) except -1:
        return self._let_go(flight, LOOK_AGAIN, None)

    cdef int scatter(self, Flight flight) except -1:
        flight.refused = True
        return self._let_go(flight, GO_ALONE, None)

    cdef int fail(self, Flight flight, str code) except -1:
        flight.refused = True
        return self._let_go(flight, FAILED, code)

    cdef int _let_go(self, Flight flight, int how, object detail) except -1:
        cdef Exchange ex
        self._close(flight)
        for ex, generation in flight.waiters.items():
            self._resume(ex, generation, how, detail)
        flight.waiters = {}
        return 0

    cdef int _close(self, Flight flight) except -1:
        if flight.over:
            return 0
        flight.over = True
        flight.seek = None
        flight.wheel.unlink(&flight.timer)
        if flight.sought:
            self.tiers.closed(flight.key, flight.refused)
        if self.flights.get(flight.key) is flight:
            del self.flights[flight.key]
        if flight.claimed:
            flight.claimed = False
            self.storage.unclaim(&flight.claim)
        if flight.leader is not None:
            flight.leader.flight = None
        flight.leader = None
        return 0

    cdef int leave(self, Exchange ex, Call call) except -1:
        """A request that waited is over: its client left, or its time."""
        cdef Flight flight = call.flight
        call.flight = None
        if flight is not None and flight.waiters.pop(ex, None) is not None and flight.foreign and not flight.waiters:
            self._close(flight)
        return 0

    cdef int _resume(self, Exchange ex, object generation, int how, object detail) except -1:
        if not self.released:
            (<Relay>ex.driver).reactor.later(self.release)
        self.released.append((ex, generation, how, detail))
        return 0

    cdef int run_released(self) except -1:
        cdef Exchange ex
        cdef Flight old
        cdef list batch = self.released
        self.released = []
        for ex, generation, how, detail in batch:
            # the client may have left since, and the object may carry another request
            if ex.generation != generation or ex.state != S_POLICY:
                if how == GO_LEAD and (<Flight>detail).waiters:
                    self.hand_on(<Flight>detail)
                continue
            try:
                self.again(ex, how, detail)
            except Exception as error:
                # one that fails must not keep the others waiting
                logger.error("resuming %s failed", ex, exc_info=error)
                ex.driver.fail(ex, "internal_error", None)
        return 0
