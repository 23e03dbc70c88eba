"""The hot half of `coalesce`: the first of several identical GETs is dispatched, the others wait for its answer.

A *flight* is one dispatch that others wait for. It is open from the leader's dispatch until its answer is complete,
failed, or found not to be shareable. Waiting costs no Task: the exchange stays where it is (WAIT) and is resumed by
the reactor, after the handler that ended the flight, as its own piece of work.

    leader   around → CONTINUE … around_done (the head: may it be shared?) … tap (the bytes) … tap(end): land
    others   around → WAIT … resumed with REPLIED (a copy of head and body) or CONTINUE (ask for themselves)

A leader whose client leaves hands the flight on: the first of those who wait is dispatched, the rest wait for it.
The bytes are those of the service, so nothing is shared where a policy behind this one changes bodies of responses.
"""
import logging

from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from fastgw._core.body cimport changed_behind
from fastgw._core.clock cimport Timed, Timer, Wheel, monotonic_ns
from fastgw._core.exchange cimport (
    CONTINUE, PHASE_AROUND, PHASE_RECORD, PHASE_TAP, REPLIED, S_AROUND, WAIT, Exchange, Hook,
)
from fastgw._core.headers cimport Head, Header
from fastgw._core.policy cimport apply_problem
from fastgw._core.reactor cimport Handler, Reactor
from fastgw._core.record cimport C_COALESCED
from fastgw._core.respond cimport Relay

from fastgw._core.codes import CODES
from fastgw._core.exchange import Problem

logger = logging.getLogger("fastgw.policy")

cdef enum:
    GET = 0
    MAX_FLIGHTS = 65536        # keys at the same time per worker; beyond, requests go alone

cdef frozenset PRIVATE = frozenset((b"private", b"no-store"))


cdef set directives(Head head, bytes lower):
    """The tokens of a list header in lower case, without their arguments."""
    cdef set found = set()
    cdef int i
    cdef Header *h
    for i in range(head.count):
        h = &head.items[i]
        if h.drop or h.name_len != len(lower):
            continue
        if PyBytes_FromStringAndSize(head.buf + h.name, h.name_len).lower() == lower:
            for item in head.value_of(h).lower().split(b","):
                found.add(item.partition(b"=")[0].strip())
    return found


cdef class Flight(Timed):
    def __cinit__(self):
        memset(&self.timer, 0, sizeof(Timer))
        self.timer.owner = <void*>self

    cdef int on_timer(self, Timer *timer) except -1:
        # the timer does not own the flight, and landing it lets its last owners go
        cdef Flight alive = self
        return alive.home.fail(alive, "coalesce_timeout")


cdef class Release(Handler):
    """Resumes those who waited, outside of the call that ended their flight."""
    cdef int on_ready(self) except -1:
        return self.home.run_released()


cdef class Coalesce(Hook):
    """`Coalesce(headers in lower case, across_identities, max_body, max_waiters, timeout_ns, fail)`"""

    def __init__(self, headers, bint across, int64_t max_body, int max_waiters, int64_t timeout, bint failing):
        self.name = "coalesce"
        self.phases = PHASE_AROUND | PHASE_TAP | PHASE_RECORD
        identity = () if across else (b"authorization", b"cookie")
        self.headers = tuple(dict.fromkeys((*headers, *identity)))
        self.key_headers = frozenset(self.headers)
        self.across = across
        self.failing = failing
        self.max_body = max_body
        self.timeout = timeout
        self.max_waiters = max_waiters
        self.flights = {}
        self.flying = {}
        self.released = []
        self.release = Release()
        self.release.home = self

    def __repr__(self):
        return f"<Coalesce {len(self.flights)} flights, {len(self.flying)} exchanges>"

    # ------------------------------------------------------------------ the key

    cdef bytes key_of(self, Exchange ex):
        """Method, scheme, host, path, query, rewritten or not; the named headers, all of them; who calls."""
        cdef Head head = ex.request
        cdef list parts = [
            b"s" if ex.secure else b"p",
            PyBytes_FromStringAndSize(head.buf + ex.authority, ex.authority_len).lower(),
            PyBytes_FromStringAndSize(head.buf + ex.path, ex.path_len),
            PyBytes_FromStringAndSize(head.buf + ex.query, ex.query_len) if ex.has_query else b"\0",
            b"" if ex.route is None else ex.route.name_bytes,
        ]
        cdef bytes name
        cdef Header *h
        cdef int i
        for name in self.headers:
            for i in range(head.count):
                h = &head.items[i]
                if not h.drop and h.name_len == PyBytes_GET_SIZE(name) \
                        and head.find(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name)) != NULL \
                        and PyBytes_FromStringAndSize(head.buf + h.name, h.name_len).lower() == name:
                    parts.append(name + b":" + head.value_of(h))
            parts.append(b"")
        if not self.across:
            parts.append(b"\0" if ex.consumer is None else ex.consumer.name_bytes)
            # a token that was verified and stripped: the claims say who it was for
            parts.append(b"\0" if ex.claims is None else repr(sorted(ex.claims.items(), key=str)).encode())
        # no part holds a line break: control characters are refused when a head is read
        return b"\n".join(parts)

    # ------------------------------------------------------------------ hooks

    cdef int around(self, Exchange ex) except -1:
        cdef Flight flight
        cdef bytes key
        cdef Relay relay
        if ex.request.method != GET or ex.has_body or ex.detached or not isinstance(ex.driver, Relay) \
                or changed_behind(ex, self) or ex.route.buffers_response:
            return CONTINUE
        if b"no-store" in directives(ex.request, b"cache-control"):
            return CONTINUE
        relay = <Relay>ex.driver
        key = self.key_of(ex)
        flight = self.flights.get(key)
        if flight is None:
            if len(self.flights) >= MAX_FLIGHTS:
                return CONTINUE
            flight = Flight()
            flight.home = self
            flight.key = key
            flight.leader = ex
            flight.waiters = {}
            flight.wheel = relay.reactor.wheel
            self.flights[key] = flight
            self.flying[ex] = flight
            flight.wheel.arm(&flight.timer, monotonic_ns() + self.timeout)
            return CONTINUE
        if len(flight.waiters) >= self.max_waiters:
            return CONTINUE
        flight.waiters[ex] = ex.generation
        self.flying[ex] = flight
        return WAIT

    cdef int around_done(self, Exchange ex) except -1:
        cdef Flight flight = self.flying.get(ex)
        cdef Head head = ex.response
        cdef char *room
        if flight is None or flight.over or flight.leader is not ex or flight.sharing:
            return CONTINUE
        if ex.code is not None and ex.local:
            self.fail(flight, ex.code)
            return CONTINUE
        if not self._shareable(head):
            self.scatter(flight)
            return CONTINUE
        flight.sharing = True
        flight.status = head.status
        room = <char*>malloc(head.lines_size())
        if room == NULL:
            raise MemoryError()
        try:
            flight.lines = PyBytes_FromStringAndSize(room, head.copy_lines(room) - room)
        finally:
            free(room)
        flight.chunks = []
        return CONTINUE

    cdef bint _shareable(self, Head head) except -1:
        """RFC 9111 3: an answer for one user is not for another; 4.1: nor for a request that Vary tells apart."""
        cdef bytes name
        if head.find(b"set-cookie", 10) != NULL or head.status == 206 or head.status < 200:
            return False
        if head.has_length and head.content_length > self.max_body:
            return False
        if not PRIVATE.isdisjoint(directives(head, b"cache-control")):
            return False
        for name in directives(head, b"vary"):
            if name and name not in self.key_headers:
                return False
        return True

    cdef int tap(self, Exchange ex, const char *p, size_t n, bint end) except -1:
        cdef Flight flight = self.flying.get(ex)
        if flight is None or flight.over or flight.leader is not ex or not flight.sharing:
            return 0
        if n:
            flight.size += n
            if flight.size > self.max_body:
                return self.scatter(flight)
            flight.chunks.append(PyBytes_FromStringAndSize(p, n))
        if end:
            flight.body = b"".join(flight.chunks)
            flight.chunks = None
            self._land(flight, REPLIED, None)
        return 0

    cdef int record(self, Exchange ex) except -1:
        """Called for every exchange at its end: nothing of it may stay here."""
        cdef Flight flight = self.flying.pop(ex, None)
        if flight is None:
            return 0
        if flight.leader is not ex:
            flight.waiters.pop(ex, None)
            return 0
        if not flight.over:
            if ex.code is not None and ex.side != 1:
                self.fail(flight, ex.code)       # the answer broke off half way
            else:
                self._hand_on(flight)                  # the leader's client left
        return 0

    # ------------------------------------------------------------------ ends of a flight

    cdef int _hand_on(self, Flight flight) except -1:
        cdef Exchange heir
        flight.sharing = False
        flight.chunks = None
        flight.size = 0
        flight.leader = None
        for heir in flight.waiters:
            flight.leader = heir
            generation = flight.waiters.pop(heir)
            self._resume(heir, generation, CONTINUE, None, None)
            return 0
        self._close(flight)
        return 0

    cdef int scatter(self, Flight flight) except -1:
        """The answer is not for sharing: each of those who waited asks for itself."""
        return self._land(flight, CONTINUE, None)

    cdef int fail(self, Flight flight, str code) except -1:
        if self.failing:
            return self._land(flight, REPLIED, code)
        return self._land(flight, CONTINUE, None)

    cdef int _land(self, Flight flight, int verdict, str code) except -1:
        cdef Exchange ex
        self._close(flight)
        for ex, generation in flight.waiters.items():
            self.flying.pop(ex, None)
            self._resume(ex, generation, verdict, flight if code is None else None, code)
        flight.waiters = {}
        return 0

    cdef int _close(self, Flight flight) except -1:
        flight.over = True
        flight.wheel.unlink(&flight.timer)
        if self.flights.get(flight.key) is flight:
            del self.flights[flight.key]
        if flight.leader is not None:
            self.flying.pop(flight.leader, None)
        flight.leader = None
        return 0

    cdef int _resume(self, Exchange ex, generation, int verdict, Flight flight, str code) except -1:
        if not self.released:
            (<Relay>ex.driver).reactor.later(self.release)
        self.released.append((ex, generation, verdict, flight, code))
        return 0

    cdef int run_released(self) except -1:
        cdef Exchange ex
        cdef Flight flight
        cdef list batch = self.released
        self.released = []
        for ex, generation, verdict, flight, code in batch:
            # the client may have left since, and the object may carry another request
            if ex.generation != generation or ex.state != S_AROUND:
                continue
            try:
                if verdict == REPLIED:
                    self._reply(ex, flight, code)
                ex.driver.resume(ex, verdict)
            except Exception as error:
                # one that fails must not keep the others waiting
                logger.error("resuming %s failed", ex, exc_info=error)
                ex.driver.fail(ex, "internal_error", None)
        return 0

    cdef int _reply(self, Exchange ex, Flight flight, str code) except -1:
        if code is not None:
            known = CODES.get(code)
            return apply_problem(ex, Problem(known.status if known else 502, code,
                                             "The request this one was joined with failed.",
                                             side=known.side if known else 3))
        ex.set_reply(flight.status, flight.body, None)
        ex.response.append_lines(PyBytes_AS_STRING(flight.lines), PyBytes_GET_SIZE(flight.lines), 0)
        (<Relay>ex.driver).stats.add(C_COALESCED, 1)
        return 0
