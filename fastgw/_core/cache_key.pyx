"""What an answer is found by: the target URI, what the operator adds, and the request headers Vary names.

    host path?query NUL scheme zone [NUL extra] [NUL identity]        the name of an answer, or of its list of variants
    … NUL v … values                                                  the name of a variant

A purge by URL finds them all: they begin with `host path?query NUL`. Names hold no secrets: what identifies a caller,
and the values of headers, stand in them as SHA-256.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcmp, memcpy
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from fastgw._core.exchange cimport Exchange
from fastgw._core.headers cimport H_AUTHORIZATION, Head, Header, equals_lower
from fastgw._core.template cimport ESCAPE_HEADER, Compiled

from hashlib import sha256

cdef enum:
    MAX_VALUE = 8192         # bytes of the values of one header, normalised; what is more is told apart by its hash


cdef bint identified(Exchange ex) noexcept:
    """RFC 9111 3.5 speaks of Authorization; who was found out by other means, and is told to the service, is no other case."""
    return ex.consumer is not None or ex.claims is not None or ex.request.find_id(H_AUTHORIZATION) != NULL \
        or ex.client_cert is not None


cdef bytes varying(Head head):
    cdef int i
    cdef Header *h
    cdef set names = set()
    for i in range(head.count):
        h = &head.items[i]
        if h.drop or h.name_len != 4 or not equals_lower(head.buf + h.name, b"vary", 4):
            continue
        for name in head.value_of(h).lower().split(b","):
            name = name.strip(b" \t")
            if name == b"*":
                return None
            if name:
                names.add(name)
    if len(names) > MAX_VARY:
        return None
    return b",".join(sorted(names))


cdef bytes _codings(bytes value):
    """Accept-Encoding where nothing is preferred: the codings in order. With preferences it stays as it is."""
    cdef set found = set()
    for item in value.split(b","):
        coding, _, parameters = item.strip().partition(b";")
        coding = coding.strip()
        weight = parameters.replace(b" ", b"")
        if weight in (b"", b"q=1", b"q=1.0", b"q=1.00", b"q=1.000"):
            found.add(b"gzip" if coding == b"x-gzip" else coding)
        elif weight not in (b"q=0", b"q=0.0", b"q=0.00", b"q=0.000"):
            return value
        elif coding in (b"*", b"identity"):
            return value
    found.discard(b"")
    found.discard(b"identity")
    return b",".join(sorted(found))


cdef bytes normal(bytes name, bytes value):
    """RFC 9111 4.1: values that mean the same are the same. White space around commas never counts."""
    value = b",".join([item.strip(b" \t") for item in value.split(b",")])
    if name == b"accept-encoding":
        return _codings(value.lower())
    if name == b"accept-language" or name == b"accept":
        value = value.lower()
        if b";" not in value:
            # without weights no order either (RFC 9110 12.5.4: the order of ranges says nothing)
            value = b",".join(sorted(value.split(b",")))
    return value


cdef class Keys:
    """`Keys(zone, extra=parts of a template or None, query=True, ignored=(), personal=False)`"""

    def __cinit__(self):
        self.buf = <char*>malloc(MAX_NAME + 128)
        if self.buf == NULL:
            raise MemoryError()

    def __dealloc__(self):
        free(self.buf)

    def __init__(self, bytes zone, extra=None, bint query=True, ignored=(), bint personal=False):
        self.zone = zone
        self.extra = None if extra is None else Compiled(extra)
        self.query = query
        self.ignored = tuple(ignored)
        self.personal = personal

    cdef int _put(self, const char *p, size_t n) except -1:
        if self.n + n > MAX_NAME:
            return 0
        memcpy(self.buf + self.n, p, n)
        self.n += n
        return 1

    cdef int make(self, Exchange ex) except -1:
        cdef Head head = ex.request
        cdef uint32_t i
        cdef const char *host = head.buf + ex.authority
        if ex.authority_len + ex.path_len + ex.query_len + 2 > MAX_NAME // 2:
            return 0
        for i in range(ex.authority_len):
            # RFC 9110 4.2.3: a host is the same in any case
            self.buf[i] = host[i] | (0x20 if c"A" <= host[i] <= c"Z" else 0)
        self.n = ex.authority_len
        memcpy(self.buf + self.n, head.buf + ex.path, ex.path_len)
        self.n += ex.path_len
        if ex.has_query and self.query:
            if self.ignored:
                self._filtered_query(head.buf + ex.query, ex.query_len)
            else:
                self.buf[self.n] = c"?"
                memcpy(self.buf + self.n + 1, head.buf + ex.query, ex.query_len)
                self.n += 1 + ex.query_len
        self.plain = self.n
        return self._tail(ex, self.n)

    cdef int _tail(self, Exchange ex, uint32_t at) except -1:
        self.buf[at] = 0
        self.buf[at + 1] = c"s" if ex.secure else c"p"
        self.n = at + 2
        if not self._put(PyBytes_AS_STRING(self.zone), PyBytes_GET_SIZE(self.zone)):
            return 0
        if self.extra is not None:
            self.extra.write(ex, ESCAPE_HEADER)
            if not self._put(b"\0", 1) or not self._put(self.extra.out, self.extra.len):
                return 0
        if self.personal and identified(ex):
            return self.identity(ex, self.n)
        return 1

    cdef int for_target(self, Exchange ex, const char *target, size_t n) except -1:
        """Of the same host, another path with query."""
        cdef const char *mark
        if ex.authority_len + n + 2 > MAX_NAME // 2:
            return 0
        cdef uint32_t i
        for i in range(ex.authority_len):
            self.buf[i] = ex.request.buf[ex.authority + i] | (
                0x20 if c"A" <= ex.request.buf[ex.authority + i] <= c"Z" else 0)
        self.n = ex.authority_len
        mark = <const char*>memchr(target, c"?", n)
        memcpy(self.buf + self.n, target, n if mark == NULL else mark - target)
        self.n += n if mark == NULL else mark - target
        if mark != NULL and self.query:
            if self.ignored:
                self._filtered_query(mark + 1, target + n - mark - 1)
            else:
                self._put(mark, target + n - mark)
        self.plain = self.n
        return self._tail(ex, self.n)

    cdef bint _kept(self, const char *p, size_t n) except -1:
        cdef const char *mark = <const char*>memchr(p, c"=", n)
        cdef bytes name = PyBytes_FromStringAndSize(p, n if mark == NULL else mark - p)
        cdef bytes each
        for each in self.ignored:
            if name == each or (each.endswith(b"*") and name.startswith(each[:len(each) - 1])):
                return False
        return True

    cdef int _filtered_query(self, const char *p, size_t n) except -1:
        cdef const char *e = p + n
        cdef const char *stop
        cdef bint any = False
        while p <= e:
            stop = <const char*>memchr(p, c"&", e - p)
            if stop == NULL:
                stop = e
            if stop > p and self._kept(p, stop - p):
                self._put(b"&" if any else b"?", 1)
                self._put(p, stop - p)
                any = True
            p = stop + 1
        return 0

    cdef int identity(self, Exchange ex, uint32_t base) except -1:
        """Adds who asks to the name of `base` bytes."""
        cdef Header *h = ex.request.find_id(H_AUTHORIZATION)
        who = sha256(b"" if h == NULL else ex.request.value_of(h))
        if ex.consumer is not None:
            who.update(b"\nconsumer " + ex.consumer.name_bytes)
        if ex.claims is not None:
            who.update(b"\nclaims " + repr(sorted(ex.claims.items(), key=str)).encode())
        if ex.client_cert is not None:
            who.update(b"\ncertificate " + repr(ex.client_cert).encode())
        cdef bytes digest = who.hexdigest()[:32].encode()
        self.n = base
        if not self._put(b"\0i", 2):
            return 0
        return self._put(PyBytes_AS_STRING(digest), PyBytes_GET_SIZE(digest))

    cdef int vary(self, Head request, const char *names, size_t n, uint64_t nonce, uint32_t base) except -1:
        """Adds to the name of `base` bytes the hash of the values that this request has for the names of a list of
        variants. The list's nonce is in it: with the list its variants are out of reach."""
        cdef const char *e = names + n
        cdef const char *stop
        cdef bytes name, value
        cdef list parts = []
        cdef Header *h
        cdef int i
        self.n = base
        while names < e:
            stop = <const char*>memchr(names, c",", e - names)
            if stop == NULL:
                stop = e
            name = PyBytes_FromStringAndSize(names, stop - names)
            values = []
            for i in range(request.count):
                h = &request.items[i]
                # what was taken out for the service still tells variants apart
                if h.name_len == len(name) and equals_lower(request.buf + h.name, name, h.name_len):
                    values.append(request.value_of(h))
            # RFC 9111 4.1: without the header on both sides they match; an empty one is something else
            parts.append(normal(name, b",".join(values)) if values else b"\x01")
            names = stop + 1
        value = b"\0v%016x" % nonce + sha256(b"\n".join(parts)).hexdigest()[:32].encode()
        return self._put(PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))


def normalised(bytes name, bytes value):
    """A header's value as variants are told apart by. For tests."""
    return normal(name, value)
