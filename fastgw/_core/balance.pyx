"""The load balancer of a service: which endpoints can be asked, in which groups, and the way to choose within a group.

    endpoints → labels → subset → groups by priority and zone → shares by health → round robin, least requests, …

All but the last step is done when something changes: another set of endpoints, one that goes down or comes back, a step
of a slow start. A pick is then one look at a table (`choice.pyx`, `maglev.pyx`, `ring.pyx`). A service with one group and nothing
that changes by itself asks its group directly.
"""
from libc.math cimport exp
from libc.stdint cimport int64_t, uint32_t, uint64_t
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from fastgw._core.admission cimport blames
from fastgw._core.breaker cimport Breaker
from fastgw._core.choice cimport Chance, Fastest, Fewest, Group, Turns
from fastgw._core.clock cimport monotonic_ns
from fastgw._core.exchange cimport CONTINUE, PHASE_RESPONSE, REPLIED, Exchange, Hook
from fastgw._core.forwarding cimport random64
from fastgw._core.grpc cimport final_status
from fastgw._core.health cimport CHECK_DOWN, HealthTable, Outliers, Slot, add, count, eject
from fastgw._core.hashing cimport Hashing, hash_of, mix
from fastgw._core.maglev cimport Maglev
from fastgw._core.pool cimport Balancer, Endpoint, Picker, Service
from fastgw._core.ring cimport Ring
from fastgw._core.template cimport ESCAPE_HEADER, Compiled, find_cookie

from fastgw._core.health import R_ERRORS as _R_ERRORS, R_FAILURES as _R_FAILURES

cdef int R_ERRORS = _R_ERRORS, R_FAILURES = _R_FAILURES

KINDS = ("round_robin", "random", "least_requests", "ewma", "consistent_hash")

cdef enum:
    FINE = 256               # while an endpoint starts slowly, weights are counted in such parts
    STEPS = 20               # of a slow start
    LEAST = 10               # a slow start begins with 1/LEAST of the weight
    ANSWERED = -1            # in the place of Exchange.t_picked: a good head is here
    COUNTED = -2             # an error was counted: a request is one at most
    FILL_LOOKS = 8000        # a slice of filling tables when a plan is made: some tens of microseconds

# gRPC's statuses that say that the endpoint could not, as 503 and 504 do
cdef uint32_t GRPC_FAILURES = 1 << 4 | 1 << 14               # DEADLINE_EXCEEDED, UNAVAILABLE

cdef double FAILED_NS = 1e9              # what a failure counts as, in latency: who fails at once is not fast


cdef class Load:
    def __cinit__(self):
        self.tables = {}


cdef class Cookie:
    """`Cookie(name, attributes, always_secure)`; attributes as in RFC 6265 4.1.1, with their leading "; "."""

    def __init__(self, bytes name, bytes attributes=b"; Path=/; HttpOnly; SameSite=Lax", bint always_secure=False):
        self.name = name
        self.secure = attributes + b"; Secure"
        self.plain = self.secure if always_secure else attributes


cdef class LoadBalancer(Balancer):
    """`kind` is one of KINDS. `key` (a template), `bounded` (a factor above 1, 0 for none) and `ring` (points on a ring
    instead of the table of Maglev) belong to consistent_hash,
    `decay_ns` to ewma. `min_healthy` is the share of a group's weight that must be up for it to take all requests.
    `panic`: when all are down, ask one all the same. `subset`: endpoints of a priority at most, chosen by `seed`.
    `live`: endpoints go down and come back between two `arrange`, as they do with `health`: the table where the state
    of this `service`'s endpoints stands. `outliers`: who fails is ejected."""

    def __init__(self, str kind="round_robin", Compiled key=None, double bounded=0, int64_t decay_ns=10_000_000_000,
                 int64_t slow_start_ns=0, double min_healthy=0.7, bint panic=True, str zone="", labels=None,
                 int subset=0, bytes seed=b"", Cookie cookie=None, Load load=None, bint live=False,
                 str service="", HealthTable health=None, Outliers outliers=None, bint ring=False,
                 Breaker breaker=None):
        if kind not in KINDS:
            raise ValueError(f"there is no way to balance called {kind}")
        if kind == "consistent_hash" and key is None:
            raise ValueError("consistent_hash needs a key")
        self.kind = kind
        self.key = key if kind == "consistent_hash" else None
        self.bounded = bounded if self.key is not None else 0
        self.ring = ring
        self.decay = decay_ns
        self.slow_start = slow_start_ns
        self.min_healthy = min_healthy
        self.panic = panic
        self.zone = zone
        self.labels = dict(labels or {})
        self.subset = subset
        self.seed = hash_of(PyBytes_AS_STRING(seed), PyBytes_GET_SIZE(seed))
        self.cookie = cookie
        self.service = service
        self.health = health
        self.outliers = outliers if health is not None else None
        self.version = NULL if health is None else health.version_of(service)
        self.live = live or health is not None or slow_start_ns > 0 or cookie is not None or self.key is not None
        self.load = load if load is not None else Load()
        self.breaker = breaker if health is not None else None
        if self.breaker is not None:
            self.breaker.version = self.version
        self.watched = self.bounded > 0 or self.outliers is not None or self.breaker is not None or kind in ("least_requests", "ewma")
        self.endpoints = ()
        self.weights = []
        self.groups = []
        self.kept = {}

    # ------------------------------------------------------------------ what can be asked

    cdef Picker arrange(self, tuple endpoints, list weights):
        cdef Endpoint endpoint
        cdef bytes url, name
        cdef list chosen = list(range(len(endpoints)))
        if self.labels:
            chosen = [i for i in chosen if self.labels.items() <= (<Endpoint>endpoints[i]).labels.items()]
        if self.subset:
            chosen = self._subset(endpoints, chosen)
        self.endpoints = tuple([endpoints[i] for i in chosen])
        self.weights = [weights[i] for i in chosen]
        if self.health is not None:
            for endpoint in endpoints:
                endpoint.health = self.health.slot(self.service, endpoint.url)
                if self.breaker is not None:
                    endpoint.breaker = self.breaker.find("endpoint", endpoint.url)
        if endpoints and not self.load.begun:
            self.load.begun = True
            for endpoint in endpoints:
                endpoint.since = 0               # where all are new, nobody could take the share of a slow start
        if self.cookie is not None:
            self.by_id = {}
            self.ids = {}
            for endpoint in self.endpoints:
                url = endpoint.url.encode()
                name = b"%016x" % hash_of(PyBytes_AS_STRING(url), PyBytes_GET_SIZE(url))
                self.by_id[name] = endpoint
                self.ids[endpoint] = name
        self.refresh()
        if self.count == 1 and not self.live:
            return self.groups[0]
        return self

    def _subset(self, tuple endpoints, list chosen):
        """The endpoints of each priority with the highest hash of themselves and the seed: when one comes or goes,
        one of the subset changes at most."""
        cdef Endpoint endpoint
        cdef bytes url
        cdef dict by_priority = {}
        for i in chosen:
            endpoint = endpoints[i]
            url = endpoint.url.encode()
            rank = mix(hash_of(PyBytes_AS_STRING(url), PyBytes_GET_SIZE(url)) ^ self.seed)
            by_priority.setdefault(endpoint.priority, []).append((rank, i))
        return sorted([i for ranked in by_priority.values() for _, i in sorted(ranked)[-self.subset:]])

    cdef int _look(self, int64_t now) except -1:
        """What the table says of each endpoint, and when that changes by itself."""
        cdef Endpoint endpoint
        cdef Slot *slot
        cdef bint down
        cdef int64_t until = 0
        if self.health is None:
            return 0
        self.seen = self.version[0]              # before the slots: what changes meanwhile is looked at again
        self.ejected = 0
        for endpoint in self.endpoints:
            down = endpoint.open = self.breaker is not None and self.breaker.shut(endpoint, now, &until)
            if endpoint.open and until and (self.next_at == 0 or until < self.next_at):
                self.next_at = until
            if endpoint.health >= 0:
                slot = self.health.at(endpoint.health)
                down = down or slot.checked == CHECK_DOWN
                if self.outliers is not None and slot.ejected_until > now:
                    down = True
                    self.ejected += 1
                    if self.next_at == 0 or slot.ejected_until < self.next_at:
                        self.next_at = slot.ejected_until
            if endpoint.down and not down:
                endpoint.since = now             # it came back: a slow start begins
            endpoint.down = down
        return 0

    cdef list weigh(self, int64_t now):
        """Weights as of now: those that start slowly get theirs in steps."""
        cdef Endpoint endpoint
        cdef int64_t age, i
        cdef int64_t step
        cdef list found = []
        cdef bint slow = False
        if not self.slow_start:
            return self.weights
        for i in range(len(self.endpoints)):
            endpoint = self.endpoints[i]
            age = now - endpoint.since
            if age >= self.slow_start:
                found.append(<int64_t>self.weights[i] * FINE)
            else:
                slow = True
                step = now + max(self.slow_start // STEPS, 50_000_000)
                if self.next_at == 0 or step < self.next_at:
                    self.next_at = step
                found.append(max(1, <int64_t>self.weights[i] * FINE
                                 * max(age, self.slow_start // LEAST) // self.slow_start))
        return found if slow else self.weights

    def refresh(self):
        """After something changed: the groups, and the share of the requests each of them gets.

        A group takes as much as is healthy of it, up to all at `min_healthy`; what is left goes to the next one.
        """
        cdef Endpoint endpoint
        cdef Group group
        cdef double left = 1, share, taken = 0, healthy, whole
        cdef int i
        cdef int64_t now = monotonic_ns()
        self.next_at = 0
        self._look(now)
        cdef list weights = self.weigh(now)
        cdef dict tiers = {}
        cdef list members, up, found = []
        cdef dict kept = {}
        for i in range(len(self.endpoints)):
            endpoint = self.endpoints[i]
            foreign = self.zone != "" and endpoint.zone != self.zone
            tiers.setdefault((endpoint.priority, foreign), []).append(i)
        self.panicking = all([(<Endpoint>endpoint).down for endpoint in self.endpoints])
        self.up_weight = 0
        for tier in sorted(tiers):
            members = tiers[tier]
            if self.panicking:
                up = [i for i in members if self.panic and not (<Endpoint>self.endpoints[i]).open]
            else:
                up = [i for i in members if not (<Endpoint>self.endpoints[i]).down]
            healthy = sum([self.weights[i] for i in up])
            whole = sum([self.weights[i] for i in members])
            self.up_weight += healthy
            share = min(left, healthy / whole / self.min_healthy)
            if self.key is not None:
                up = members             # the table stays as it is, those that are down are passed over
            if share > 0:
                left -= share
                taken += share
                group = self.make(tier, tuple([self.endpoints[i] for i in up]), [weights[i] for i in up])
                kept[tier] = group
                found.append((group, taken))
        for group, share in found:
            # what nobody is healthy enough to take is shared out as the rest is
            group.upto = 0xffffffffffffffffu if share >= taken else <uint64_t>(share / taken * 18446744073709550000.0)
        self.groups = [group for group, _ in found]
        self.kept = kept
        self.count = len(found)

    cdef Group make(self, tuple tier, tuple members, list weights):
        """The group of these members: the one there is, where nothing changed."""
        cdef Group before = self.kept.get(tier), group
        cdef Hashing table
        if self.key is not None:
            before = self.load.tables.get(tier)
            if before is not None and before.members == members and before.given == weights \
                    and isinstance(before, Ring) == self.ring:
                return before
            table = Ring(members, weights) if self.ring else Maglev(members, weights)
            table.begin(<Hashing>before)
            self.load.tables[tier] = table
            return table
        if before is not None and before.members == members and before.given == weights:
            return before
        if self.kind == "round_robin":
            group = Turns(members, weights)
        elif self.kind == "random":
            group = Chance(members, weights)
        elif self.kind == "least_requests":
            group = Fewest(members, weights)
        else:
            group = Fastest(members, weights, self.decay)
        if before is not None:
            group.succeed(before)
        return group

    def fill(self):
        """Tables that are not full yet: some of their places. True: there is nothing left to do."""
        cdef Group group
        for group in self.groups:
            if isinstance(group, Hashing) and not (<Hashing>group).ready:
                if (<Hashing>group).fill(FILL_LOOKS):
                    (<Hashing>group).finish()
                return False
        return True

    # ------------------------------------------------------------------ a pick

    cdef Endpoint pick(self, Exchange ex):
        cdef uint64_t point
        if (self.version != NULL and self.version[0] != self.seen) \
                or (self.next_at and monotonic_ns() >= self.next_at):
            self.refresh()
        if self.cookie is not None:
            found = self.stuck(ex)
            if found is not None:
                return found
        if self.count == 0:
            return None
        if self.key is None:
            return self.which(random64() if self.count > 1 else 0).pick(ex)
        point = self.point(ex)
        return (<Hashing>self.which(mix(point ^ 0x5bd1e995u) if self.count > 1 else 0)).at(
            ex, point, self.panicking, self.bounded * (self.load.in_flight + 1) / self.up_weight)

    cdef Group which(self, uint64_t x):
        cdef Group group
        for group in self.groups:
            if x <= group.upto:
                break
        return group

    cdef uint64_t point(self, Exchange ex) except? 0:
        """The hash of the request's key; by chance when it has none."""
        self.key.write(ex, ESCAPE_HEADER)
        if self.key.len == 0:
            return random64()
        return hash_of(self.key.out, self.key.len)

    cdef Endpoint stuck(self, Exchange ex):
        """The endpoint that the request's cookie names, when it is one of ours and up."""
        cdef const char *p
        cdef size_t n
        cdef Endpoint endpoint
        if not find_cookie(ex, PyBytes_AS_STRING(self.cookie.name), PyBytes_GET_SIZE(self.cookie.name), &p, &n) \
                or n != 16:
            return None
        endpoint = self.by_id.get(PyBytes_FromStringAndSize(p, n))
        if endpoint is None or endpoint.open or (endpoint.down and not (self.panicking and self.panic)) \
                or (ex.tried is not None and endpoint in ex.tried):
            return None
        return endpoint

    cdef Endpoint spare(self, list tried):
        """The groups in their order, then whatever else is up."""
        cdef Group group
        cdef Endpoint endpoint
        cdef int i, start
        if tried is None:
            return None
        for members in [(<Group>group).members for group in self.groups] + [self.endpoints]:
            start = random64() % <uint64_t>max(len(members), 1)
            for i in range(len(members)):
                endpoint = members[(start + i) % len(members)]
                if endpoint not in tried and not endpoint.open and (
                        not endpoint.down or (self.panicking and self.panic)):
                    return endpoint
        return None

    # ------------------------------------------------------------------ what became of it

    cdef object refusal(self):
        """The circuits of all that could be asked are open: who asks again should do so when the first is tried."""
        cdef Endpoint endpoint, first = None
        cdef int64_t until, soonest = 0, now = monotonic_ns()
        if self.breaker is None:
            return None
        for endpoint in self.endpoints:
            if self.breaker.shut(endpoint, now, &until) and (first is None or until < soonest):
                first = endpoint
                soonest = until
        return None if first is None else self.breaker.none_left(first, now)

    cdef int begun(self, Exchange ex, Endpoint endpoint) except -1:
        if self.breaker is not None and not self.breaker.enter(ex, endpoint, endpoint.reactor.now):
            self.refresh()                       # another worker was faster
            return REPLIED
        ex.picked = endpoint
        ex.t_picked = monotonic_ns() if endpoint.reactor is None else endpoint.reactor.now
        endpoint.in_flight += 1
        self.load.in_flight += 1
        ex.watched = True
        return CONTINUE

    cdef int answered(self, Exchange ex) except -1:
        cdef int status = ex.response.status
        # RFC 9110 15.6.3 to 15.6.5: these say that the endpoint could not, however fast they are said
        cdef bint failure = 502 <= status <= 504
        if self.kind == "ewma":
            self._observe(<Endpoint>ex.picked, ex, failure)
        if self.outliers is not None:
            self._count(ex, status >= 500, failure, max((<Endpoint>ex.picked).reactor.now - ex.t_picked, 1))
        return 0

    cdef int failed(self, Exchange ex, str code) except -1:
        if not blames(ex, code):
            return 0
        if self.kind == "ewma":
            self._observe(<Endpoint>ex.picked, ex, True)
        if self.outliers is not None and ex.t_picked != COUNTED:
            self._count(ex, True, True, 0)
        return 0

    cdef int _count(self, Exchange ex, bint error, bint failure, int64_t latency) except -1:
        """What one request shows: with the head of its answer (`latency` to it, ns), and 0 when it failed after all, or
        before. A row ends when a good answer is over (`left`). Good answers write nothing, unless rates are asked for.
        """
        cdef Endpoint endpoint = <Endpoint>ex.picked
        cdef Outliers outliers = self.outliers
        cdef Slot *slot
        cdef int reason = 0, many = len(self.endpoints)
        if endpoint.health < 0:
            return 0
        slot = self.health.at(endpoint.health)
        if outliers.rates:
            if ex.t_picked != ANSWERED:
                add(&slot.requests, 1)
            if error:
                add(&slot.bad, 1)
            if latency > 0:
                add(&slot.latency, latency)
                add(&slot.answers, 1)
        if not error:
            ex.t_picked = ANSWERED
            return 0
        ex.t_picked = COUNTED
        if not failure and slot.failures:
            slot.failures = 0
        if count(&slot.errors) >= outliers.errors > 0:
            reason = R_ERRORS
        if failure and count(&slot.failures) >= outliers.failures > 0:
            reason = R_FAILURES
        # the share that may be ejected is one endpoint at least, but never the only one
        if reason and many > 1 and self.ejected < max(1, <int>(many * outliers.share)) \
                and eject(slot, reason, monotonic_ns(), outliers.base, outliers.longest):
            add(self.version, 1)
            self.refresh()
        return 0

    cdef int _ended(self, Exchange ex) except -1:
        """A call of gRPC: its status is known when its answer is over."""
        cdef int status = ex.grpc_status
        if status < 0 and not ex.local and ex.code is None:      # else what stands there is ours
            status = final_status(ex)
        if 0 <= status <= 16 and self.outliers.grpc >> status & 1:
            self._count(ex, True, GRPC_FAILURES >> status & 1, 0)
        return 0

    cdef int _observe(self, Endpoint endpoint, Exchange ex, bint failed) except -1:
        """A peak counts at once, what is faster only by and by (as Finagle's peak EWMA)."""
        cdef int64_t now = endpoint.reactor.now
        cdef double took = max(now - ex.t_picked, 1) if ex.t_picked > 0 else FAILED_NS, old
        if failed:
            took = max(took, FAILED_NS)
        old = exp((endpoint.latency_at - now) / self.decay)
        endpoint.latency = took if took > endpoint.latency else endpoint.latency * old + took * (1 - old)
        endpoint.latency_at = now
        return 0

    cdef int left(self, Exchange ex) except -1:
        cdef Endpoint endpoint = <Endpoint>ex.picked
        cdef Slot *slot
        if ex.t_picked == ANSWERED and self.outliers.grpc and (ex.grpc or ex.translated):
            self._ended(ex)
        ex.picked = None
        if ex.t_picked == ANSWERED and endpoint.health >= 0:
            slot = self.health.at(endpoint.health)
            if slot.errors:
                slot.errors = 0
            if slot.failures:
                slot.failures = 0
        endpoint.in_flight -= 1
        self.load.in_flight -= 1
        return 0

    def __repr__(self):
        return f"<LoadBalancer {self.kind}: {self.groups}>"


cdef class StickyCookie(Hook):
    """The answer of a sticky service tells the client which endpoint gave it, unless it knows."""

    def __init__(self):
        self.name = "sticky_cookie"
        self.phases = PHASE_RESPONSE

    cdef int response(self, Exchange ex) except -1:
        cdef LoadBalancer balancer
        cdef const char *p
        cdef size_t n
        cdef bytes name, value
        if ex.local or ex.endpoint is None or not isinstance((<Service>ex.service).balancer, LoadBalancer):
            return CONTINUE
        balancer = <LoadBalancer>(<Service>ex.service).balancer
        if balancer.cookie is None:
            return CONTINUE
        value = balancer.ids.get(ex.endpoint)
        name = balancer.cookie.name
        if value is None or (find_cookie(ex, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name), &p, &n)
                             and p[:n] == value):
            return CONTINUE
        value = name + b"=" + value + (balancer.cookie.secure if ex.secure else balancer.cookie.plain)
        ex.response.append(b"Set-Cookie", 10, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
        return CONTINUE
