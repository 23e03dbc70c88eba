"""The hot half of `rate_limit`: the key of a request, its bucket, and the headers that tell how much is left."""
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcmp, memcpy
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastgw._core.bucket cimport EXHAUSTED, NO_ROOM, BucketTable, Level
from fastgw._core.clock cimport monotonic_ns
from fastgw._core.exchange cimport CONTINUE, PHASE_REQUEST, PHASE_RESPONSE, Exchange, Hook
from fastgw._core.headers cimport Head, Header
from fastgw._core.note cimport leave_note, read_note
from fastgw._core.policy cimport apply_problem
from fastgw._core.record cimport C_RATE_LIMITED
from fastgw._core.respond cimport Relay
from fastgw._core.template cimport claim_of, decode, find_cookie, find_query

from fastgw._core.exchange import Problem

cdef enum:
    K_CONSUMER = 1
    K_CLIENT, K_ROUTE, K_GLOBAL, K_HEADER, K_CLAIM, K_COOKIE, K_QUERY
    KEY_SPACE = 2048
    PART_SPACE = 200           # a longer value counts by its hash

cdef dict KINDS = {
    "consumer": K_CONSUMER, "client_ip": K_CLIENT, "route": K_ROUTE, "global": K_GLOBAL, "header": K_HEADER,
    "claim": K_CLAIM, "cookie": K_COOKIE, "query": K_QUERY,
}
cdef int64_t SECOND = 1_000_000_000
cdef uint8_t[12] MAPPED = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]


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


cdef class RateLimit(Hook):
    """`RateLimit(table, policy_key, interval_ns, burst, keys, label, window_s, quota, headers, open_when_full)`

    `keys`: (kind, name) pairs, name as bytes.
    """

    def __init__(self, BucketTable table, bytes policy_key, int64_t interval, int64_t burst, keys, str label,
                 int64_t window, int64_t quota, bint headers, bint open_when_full):
        cdef int i
        if interval < 1 or burst < 1 or not 1 <= len(keys) <= MAX_PARTS:
            raise ValueError("interval and burst are at least 1, and there are 1 to 8 keys")
        self.name = "rate_limit"
        self.table = table
        self.identity = table.hash(PyBytes_AS_STRING(policy_key), PyBytes_GET_SIZE(policy_key))
        self.interval = interval
        self.burst = burst
        self.parts = len(keys)
        for i in range(self.parts):
            self.kinds[i] = KINDS[keys[i][0]]
        self.names = tuple([name for _, name in keys])
        self.lower = tuple([name.lower() for name in self.names])
        self.label = label
        self.headers = headers
        self.open_when_full = open_when_full
        self.phases = PHASE_REQUEST | (PHASE_RESPONSE if headers else 0)
        # draft-ietf-httpapi-ratelimit-headers: RateLimit-Policy: "name";q=60;w=60  RateLimit: "name";r=59;t=1
        extra = f";burst={burst}" if burst != quota else ""
        self.policy_value = f'"{label}";q={quota};w={window}{extra}'.encode()
        self.ratelimit_start = f'"{label}";r='.encode()
        self.limit_value = str(burst).encode()

    def __repr__(self):
        return f"<RateLimit {self.label}>"

    # ------------------------------------------------------------------ the key

    cdef size_t _put(self, uint8_t *out, int kind, const char *p, size_t n) noexcept:
        """kind, length, bytes: no two lists of values have the same form."""
        cdef uint64_t digest
        out[0] = kind
        if n > PART_SPACE:
            digest = self.table.hash(p, n)
            out[1] = 0xff
            memcpy(out + 2, &digest, 8)
            return 10
        out[1] = n
        memcpy(out + 2, p, n)
        return n + 2

    cdef size_t _client(self, Exchange ex, uint8_t *out) noexcept:
        """An IPv4 address; of an IPv6 address the first 64 bits, as one customer has that many addresses at least."""
        if memcmp(ex.client_addr, MAPPED, 12) == 0:
            return self._put(out, K_CLIENT, <const char*>ex.client_addr + 12, 4)
        return self._put(out, K_CLIENT, <const char*>ex.client_addr, 8)

    cdef int _key(self, Exchange ex, uint8_t *out, size_t *length, int *fallbacks) except -1:
        cdef size_t at = 8, n, got
        cdef const char *p
        cdef int i, kind
        cdef bytes name
        cdef Header *h
        cdef uint8_t plain[PART_SPACE * 3]
        memcpy(out, &self.identity, 8)
        fallbacks[0] = 0
        for i in range(self.parts):
            kind = self.kinds[i]
            name = <bytes>self.names[i]
            got = 0
            if kind == K_CLIENT:
                got = self._client(ex, out + at)
            elif kind == K_CONSUMER:
                if ex.consumer is not None:
                    got = self._put(out + at, kind, PyBytes_AS_STRING(ex.consumer.name_bytes),
                                    PyBytes_GET_SIZE(ex.consumer.name_bytes))
            elif kind == K_ROUTE:
                if ex.route is not None:
                    got = self._put(out + at, kind, PyBytes_AS_STRING(ex.route.name_bytes),
                                    PyBytes_GET_SIZE(ex.route.name_bytes))
            elif kind == K_GLOBAL:
                got = self._put(out + at, kind, b"", 0)
            elif kind == K_HEADER:
                name = <bytes>self.lower[i]
                h = ex.request.find(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
                if h != NULL and h.value_len:
                    got = self._put(out + at, kind, ex.request.buf + h.value, h.value_len)
            elif kind == K_COOKIE:
                if find_cookie(ex, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name), &p, &n) and n:
                    got = self._put(out + at, kind, p, n)
            elif kind == K_QUERY:
                if find_query(ex, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name), &p, &n) and n:
                    # `%61` and `a` are the same value
                    if n <= sizeof(plain):
                        n = decode(p, n, True, plain)
                        p = <const char*>plain
                    got = self._put(out + at, kind, p, n)
            else:
                got = self._claim(ex, name, out + at)
            if got == 0:
                got = self._client(ex, out + at)
                fallbacks[0] |= 1 << i
            at += got
        length[0] = at
        return 0

    cdef size_t _claim(self, Exchange ex, bytes name, uint8_t *out) except? 0:
        cdef bytes text
        value = claim_of(ex.claims, name.decode("latin-1"))
        if value is None or isinstance(value, (dict, list)):
            return 0
        text = str(value).encode("utf-8", "replace")
        if not text:
            return 0
        return self._put(out, K_CLAIM, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))

    def _names_of(self, int fallbacks):
        """How the key is called in a refusal: `consumer`, `header:X-Team, client_ip`."""
        words = []
        by_number = {number: word for word, number in KINDS.items()}
        for i in range(self.parts):
            kind = K_CLIENT if fallbacks >> i & 1 else self.kinds[i]
            word = by_number[kind]
            if kind in (K_HEADER, K_CLAIM, K_COOKIE, K_QUERY):
                word += ":" + self.names[i].decode("latin-1")
            if word not in words:
                words.append(word)
        return ", ".join(words)

    # ------------------------------------------------------------------ the request

    cdef int request(self, Exchange ex) except -1:
        cdef uint8_t key[KEY_SPACE]
        cdef size_t n
        cdef int fallbacks, taken
        cdef Level level
        cdef int64_t seconds
        self._key(ex, key, &n, &fallbacks)
        taken = self.table.take(self.table.hash(<const char*>key, n), monotonic_ns(), self.interval, self.burst,
                                &level)
        if taken == NO_ROOM:
            if self.open_when_full:
                return CONTINUE
            return apply_problem(ex, Problem(503, "limiter_full", None, side=2, headers=(("Retry-After", "1"),)))
        if self.headers:
            seconds = _seconds(level.full_ns)
            leave_note(ex, <void*>self, level.remaining << 32 | (seconds if seconds < 0x7fffffff else 0x7fffffff))
        if taken == EXHAUSTED:
            return self._refuse(ex, fallbacks, max(1, _seconds(level.retry_ns)))
        return CONTINUE

    cdef int _refuse(self, Exchange ex, int fallbacks, int64_t retry) except -1:
        by = self._names_of(fallbacks)
        if isinstance(ex.driver, Relay):
            (<Relay>ex.driver).stats.add(C_RATE_LIMITED, 1)
        return apply_problem(ex, Problem(
            429, "rate_limited", f"The limit {self.label} by {by} is exhausted; try again in {retry} s.",
            headers=(("Retry-After", str(retry)),), members={"limit": self.label, "key": by, "retry_after": retry},
        ))

    # ------------------------------------------------------------------ the response

    cdef int response(self, Exchange ex) except -1:
        cdef int64_t note, remaining, reset
        cdef Head head = ex.response
        cdef char value[128]
        cdef char *o
        if not read_note(ex, <void*>self, &note):
            return CONTINUE
        remaining = note >> 32
        reset = note & 0x7fffffff
        head.append(b"RateLimit-Policy", 16, PyBytes_AS_STRING(self.policy_value),
                    PyBytes_GET_SIZE(self.policy_value))
        memcpy(value, PyBytes_AS_STRING(self.ratelimit_start), PyBytes_GET_SIZE(self.ratelimit_start))
        o = _number(value + PyBytes_GET_SIZE(self.ratelimit_start), remaining)
        memcpy(o, b";t=", 3)
        o = _number(o + 3, reset)
        head.append(b"RateLimit", 9, value, o - value)
        if self._tighter(head, remaining):
            head.append(b"X-RateLimit-Limit", 17, PyBytes_AS_STRING(self.limit_value),
                        PyBytes_GET_SIZE(self.limit_value))
            o = _number(value, remaining)
            head.append(b"X-RateLimit-Remaining", 21, value, o - value)
            o = _number(value, reset)
            head.append(b"X-RateLimit-Reset", 17, value, o - value)
        return CONTINUE

    cdef bint _tighter(self, Head head, int64_t remaining) noexcept:
        """X-RateLimit-* tell of one limit: the tightest of ours. An upstream's own are replaced."""
        cdef Header *h = head.find(b"x-ratelimit-remaining", 21)
        cdef int64_t other = 0
        cdef unsigned int i
        if h != NULL and h.name >= head.head_len:
            for i in range(h.value_len):
                other = other * 10 + (head.buf[h.value + i] - c"0")
            if other <= remaining:
                return False
        head.remove_name(b"x-ratelimit-limit", 17)
        head.remove_name(b"x-ratelimit-remaining", 21)
        head.remove_name(b"x-ratelimit-reset", 17)
        return True
