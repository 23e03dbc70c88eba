"""The hot half of `jwt`: finds the token, looks it up among those verified before, stamps who calls.

The whole token is the key of the look-up, signature included: a token that differs in one bit is another one and is
verified. The dict hashes it with Python's keyed SipHash, so its timing tells nothing about remembered tokens. Only
tokens with a good signature are remembered, so that nobody can fill the cache with rubbish.
"""
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memcmp
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from fastgw._core.clock cimport realtime_ns
from fastgw._core.exchange cimport CONTINUE, PHASE_REQUEST, Consumer, Exchange, Hook
from fastgw._core.headers cimport H_AUTHORIZATION, Head, Header, equals_lower
from fastgw._core.policy cimport apply_problem

from fastgw._core.exchange import Problem


cdef class Verified:
    """`Verified(consumer, claims, lines, until, since, refusal)`: what a good token comes to."""

    def __init__(self, Consumer consumer, dict claims, bytes lines, int64_t until, int64_t since, refusal):
        self.consumer = consumer
        self.claims = claims
        self.lines = lines
        self.until = until
        self.since = since
        self.refusal = refusal


cdef class TokenCache:
    """`TokenCache(size)`: bounded. Two generations: when the young one is full it becomes the old one, and what is asked
    for among the old returns to the young; so what is in use stays, and no entry keeps a place in a list."""

    def __init__(self, int size):
        self.half = (size + 1) // 2
        self.young = {}
        self.old = {}

    cdef Verified find(self, bytes token, int64_t now):
        cdef Verified found = self.young.get(token)
        if found is None:
            found = self.old.pop(token, None)
            if found is None:
                return None
            self.keep(token, found)
        if (found.until != 0 and now >= found.until) or now < found.since:
            self.young.pop(token, None)
            return None
        return found

    cdef int keep(self, bytes token, Verified verified) except -1:
        if self.half == 0:
            return 0
        if len(self.young) >= self.half:
            self.old = self.young
            self.young = {}
        self.young[token] = verified
        return 0

    def __len__(self):
        return len(self.young) + len(self.old)

    def __repr__(self):
        return f"<TokenCache {len(self)} of {2 * self.half}>"

    def get(self, bytes token, now):
        """For tests; `now` in ns since the epoch."""
        return self.find(token, now)

    def put(self, bytes token, Verified verified):
        self.keep(token, verified)


cdef class TokenAuth(Hook):
    """`TokenAuth(verify, cache_size, max_size, user_header, scopes_header, forward, excluded)`

    `verify(token)` gives a Verified or a Problem. `excluded`: paths, exact or ending in `/*`.
    """

    def __init__(self, verify, int cache_size, int max_size, bytes user_header, bytes scopes_header, bint forward,
                 excluded):
        self.name = "jwt"
        self.phases = PHASE_REQUEST
        self.verify = verify
        self.cache = TokenCache(cache_size)
        self.max_size = max_size
        self.user = user_header.lower()
        self.scopes = scopes_header.lower()
        self.forward = forward
        self.excluded = tuple(excluded)

    cdef bint _is_excluded(self, Exchange ex) noexcept:
        cdef const char *path = ex.request.buf + ex.path
        cdef size_t n = ex.path_len, m
        cdef bytes pattern
        for pattern in self.excluded:
            m = PyBytes_GET_SIZE(pattern)
            if m >= 2 and PyBytes_AS_STRING(pattern)[m - 1] == c"*":
                m -= 2                       # "/x/*": "/x" itself, and what follows "/x/"
                if n >= m and memcmp(path, PyBytes_AS_STRING(pattern), m) == 0 and (n == m or path[m] == c"/"):
                    return True
            elif n == m and memcmp(path, PyBytes_AS_STRING(pattern), m) == 0:
                return True
        return False

    cdef int request(self, Exchange ex) except -1:
        cdef Head head = ex.request
        cdef Header *h
        cdef Verified found
        cdef bytes token
        cdef const char *p
        cdef uint32_t n
        # whoever could send these would be whoever he likes, wherever the upstream trusts them
        head.remove_name(PyBytes_AS_STRING(self.user), PyBytes_GET_SIZE(self.user))
        head.remove_name(PyBytes_AS_STRING(self.scopes), PyBytes_GET_SIZE(self.scopes))
        if self.excluded and self._is_excluded(ex):
            return CONTINUE
        h = head.find_id(H_AUTHORIZATION)
        if h == NULL:
            return self._refuse(ex, "unauthorized", "A bearer token is required.")
        if head.count_of(b"authorization", 13) != 1:
            return self._refuse(ex, "invalid_token", "There is more than one Authorization header.")
        # RFC 6750 2.1: "Bearer" 1*SP b64token; the scheme in any case (RFC 9110 11.1)
        p = head.buf + h.value
        n = h.value_len
        if n < 8 or not equals_lower(p, b"bearer ", 7):
            return self._refuse(ex, "unauthorized", "A bearer token is required.")
        p += 7
        n -= 7
        while n and p[0] == c" ":
            p += 1
            n -= 1
        if n > self.max_size:
            return self._refuse(ex, "invalid_token", "The token is too large.")
        token = PyBytes_FromStringAndSize(p, n)
        found = self.cache.find(token, realtime_ns()) if self.cache.half else None
        if found is None:
            result = self.verify(token)
            if not isinstance(result, Verified):
                return apply_problem(ex, result)
            found = <Verified>result
            self.cache.keep(token, found)
        if found.refusal is not None:
            return apply_problem(ex, found.refusal)
        if found.consumer is not None:
            ex.consumer = found.consumer
        ex.claims = found.claims
        if not self.forward:
            h = head.find_id(H_AUTHORIZATION)
            h.drop = 1
            head.dropped += 1
        if PyBytes_GET_SIZE(found.lines):
            head.append_lines(PyBytes_AS_STRING(found.lines), PyBytes_GET_SIZE(found.lines), 0)
        return CONTINUE

    cdef int _refuse(self, Exchange ex, str code, str detail) except -1:
        challenge = "Bearer"
        if code != "unauthorized":
            challenge = f'Bearer error="{code}", error_description="{detail}"'
        return apply_problem(ex, Problem(401, code, detail, headers=(("WWW-Authenticate", challenge),)))
