"""Who calls, by an API key.

The table maps SHA-256 digests to consumers. Finding a key by its digest is safe against timing: what the look-up
compares is not the key but its hash, and a caller cannot steer a hash. To learn a digest byte by byte he would need
keys whose digests share ever longer beginnings with it, which is as hard as searching the key itself; and a digest he
had learnt would not be a key. (Comparing the *keys* with each of the table in turn would be the leak.)
"""
from hashlib import sha256

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from fastgw._core.exchange cimport CONTINUE, PHASE_REQUEST, Consumer, Exchange, Hook
from fastgw._core.headers cimport Head, Header
from fastgw._core.policy cimport apply_problem
from fastgw._core.template cimport decode, find_query

from fastgw._core.exchange import Problem

cdef enum:
    MAX_KEY = 1024


cdef class KeyAuth(Hook):
    """`KeyAuth(consumers by digest, header, query, forward)`; header and query may be None."""

    def __init__(self, dict consumers, bytes header, bytes query, bint forward):
        self.name = "key_auth"
        self.phases = PHASE_REQUEST
        self.consumers = consumers
        self.header = None if header is None else header.lower()
        self.query = query
        self.forward = forward
        # RFC 9110 11.6.1 wants a challenge with every 401; there is no registered scheme for keys
        place = f'header="{header.decode()}"' if header is not None else f'query="{query.decode()}"'
        self.challenge = f"ApiKey {place}"

    def __repr__(self):
        return f"<KeyAuth {len(self.consumers)} keys>"

    cdef int request(self, Exchange ex) except -1:
        cdef Head head = ex.request
        cdef Header *h
        cdef const char *p
        cdef size_t n
        cdef char plain[MAX_KEY]
        cdef bytes key = None
        if self.header is not None:
            h = head.find(PyBytes_AS_STRING(self.header), PyBytes_GET_SIZE(self.header))
            if h != NULL:
                # two keys: which of them would the upstream believe?
                if h.value_len == 0 or h.value_len > MAX_KEY or head.count_of(
                        PyBytes_AS_STRING(self.header), PyBytes_GET_SIZE(self.header)) != 1:
                    return self._refuse(ex, "invalid_key", "The API key is malformed.")
                key = head.value_of(h)
                if not self.forward:
                    h.drop = 1
                    head.dropped += 1
        if self.query is not None and find_query(
                ex, PyBytes_AS_STRING(self.query), PyBytes_GET_SIZE(self.query), &p, &n):
            if key is None:
                if n == 0 or n > MAX_KEY:
                    return self._refuse(ex, "invalid_key", "The API key is malformed.")
                n = decode(p, n, True, <unsigned char*>plain)
                key = PyBytes_FromStringAndSize(plain, n)
            if not self.forward:
                self._hide(ex)
        if key is None:
            return self._refuse(ex, "unauthorized", "An API key is required.")
        consumer = self.consumers.get(sha256(key).digest())
        if consumer is None:
            return self._refuse(ex, "invalid_key", None)
        ex.consumer = <Consumer>consumer
        return CONTINUE

    cdef int _refuse(self, Exchange ex, str code, str detail) except -1:
        return apply_problem(ex, Problem(401, code, detail, headers=(("WWW-Authenticate", self.challenge),)))

    cdef int _hide(self, Exchange ex) except -1:
        """The query without the key's parameter."""
        cdef bytes query = PyBytes_FromStringAndSize(ex.request.buf + ex.query, ex.query_len)
        cdef list kept = [pair for pair in query.split(b"&") if pair.partition(b"=")[0] != self.query]
        cdef bytes rest = b"&".join(kept)
        ex.query = ex.request.store(PyBytes_AS_STRING(rest), PyBytes_GET_SIZE(rest))
        ex.query_len = PyBytes_GET_SIZE(rest)
        ex.has_query = bool(kept)
        return 0
