"""Circuit breakers: what fails is not asked for a time, then some requests find out whether it is well again.

    closed → open → half open → closed, or open again

The table of moves is `TRANSITIONS`; docs/resilience.md draws it. All workers of a host share the state, in memory of the
supervisor. One word of 64 bits has all that decides: the state, the probes let in, those that were well, and an epoch that
each transition makes one greater. Whoever moves it does so by compare and swap, so there is always one who did. A request
remembers state and epoch; what it has to say counts while they are the same, so that answers of an earlier time open and
close nothing.

Counters of the window are ten parts of time; one that is taken anew while others count in it may lose what they say at that
moment. When a worker dies with probes under way, others take their place after another `timeout`.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastgw._core.admission cimport Admission, Ticket, blames
from fastgw._core.clock cimport monotonic_ns
from fastgw._core.exchange cimport CONTINUE, REPLIED, Exchange
from fastgw._core.grpc cimport final_status
from fastgw._core.hashing cimport hash_of
from fastgw._core.pool cimport Endpoint

from fastgw._core.exchange import Problem

cdef extern from *:
    """
    #define FGW_CB_ADD(p, n) __atomic_add_fetch((p), (n), __ATOMIC_RELAXED)
    #define FGW_CB_LOAD(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define FGW_CB_STORE(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    static inline int fgw_cb_swap64(uint64_t *p, uint64_t have, uint64_t want) {
      return __atomic_compare_exchange_n(p, &have, want, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
    }
    static inline int fgw_cb_swap32(uint32_t *p, uint32_t have, uint32_t want) {
      return __atomic_compare_exchange_n(p, &have, want, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
    }
    """
    uint64_t ADD64 "FGW_CB_ADD"(uint64_t *p, uint64_t n) noexcept nogil
    uint32_t ADD32 "FGW_CB_ADD"(uint32_t *p, uint32_t n) noexcept nogil
    uint64_t LOAD64 "FGW_CB_LOAD"(const uint64_t *p) noexcept nogil
    uint32_t LOAD32 "FGW_CB_LOAD"(const uint32_t *p) noexcept nogil
    int64_t LOADI "FGW_CB_LOAD"(const int64_t *p) noexcept nogil
    void STORE32 "FGW_CB_STORE"(uint32_t *p, uint32_t v) noexcept nogil
    void STOREI "FGW_CB_STORE"(int64_t *p, int64_t v) noexcept nogil
    int fgw_cb_swap64(uint64_t *p, uint64_t have, uint64_t want) noexcept nogil
    int fgw_cb_swap32(uint32_t *p, uint32_t have, uint32_t want) noexcept nogil

cdef enum State:
    CLOSED
    OPEN
    HALF_OPEN
    FORCED_OPEN
    FORCED_CLOSED

cdef enum Event:
    TRIPPED
    WAITED
    PROBE_FAILED
    PROBES_WELL
    RESET
    FORCE_OPEN
    FORCE_CLOSED
    AUTO

cdef enum:
    # the word: bits 0 to 2 the state, 3 to 12 probes let in, 13 to 22 probes that were well, the rest the epoch
    STATE = 7
    LET_IN = 1 << 3
    WELL = 1 << 13
    MANY = 0x3ff
    EPOCH = 1 << 23
    # what stands in a ticket's mark between state and epoch
    COUNTED = 1 << 3         # its answer was well
    FAILED = 1 << 4          # it was not, or broke off
    MARKS = COUNTED | FAILED
    WAYS = 16
    ROUNDS = 100

cdef uint64_t SAME = ~<uint64_t>(EPOCH - 1) | STATE
cdef int64_t STALE = 600_000_000_000

STATES = ("closed", "open", "half_open", "forced_open", "forced_closed")
EVENTS = ("tripped", "waited", "probe_failed", "probes_well", "reset", "force_open", "force_closed", "auto")
# (state, event, next state): all there are. docs/resilience.md draws this, tests/core/test_breaker.py walks through it.
TRANSITIONS = (
    ("closed", "tripped", "open"),
    ("open", "waited", "half_open"),
    ("half_open", "probe_failed", "open"),
    ("half_open", "probes_well", "closed"),
    ("half_open", "waited", "half_open"),
    ("closed", "reset", "closed"),
    ("open", "reset", "closed"),
    ("half_open", "reset", "closed"),
    ("forced_open", "reset", "closed"),
    ("forced_closed", "reset", "closed"),
    ("closed", "force_open", "forced_open"),
    ("open", "force_open", "forced_open"),
    ("half_open", "force_open", "forced_open"),
    ("forced_closed", "force_open", "forced_open"),
    ("closed", "force_closed", "forced_closed"),
    ("open", "force_closed", "forced_closed"),
    ("half_open", "force_closed", "forced_closed"),
    ("forced_open", "force_closed", "forced_closed"),
    ("forced_open", "auto", "closed"),
    ("forced_closed", "auto", "closed"),
)
REASONS = ("", "failures", "error_rate", "slow_calls", "probe", "forced")
R_FAILURES, R_ERROR_RATE, R_SLOW, R_PROBE, R_FORCED = range(1, 6)

cdef signed char NEXT[5][8]
memset(NEXT, -1, sizeof(NEXT))
for _state, _event, _next in TRANSITIONS:
    NEXT[<int>STATES.index(_state)][<int>EVENTS.index(_event)] = <int>STATES.index(_next)

assert sizeof(Circuit) == 256


cdef bint move(Circuit *c, uint64_t seen, int event, uint32_t reason, int64_t now, int64_t open_ns) noexcept nogil:
    """The transition that the table has for it; False when it has none, or somebody else moved it meanwhile."""
    cdef int to = NEXT[seen & STATE][event]
    cdef uint64_t word
    if to < 0:
        return False
    word = ((seen >> 23) + 1) << 23 | <uint64_t>to
    if to == OPEN or to == HALF_OPEN:
        STOREI(&c.until, now + open_ns)          # before the word: nobody sees the state without its time
    else:
        STORE32(&c.row, 0)
        memset(c.spans, 0, sizeof(c.spans))
    if to == HALF_OPEN:
        word += LET_IN                           # who asks is the first probe
    if not fgw_cb_swap64(&c.word, seen, word):
        return False
    STOREI(&c.since, now)
    if reason:
        STORE32(&c.reason, reason)
    ADD64(&c.entered[to], 1)
    return True


cdef Span* span_of(Circuit *c, int64_t now, int64_t span_ns) noexcept nogil:
    """The part of the window that is now."""
    cdef uint32_t number = <uint32_t>(now // span_ns)
    cdef Span *span = &c.spans[number % SPANS]
    cdef uint32_t have = LOAD32(&span.number)
    if have != number and fgw_cb_swap32(&span.number, have, number):
        STORE32(&span.total, 0)
        STORE32(&span.failed, 0)
        STORE32(&span.slow, 0)
    return span


cdef void sums(Circuit *c, int64_t now, int64_t span_ns, Span *found) noexcept nogil:
    cdef uint32_t number = <uint32_t>(now // span_ns)
    cdef int i
    memset(found, 0, sizeof(Span))
    for i in range(SPANS):
        if number - LOAD32(&c.spans[i].number) < SPANS:
            found.total += LOAD32(&c.spans[i].total)
            found.failed += LOAD32(&c.spans[i].failed)
            found.slow += LOAD32(&c.spans[i].slow)


cdef class CircuitTable:
    """`CircuitTable(buffer)` over a writable buffer of `CircuitTable.size(circuits)` bytes; zeros are an empty table.

    A circuit is found by the hash of its key, in a set of 16; one that nobody has used for STALE may be taken over.
    """

    def __init__(self, buffer):
        cdef Py_buffer view
        PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        try:
            self.sets = view.len // <Py_ssize_t>(WAYS * sizeof(Circuit))
            if self.sets < 1:
                raise ValueError(f"a table has {WAYS * sizeof(Circuit)} bytes at least, not {view.len}")
            self.circuits = <Circuit*>view.buf
        finally:
            PyBuffer_Release(&view)
        self.memory = buffer

    @staticmethod
    def size(Py_ssize_t circuits):
        """Bytes for so many, with room for an uneven hash."""
        return (circuits * 2 // WAYS + 1) * WAYS * sizeof(Circuit)

    cdef Circuit* at(self, Py_ssize_t index) noexcept:
        return &self.circuits[index]

    def place(self, str scope, str service, str name):
        """Where the circuit of that key stands, a new one when there is none; -1 when there is no room."""
        cdef bytes text = f"{scope}\0{service}\0{name}".encode()
        cdef uint64_t key = hash_of(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text)) | 1
        cdef Py_ssize_t first = <Py_ssize_t>((key >> 8) % <uint64_t>self.sets) * WAYS, i, free
        cdef int64_t now = monotonic_ns(), oldest
        cdef uint64_t have
        cdef int rounds
        for rounds in range(ROUNDS):
            free = -1
            oldest = now - STALE
            for i in range(first, first + WAYS):
                have = LOAD64(&self.circuits[i].key)
                if have == key:
                    self.circuits[i].touched = now
                    return i
                if have == 0:
                    if free < 0 or LOAD64(&self.circuits[free].key) != 0:
                        free = i
                elif self.circuits[i].touched < oldest and (free < 0 or LOAD64(&self.circuits[free].key) != 0):
                    oldest = self.circuits[i].touched
                    free = i
            if free < 0:
                return -1
            have = LOAD64(&self.circuits[free].key)
            if have != key and fgw_cb_swap64(&self.circuits[free].key, have, key):
                memset(<char*>&self.circuits[free] + 16, 0, sizeof(Circuit) - 16)
                self.circuits[free].touched = now
                return free
        return -1

    def read(self, Py_ssize_t place, int64_t window_ns, now_ns=None):
        """What is known of one. Times are nanoseconds of the monotonic clock, the sums those of the window."""
        cdef Circuit *c = self.at(place)
        cdef uint64_t word = LOAD64(&c.word)
        cdef int64_t now = monotonic_ns() if now_ns is None else now_ns
        cdef Span found
        sums(c, now, max(window_ns // SPANS, 1), &found)
        return {
            "state": STATES[word & STATE], "since": LOADI(&c.since), "until": LOADI(&c.until),
            "reason": REASONS[LOAD32(&c.reason)], "failures_in_a_row": LOAD32(&c.row),
            "requests": found.total, "failed": found.failed, "slow": found.slow,
            "probes": <int>(word >> 3 & MANY), "probes_well": <int>(word >> 13 & MANY), "refused": LOAD64(&c.refused),
            "transitions": {state: c.entered[i] for i, state in enumerate(STATES) if c.entered[i]},
        }

    def command(self, Py_ssize_t place, str event, now_ns=None):
        """`reset`, `force_open`, `force_closed` or `auto`. False: the table of moves has nothing for it."""
        cdef Circuit *c = self.at(place)
        cdef int64_t now = monotonic_ns() if now_ns is None else now_ns
        cdef int which = EVENTS.index(event)
        cdef uint64_t seen
        if which < RESET:
            raise ValueError(f"{event!r} is nothing that anybody can ask for")
        while True:
            seen = LOAD64(&c.word)
            if NEXT[seen & STATE][which] < 0:
                return False
            if move(c, seen, which, R_FORCED if which == FORCE_OPEN else 0, now, 0):
                return True


cdef class BreakerRules:
    """When one opens, and for how long; durations in ns, 0 for what opens nothing. `statuses` are numbers from 400 to 599,
    `grpc` numbers of gRPC; failures of the gateway at the service count always."""

    def __init__(self, *, uint32_t failures=5, double error_rate=0, int least=20, int64_t window_ns=10_000_000_000,
                 int64_t slow_ns=0, double slow_rate=0, int64_t open_ns=60_000_000_000, int probes=3,
                 statuses=tuple(range(500, 600)), grpc=()):
        if not 0 < probes <= 1000:
            raise ValueError(f"{probes} probes are not between 1 and 1000")
        self.failures = failures
        self.error_rate = error_rate
        self.least = least
        self.span_ns = max(window_ns // SPANS, 1)
        self.slow_ns = slow_ns
        self.slow_rate = slow_rate
        self.open_ns = open_ns
        self.probes = probes
        memset(self.statuses, 0, sizeof(self.statuses))
        for status in statuses:
            if not 400 <= status <= 599:
                raise ValueError(f"{status} is not a status of a failure")
            self.statuses[<int>status] = 1
        for status in grpc:
            self.grpc |= <uint32_t>1 << <int>status


cdef class Breaker(Admission):
    """`Breaker(table, rules, scope, service, name)`: of a service, of each of its routes, of each of its endpoints
    (`scope` says which), or of a route (its name, no service). Where the table has no room, it refuses."""

    def __init__(self, CircuitTable table, BreakerRules rules, str scope, str service, str name=""):
        self.table = table
        self.rules = rules
        self.service = service
        self.version = NULL
        self.place = -1
        if scope == "service" or (scope == "route" and name):
            self.place = self.find(scope, name)
        elif scope == "route":
            self.places = {}
        elif scope != "endpoint":
            raise ValueError(f"there is no scope {scope!r}")

    cdef Py_ssize_t find(self, str scope, str name) except -2:
        return self.table.place(scope, self.service, name)

    # ------------------------------------------------------------------ before an attempt

    cdef int admit(self, Exchange ex, Ticket ticket, int64_t now) except -1:
        ticket.place = self.place
        if self.places is not None:
            found = self.places.get(ex.route.name)
            if found is None:
                found = self.places[ex.route.name] = self.find("route", ex.route.name)
            ticket.place = <Py_ssize_t>found
        ticket.mark = self._ask(ticket.place, now)
        return CONTINUE if ticket.mark >= 0 else REPLIED

    cdef bint enter(self, Exchange ex, Endpoint endpoint, int64_t now) except -1:
        """For a balancer that picked an endpoint: may it be asked? The ticket is among the exchange's."""
        cdef Ticket ticket
        cdef int64_t mark = self._ask(endpoint.breaker, now)
        if mark < 0:
            return False
        ticket = Ticket.__new__(Ticket)
        ticket.by = self
        ticket.below = <Ticket>ex.ticket
        ticket.place = endpoint.breaker
        ticket.mark = mark
        ticket.at = now
        ex.ticket = ticket
        ex.watched = True
        return True

    def ask(self, Py_ssize_t place, int64_t now):
        """May a request go on? Its mark: what it says by `good` or `bad` counts with that. -1: no."""
        return self._ask(place, now)

    cdef bint shut(self, Endpoint endpoint, int64_t now, int64_t *until) noexcept:
        """Is an endpoint not to be picked, and until when?"""
        cdef Circuit *c
        cdef uint64_t word
        cdef int state
        until[0] = 0
        if endpoint.breaker < 0:
            return True
        c = self.table.at(endpoint.breaker)
        word = LOAD64(&c.word)
        state = word & STATE
        if state == FORCED_OPEN:
            return True
        if state == OPEN or (state == HALF_OPEN and <int>(word >> 3 & MANY) >= self.rules.probes):
            until[0] = LOADI(&c.until)
            return until[0] > now
        return False

    cdef object refusal(self, Exchange ex, Ticket ticket):
        return self.refused(ticket.place, ticket.at)

    cdef object refused(self, Py_ssize_t place, int64_t now):
        cdef Circuit *c
        cdef int64_t left
        if place < 0:
            return Problem(503, "policy_unavailable", "There is no room for its circuit breaker.", side=2)
        c = self.table.at(place)
        left = LOADI(&c.until) - now if LOAD64(&c.word) & STATE != FORCED_OPEN else self.rules.open_ns
        # RFC 9110 10.2.3: whole seconds
        return Problem(503, "circuit_open", headers={"Retry-After": str(max(1, -(-left // 1_000_000_000)))}, side=2)

    cdef object none_left(self, Endpoint first, int64_t now):
        if first.breaker >= 0:
            ADD64(&self.table.at(first.breaker).refused, 1)
        return self.refused(first.breaker, now)

    # ------------------------------------------------------------------ what became of it

    cdef int answered(self, Exchange ex, Ticket ticket, int64_t now) except -1:
        cdef int status = ex.response.status
        if 400 <= status <= 599 and self.rules.statuses[status]:
            self.bad(ticket.place, ticket.mark, now, False)
            ticket.mark |= FAILED
        else:
            ticket.mark = self.good(ticket.place, ticket.mark, now, 0 < self.rules.slow_ns <= now - ex.t_pool) | COUNTED
        return 0

    cdef int failed(self, Exchange ex, Ticket ticket, str code) except -1:
        if not ticket.mark & FAILED and blames(ex, code):
            self.bad(ticket.place, ticket.mark, monotonic_ns(), ticket.mark & COUNTED != 0)
            ticket.mark |= FAILED
        return 0

    cdef int left(self, Exchange ex, Ticket ticket) except -1:
        cdef int status
        if ticket.mark & MARKS == COUNTED and self.rules.grpc and (ex.grpc or ex.translated) and not ex.local \
                and ex.code is None:
            # a call of gRPC: its status is known when its answer is over
            status = ex.grpc_status if ex.grpc_status >= 0 else final_status(ex)
            if 0 <= status <= 16 and self.rules.grpc >> status & 1:
                self.bad(ticket.place, ticket.mark, monotonic_ns(), True)
                return 0
        if ticket.mark & MARKS == COUNTED:
            self.over(ticket.place, ticket.mark)
        elif not ticket.mark & FAILED:
            self.gone(ticket.place, ticket.mark)
        return 0

    def over(self, Py_ssize_t place, int64_t mark):
        """A good answer is over: the row of failures ends."""
        cdef Circuit *c = self.table.at(place)
        if c.row and not (LOAD64(&c.word) ^ <uint64_t>mark) & SAME:
            STORE32(&c.row, 0)

    def gone(self, Py_ssize_t place, int64_t mark):
        """Nothing became of it: another probe may take its place."""
        cdef Circuit *c = self.table.at(place)
        cdef uint64_t word
        while True:
            word = LOAD64(&c.word)
            if mark & STATE != HALF_OPEN or (word ^ <uint64_t>mark) & SAME or word >> 3 & MANY == 0:
                return
            if fgw_cb_swap64(&c.word, word, word - LET_IN):
                self.moved()
                return

    def tell(self, Py_ssize_t place, int64_t mark, int64_t now, bint well, bint slow=False):
        """For tests and models: `good` or `bad`; the mark from then on."""
        if well:
            return self.good(place, mark, now, slow) | COUNTED
        self.bad(place, mark, now, mark & COUNTED != 0)
        return mark | FAILED

    cdef void moved(self) noexcept:
        if self.version != NULL:
            ADD64(self.version, 1)

    cdef int64_t _ask(self, Py_ssize_t place, int64_t now) noexcept:
        cdef Circuit *c
        cdef uint64_t word
        cdef int state
        if place < 0:
            return -1
        c = self.table.at(place)
        while True:
            word = LOAD64(&c.word)
            state = word & STATE
            if state == CLOSED or state == FORCED_CLOSED:
                return <int64_t>(word & SAME)
            if state == HALF_OPEN and <int>(word >> 3 & MANY) < self.rules.probes:
                if fgw_cb_swap64(&c.word, word, word + LET_IN):
                    if <int>(word >> 3 & MANY) + 1 == self.rules.probes:
                        self.moved()
                    return <int64_t>(word & SAME)
            elif state == FORCED_OPEN or now < LOADI(&c.until):
                ADD64(&c.refused, 1)
                return -1
            elif move(c, word, WAITED, 0, now, self.rules.open_ns):
                self.moved()
                return <int64_t>(((word >> 23) + 1) << 23 | HALF_OPEN)

    cdef int64_t good(self, Py_ssize_t place, int64_t mark, int64_t now, bint slow) noexcept:
        """The mark from now on: the last probe that is well belongs to the time after it."""
        cdef Circuit *c = self.table.at(place)
        cdef Span *span
        cdef Span all
        cdef uint64_t word
        while True:
            word = LOAD64(&c.word)
            if (word ^ <uint64_t>mark) & SAME:
                return mark                      # it belongs to another time
            if word & STATE == CLOSED:
                break
            if word & STATE != HALF_OPEN:
                return mark
            if slow:
                if move(c, word, PROBE_FAILED, R_SLOW, now, self.rules.open_ns):
                    self.moved()
            elif <int>(word >> 13 & MANY) + 1 < self.rules.probes:
                if fgw_cb_swap64(&c.word, word, word + WELL):
                    return mark
            elif move(c, word, PROBES_WELL, 0, now, self.rules.open_ns):
                self.moved()
                return <int64_t>(((word >> 23) + 1) << 23 | CLOSED)
        if self.rules.error_rate > 0 or self.rules.slow_rate > 0:
            span = span_of(c, now, self.rules.span_ns)
            ADD32(&span.total, 1)
            if slow:
                ADD32(&span.slow, 1)
                sums(c, now, self.rules.span_ns, &all)
                if 0 < self.rules.slow_rate and all.total >= self.rules.least \
                        and all.slow >= self.rules.slow_rate * all.total \
                        and move(c, word, TRIPPED, R_SLOW, now, self.rules.open_ns):
                    self.moved()
        return mark

    cdef int bad(self, Py_ssize_t place, int64_t mark, int64_t now, bint counted) noexcept:
        """`counted`: its head was a good one."""
        cdef Circuit *c = self.table.at(place)
        cdef uint64_t word
        cdef uint32_t reason = 0
        cdef Span *span
        cdef Span all
        while True:
            word = LOAD64(&c.word)
            if (word ^ <uint64_t>mark) & SAME:
                return 0
            if word & STATE == CLOSED:
                break
            if word & STATE != HALF_OPEN:
                return 0
            if move(c, word, PROBE_FAILED, R_PROBE, now, self.rules.open_ns):
                self.moved()
                return 0
        if self.rules.error_rate > 0 or self.rules.slow_rate > 0:
            span = span_of(c, now, self.rules.span_ns)
            ADD32(&span.failed, 1)
            if not counted:
                ADD32(&span.total, 1)
            sums(c, now, self.rules.span_ns, &all)
            if 0 < self.rules.error_rate and all.total >= self.rules.least \
                    and all.failed >= self.rules.error_rate * all.total:
                reason = R_ERROR_RATE
        if ADD32(&c.row, 1) >= self.rules.failures > 0:
            reason = R_FAILURES
        if reason and move(c, word, TRIPPED, reason, now, self.rules.open_ns):
            self.moved()
        return 0

    def __repr__(self):
        return f"<Breaker of {self.service}>"
