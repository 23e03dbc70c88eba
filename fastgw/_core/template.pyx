"""Request templates, compiled: literal pieces and variables, written for one exchange into a buffer.

A variable without a value in a request is empty. A value never changes what it is put into: in a header it cannot
end the line, in a URL it cannot begin another segment, parameter or host.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastgw._core.exchange cimport Consumer, Exchange
from fastgw._core.headers cimport H_COOKIE, Header

cdef dict KINDS = {
    "request.id": V_ID, "request.method": V_METHOD, "request.path": V_PATH, "request.host": V_HOST,
    "request.header": V_HEADER, "request.query": V_QUERY, "request.cookie": V_COOKIE, "client.ip": V_CLIENT,
    "route.name": V_ROUTE, "route.params": V_PARAM, "consumer.name": V_CONSUMER, "consumer.groups": V_GROUPS,
    "consumer.plan": V_PLAN, "consumer.scopes": V_SCOPES, "consumer.credential": V_CREDENTIAL,
    "consumer.metadata": V_METADATA,
    "claims": V_CLAIM, "service.name": V_SERVICE,
}
cdef enum:
    MAX_VALUE = 16384          # bytes of a filled template; what is more is cut off

cdef const char *HEX = b"0123456789ABCDEF"
cdef const char *HEX_LOWER = b"0123456789abcdef"


cdef inline int _digit(char c) noexcept nogil:
    if c"0" <= c <= c"9":
        return c - c"0"
    if c"a" <= c <= c"f":
        return c - c"a" + 10
    if c"A" <= c <= c"F":
        return c - c"A" + 10
    return -1


cdef size_t decode(const char *p, size_t n, bint plus, uint8_t *out) noexcept nogil:
    """Percent-decodes into out (n bytes are enough); `plus` is a space in queries. The decoded length."""
    cdef size_t i = 0, o = 0
    cdef int high, low
    while i < n:
        if p[i] == c"%" and i + 2 < n:
            high = _digit(p[i + 1])
            low = _digit(p[i + 2])
            if high >= 0 and low >= 0:
                out[o] = high << 4 | low
                o += 1
                i += 3
                continue
        out[o] = c" " if plus and p[i] == c"+" else <uint8_t>p[i]
        o += 1
        i += 1
    return o


cdef bint find_query(Exchange ex, const char *name, size_t n, const char **value, size_t *length) noexcept:
    """The first parameter of that name, still encoded."""
    cdef const char *p = ex.request.buf + ex.query
    cdef const char *e = p + ex.query_len
    cdef const char *start
    while p < e:
        start = p
        while p < e and p[0] != c"&":
            p += 1
        if <size_t>(p - start) >= n and memcmp(start, name, n) == 0 \
                and (start + n == p or start[n] == c"="):
            value[0] = p if start + n == p else start + n + 1
            length[0] = p - value[0]
            return True
        p += 1
    return False


cdef bint find_cookie(Exchange ex, const char *name, size_t n, const char **value, size_t *length) noexcept:
    """RFC 6265 4.2.1: cookie-pair *( ";" SP cookie-pair ); the first of that name."""
    cdef int i
    cdef Header *h
    cdef const char *p
    cdef const char *e
    cdef const char *start
    cdef const char *stop
    for i in range(ex.request.count):
        h = &ex.request.items[i]
        if h.id != H_COOKIE or h.drop:
            continue
        p = ex.request.buf + h.value
        e = p + h.value_len
        while p < e:
            while p < e and (p[0] == c" " or p[0] == c";"):
                p += 1
            start = p
            while p < e and p[0] != c";":
                p += 1
            stop = p
            while stop > start and (stop - 1)[0] == c" ":
                stop -= 1
            if <size_t>(stop - start) > n and start[n] == c"=" and memcmp(start, name, n) == 0:
                value[0] = start + n + 1
                length[0] = stop - value[0]
                return True
    return False


cdef object claim_of(object claims, str name):
    """A claim by name; dots go into objects, unless a claim has the dotted name itself. None without it."""
    if claims is None:
        return None
    found = claims.get(name)
    if found is None and "." in name:
        found = claims
        for part in name.split("."):
            if not isinstance(found, dict):
                return None
            found = found.get(part)
    return found


cdef class Compiled:
    """`Compiled(parts)`: parts are bytes (literal) and (kind, name) pairs, kind as in the configuration's templates."""

    def __cinit__(self, parts):
        cdef list kept = []
        cdef int i
        self.count = len(parts)
        self.parts = <Part*>malloc((self.count + 1) * sizeof(Part))
        self.cap = 256
        self.out = <char*>malloc(self.cap)
        if self.parts == NULL or self.out == NULL:
            raise MemoryError()
        for i in range(self.count):
            given = parts[i]
            if isinstance(given, bytes):
                self.parts[i].kind = V_TEXT
                text = given
            else:
                self.parts[i].kind = KINDS[given[0]]
                text = given[1].lower() if self.parts[i].kind == V_HEADER else given[1]
            kept.append(text)
            self.parts[i].text = PyBytes_AS_STRING(text)
            self.parts[i].n = PyBytes_GET_SIZE(text)
        self.kept = tuple(kept)
        if all(isinstance(part, bytes) for part in parts):
            self.constant = b"".join(parts)

    def __dealloc__(self):
        free(self.parts)
        free(self.out)

    cdef int write(self, Exchange ex, int escape) except -1:
        cdef int i
        self.len = 0
        for i in range(self.count):
            self._part(ex, &self.parts[i], escape)
        return 0

    cdef int _raw(self, const char *p, size_t n) except -1:
        cdef char *grown
        if self.len + n > MAX_VALUE:
            n = MAX_VALUE - self.len
        if self.len + n > self.cap:
            grown = <char*>realloc(self.out, MAX_VALUE)
            if grown == NULL:
                raise MemoryError()
            self.out = grown
            self.cap = MAX_VALUE
        memcpy(self.out + self.len, p, n)
        self.len += n
        return 0

    cdef int _value(self, const char *p, size_t n, bint encoded, bint plus, int escape, bint path) except -1:
        """A value from outside. `encoded`: it is percent-encoded; `path`: a slash in it may stay one."""
        cdef size_t i = 0
        cdef int high, low
        cdef uint8_t c
        cdef char three[3]
        cdef bint keep
        while i < n:
            c = <uint8_t>p[i]
            if encoded and c == c"%" and i + 2 < n:
                high = _digit(p[i + 1])
                low = _digit(p[i + 2])
                if high >= 0 and low >= 0:
                    c = high << 4 | low
                    i += 2
            elif plus and c == c"+":
                c = c" "
            i += 1
            if escape == ESCAPE_HEADER:
                keep = c >= 0x20 and c != 0x7f
            else:
                # RFC 3986 2.3: unreserved
                keep = (c"a" <= c <= c"z" or c"A" <= c <= c"Z" or c"0" <= c <= c"9" or c == c"-" or c == c"."
                        or c == c"_" or c == c"~" or (path and c == c"/"))
            if keep:
                three[0] = c
                self._raw(three, 1)
            else:
                three[0] = c"%"
                three[1] = HEX[c >> 4]
                three[2] = HEX[c & 15]
                self._raw(three, 3)
        return 0

    cdef int _object(self, object value, int escape) except -1:
        cdef bytes text
        if value is None:
            return 0
        if isinstance(value, (list, tuple)):
            value = ",".join([str(each) for each in value if isinstance(each, (str, int, float))])
        elif isinstance(value, bool):
            value = "true" if value else "false"
        elif not isinstance(value, (str, int, float)):
            return 0
        text = str(value).encode("utf-8", "replace")
        return self._value(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text), False, False, escape, False)

    cdef int _capture(self, Exchange ex, object name, int escape) except -1:
        cdef int i
        cdef tuple names = ex.route.param_names
        for i in range(ex.n_captures):
            if i < len(names) and names[i] == name:
                return self._value(ex.request.buf + ex.path + ex.captures[i].start, ex.captures[i].len, True,
                                   False, escape, name == "*")
        return 0

    cdef int _consumer(self, Consumer consumer, Part *part, int escape) except -1:
        if part.kind == V_PLAN:
            return self._object(consumer.plan, escape)
        if part.kind == V_SCOPES:
            # RFC 6749 3.3: scope = scope-token *( SP scope-token )
            return 0 if not consumer.scopes else self._object(" ".join(sorted(consumer.scopes)), escape)
        if part.kind == V_CREDENTIAL:
            return self._object(consumer.credential, escape)
        return self._object(consumer.metadata.get((<bytes>part.text[:part.n]).decode("latin-1")), escape)

    cdef int _part(self, Exchange ex, Part *part, int escape) except -1:
        cdef const char *p
        cdef size_t n
        cdef char id_text[32]
        cdef Header *h
        cdef int i, kind = part.kind
        if kind == V_TEXT:
            return self._raw(part.text, part.n)
        if kind == V_ID:
            if ex._id is not None:
                return self._object(ex._id, escape)
            for i in range(16):
                id_text[i] = HEX_LOWER[(ex.id_hi >> (60 - 4 * i)) & 15]
                id_text[16 + i] = HEX_LOWER[(ex.id_lo >> (60 - 4 * i)) & 15]
            return self._raw(id_text, 32)
        if kind == V_METHOD:
            return self._raw(ex.request.buf, ex.request.method_len)
        if kind == V_PATH:
            # it is a path already, as it was routed
            return self._raw(ex.request.buf + ex.path, ex.path_len)
        if kind == V_HOST:
            return self._raw(ex.request.buf + ex.authority, ex.authority_len)
        if kind == V_CLIENT:
            return self._value(ex.client_text, ex.client_len, False, False, escape, False)
        if kind == V_HEADER:
            h = ex.request.find(part.text, part.n)
            return 0 if h == NULL else self._value(ex.request.buf + h.value, h.value_len, False, False, escape, False)
        if kind == V_QUERY:
            if find_query(ex, part.text, part.n, &p, &n):
                return self._value(p, n, True, True, escape, False)
            return 0
        if kind == V_COOKIE:
            if find_cookie(ex, part.text, part.n, &p, &n):
                return self._value(p, n, False, False, escape, False)
            return 0
        if kind == V_ROUTE:
            return 0 if ex.route is None else self._value(
                PyBytes_AS_STRING(ex.route.name_bytes), PyBytes_GET_SIZE(ex.route.name_bytes), False, False, escape,
                False)
        if kind == V_PARAM:
            return 0 if ex.route is None else self._capture(ex, (<bytes>part.text[:part.n]).decode("latin-1"), escape)
        if kind == V_CONSUMER:
            return 0 if ex.consumer is None else self._value(
                PyBytes_AS_STRING(ex.consumer.name_bytes), PyBytes_GET_SIZE(ex.consumer.name_bytes), False, False,
                escape, False)
        if kind == V_GROUPS:
            return 0 if ex.consumer is None else self._object(ex.consumer.groups, escape)
        if V_PLAN <= kind <= V_METADATA:
            return 0 if ex.consumer is None else self._consumer(ex.consumer, part, escape)
        if kind == V_CLAIM:
            return self._object(claim_of(ex.claims, (<bytes>part.text[:part.n]).decode("latin-1")), escape)
        if kind == V_SERVICE:
            service = ex.service if ex.service is not None else (None if ex.route is None else ex.route.service)
            return 0 if service is None else self._object(service.name, escape)
        return 0

    def render(self, Exchange ex, bint url=False):
        """The filled template as bytes; for tools and tests."""
        self.write(ex, ESCAPE_URL if url else ESCAPE_HEADER)
        return <bytes>self.out[:self.len]
