"""The hot half of `rate_limit`: which limits hold for a request, whose it is, what they say, and what the client is told.

Who decides. Without a `decider` it is algorithms.decide over the tables of this host, at once. A Decider stands in its place:
`ask` fills the verdict and answers CONTINUE (it is known what is to happen, be it a refusal), or answers WAIT and calls
`RateLimit.decided` later, from the loop; or REPLIED, when it has made the answer itself. One written in Python overrides
`decide` instead, which answers (outcome, which, levels), or None for WAIT: outcome is 0 admitted, 1 refused, 2 no room; which the
index of the limit that refuses; levels, for each limit, (remaining, ns until full, ns until it would be admitted, ns to wait first).
Where nobody could decide, outcome is 3, and the request is refused with 503, or 4, and it passes; there are no levels then.
The table's hash is this host's own; a decider gets the key's bytes. `concurrency` is always decided here.

A request that has to wait (leaky_bucket) is resumed by the timer wheel, up to 16 ms later than its time. There is no Task.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastgw._core.algorithms cimport (
    CONCURRENCY, LEAKY_BUCKET, MAX_LIMITS, Limit, Verdict, charge, decide, expect, forget, peek, set_limit,
)
from fastgw._core.bucket cimport EXHAUSTED, NO_ROOM, TAKEN, BucketTable, Level
from fastgw._core.cidr cimport ALLOWED, CidrTable
from fastgw._core.clock cimport Timed, Timer, monotonic_ns, timer_detach
from fastgw._core.exchange cimport (
    CONTINUE, PHASE_RECORD, PHASE_REQUEST, PHASE_RESPONSE, REPLIED, S_POLICY, WAIT, Exchange, Hook,
)
from fastgw._core.headers cimport Head, Header
from fastgw._core.holds cimport HoldTable
from fastgw._core.limit_counts cimport N_ALLOWED, N_DELAYED, N_NO_ROOM, N_REFUSED, N_WOULD_REFUSE, LimitCounts
from fastgw._core.limit_key cimport KEY_SPACE, LimitKey
from fastgw._core.note cimport leave_note, read_note
from fastgw._core.policy cimport apply_problem
from fastgw._core.record cimport C_RATE_LIMITED
from fastgw._core.respond cimport Relay
from fastgw._core.template cimport ESCAPE_HEADER, Compiled

from fastgw._core.exchange import Problem

STYLES = ("ietf", "x", "draft03")

cdef enum:
    STYLE_IETF = 1
    STYLE_X = 2
    STYLE_DRAFT03 = 4
    MAX_LABEL = 64
    # outcomes of a Decider, beside bucket.Taken
    UNAVAILABLE = 3
    UNDECIDED = 4

cdef int64_t SECOND = 1_000_000_000
cdef int64_t MANY = 100_000_000_000_000_000


cdef inline char* _number(char *out, int64_t value) noexcept nogil:
    cdef char digits[24]
    cdef int i = 24
    if value <= 0:
        out[0] = c"0"
        return out + 1
    while value:
        i -= 1
        digits[i] = c"0" + value % 10
        value //= 10
    memcpy(out, digits + i, 24 - i)
    return out + 24 - i


cdef inline int64_t _seconds(int64_t ns) noexcept nogil:
    """Whole seconds, rounded up: never too early."""
    return (ns + SECOND - 1) // SECOND


cdef inline size_t _size(int count) noexcept nogil:
    """Bytes of a Kept with so many limits."""
    return sizeof(Kept) - (MAX_LIMITS - count) * sizeof(KeptLimit)


cdef int64_t _parse(const char *p, size_t n, int64_t otherwise) noexcept nogil:
    """A whole number, not negative; one that is longer than 18 digits is as large as any."""
    cdef int64_t value = 0
    cdef size_t i
    if n == 0:
        return otherwise
    for i in range(n):
        if not c"0" <= p[i] <= c"9":
            return otherwise
        if value < MANY:
            value = value * 10 + (p[i] - c"0")
    return value


cdef class Limits:
    """`Limits(table, name, number, rows, counts, route)`: rows are mappings with algorithm, requests, per (ns), burst, queue,
    delay (ns) and label; `name` tells them from all others of the host. ValueError for what cannot be counted."""

    def __init__(self, BucketTable table not None, bytes name, int number, rows, LimitCounts counts not None, str route):
        cdef Limit *limit
        if not 1 <= len(rows) <= MAX_LIMITS:
            raise ValueError(f"1 to {MAX_LIMITS} limits")
        self.rows = tuple(rows)
        self.number = number
        self.count = len(rows)
        self.most = 0x3fffffffffffffff
        policies, starts, values = [], [], []
        for i, row in enumerate(rows):
            limit = &self.items[i]
            label = row["label"]
            if len(label.encode()) > MAX_LABEL:
                raise ValueError(f"a label has {MAX_LABEL} bytes at most")
            set_limit(limit, table, row["algorithm"], row["requests"], row["per"], row["burst"], row["queue"],
                      row["delay"], name + b"\0%d" % i)
            self.slots[i] = counts.slot(route, label)
            if limit.algorithm == CONCURRENCY:
                self.held = True
            else:
                self.most = min(self.most, limit.capacity)
            if limit.algorithm == LEAKY_BUCKET and limit.capacity > limit.burst:
                self.waits = True
            # draft-ietf-httpapi-ratelimit-headers-10, 3.1: q is required, w "a non-zero" number of seconds, qu the unit; 3.1.6:
            # a service's own parameters begin with its name
            words = f'"{label}";q={limit.requests}'
            if limit.algorithm == CONCURRENCY:
                words += ';qu="concurrent-requests"'
            else:
                words += f";w={max(1, -(-limit.per // SECOND))}"
                if limit.capacity != limit.requests:
                    words += f";fastgw-burst={limit.capacity}"
            policies.append(words)
            starts.append(f'"{label}";r='.encode())
            values.append(str(limit.capacity).encode())
        self.labels = tuple([row["label"] for row in rows])
        self.policy_value = ", ".join(policies).encode()
        self.starts = tuple(starts)
        self.values = tuple(values)

    def decide(self, BucketTable table not None, HoldTable holds not None, bytes key, int64_t cost):
        """Decides over the tables of this host, as a Decider would: (outcome, which, levels)."""
        cdef Verdict verdict
        cdef int i
        decide(table, holds, self.items, self.count, table.hash(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key)), cost,
               monotonic_ns(), &verdict)
        levels = [(verdict.levels[i].remaining, verdict.levels[i].full_ns, verdict.levels[i].retry_ns,
                   verdict.levels[i].delay_ns if verdict.outcome == TAKEN else 0) for i in range(self.count)]
        return verdict.outcome, verdict.which, levels

    def __repr__(self):
        return f"<Limits {', '.join(self.labels)}>"


cdef class Case:
    """`Case(limits, plans=, consumers=, groups=, methods=, routes=)`: all that are given must hold, each by one of its words."""

    def __init__(self, Limits limits not None, *, plans=(), consumers=(), groups=(), methods=(), routes=()):
        self.limits = limits
        self.plans = frozenset(plans) if plans else None
        self.consumers = frozenset(consumers) if consumers else None
        self.groups = frozenset(groups) if groups else None
        self.methods = frozenset([method.encode() for method in methods]) if methods else None
        self.routes = frozenset(routes) if routes else None

    cdef bint fits(self, Exchange ex) except -1:
        if self.methods is not None and ex.request.buf[:ex.request.method_len] not in self.methods:
            return False
        if self.routes is not None and (ex.route is None or ex.route.name not in self.routes):
            return False
        if self.plans is not None and (ex.consumer is None or ex.consumer.plan not in self.plans):
            return False
        if self.consumers is not None and (ex.consumer is None or ex.consumer.name not in self.consumers):
            return False
        return self.groups is None or (ex.consumer is not None and not self.groups.isdisjoint(ex.consumer.groups))


cdef class Decider:
    cdef int ask(self, Exchange ex, RateLimit hook, Limits limits, const uint8_t *key, size_t n, int64_t cost,
                 Verdict *verdict) except -1:
        answer = self.decide(ex, hook, limits, <bytes>(<char*>key)[:n], cost)
        if answer is None:
            return WAIT
        _fill(verdict, limits.count, answer[0], answer[1], answer[2])
        return CONTINUE

    cdef int charge(self, Exchange ex, RateLimit hook, Limits limits, int64_t cost) except -1:
        """Afterwards; nobody waits for it."""
        self.charge_later(ex, hook, limits, cost)
        return 0

    cdef int over(self, Exchange ex, RateLimit hook) except -1:
        """The exchange is over, also one that was still waiting."""
        self.ended(ex, hook)
        return 0

    def decide(self, ex, hook, limits, key, cost):
        raise NotImplementedError

    def charge_later(self, ex, hook, limits, cost):
        pass

    def ended(self, ex, hook):
        pass


cdef int _fill(Verdict *verdict, int count, int outcome, int which, levels) except -1:
    cdef int i
    verdict.outcome = outcome
    verdict.which = which
    verdict.delay_ns = 0
    if outcome >= UNAVAILABLE:
        return 0
    if len(levels) != count or not -1 <= which < count or (outcome != TAKEN and which < 0):
        raise ValueError("a level for each limit, and which one refuses")
    for i in range(count):
        remaining, full, retry, delay = levels[i]
        verdict.levels[i].remaining = remaining
        verdict.levels[i].full_ns = full
        verdict.levels[i].retry_ns = retry
        verdict.levels[i].delay_ns = delay
        verdict.levels[i].mark = -1
        if outcome == TAKEN:
            verdict.delay_ns = max(verdict.delay_ns, verdict.levels[i].delay_ns)
    return 0


cdef class Waiter(Timed):
    def __cinit__(self):
        memset(&self.timer, 0, sizeof(Timer))
        self.timer.owner = <void*>self

    def __dealloc__(self):
        timer_detach(&self.timer)

    cdef int on_timer(self, Timer *timer) except -1:
        cdef Exchange ex = self.ex
        self.ex = None
        if self.home.waiting.pop(ex, None) is None or ex.generation != self.generation or ex.state != S_POLICY:
            return 0
        return ex.driver.resume(ex, CONTINUE)


cdef class RateLimit(Hook):
    """`RateLimit(table, holds, counts, key, default, cases, …)`: see limit.pyi. The first case that fits has the limits of a
    request, else `default` has; without one it has none."""

    def __init__(self, BucketTable table not None, HoldTable holds not None, LimitCounts counts not None,
                 LimitKey key not None, Limits default, cases=(), *, styles=("ietf", "x"), bint open_when_full=False,
                 report=None, int64_t cost=1, Compiled cost_template=None, response_cost=None, bint strip_cost=False,
                 CidrTable exempt=None, exempt_consumers=(), exempt_groups=(), int most_waiting=10_000, Decider decider=None):
        self.name = "rate_limit"
        self.table = table
        self.holds = holds
        self.counts = counts
        self.key = key
        self.default = default
        self.cases = tuple(cases) or None
        self.sets = (default, *[(<Case>case).limits for case in cases])
        for i, limits in enumerate(self.sets):
            if limits is not None and (<Limits>limits).number != i:
                raise ValueError("the limits are numbered as they stand")
        self.report = report
        for style in (styles if report is None else ()):
            self.styles |= 1 << STYLES.index(style)
        self.open_when_full = open_when_full
        self.cost = cost
        self.cost_template = cost_template
        self.response_cost = response_cost.lower().encode() if response_cost else None
        self.strip_cost = strip_cost
        self.exempt = exempt
        self.exempt_consumers = frozenset(exempt_consumers)
        self.exempt_groups = frozenset(exempt_groups)
        self.exempts = exempt is not None or bool(self.exempt_consumers) or bool(self.exempt_groups)
        self.most_waiting = most_waiting
        self.waiting = {}
        self.asked = {}
        self.decider = decider
        held = any([limits is not None and (<Limits>limits).held for limits in self.sets])
        waits = any([limits is not None and (<Limits>limits).waits for limits in self.sets])
        if decider is not None and held:
            raise ValueError("requests under way are counted on this host only")
        self.keeps = bool(self.styles) or held or self.response_cost is not None
        self.phases = PHASE_REQUEST
        if self.styles or self.response_cost is not None:
            self.phases |= PHASE_RESPONSE
        if held or waits or decider is not None:
            self.phases |= PHASE_RECORD

    def __repr__(self):
        return f"<RateLimit {self.default}>"

    # ------------------------------------------------------------------ the request

    cdef bint _exempt(self, Exchange ex) except -1:
        if self.exempt is not None and ex.client_len and self.exempt.find(ex.client_addr) == ALLOWED:
            return True
        if ex.consumer is None:
            return False
        return ex.consumer.name in self.exempt_consumers or not self.exempt_groups.isdisjoint(ex.consumer.groups)

    cdef Limits _limits(self, Exchange ex):
        cdef Case case
        if self.cases is not None:
            for case in self.cases:
                if case.fits(ex):
                    return case.limits
        return self.default

    cdef int64_t _cost(self, Exchange ex, Limits limits) except -1:
        cdef int64_t cost = self.cost
        if self.cost_template is not None:
            self.cost_template.write(ex, ESCAPE_HEADER)
            cost = _parse(self.cost_template.out, self.cost_template.len, cost)
        # what costs more than a limit can hold needs all of it
        return cost if cost < limits.most else limits.most

    cdef int request(self, Exchange ex) except -1:
        cdef uint8_t key[KEY_SPACE]
        cdef size_t n
        cdef int fallbacks, verdict
        cdef uint64_t hash
        cdef int64_t cost
        cdef Verdict found
        cdef Limits limits
        if self.exempts and self._exempt(ex):
            return CONTINUE
        limits = self._limits(ex)
        if limits is None:
            return CONTINUE
        self.key.write(ex, key, &n, &fallbacks)
        hash = self.table.hash(<const char*>key, n)
        if self.decider is None:
            expect(self.table, limits.items, limits.count, hash)
        cost = self._cost(ex, limits)
        if self.decider is not None:
            self.asked[ex] = (ex.generation, limits, fallbacks, hash)
            verdict = self.decider.ask(ex, self, limits, key, n, cost, &found)
            if verdict != CONTINUE:
                return verdict
            self.asked.pop(ex, None)
        else:
            decide(self.table, self.holds, limits.items, limits.count, hash, cost, monotonic_ns(), &found)
        return self.conclude(ex, limits, hash, fallbacks, &found)

    cdef int conclude(self, Exchange ex, Limits limits, uint64_t hash, int fallbacks, Verdict *verdict) except -1:
        """What follows from the verdict: CONTINUE, WAIT or REPLIED."""
        cdef int i
        if verdict.outcome == UNDECIDED or (verdict.outcome == UNAVAILABLE and self.report is not None):
            return CONTINUE
        if verdict.outcome == UNAVAILABLE:
            return apply_problem(ex, Problem(503, "store_unavailable", "The limit cannot be looked up.", side=2,
                                             headers=(("Retry-After", "1"),)))
        if verdict.outcome == NO_ROOM:
            self.counts.add(limits.slots[verdict.which], N_NO_ROOM)
            if self.open_when_full or self.report is not None:
                return CONTINUE
            return apply_problem(ex, Problem(503, "limiter_full", None, side=2, headers=(("Retry-After", "1"),)))
        if verdict.outcome == TAKEN and verdict.delay_ns and len(self.waiting) >= self.most_waiting:
            # the place in the queue of its bucket stays taken: there are too many who wait, so nobody else is to have it
            verdict.outcome = EXHAUSTED
            verdict.which = 0
            for i in range(limits.count):
                if verdict.levels[i].delay_ns == verdict.delay_ns:
                    verdict.which = i
                if limits.items[i].algorithm == CONCURRENCY:
                    self.holds.give(verdict.levels[i].mark)
            verdict.levels[verdict.which].retry_ns = verdict.delay_ns
        if verdict.outcome == EXHAUSTED and self.report is not None:
            self.counts.add(limits.slots[verdict.which], N_WOULD_REFUSE)
            self.report(ex, limits.labels[verdict.which])
            return CONTINUE
        if self.keeps:
            self._keep(ex, limits, hash, verdict)
        if verdict.outcome == EXHAUSTED:
            self.counts.add(limits.slots[verdict.which], N_REFUSED)
            return self._refuse(ex, limits, verdict.which, fallbacks,
                                max(1, _seconds(verdict.levels[verdict.which].retry_ns)))
        for i in range(limits.count):
            self.counts.add(limits.slots[i], N_ALLOWED)
            if verdict.levels[i].delay_ns:
                self.counts.add(limits.slots[i], N_DELAYED)
        if verdict.delay_ns and self.report is None:
            return self._wait(ex, verdict.delay_ns)
        return CONTINUE

    def decided(self, Exchange ex, uint64_t generation, int outcome, int which, levels):
        """What a Decider that answered WAIT has found out. The exchange may be over meanwhile: then nothing happens."""
        cdef Verdict verdict
        cdef int answer
        found = self.asked.get(ex)
        if found is None or found[0] != generation or ex.generation != generation:
            return
        del self.asked[ex]
        if ex.state != S_POLICY:
            return
        try:
            _fill(&verdict, (<Limits>found[1]).count, outcome, which, levels)
            answer = self.conclude(ex, found[1], found[3], found[2], &verdict)
        except Exception:
            ex.driver.fail(ex, "policy_failed", None)
            raise
        if answer != WAIT:
            ex.driver.resume_from_task(ex, generation, answer)

    cdef int _wait(self, Exchange ex, int64_t delay) except -1:
        cdef Waiter waiter
        if not isinstance(ex.driver, Relay):
            return CONTINUE                        # a trial without a gateway
        waiter = Waiter()
        waiter.home = self
        waiter.ex = ex
        waiter.generation = ex.generation
        waiter.wheel = (<Relay>ex.driver).reactor.wheel
        self.waiting[ex] = waiter
        waiter.wheel.arm(&waiter.timer, monotonic_ns() + delay)
        return WAIT

    cdef int _keep(self, Exchange ex, Limits limits, uint64_t hash, Verdict *verdict) except -1:
        cdef Kept kept
        cdef KeptLimit *one = kept.limits
        cdef int i
        kept.hash = hash
        kept.which = limits.number
        kept.count = limits.count
        for i in range(limits.count):
            one[i].remaining = verdict.levels[i].remaining
            one[i].seconds = _seconds(verdict.levels[i].full_ns)
            one[i].mark = -1
            if limits.items[i].algorithm == CONCURRENCY and verdict.outcome == TAKEN:
                one[i].mark = verdict.levels[i].mark
        if verdict.outcome == EXHAUSTED:
            # 6: "the reset parameter value SHOULD reference the same point in time as the Retry-After field value"
            one[verdict.which].seconds = max(1, _seconds(verdict.levels[verdict.which].retry_ns))
        return leave_note(ex, <void*>self, ex.request.store(<const char*>&kept, _size(limits.count)))

    cdef bint _kept(self, Exchange ex, Kept *kept) noexcept:
        cdef int64_t at
        if not read_note(ex, <void*>self, &at):
            return False
        memcpy(kept, ex.request.buf + at, _size(0))
        memcpy(kept, ex.request.buf + at, _size(kept.count))
        return True

    cdef int _refuse(self, Exchange ex, Limits limits, int which, int fallbacks, int64_t retry) except -1:
        cdef str label = limits.labels[which]
        by = self.key.names_of(fallbacks)
        if isinstance(ex.driver, Relay):
            (<Relay>ex.driver).stats.add(C_RATE_LIMITED, 1)
        return apply_problem(ex, Problem(
            429, "rate_limited", f"The limit {label} by {by} is exhausted; try again in {retry} s.",
            headers=(("Retry-After", str(retry)),), members={"limit": label, "key": by, "retry_after": retry},
        ))

    # ------------------------------------------------------------------ the response

    cdef int response(self, Exchange ex) except -1:
        cdef Kept kept
        if not self._kept(ex, &kept):
            return CONTINUE
        if self.response_cost is not None and not ex.local:
            self._late_cost(ex, &kept)
        if self.styles:
            self._tell(ex, <Limits>self.sets[kept.which], kept.limits)
        return CONTINUE

    cdef int _late_cost(self, Exchange ex, Kept *kept) except -1:
        cdef Limits limits = <Limits>self.sets[kept.which]
        cdef KeptLimit *one = kept.limits
        cdef Header *h = ex.response.find(PyBytes_AS_STRING(self.response_cost), PyBytes_GET_SIZE(self.response_cost))
        cdef int64_t cost
        cdef Level level
        cdef int i
        if h == NULL:
            return 0
        cost = _parse(ex.response.buf + h.value, h.value_len, 0)
        if self.strip_cost:
            ex.response.remove_name(PyBytes_AS_STRING(self.response_cost), PyBytes_GET_SIZE(self.response_cost))
        if cost == 0:
            return 0
        if self.decider is not None:
            return self.decider.charge(ex, self, limits, cost)
        for i in range(limits.count):
            if limits.items[i].algorithm == CONCURRENCY:
                continue
            if charge(self.table, &limits.items[i], kept.hash, cost, monotonic_ns(), &level) == TAKEN:
                one[i].remaining = level.remaining
                one[i].seconds = _seconds(level.full_ns)
        return 0

    cdef int _tell(self, Exchange ex, Limits limits, KeptLimit *kept) except -1:
        cdef char value[MAX_LIMITS * (MAX_LABEL + 64)]
        cdef char *o = value
        cdef bytes start
        cdef int i
        if self.styles & STYLE_IETF:
            ex.response.append(b"RateLimit-Policy", 16, PyBytes_AS_STRING(limits.policy_value),
                               PyBytes_GET_SIZE(limits.policy_value))
            for i in range(limits.count):
                if i:
                    memcpy(o, b", ", 2)
                    o += 2
                start = <bytes>limits.starts[i]
                memcpy(o, PyBytes_AS_STRING(start), PyBytes_GET_SIZE(start))
                o = _number(o + PyBytes_GET_SIZE(start), kept[i].remaining)
                if limits.items[i].algorithm != CONCURRENCY:
                    memcpy(o, b";t=", 3)
                    o = _number(o + 3, kept[i].seconds)
            ex.response.append(b"RateLimit", 9, value, o - value)
        if self.styles & (STYLE_X | STYLE_DRAFT03):
            self._tell_x(ex.response, limits, kept)
        return 0

    cdef int _tell_x(self, Head head, Limits limits, KeptLimit *kept) except -1:
        """X-RateLimit-*, and RateLimit-* as they were up to draft 3, tell of one limit: the one with the least left."""
        cdef char value[24]
        cdef char *o
        cdef bytes limit
        cdef int i, least = 0
        for i in range(1, limits.count):
            if kept[i].remaining < kept[least].remaining or (
                    kept[i].remaining == kept[least].remaining and kept[i].seconds > kept[least].seconds):
                least = i
        limit = <bytes>limits.values[least]
        if self.styles & STYLE_X and self._tighter(head, kept[least].remaining):
            head.append(b"X-RateLimit-Limit", 17, PyBytes_AS_STRING(limit), PyBytes_GET_SIZE(limit))
            o = _number(value, kept[least].remaining)
            head.append(b"X-RateLimit-Remaining", 21, value, o - value)
            o = _number(value, kept[least].seconds)
            head.append(b"X-RateLimit-Reset", 17, value, o - value)
        if self.styles & STYLE_DRAFT03:
            head.append(b"RateLimit-Limit", 15, PyBytes_AS_STRING(limit), PyBytes_GET_SIZE(limit))
            o = _number(value, kept[least].remaining)
            head.append(b"RateLimit-Remaining", 19, value, o - value)
            o = _number(value, kept[least].seconds)
            head.append(b"RateLimit-Reset", 15, value, o - value)
        return 0

    cdef bint _tighter(self, Head head, int64_t remaining) noexcept:
        """X-RateLimit-* tell of one limit: the tightest of ours. An upstream's own are replaced."""
        cdef Header *h
        cdef int at, found = 0
        for at in range(head.count):
            h = &head.items[at]
            if (h.name_len != 17 and h.name_len != 21) or h.drop or not told_x(head, h):
                continue
            found += 1
            if h.name_len == 21 and h.name >= head.head_len and \
                    _parse(head.buf + h.value, h.value_len, 0) <= remaining:
                return False
        if found:
            head.remove_name(b"x-ratelimit-limit", 17)
            head.remove_name(b"x-ratelimit-remaining", 21)
            head.remove_name(b"x-ratelimit-reset", 17)
        return True

    cdef int record(self, Exchange ex) except -1:
        """Whatever became of it: a place that it held is given back, and nobody waits for it any more."""
        cdef Kept kept
        cdef Waiter waiter
        cdef int i
        if self.keeps and self._kept(ex, &kept):
            for i in range(kept.count):
                self.holds.give(kept.limits[i].mark)
        if self.waiting:
            waiter = self.waiting.pop(ex, None)
            if waiter is not None:
                waiter.wheel.unlink(&waiter.timer)
        if self.decider is not None:
            self.asked.pop(ex, None)
            self.decider.over(ex, self)
        return 0

    # ------------------------------------------------------------------ for the admin API, and tests

    def over(self, Exchange ex):
        """The exchange is over."""
        self.record(ex)

    def state(self, values):
        """How the limits stand for a key whose parts have these values: a list of mappings. ValueError: see LimitKey."""
        cdef uint64_t hash = self.key.hash_of(values)
        cdef Limits limits
        cdef Level level
        cdef int i
        found = []
        for limits in self.sets:
            for i in range(0 if limits is None else limits.count):
                peek(self.table, self.holds, &limits.items[i], hash, 0, monotonic_ns(), &level)
                found.append({"limit": limits.labels[i], "algorithm": limits.rows[i]["algorithm"],
                              "remaining": level.remaining, "of": limits.items[i].capacity,
                              "full_in": round(level.full_ns / 1e9, 3)})
        return found

    def reset(self, values):
        """Forgets what a key has used: of how many limits. Requests under way stay counted."""
        cdef uint64_t hash = self.key.hash_of(values)
        cdef Limits limits
        cdef int i, found = 0
        for limits in self.sets:
            for i in range(0 if limits is None else limits.count):
                found += forget(self.table, &limits.items[i], hash)
        return found
