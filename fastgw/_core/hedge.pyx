"""Further attempts beside the first one: the first good answer is the answer.

    first attempt   dispatch ─────── delay ─────────────────────────┐ the head that comes first and is good
    its rival                          └─ another endpoint ─────────┘ stays, the others are cancelled

A rival is an exchange with a copy of the request's head and a driver of its own, a Race: it has no client, no policies and
no record. When its answer wins, the codec goes on to talk to the Race, which passes on head, body and end to the relay in
the name of the client's exchange, as they come; that one holds an `Adopted` where it had its own attempt. Nothing is
collected. Balancers hear of each attempt, as of any other.

Hedges are bounded by a budget, so that a service that is slow because it is busy is not asked twice for everything.
"""
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memset
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE

from fastgw._core.admission cimport Ticket, admit, answered, failed, left
from fastgw._core.exchange cimport (
    CONTINUE, PHASE_REQUEST_BODY, PHASE_SEND, REPLIED, S_DONE, S_POOL, S_SENT, TOUCHED, Driver, Exchange,
    UpstreamStream,
)
from fastgw._core.grpc cimport final_status
from fastgw._core.headers cimport Head
from fastgw._core.likeness cimport ask_alike
from fastgw._core.policy cimport sending
from fastgw._core.pool cimport Endpoint, Service
from fastgw._core.reactor cimport Reactor
from fastgw._core.record cimport W_HEDGES, W_HEDGES_DENIED, W_HEDGES_WON, Stats
from fastgw._core.retry cimport Budget

from fastgw._core.headers import METHODS

cdef enum:
    KNOWN = 100              # answers that must have been seen before a percentile of them means something
    LOOK = 32                # how many come between two looks at it
    FORGET = 8192            # then half of all is forgotten
    FIRST = 10               # the first bin is what took less than 2^FIRST ns
    # gRPC: what another endpoint may do better at
    BAD_GRPC = 1 << 4 | 1 << 8 | 1 << 13 | 1 << 14


cdef int bin_of(int64_t ns) noexcept:
    cdef int power = FIRST, found
    if ns < 1 << FIRST:
        return 0
    while ns >> power > 1:
        power += 1
    found = (power - FIRST) * 8 + <int>(ns >> (power - 3) & 7)
    return found if found < BINS else BINS - 1


cdef int64_t end_of(int bin) noexcept:
    """The longest time that counts in a bin."""
    return <int64_t>(8 + bin % 8 + 1) << (FIRST + bin // 8 - 3)


cdef class Latencies:
    """`Latencies(0.95)`"""

    def __init__(self, double share):
        if not 0 < share < 1:
            raise ValueError("a share is between 0 and 1")
        self.share = share
        memset(self.bins, 0, sizeof(self.bins))

    cdef void observe(self, int64_t ns) noexcept:
        cdef int i
        cdef uint32_t seen = 0, wanted
        self.bins[bin_of(ns)] += 1
        self.total += 1
        self.fresh += 1
        if self.fresh < LOOK or self.total < KNOWN:
            return
        self.fresh = 0
        wanted = <uint32_t>(self.total * self.share)
        for i in range(BINS):
            seen += self.bins[i]
            if seen > wanted:
                break
        self.value = end_of(i)
        if self.total >= FORGET:
            self.total = 0
            for i in range(BINS):
                self.bins[i] >>= 1
                self.total += self.bins[i]

    def add(self, int64_t ns):
        """For tests and benchmarks."""
        self.observe(ns)


cdef class Hedge:
    """`delay` in ns, `percentile` as a share (0: none), `most` attempts beside the first, `methods` by name."""

    def __init__(self, Budget budget=None, *, int64_t delay=0, double percentile=0, int most=1,
                 methods=("GET", "HEAD", "OPTIONS"), by_service=None):
        self.budget = budget
        self.delay = delay
        self.latencies = Latencies(percentile) if percentile else None
        self.most = most
        self.by_service = by_service
        for method in methods:
            self.methods |= <uint32_t>1 << <int>METHODS.index(method)

    cdef int64_t wait(self) noexcept:
        """ns; 0: not known yet, so that there is none."""
        if self.latencies is None or self.latencies.value < self.delay:
            return self.delay
        return self.latencies.value

    cdef int begin(self, Exchange ex, Reactor reactor) except -1:
        cdef Hedge one = self
        cdef int method = ex.request.method
        cdef int64_t wait
        if self.by_service is not None:
            one = self.by_service.get((<Service>ex.service).name)
            if one is None:
                return 0
        if method < 0 or not one.methods >> method & 1 or ex.out_method_len or ex.upgrading:
            return 0
        if ex.has_body and ex.route.phases & PHASE_REQUEST_BODY:
            return 0                              # what a policy makes of a body is made once
        ex.hedge = one
        one.budget.deposit(reactor.now)
        wait = one.wait()
        if wait:
            ex.hedge_at = reactor.now + wait
            return arm_next(ex, reactor)
        return 0


cdef int arm_next(Exchange ex, Reactor reactor) except -1:
    cdef int64_t due = ex.total_at
    if ex.connect_at and ex.state == S_POOL and (due == 0 or ex.connect_at < due):
        due = ex.connect_at
    if ex.retry_at and (due == 0 or ex.retry_at < due):
        due = ex.retry_at
    if ex.hedge_at and (due == 0 or ex.hedge_at < due):
        due = ex.hedge_at
    if due:
        reactor.wheel.arm(&ex.total, due)
    return 0


cdef bint good(Exchange ex) noexcept:
    """Nothing that another endpoint may do better at."""
    cdef int status
    if ex.response.status >= 500:
        return False
    if (ex.grpc or ex.translated) and ex.empty:
        status = final_status(ex)
        return not (0 <= status <= 16 and BAD_GRPC >> status & 1)
    return True


cdef bint whole(Exchange ex) noexcept:
    """Can the request be sent a second time?"""
    return not ex.has_body or (ex.request_done and (ex.request_buffer is not None or bool(ex.replay)))


cdef int hedge(Exchange ex, Reactor reactor, Stats stats) except -1:
    cdef Hedge one = <Hedge>ex.hedge
    cdef Race race = <Race>ex.race
    ex.hedge_at = 0
    if one is None or (ex.state != S_POOL and ex.state != S_SENT) or not whole(ex):
        return 0
    if race is None:
        race = Race()
        race.reactor = reactor
        race.stats = stats
        race.ex = ex
        race.generation = ex.generation
        race.rivals = []
        ex.race = race
    if race.begin() and ex.hedge is one and ex.hedged < one.most:
        ex.hedge_at = reactor.now + one.wait()
    return 0


cdef bint dropped(Exchange ex, int64_t now) except -1:
    cdef Hedge one = <Hedge>ex.hedge
    cdef Race race = <Race>ex.race
    cdef bint fine = good(ex)
    ex.hedge_at = 0
    if fine and one.latencies is not None and ex.attempts == 1:
        one.latencies.observe(now - ex.t_dispatch)
    if fine or race is None or not race.rivals:
        call_off(ex)
        return False
    ex.up.cancel(ex)
    race._alone(None)
    return True


cdef class Race(Driver):
    # ------------------------------------------------------------------ another attempt

    cdef bint begin(self) except -1:
        """One more rival; False when there is nobody else to ask, or the budget is spent."""
        cdef Exchange ex = self.ex
        cdef Service service = <Service>ex.service
        cdef Budget budget = (<Hedge>ex.hedge).budget
        cdef Exchange rival, other
        cdef Endpoint endpoint
        cdef list asked = list(ex.tried or ())
        cdef int verdict
        asked.append(ex.endpoint)
        for other in self.rivals:
            asked.append(other.endpoint)
        # no turn is taken for it: else, of two endpoints, the slow one would be asked first each time
        endpoint = service.balancer.spare(asked)
        if endpoint is None:
            return False
        if not budget.withdraw(self.reactor.now):
            self.stats.add_service(service.slot, W_HEDGES_DENIED)
            return False
        rival = shadow(ex)
        rival.driver = self
        verdict = admit(rival, self.reactor.now)
        if verdict == REPLIED:
            rival.ticket = (<Ticket>rival.ticket).below       # it was told no, and hears no more
        elif verdict == CONTINUE and service.balancer.watched:
            verdict = service.balancer.begun(rival, endpoint)
        if verdict != CONTINUE:
            budget.tokens += 1
            self._drop(rival)
            return False
        self.stats.add_service(service.slot, W_HEDGES)
        ex.hedged += 1
        self.rivals.append(rival)
        rival.state = S_POOL
        rival.t_pool = self.reactor.now
        verdict = endpoint.checkout(rival, False)
        if verdict == CONTINUE:
            self.connected(rival, rival.up)
        elif verdict == REPLIED:
            self._fell(rival, "pool_exhausted")
        return True

    cdef int connected(self, Exchange rival, UpstreamStream up) except -1:
        cdef object body = rival.request_buffer
        rival.state = S_SENT
        rival.t_sent = self.reactor.now
        if rival.route.phases & PHASE_SEND:
            sending(rival)
        if not rival.has_body:
            return up.send_head(rival, True)
        if body is None:
            body = rival.replay
        up.send_head(rival, len(body) == 0)
        if rival.up is up and body:
            up.send_data(rival, PyByteArray_AS_STRING(body), PyByteArray_GET_SIZE(body))
        if rival.up is up:
            up.send_end(rival)
        return 0

    # ------------------------------------------------------------------ what becomes of it

    cdef int end(self) except -1:
        """The first attempt has a good answer, or the client has gone."""
        cdef Exchange ex = self.ex
        if ex is not None and ex.race is self:
            ex.race = None
        self.ex = None
        while self.rivals:
            self._drop(self.rivals[0])
        return 0

    cdef int _drop(self, Exchange rival) except -1:
        if rival in self.rivals:
            self.rivals.remove(rival)
        if rival.up is not None:
            rival.up.cancel(rival)
        elif rival.state == S_POOL and rival.endpoint is not None:
            (<Endpoint>rival.endpoint).forget(rival)
        rival.state = S_DONE
        if rival.watched:
            left(rival)
        return 0

    cdef int _alone(self, str code) except -1:
        """The first attempt came to nothing (None: a bad answer), its rivals go on."""
        cdef Exchange ex = self.ex
        if ex.watched:
            if code is not None:
                failed(ex, code)
            left(ex)
        self.alone = True
        ex.state = S_POOL
        ex.empty = False
        ex.connect_at = 0
        return 0

    cdef int _fell(self, Exchange rival, str code) except -1:
        """A rival failed. The last one takes the request with it, to another try if there may be one."""
        cdef Exchange ex = self.ex
        if rival not in self.rivals:
            return 0
        if rival.watched:
            failed(rival, code)
        self._drop(rival)
        if self.alone and not self.rivals and ex is not None:
            self.ex = None
            ex.hedge = ex.race = None
            ex.hedge_at = 0
            return ex.driver.pool_failed(ex, code)
        return 0

    cdef int pool_failed(self, Exchange rival, str code) except -1:
        return self._fell(rival, code)

    cdef int upstream_failed(self, Exchange rival, str code, int untouched) except -1:
        cdef Exchange ex = self.ex
        if rival is not self.winner:
            return self._fell(rival, code)
        self.ex = self.winner = None
        if ex is None:
            return 0
        ex.up = None
        return ex.driver.upstream_failed(ex, code, TOUCHED)

    # ------------------------------------------------------------------ its answer

    cdef int response_head(self, Exchange rival) except -1:
        cdef Exchange ex = self.ex
        if ex is None or ex.generation != self.generation or (ex.state != S_POOL and ex.state != S_SENT) \
                or (not good(rival) and not (self.alone and len(self.rivals) == 1)):
            if rival.watched:
                answered(rival, self.reactor.now)
            self._drop(rival)
            return REPLIED
        self._win(rival)
        return ex.driver.response_head(ex)

    cdef int _win(self, Exchange rival) except -1:
        """The client's exchange has this answer from now on."""
        cdef Exchange ex = self.ex
        cdef Service service = <Service>ex.service
        cdef Hedge one = <Hedge>ex.hedge
        cdef Adopted adopted = Adopted()
        self.winner = rival
        self.rivals.remove(rival)
        while self.rivals:
            self._drop(self.rivals[0])
        if ex.up is not None:
            ex.up.cancel(ex)
        elif not self.alone and ex.endpoint is not None:
            (<Endpoint>ex.endpoint).forget(ex)
        if ex.watched:
            left(ex)
        # who was asked for the rival hears of it by this exchange from now on
        ex.picked, ex.t_picked, ex.ticket, ex.asked = rival.picked, rival.t_picked, rival.ticket, rival.asked
        ex.watched, rival.watched = rival.watched, False
        rival.picked = rival.ticket = None
        ex.endpoint = rival.endpoint
        ex.response, rival.response = rival.response, ex.response
        ex.empty = rival.empty
        ex.t_sent, ex.t_head = rival.t_sent, rival.t_head
        ex.hedge = ex.race = None
        ex.hedge_at = ex.connect_at = 0
        ex.hedged = -ex.hedged
        if one.latencies is not None:
            one.latencies.observe(self.reactor.now - ex.t_dispatch)
        self.stats.add_service(service.slot, W_HEDGES_WON)
        adopted.race = self
        ex.up = adopted
        return 0

    cdef int response_data(self, Exchange rival, const char *p, size_t n) except -1:
        cdef Exchange ex = self.ex
        if ex is None:
            return 0
        ex.driver.response_data(ex, p, n)
        rival.clogged = ex.clogged                # its codec asks its own exchange
        return 0

    cdef int response_end(self, Exchange rival) except -1:
        cdef Exchange ex = self.ex
        if ex is None:
            return 0
        ex.up = None
        ex.t_end_upstream = rival.t_end_upstream
        ex.response_trailers = rival.response_trailers
        return ex.driver.response_end(ex)

    cdef int settle(self, Exchange rival) except -1:
        cdef Exchange ex = self.ex
        self.ex = self.winner = None
        if ex is None or ex.generation != self.generation:
            return 0
        return ex.driver.settle(ex)


cdef class Adopted(UpstreamStream):
    cdef int want_data(self, Exchange ex) except -1:
        cdef Exchange rival = self.race.winner
        return 0 if rival is None or rival.up is None else rival.up.want_data(rival)

    cdef int cancel(self, Exchange ex) except -1:
        cdef Race race = self.race
        cdef Exchange rival = race.winner
        if ex.up is self:
            ex.up = None
        race.ex = race.winner = None
        return 0 if rival is None or rival.up is None else rival.up.cancel(rival)


cdef Exchange shadow(Exchange ex):
    """An exchange with the same request, for the codecs towards services."""
    cdef Exchange other = Exchange()
    ask_alike(other, ex)
    # no Expect: the body is here
    other.request.remove_name(b"expect", 6)
    other.instead = ex.instead
    other.route, other.service = ex.route, ex.service
    other.down = ex.down                          # for its back-pressure, and whom a PROXY header tells of
    other.host_out = ex.host_out
    other.http2, other.grpc = ex.http2, ex.grpc
    other._vars = ex._vars
    other.attempts = ex.attempts
    other.response_ns, other.idle_ns, other.total_at = ex.response_ns, ex.idle_ns, ex.total_at
    other.t_start, other.t_dispatch = ex.t_start, ex.t_dispatch
    other.has_body, other.request_done = ex.has_body, True
    other.request_buffer, other.replay = ex.request_buffer, ex.replay
    other.bytes_in = ex.bytes_in
    other.request_trailers = ex.request_trailers
    return other
