"""Whose requests are counted together: the key of a request, made of attributes that it has.

A request without an attribute counts by its address in that place, and by what kind of attribute stands where is part of the
key: no two lists of values have the same form.
"""
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcmp, memcpy
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastgw._core.bucket cimport BucketTable
from fastgw._core.exchange cimport Exchange
from fastgw._core.headers cimport Header
from fastgw._core.template cimport ESCAPE_HEADER, Compiled, claim_of, decode, find_cookie, find_query

import ipaddress

cdef enum:
    K_CONSUMER = 1
    K_CLIENT, K_ROUTE, K_GLOBAL, K_HEADER, K_CLAIM, K_COOKIE, K_QUERY, K_TEMPLATE
    PART_SPACE = 200           # a longer value counts by its hash

cdef dict KINDS = {
    "consumer": K_CONSUMER, "client_ip": K_CLIENT, "route": K_ROUTE, "global": K_GLOBAL, "header": K_HEADER,
    "claim": K_CLAIM, "cookie": K_COOKIE, "query": K_QUERY, "template": K_TEMPLATE,
}
cdef uint8_t[12] MAPPED = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]


cdef class LimitKey:
    """`LimitKey(table, keys)`: (kind, name) pairs, name as bytes; of a `template` it is the Compiled one."""

    def __init__(self, BucketTable table not None, keys):
        cdef int i
        if not 1 <= len(keys) <= MAX_PARTS:
            raise ValueError(f"a key has 1 to {MAX_PARTS} parts")
        self.table = table
        self.parts = len(keys)
        for i in range(self.parts):
            self.kinds[i] = KINDS[keys[i][0]]
        self.names = tuple([name for _, name in keys])
        self.lower = tuple([name.lower() if isinstance(name, bytes) else None for name in self.names])

    def __repr__(self):
        return f"<LimitKey {self.names_of(0)}>"

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

    cdef int write(self, Exchange ex, uint8_t *out, size_t *length, int *fallbacks) except -1:
        cdef size_t at = 0, n, got
        cdef const char *p
        cdef int i, kind
        cdef bytes name
        cdef Header *h
        cdef uint8_t plain[PART_SPACE * 3]
        cdef Compiled template
        fallbacks[0] = 0
        for i in range(self.parts):
            kind = self.kinds[i]
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
            elif kind == K_TEMPLATE:
                template = <Compiled>self.names[i]
                template.write(ex, ESCAPE_HEADER)
                if template.len:
                    got = self._put(out + at, kind, template.out, template.len)
            elif kind == K_COOKIE:
                name = <bytes>self.names[i]
                if find_cookie(ex, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name), &p, &n) and n:
                    got = self._put(out + at, kind, p, n)
            elif kind == K_QUERY:
                name = <bytes>self.names[i]
                if find_query(ex, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name), &p, &n) and n:
                    # `%61` and `a` are the same value
                    if n <= sizeof(plain):
                        n = decode(p, n, True, plain)
                        p = <const char*>plain
                    got = self._put(out + at, kind, p, n)
            else:
                got = self._claim(ex, <bytes>self.names[i], out + at)
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

    def names_of(self, int fallbacks=0):
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

    def hash_of(self, values):
        """The hash of a key whose parts have these values; see `bytes_of`."""
        cdef bytes written = self.bytes_of(values)
        return self.table.hash(PyBytes_AS_STRING(written), PyBytes_GET_SIZE(written))

    def bytes_of(self, values):
        """A key whose parts have these values, as texts in the order of the parts, for tools. ValueError for too few or
        too many, and for what is no address where `client_ip` is wanted."""
        cdef uint8_t out[KEY_SPACE]
        cdef size_t at = 0
        cdef bytes raw
        cdef int i
        if len(values) != self.parts:
            raise ValueError(f"the key has {self.parts} parts: {self.names_of(0)}")
        for i in range(self.parts):
            if self.kinds[i] == K_CLIENT:
                raw = ipaddress.ip_address(values[i]).packed
                at += self._put(out + at, K_CLIENT, PyBytes_AS_STRING(raw), 4 if len(raw) == 4 else 8)
                continue
            raw = b"" if self.kinds[i] == K_GLOBAL else values[i].encode("utf-8", "surrogateescape")
            at += self._put(out + at, self.kinds[i], PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw))
        return <bytes>(<char*>out)[:at]
