"""The hot half of `cache`: answers that were given before are given again (RFC 9111).

    request     found and fresh → it leaves at once, as ready-made lines and bytes out of the storage
                found and old   → the service is asked whether it still holds; with stale-while-revalidate it leaves first
                nothing         → the service is asked, once for all that ask the same
    around      the service failed: an old answer takes its place, where that is allowed
    response, tap, record         see cache_fill.pyx

A hit is answered within the request hook: policies before this one see the answer on its way back, those behind it do not run.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from fastgw._core.body cimport abandon
from fastgw._core.cache_answer cimport Portion, instead, reader, shape
from fastgw._core.cache_conditional cimport not_modified
from fastgw._core.cache_directives cimport (
    DATE_INVALID, ANY_STALENESS, NO_CACHE, NO_STORE, ONLY_IF_CACHED, date_of, nothing_said, read_directives,
)
from fastgw._core.cache_fill cimport ALONE
from fastgw._core.cache_flight cimport (
    FAILED, FETCH, GO_ALONE, GO_LEAD, GO_ON, LOOK_AGAIN, PASS, TAKEN, UNSAFE, WAITS, ANSWERED, Call,
    Flight,
)
from fastgw._core.cache_freshness cimport F_ALWAYS, F_STRICT, Rules, current_age, plus_seconds
from fastgw._core.cache_head cimport K_ANSWER, K_PASS, K_VARIANTS, META_VERSION, Meta, Packer, bodiless, unpack
from fastgw._core.cache_key cimport Keys, identified
from fastgw._core.cache_reader cimport Reader
from fastgw._core.cache_refresh cimport Refresher
from fastgw._core.cache_store cimport LOOK_HIT, Found, Key, Storage
from fastgw._core.clock cimport monotonic_ns, realtime_ns
from fastgw._core.exchange cimport (
    CONTINUE, PHASE_AROUND, PHASE_RECORD, PHASE_REQUEST, PHASE_RESPONSE, PHASE_TAP, S_RELAY,
    WAIT, Exchange,
)
from fastgw._core.headers cimport Head, Header, equals_lower
from fastgw._core.policy cimport apply_problem
from fastgw._core.record cimport (
    CACHED_BYPASS, CACHED_COLLAPSED, CACHED_FALLBACK, CACHED_HIT, CACHED_MISS, CACHED_STALE,
)
from fastgw._core.respond cimport Relay

from fastgw._core.codes import CODES
from fastgw._core.exchange import Problem
from fastgw._core.headers import METHODS

cdef enum:
    HEAD = 1
    SMALL = 16384            # bytes of a body that leave in one piece with the head

cdef int PURGE_METHOD = METHODS.index("PURGE")

cdef int64_t NS = 1000000000
# RFC 9110 9.2.1; GET and HEAD are looked at on their own
cdef frozenset SAFE = frozenset([
    METHODS.index(name) for name in ("OPTIONS", "TRACE", "PROPFIND", "SEARCH", "REPORT", "QUERY")
])
# What is a failure of the service, and not a refusal of the client
cdef frozenset FAILURES = frozenset((
    "upstream_connect_failed", "upstream_connect_timeout", "upstream_reset", "upstream_protocol_error",
    "upstream_headers_too_large", "upstream_truncated", "upstream_tls_failed", "upstream_response_timeout",
    "route_timeout", "no_endpoint", "pool_exhausted", "queue_timeout", "service_overloaded", "circuit_open",
))


cdef inline size_t _digits(char *end, int64_t n) noexcept:
    """Writes n before `end`; how many characters."""
    cdef char *p = end
    cdef bint negative = n < 0
    if negative:
        n = -n
    if n == 0:
        p -= 1
        p[0] = c"0"
    while n:
        p -= 1
        p[0] = c"0" + n % 10
        n //= 10
    if negative:
        p -= 1
        p[0] = c"-"
    return end - p


cdef bint insists(Asked *asked, int64_t age) noexcept:
    """Does the client want it newer than it is?"""
    return asked.said.said & NO_CACHE or asked.said.min_fresh >= 0 or 0 <= asked.said.max_age < age


cdef bint fallback_holds(Meta *meta, Found *found, int64_t now) noexcept:
    """RFC 5861 4, RFC 9111 4.2.4: may it be used in the place of a failure?"""
    if meta.flags & (F_STRICT | F_ALWAYS):
        return False
    return now < found.expires or (
        meta.if_error != 0 and now < plus_seconds(found.expires or found.stored, meta.if_error))


cdef class Purged:
    """What is called, once, with the answer to a PURGE."""
    def __call__(self, answer):
        self.home._resume(self.ex, self.generation, ANSWERED, answer)


cdef class Cache(Refresher):
    """Keyword arguments: `storage`, `keys`, `rules`; `name` in Cache-Status, None for no such header; `largest` bytes of a
    body; `wait` ns and `max_waiters` of those who wait for one answer; `pass_ns`; `tags`, `strip_tags`; `honour`;
    `purger`; `tiers`, slower levels (fastgw.store.tiers), and `teller`
    of other hosts (fastgw.store.purges), None for none."""

    def __init__(self, *, Storage storage, Keys keys, Rules rules, bytes name=b"fastgw", int64_t largest=1048576,
                 int64_t wait=5000000000, int max_waiters=10000, int64_t pass_ns=10000000000, tags=(),
                 bint strip_tags=False, bint honour=True, purger=None, tiers=None,
                 teller=None):
        self.name = "cache"
        self.phases = PHASE_REQUEST | PHASE_AROUND | PHASE_RESPONSE | PHASE_TAP | PHASE_RECORD
        self.storage = storage
        self.keys = keys
        self.rules = rules
        self.packer = Packer()
        self.told = name is not None
        self.label = name or b""
        self.largest = largest
        self.wait = wait
        self.max_waiters = max_waiters
        self.pass_ns = pass_ns
        self.tags = tuple(tags)
        self.strip_tags = strip_tags
        self.honour = honour
        self.purger = purger
        self.tiers = tiers
        self.teller = teller

    def __repr__(self):
        return f"<Cache {len(self.flights)} flights>"

    # ------------------------------------------------------------------ the request

    cdef int request(self, Exchange ex) except -1:
        cdef int method = ex.request.method
        if method > HEAD or method < 0:
            return self.other_method(ex)
        if ex.has_body or ex.upgrading or ex.extended or ex.grpc:
            return self.bypass(ex, b"bypass")
        return self.ask(ex, 0)

    cdef int read(self, Exchange ex, Asked *asked) noexcept:
        """One look at the headers."""
        cdef Head head = ex.request
        cdef Header *h
        cdef Header *pragma = NULL
        cdef const char *name
        cdef int i
        cdef bint said = False
        asked.conditional = asked.ranged = asked.told = False
        for i in range(head.count):
            h = &head.items[i]
            name = head.buf + h.name
            if h.name_len == 13:
                if (name[0] | 0x20) == c"c" and equals_lower(name, b"cache-control", 13) and not h.drop:
                    if not said:
                        nothing_said(&asked.said)
                    said = True
                    if self.honour:
                        read_directives(head.buf + h.value, h.value_len, &asked.said)
                elif (name[0] | 0x20) == c"i" and equals_lower(name, b"if-none-match", 13):
                    asked.conditional = True
            elif h.name_len == 6 and not h.drop and (name[0] | 0x20) == c"p" and equals_lower(name, b"pragma", 6):
                pragma = h
            elif h.name_len == 5 and (name[0] | 0x20) == c"r" and equals_lower(name, b"range", 5):
                asked.ranged = True
            elif h.name_len == 17 and (name[0] | 0x20) == c"i" and equals_lower(name, b"if-modified-since", 17):
                asked.conditional = True
        if pragma != NULL and not said and self.honour:
            # RFC 9111 5.4: where there is no Cache-Control, no-cache in Pragma is the same
            nothing_said(&asked.said)
            read_directives(head.buf + pragma.value, pragma.value_len, &asked.said)
            asked.said.said &= NO_CACHE
            said = True
        asked.told = said
        return 0

    cdef bint good(self, Asked *asked, Found *found, Meta *meta, int64_t now, int64_t age) noexcept:
        """Is what was found an answer to this, without asking the service?"""
        cdef int64_t stale = now - found.expires
        if meta.flags & F_ALWAYS:
            return False
        if not asked.told:
            return stale < 0
        if asked.said.said & NO_CACHE:
            return False
        # RFC 9111 5.2.1.1: max-age; a client that accepts old ones says so besides
        if asked.said.max_age >= 0 and age > asked.said.max_age and not (
                asked.said.said & ANY_STALENESS or asked.said.max_stale > 0):
            return False
        if asked.said.min_fresh >= 0 and plus_seconds(now, asked.said.min_fresh) > found.expires:
            return False
        if stale < 0:
            return True
        if meta.flags & F_STRICT or found.expires == 0:
            return False
        return asked.said.said & ANY_STALENESS or (
            asked.said.max_stale >= 0 and stale <= asked.said.max_stale * NS)

    cdef int ask(self, Exchange ex, int how) except -1:
        """Looks, and answers with what is there (WAIT: it is done), or has the service asked. `how`: it has waited."""
        cdef Keys keys = self.keys
        cdef Asked asked
        cdef Found found
        cdef Key key
        cdef Meta *meta
        cdef Meta of_found
        cdef int64_t now, age = 0, names_until = 0
        cdef uint32_t base
        cdef uint64_t nonce = 0
        cdef bytes names = b"", primary = None
        cdef Call call
        cdef bint there, passing = False
        self.read(ex, &asked)
        if not keys.make(ex):
            return self.bypass(ex, b"bypass")
        if asked.told and asked.said.said & NO_STORE:
            return self.bypass(ex, b"request")
        base = keys.n
        key = self.storage.key(keys.buf, keys.n)
        there = self.storage.look(key, keys.buf, keys.n, &found) == LOOK_HIT
        meta = <Meta*>found.meta
        now = realtime_ns()
        if there and meta.version == META_VERSION and meta.kind == K_VARIANTS:
            nonce = meta.nonce
            names_until = found.keep_until
            names = PyBytes_FromStringAndSize(found.head, found.head_len)
            primary = PyBytes_FromStringAndSize(keys.buf, base)
            self.storage.release(&found)
            there = False
            if keys.vary(ex.request, PyBytes_AS_STRING(names), PyBytes_GET_SIZE(names), nonce, base):
                key = self.storage.key(keys.buf, keys.n)
                there = self.storage.look(key, keys.buf, keys.n, &found) == LOOK_HIT
        if there and (meta.version != META_VERSION or meta.kind != K_ANSWER):
            passing = meta.version == META_VERSION and meta.kind == K_PASS and now < found.expires
            self.storage.release(&found)
            there = False
        if there:
            of_found = meta[0]
            age = current_age(meta.age, found.stored, now)
            if self.good(&asked, &found, meta, now, age):
                return self.serve(ex, &found, &of_found, &asked, now,
                                  CACHED_COLLAPSED if how and how != TAKEN else
                                  CACHED_HIT if now < found.expires else CACHED_STALE)
            if how == FAILED and fallback_holds(&of_found, &found, now):
                return self.serve(ex, &found, &of_found, &asked, now, CACHED_FALLBACK)
        if how == FAILED:
            if there:
                self.storage.release(&found)
            return CONTINUE
        # from here on it costs more: the service is asked
        call = self.call_of(ex, FETCH, b"uri-miss" if not nonce else b"vary-miss")
        call.name = PyBytes_FromStringAndSize(keys.buf, keys.n)
        call.key = key
        call.primary = call.name if primary is None else primary
        call.names = names
        call.nonce = nonce
        call.names_until = names_until
        if there:
            call.found = found
            call.meta = of_found
            call.forward = b"stale" if now >= found.expires else b"request"
        if asked.told and asked.said.said & ONLY_IF_CACHED:
            call.release()
            # RFC 9111 5.2.1.7
            ex.cached = CACHED_MISS
            return apply_problem(ex, Problem(504, "not_cached", "There is no kept answer to this."))
        if there and not (asked.told and insists(&asked, age)) and not of_found.flags & (F_STRICT | F_ALWAYS) and of_found.while_revalidate \
                and now < plus_seconds(found.expires or now, of_found.while_revalidate):
            self.refresh(ex, call)
            memset(&found, 0, sizeof(Found))
            if self.storage.look(call.key, PyBytes_AS_STRING(call.name), PyBytes_GET_SIZE(call.name), &found) == LOOK_HIT:
                return self.serve(ex, &found, &of_found, &asked, now, CACHED_STALE)
        if passing:
            call.forward = b"bypass"
        return self.fetch(ex, call, &asked, how != GO_ALONE and not passing)

    cdef Call call_of(self, Exchange ex, int what, bytes forward):
        cdef Call call = Call()
        call.home = self
        call.storage = self.storage
        call.ex = ex
        call.at = ex.at
        call.what = what
        call.forward = forward
        call.lines = ex.request.count
        call.identified = identified(ex)
        call.asked = monotonic_ns()
        return call

    cdef int bypass(self, Exchange ex, bytes why) except -1:
        cdef Call call = self.call_of(ex, PASS, why)
        ex.caching = call
        ex.cached = CACHED_BYPASS
        return CONTINUE

    cdef int other_method(self, Exchange ex) except -1:
        if ex.request.method == PURGE_METHOD and self.purger is not None:
            ex.cached = CACHED_BYPASS
            told = Purged()
            told.home = self
            told.ex = ex
            told.generation = ex.generation
            answer = self.purger(ex, told)
            return WAIT if answer is None else self.purged(ex, answer)
        self.bypass(ex, b"method")
        if ex.request.method not in SAFE:
            (<Call>ex.caching).what = UNSAFE
        return CONTINUE

    cdef int purged(self, Exchange ex, object answer) except -1:
        return apply_problem(ex, answer) if isinstance(answer, Problem) else ex.apply_reply(answer)

    # ------------------------------------------------------------------ a hit

    cdef int say_hit(self, Exchange ex, Found *found, int64_t age, int64_t now, int result) except -1:
        cdef char text[224]
        cdef Head head = ex.response
        cdef size_t n = PyBytes_GET_SIZE(self.label)
        cdef size_t k
        k = _digits(text + 24, age)
        head.append(b"Age", 3, text + 24 - k, k)
        if self.told and result == CACHED_COLLAPSED:
            self.status(head, b"; fwd=uri-miss; collapsed", b"")
        elif self.told:
            # `fastgw; hit; ttl=123`: the number is written at the end and moved to its place
            memcpy(text, PyBytes_AS_STRING(self.label), n)
            memcpy(text + n, b"; hit; ttl=", 11)
            n += 11
            k = _digits(text + 160, (found.expires - now) // NS if found.expires else 0)
            memcpy(text + n, text + 160 - k, k)
            n += k
            if self.level is not None:
                memcpy(text + n, b"; detail=", 9)
                memcpy(text + n + 9, PyBytes_AS_STRING(self.level), PyBytes_GET_SIZE(self.level))
                n += 9 + PyBytes_GET_SIZE(self.level)
                self.level = None
            head.append(b"Cache-Status", 12, text, n)
        return 0

    cdef int serve(self, Exchange ex, Found *found, Meta *meta, Asked *asked, int64_t now, int result) except -1:
        """A kept answer leaves. Takes `found` over; WAIT, as the exchange goes its own way from here, or CONTINUE when what
        is kept cannot be read."""
        cdef Relay relay = <Relay>ex.driver
        cdef Head head = ex.response
        cdef Portion portion
        cdef Reader made
        cdef const char *p = NULL
        cdef size_t n = 0
        cdef int verdict
        if not unpack(found.head, found.head_len, meta, head):
            self.storage.release(found)
            head.clear()
            return self.bypass(ex, b"miss")
        head.has_length = True
        head.content_length = <int64_t>found.body_len
        if asked.conditional or asked.ranged:
            shape(ex, found, meta, ex.request.count, &portion)
        else:
            portion.count = 1 if found.body_len else 0
            portion.parts[0].first = 0
            portion.parts[0].length = found.body_len
        if ex.is_head:
            portion.count = 0
        self.say_hit(ex, found, current_age(meta.age, found.stored, now), now, result)
        ex.cached = result
        ex.entered = ex.passed = ex.at            # this one has said what it has to say, those behind it nothing
        if portion.count == 1 and portion.parts[0].length <= SMALL:
            p = self.storage.piece(found, portion.parts[0].first, &n)
            if n < portion.parts[0].length:
                p = NULL
        if portion.count and p == NULL:
            made = reader(ex, self.storage, found, &portion)
            made.begin(ex)
            relay.answer(ex)
            if made.ex is ex and ex.state == S_RELAY:
                made.pump()
            return WAIT
        verdict = relay.answer(ex)
        if verdict == WAIT:
            reader(ex, self.storage, found, &portion).begin(ex)
            return WAIT
        if verdict == CONTINUE and (ex.response_filtered or ex.pipe is not None):
            # policies before this one change the body
            if p != NULL:
                relay.response_data(ex, p, <size_t>portion.parts[0].length)
            relay.response_end(ex)
            relay.settle(ex)
        elif verdict == CONTINUE:
            if p != NULL:
                n = <size_t>portion.parts[0].length
                ex.bytes_out += n
                ex.down.send_data(ex, p, n)
            ex.down.send_end(ex)
            ex.response_done = True
            relay._finish(ex)
        self.storage.release(found)
        return WAIT

    # ------------------------------------------------------------------ the service is asked

    cdef int fetch(self, Exchange ex, Call call, Asked *asked, bint collapse) except -1:
        cdef int verdict = CONTINUE
        cdef bytes key
        ex.caching = call
        ex.cached = CACHED_MISS
        # HEAD tells of what is kept, and a part of an answer is not kept
        call.part = ex.is_head or (asked.ranged and call.found.entry == 0)
        if call.part and self.tiers is None:
            call.what = PASS
            return CONTINUE
        if collapse and not (call.found.entry and call.meta.flags & ALONE) and not (
                asked.told and asked.said.said & NO_CACHE):
            key = call.name
            if call.identified and not self.rules.personal:
                # may it be for all? Nobody knows yet, so that nobody else waits for it
                memcpy(self.keys.buf, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
                if self.keys.identity(ex, PyBytes_GET_SIZE(key)):
                    key = PyBytes_FromStringAndSize(self.keys.buf, self.keys.n)
            verdict = self.join(ex, call, key)
        if verdict == CONTINUE:
            self.go_on(ex, call)
        return verdict

    cdef int go_on(self, Exchange ex, Call call) except -1:
        if not call.part:
            return self.strip(ex, call)
        call.what = PASS
        return 0 if call.flight is None else self.hand_on(call.flight)

    cdef int again(self, Exchange ex, int how, object detail) except -1:
        """One that waited: looks again, leads, goes alone, or is refused."""
        cdef Call call = <Call>ex.caching
        cdef Flight old, flight = None
        cdef Exchange other
        cdef uint32_t generation = ex.generation
        cdef int verdict
        if how == ANSWERED:
            return ex.driver.resume(ex, self.purged(ex, detail))
        if how == GO_ON:
            call.asked = monotonic_ns()           # what was purged while levels were asked does not concern it
            self.go_on(ex, call)
            return ex.driver.resume(ex, CONTINUE)
        call.flight = None
        call.release()
        ex.caching = None
        if how == TAKEN:
            self.sought, self.level = detail
        try:
            verdict = self.ask(ex, how)
        finally:
            self.sought = self.level = None
        if how == GO_LEAD:
            old = <Flight>detail
            if verdict != WAIT or ex.generation == generation:
                flight = None if ex.caching is None else (<Call>ex.caching).flight
            if flight is None:
                self.land(old)                    # answered, or it goes alone: the others look for themselves
            else:
                for other, generation in old.waiters.items():
                    (<Call>other.caching).flight = flight
                flight.waiters.update(old.waiters)
                old.waiters = {}
        if verdict == CONTINUE and how == FAILED:
            known = CODES.get(detail)
            verdict = apply_problem(ex, Problem(known.status if known else 502, detail,
                                                "The request this one was joined with failed.",
                                                side=known.side if known else 3))
        return 0 if verdict == WAIT else ex.driver.resume(ex, verdict)

    # ------------------------------------------------------------------ the way back

    cdef bint fallback_allowed(self, Exchange ex, Call call, int64_t now) except -1:
        """RFC 5861 4, RFC 9111 4.2.4"""
        if call.background:
            return False
        if ex.local:
            if ex.code not in FAILURES:
                return False
        elif ex.response.status not in (500, 502, 503, 504):
            return False
        return fallback_holds(&call.meta, &call.found, now)

    cdef int around(self, Exchange ex) except -1:
        return CONTINUE

    cdef int around_done(self, Exchange ex) except -1:
        cdef Call call = <Call>ex.caching
        cdef Portion portion
        cdef Found found
        cdef Relay relay
        cdef int64_t now
        cdef bytes failed
        cdef str code = ex.code or "upstream_protocol_error"
        if call is None or call.found.entry == 0 or call.what == UNSAFE:
            return CONTINUE
        now = realtime_ns()
        if not self.fallback_allowed(ex, call, now):
            return CONTINUE
        relay = <Relay>ex.driver
        failed = b"; fwd=stale; fwd-status=%d; detail=stale-if-error" % ex.response.status
        if ex.up is not None:
            ex.up.cancel(ex)
        ex.response.clear()
        ex.response.len = 0
        ex.local = ex.collecting = False
        ex.local_body = ex.response_buffer = ex.code = None
        ex.side = 0
        ex.total_at = 0                           # it may have been what has passed
        relay.reactor.wheel.cancel(&ex.total)
        found = call.found
        call.found.entry = 0
        if not unpack(found.head, found.head_len, &call.meta, ex.response):
            raise RuntimeError("a kept answer cannot be read")
        ex.response.has_length = True
        ex.response.content_length = <int64_t>found.body_len
        shape(ex, &found, &call.meta, call.lines, &portion)
        ex.cached = CACHED_FALLBACK
        ex.fallback = "cache"
        text = b"%d" % current_age(call.meta.age, found.stored, now)
        ex.response.append(b"Age", 3, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
        self.status(ex.response, failed, b"")
        ex.entered = ex.passed = call.at
        if ex.pipe is not None:
            abandon(ex)
        if call.flight is not None:
            self.fail(call.flight, code)          # each of them finds the old answer too
        instead(ex, self.storage, &found, &portion)
        return CONTINUE

    cdef int response(self, Exchange ex) except -1:
        cdef Call call = <Call>ex.caching
        if call is None:
            return CONTINUE
        if call.what == UNSAFE and not ex.local:
            self.invalidate(ex)
        if ex.local or call.what != FETCH:
            if call.what == PASS and ex.is_head and call.found.entry and not ex.local:
                self.head_seen(ex, call)
            return self.status(ex.response, b"; fwd=", call.forward + b"; fwd-status=%d" % ex.response.status)
        if ex.response.status == 304 and call.conditional:
            return self.refreshed(ex, call)
        if ex.response.status == 304 or ex.upgraded:
            return self.status(ex.response, b"; fwd=", call.forward)
        self.keep(ex, call)
        call.release()
        if call.background:
            ex.entered = 0                        # nobody is before this one in the chain: nobody asked
        elif not ex.http2 and ex.response_buffer is None and 200 <= ex.response.status < 300:
            # over HTTP/2 the end of the answer would be the end of the exchange, and of what is being kept
            self.unneeded(ex, call)
        return CONTINUE

    cdef int unneeded(self, Exchange ex, Call call) except -1:
        """The client had asked whether its own answer still holds, which the service was not told: it does."""
        cdef Head head = ex.response
        cdef Header *h = head.find(b"etag", 4)
        cdef Header *modified = head.find(b"last-modified", 13)
        if not_modified(ex.request, call.lines, NULL if h == NULL else head.buf + h.value, 0 if h == NULL else h.value_len,
                        DATE_INVALID if modified == NULL else date_of(head.buf + modified.value, modified.value_len)):
            head.status = 304
            head.reason_len = 0
            return bodiless(head)
        return 0

    cdef int record(self, Exchange ex) except -1:
        """Called for every exchange at its end: nothing of it may stay here."""
        if ex.cached:
            (<Relay>ex.driver).stats.add_cached(ex.route.slot, ex.cached)
        return 0 if ex.caching is None else self.forget(ex, <Call>ex.caching)
