"""The hot half of `jwt`: finds the token, looks it up among those verified before, stamps who calls.

The whole token is the key of the look-up, signature included: a token that differs in one bit is another one and is
verified. The dict hashes it with Python's keyed SipHash, so its timing tells nothing about remembered tokens. Only
tokens with a good signature are remembered, so that nobody can fill the cache with rubbish.
"""
from libc.stdint cimport int64_t, uint32_t
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from fastgw._core.clock cimport realtime_ns
from fastgw._core.exchange cimport CONTINUE, PHASE_REQUEST, Consumer, Exchange
from fastgw._core.headers cimport H_AUTHORIZATION, Head, Header, equals_lower
from fastgw._core.identity cimport is_excluded
from fastgw._core.policy cimport DRIVE_REQUEST, PythonHook, apply_problem
from fastgw._core.template cimport find_cookie, find_query

from fastgw._core.exchange import Problem


cdef class Verified:
    """`Verified(consumer, claims, lines, until, since, refusal, key)`: what a good token comes to."""

    def __init__(self, Consumer consumer, dict claims, bytes lines, int64_t until, int64_t since, refusal, key=None):
        self.consumer = consumer
        self.claims = claims
        self.lines = lines
        self.until = until
        self.since = since
        self.refusal = refusal
        self.key = key


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

    def drop(self, keys):
        """Forgets the tokens that are signed with one of these."""
        self.young = {token: one for token, one in self.young.items() if (<Verified>one).key not in keys}
        self.old = {token: one for token, one in self.old.items() if (<Verified>one).key not in keys}


cdef int drop_cookie(Head head, bytes name) except -1:
    """The Cookie lines without the cookie of that name."""
    cdef bytes start = name + b"="
    kept = []
    for line in head.get_all("cookie"):
        kept += [pair for pair in line.encode("latin-1").split(b";") if not pair.strip().startswith(start)]
    head.remove("cookie")
    if kept:
        head.add("Cookie", b";".join(kept).strip())
    return 0


cdef class TokenAuth(PythonHook):
    """`TokenAuth(verify, cache_size, max_size, user_header, scopes_header, forward, excluded)`

    `verify(token, found, client)` gives a Verified, a Problem, or an awaitable of one of them; `found` is what is known
    already, when its `recheck` has come. `excluded`: paths, exact or ending in `/*`. The token is looked for in the
    Authorization header (where `header`), then in a cookie, then in the query.
    """

    def __init__(self, verify, int cache_size, int max_size, bytes user_header, bytes scopes_header, bint forward,
                 excluded, bytes cookie=None, bytes query=None, bint header=True, str name="jwt"):
        self.name = name
        self.phases = PHASE_REQUEST
        self.verify = verify
        self.cache = TokenCache(cache_size)
        self.max_size = max_size
        self.user = user_header.lower()
        self.scopes = scopes_header.lower()
        self.forward = forward
        self.excluded = tuple(excluded)
        self.cookie = cookie
        self.query = query
        self.header = header

    cdef bytes _from_header(self, Exchange ex):
        """None: there is none. RFC 6750 2.1: "Bearer" 1*SP b64token; the scheme in any case (RFC 9110 11.1)"""
        cdef Header *h = ex.request.find_id(H_AUTHORIZATION)
        cdef const char *p
        cdef uint32_t n
        if h == NULL:
            return None
        p = ex.request.buf + h.value
        n = h.value_len
        if n < 8 or not equals_lower(p, b"bearer ", 7):
            return None
        p += 7
        n -= 7
        while n and p[0] == c" ":
            p += 1
            n -= 1
        return PyBytes_FromStringAndSize(p, min(n, self.max_size + 1))

    cdef bytes _token(self, Exchange ex):
        """None: there is none. One that is too large comes with a byte more than is allowed."""
        cdef const char *p
        cdef size_t n
        cdef bytes found = self._from_header(ex) if self.header else None
        if found is None and self.cookie is not None and find_cookie(
                ex, PyBytes_AS_STRING(self.cookie), PyBytes_GET_SIZE(self.cookie), &p, &n):
            found = PyBytes_FromStringAndSize(p, min(n, self.max_size + 1))
        # a token is letters, digits and "-_.": none of them needs decoding
        if found is None and self.query is not None and find_query(
                ex, PyBytes_AS_STRING(self.query), PyBytes_GET_SIZE(self.query), &p, &n):
            found = PyBytes_FromStringAndSize(p, min(n, self.max_size + 1))
        return found

    cdef int request(self, Exchange ex) except -1:
        cdef Head head = ex.request
        cdef Verified found
        cdef bytes token
        cdef int64_t now
        # whoever could send these would be whoever he likes, wherever the upstream trusts them
        head.remove_name(PyBytes_AS_STRING(self.user), PyBytes_GET_SIZE(self.user))
        head.remove_name(PyBytes_AS_STRING(self.scopes), PyBytes_GET_SIZE(self.scopes))
        if self.excluded and is_excluded(self.excluded, ex):
            return CONTINUE
        if self.header and head.count_of(b"authorization", 13) > 1:
            return apply_problem(ex, self._refusal("invalid_token", "There is more than one Authorization header."))
        token = self._token(ex)
        if token is None:
            return apply_problem(ex, self._refusal("unauthorized", "A bearer token is required."))
        if PyBytes_GET_SIZE(token) > self.max_size:
            return apply_problem(ex, self._refusal("invalid_token", "The token is too large."))
        now = realtime_ns()
        found = self.cache.find(token, now) if self.cache.half else None
        if found is None or (found.recheck != 0 and now >= found.recheck):
            try:
                result = self.verify(token, found, ex)
            except Exception as error:
                return self._failed(ex, error)
            if not isinstance(result, Verified):
                if hasattr(result, "__await__"):
                    return self._drive(ex, self._later(ex, token, result), None, DRIVE_REQUEST)
                return apply_problem(ex, result)
            found = <Verified>result
            self.cache.keep(token, found)
        return self._settle(ex, found)

    cdef int response(self, Exchange ex) except -1:
        return CONTINUE

    async def _later(self, Exchange ex, bytes token, awaitable):
        """Has to wait for the verdict. The exchange that left meanwhile has cancelled this."""
        result = await awaitable
        if not isinstance(result, Verified):
            return result
        self.cache.keep(token, result)
        if (<Verified>result).refusal is not None:
            return (<Verified>result).refusal
        self._settle(ex, <Verified>result)
        return None

    cdef int _settle(self, Exchange ex, Verified found) except -1:
        """A good token: who calls is told to the rest of the chain and to the upstream."""
        if found.refusal is not None:
            return apply_problem(ex, found.refusal)
        if found.consumer is not None:
            ex.consumer = found.consumer
        ex.claims = found.claims
        if not self.forward:
            self._hide(ex)
        if PyBytes_GET_SIZE(found.lines):
            ex.request.append_lines(PyBytes_AS_STRING(found.lines), PyBytes_GET_SIZE(found.lines), 0)
        return CONTINUE

    cdef int _hide(self, Exchange ex) except -1:
        """Wherever a token may stand, the upstream sees none."""
        cdef Header *h
        cdef const char *p
        cdef size_t n
        cdef bytes query, rest
        if self.header:
            h = ex.request.find_id(H_AUTHORIZATION)
            if h != NULL and h.value_len > 7 and equals_lower(ex.request.buf + h.value, b"bearer ", 7):
                h.drop = 1
                ex.request.dropped += 1
        if self.cookie is not None and find_cookie(
                ex, PyBytes_AS_STRING(self.cookie), PyBytes_GET_SIZE(self.cookie), &p, &n):
            drop_cookie(ex.request, self.cookie)
        if self.query is not None and find_query(
                ex, PyBytes_AS_STRING(self.query), PyBytes_GET_SIZE(self.query), &p, &n):
            query = PyBytes_FromStringAndSize(ex.request.buf + ex.query, ex.query_len)
            kept = [pair for pair in query.split(b"&") if pair.partition(b"=")[0] != self.query]
            rest = b"&".join(kept)
            ex.query = ex.request.store(PyBytes_AS_STRING(rest), PyBytes_GET_SIZE(rest))
            ex.query_len = PyBytes_GET_SIZE(rest)
            ex.has_query = bool(kept)
        return 0

    cdef object _refusal(self, str code, str detail):
        challenge = "Bearer"
        if code != "unauthorized":
            challenge = f'Bearer error="{code}", error_description="{detail}"'
        return Problem(401, code, detail, headers=(("WWW-Authenticate", challenge),))
