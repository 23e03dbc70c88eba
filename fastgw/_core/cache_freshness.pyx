"""May an answer be kept, and how long is it fresh? RFC 9111 3 and 4.2, RFC 9213, and what the operator adds.

All arithmetic is in whole seconds within 2^31 (RFC 9111 1.2.2), so that nothing here can overflow.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from fastgw._core.cache_directives cimport (
    DATE_INVALID, HAS_MAX_AGE, HAS_S_MAXAGE, INVALID_AGE, MUST_REVALIDATE, MUST_UNDERSTAND, NO_CACHE, NO_STORE,
    PRIVATE, PROXY_REVALIDATE, PUBLIC, SECONDS_MAX, Directives, age_of, date_of, directives_of, structured,
)
from fastgw._core.headers cimport H_DATE, Head, Header, equals_lower

# Why an answer is not kept, by Refused; the words of Cache-Status' `detail`.
WHY = ("", "status", "no-store", "private", "identity", "set-cookie", "vary", "type", "size", "no-freshness", "own")

cdef int64_t NS = 1000000000
cdef int64_t FAR = SECONDS_MAX          # 68 years in either direction
cdef int64_t LATEST = 0x7fffffffffffffff - FAR * NS

# RFC 9110 15.1: heuristically cacheable; 206 is left out, it is not kept
cdef frozenset HEURISTIC = frozenset((200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501))
# What this cache understands (RFC 9111 5.2.2.3)
cdef frozenset UNDERSTOOD = frozenset((
    200, 203, 204, 300, 301, 302, 303, 307, 308, 400, 401, 403, 404, 405, 406, 409, 410, 413, 414, 415, 421, 422, 429,
    451, 500, 501, 502, 503, 504, 505,
))


cdef int64_t current_age(int64_t initial, int64_t stored_ns, int64_t now_ns) noexcept nogil:
    """RFC 9111 4.2.3. A clock that was set back makes nothing younger than it was."""
    cdef int64_t resident = (now_ns - stored_ns) // NS if now_ns > stored_ns else 0
    if resident > SECONDS_MAX:
        resident = SECONDS_MAX
    initial += resident
    return SECONDS_MAX if initial > SECONDS_MAX else initial


cdef int64_t plus_seconds(int64_t ns, int64_t seconds) noexcept nogil:
    seconds = FAR if seconds > FAR else -FAR if seconds < -FAR else seconds
    return (LATEST if ns > LATEST else ns) + seconds * NS


cdef int64_t _bounded(int64_t seconds) noexcept nogil:
    return 0 if seconds < 0 else SECONDS_MAX if seconds > SECONDS_MAX else seconds


cdef class Rules:
    """Keyword arguments, times in seconds: `ttls` by status; `override`; `heuristic` (0 to 1) and `heuristic_max`;
    `while_revalidate`, `if_error`: for answers that say nothing of it; `keep`: how long an answer with a validator is
    kept to be revalidated; `cookies`: refuse, strip or store; `targets`; `types`; `personal`."""

    def __init__(self, *, ttls=None, bint override=False, double heuristic=0, int64_t heuristic_max=86400,
                 int64_t while_revalidate=0, int64_t if_error=0, int64_t keep=3600, str cookies="refuse",
                 targets=(b"cdn-cache-control", b"surrogate-control"), types=(), bint personal=False):
        cdef int i
        for i in range(600):
            self.ttls[i] = -1
        for status, seconds in (ttls or {}).items():
            if not 200 <= status <= 599 or status in (206, 304):
                raise ValueError(f"answers with {status} are not kept")
            self.ttls[<int>status] = _bounded(int(seconds))
        self.override = override
        self.heuristic = heuristic
        self.heuristic_max = _bounded(heuristic_max)
        self.while_revalidate = _bounded(while_revalidate)
        self.if_error = _bounded(if_error)
        self.keep = _bounded(keep)
        self.cookies = ("refuse", "strip", "store").index(cookies)
        self.targets = tuple(targets)
        self.types = tuple(types)
        self.personal = personal

    cdef bint _typed(self, Head head) except -1:
        cdef Header *h
        cdef bytes kind, each
        if not self.types:
            return True
        h = head.find(b"content-type", 12)
        if h == NULL:
            return False
        kind = head.value_of(h).lower().partition(b";")[0].strip()
        for each in self.types:
            if kind == each or (each.endswith(b"/") and kind.startswith(each)):
                return True
        return False

    cdef bint _targeted(self, Head head, Directives *d) except -1:
        """RFC 9213 2.2: the first field of the list that is there and valid stands in for Cache-Control and Expires."""
        cdef bytes name, joined
        cdef Header *h
        cdef int i
        for name in self.targets:
            if head.count_of(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name)) > 1:
                joined = b", ".join([
                    head.value_of(&head.items[i]) for i in range(head.count)
                    if not head.items[i].drop and head.items[i].name_len == len(name) and equals_lower(
                        head.buf + head.items[i].name, PyBytes_AS_STRING(name), head.items[i].name_len)])
                # what it names stays in memory: as a line of its own that is not seen
                head.append(b"x", 1, PyBytes_AS_STRING(joined), PyBytes_GET_SIZE(joined))
                h = &head.items[head.count - 1]
                h.drop = 1
                head.dropped += 1
            else:
                h = head.find(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
            if h != NULL and structured(head.buf + h.value, h.value_len, d):
                return True
        return False

    cdef int judge(self, Head head, bint identified, int64_t now, int64_t delay, Fate *fate) except -1:
        """`identified`: the request carried credentials; `now`: seconds since 1970; `delay`: between the request and the
        answer. Fills `fate`; 0 when the answer may be kept, else why not."""
        cdef Directives *d = &fate.said
        cdef int status = head.status
        cdef Header *h
        cdef int64_t date = now, value, ttl
        cdef bint targeted, forced, validator
        fate.why = KEPT
        fate.flags = 0
        fate.explicit = False
        fate.lifetime = fate.age = fate.while_revalidate = fate.if_error = fate.keep = 0
        targeted = self._targeted(head, d)
        if not targeted:
            directives_of(head, b"cache-control", 13, d)
        if status < 200 or status > 599 or status == 206 or status == 304:
            fate.why = W_STATUS
            return fate.why
        ttl = self.ttls[status]
        forced = self.override and ttl >= 0
        if d.said & MUST_UNDERSTAND and status not in UNDERSTOOD:
            fate.why = W_STATUS
        elif d.said & NO_STORE and not d.said & MUST_UNDERSTAND and not forced:
            # RFC 9111 5.2.2.3: who understands the status may leave no-store aside
            fate.why = W_NO_STORE
        elif d.said & PRIVATE and not (self.personal and identified):
            fate.why = W_PRIVATE
        elif identified and not self.personal and not d.said & (PUBLIC | MUST_REVALIDATE | HAS_S_MAXAGE):
            fate.why = W_IDENTITY                 # RFC 9111 3.5
        elif self.cookies == COOKIES_REFUSE and head.find(b"set-cookie", 10) != NULL:
            fate.why = W_COOKIE
        elif not self._typed(head):
            fate.why = W_TYPE
        if fate.why:
            return fate.why
        # RFC 9111 4.2.3: how old it is already
        h = head.find_id(H_DATE)
        if h != NULL:
            date = date_of(head.buf + h.value, h.value_len)
            if date == DATE_INVALID:
                date = now
        h = head.find(b"age", 3)
        value = age_of(head.buf + h.value, h.value_len) if h != NULL else 0
        value = _bounded(_bounded(value) + _bounded(delay))
        fate.age = _bounded(now - date)
        if value > fate.age:
            fate.age = value
        # RFC 9111 4.2.1: how long it is fresh
        if forced:
            fate.lifetime = ttl
            fate.age = 0
            fate.explicit = True
        elif d.said & HAS_S_MAXAGE:
            fate.lifetime = d.s_maxage
            fate.explicit = True
        elif d.said & HAS_MAX_AGE:
            fate.lifetime = d.max_age
            fate.explicit = True
        elif not targeted:
            h = head.find(b"expires", 7)
            if h != NULL:
                value = date_of(head.buf + h.value, h.value_len)
                # RFC 9111 5.3: what is no date has passed
                fate.lifetime = 0 if value == DATE_INVALID else _bounded(value - date)
                fate.explicit = True
        validator = head.find(b"etag", 4) != NULL or head.find(b"last-modified", 13) != NULL
        if not fate.explicit:
            if ttl >= 0:
                fate.lifetime = ttl
                fate.explicit = True
            elif self.heuristic > 0 and (status in HEURISTIC or d.said & PUBLIC):
                # RFC 9111 4.2.2
                h = head.find(b"last-modified", 13)
                value = DATE_INVALID if h == NULL else date_of(head.buf + h.value, h.value_len)
                if value != DATE_INVALID and value < date:
                    fate.lifetime = _bounded(<int64_t>(self.heuristic * <double>(date - value)))
                    if fate.lifetime > self.heuristic_max:
                        fate.lifetime = self.heuristic_max
            if not fate.explicit and fate.lifetime == 0 and not (
                    validator and (status in HEURISTIC or d.said & (PUBLIC | NO_CACHE))):
                fate.why = W_FRESHNESS
                return fate.why
        if d.said & NO_CACHE and not forced:
            fate.lifetime = 0
            fate.flags |= F_STRICT | F_ALWAYS
        if d.said & (MUST_REVALIDATE | PROXY_REVALIDATE):
            fate.flags |= F_STRICT
        if not fate.flags & F_STRICT:
            # RFC 9111 5.2.2.10: s-maxage forbids it too, unless the service itself allows it besides
            fate.while_revalidate = d.while_revalidate if d.while_revalidate >= 0 else \
                0 if d.said & HAS_S_MAXAGE else self.while_revalidate
            fate.if_error = d.if_error if d.if_error >= 0 else 0 if d.said & HAS_S_MAXAGE else self.if_error
            if d.said & HAS_S_MAXAGE and fate.while_revalidate <= 0 and fate.if_error <= 0:
                fate.flags |= F_STRICT
        if self.personal and identified:
            fate.flags |= F_PERSONAL
        fate.keep = max(fate.while_revalidate, fate.if_error, self.keep if validator else 0)
        if fate.lifetime <= fate.age and fate.keep == 0 and fate.flags & F_STRICT:
            fate.why = W_FRESHNESS
        elif fate.lifetime <= fate.age and fate.keep == 0:
            # RFC 9111 4.2.4: a client may accept an old one (max-stale), for which it has to be there
            fate.keep = min(self.keep, 3600)
            if fate.keep == 0:
                fate.why = W_FRESHNESS
        elif not fate.flags & F_STRICT and fate.keep < self.keep:
            fate.keep = self.keep
        return fate.why


def judged(bytes raw, rules, bint identified=False, int64_t now=0, int64_t delay=0):
    """What `rules` make of the head of an answer: (why not kept or "", lifetime, age, seconds it is kept after that,
    while_revalidate, if_error, may it never be used stale). For tests and tools."""
    cdef Fate fate
    cdef Head head = Head.response(raw)
    (<Rules?>rules).judge(head, identified, now, delay, &fate)
    return (WHY[fate.why], fate.lifetime, fate.age, fate.keep, fate.while_revalidate, fate.if_error,
            bool(fate.flags & F_STRICT))
