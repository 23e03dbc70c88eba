"""A message head: start line and header lines as offsets into one owned buffer.

httptools is the authority on syntax (see parse.pyx); this scanner indexes what it accepted, without a
Python object per header, and is at least as strict, so that the two cannot disagree about a message.

Policies see a `Head` through `get`, `set`, `add`, `remove`; the engine works on offsets. A header that is
set or added is appended to the buffer; one that is removed keeps its bytes and is marked as dropped.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memchr, memcmp, memcpy
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeLatin1

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    #if defined(__SSE2__)
    #include <emmintrin.h>
    #endif
    /* RFC 9110 5.6.2: token = 1*tchar; 2 marks the underscore */
    static const uint8_t fgw_token[256] = {
     ['!']=1,['#']=1,['$']=1,['%']=1,['&']=1,['\\'']=1,['*']=1,['+']=1,['-']=1,['.']=1,['^']=1,['_']=3,
     ['`']=1,['|']=1,['~']=1,['0' ... '9']=1,['a' ... 'z']=1,['A' ... 'Z']=1 };
    /* RFC 3986 3.2.2, less the sub-delims and the percent sign: what a Host may be made of */
    static const uint8_t fgw_host[256] = {
     ['-']=1,['.']=1,['_']=1,['~']=1,[':']=1,['[']=1,[']']=1,
     ['0' ... '9']=1,['a' ... 'z']=1,['A' ... 'Z']=1 };
    /* Eight letters at a time to lower case, exactly: only A to Z change. */
    static inline uint64_t fgw_lower8(const char *p) {
      uint64_t x; memcpy(&x, p, 8);
      const uint64_t ones = 0x0101010101010101ull;
      uint64_t low = x & (0x7f * ones);
      uint64_t above_z = low + (0x7f - 'Z') * ones, from_a = low + (0x80 - 'A') * ones;
      return x | ((~x & (from_a ^ above_z) & (0x80 * ones)) >> 2);
    }
    static inline int fgw_equals_lower(const char *p, const char *lower, size_t n) {
      uint64_t y;
      if (n >= 8) {
        size_t i = 0;
        for (; i + 8 <= n; i += 8) { memcpy(&y, lower + i, 8); if (fgw_lower8(p + i) != y) return 0; }
        if (i < n) { memcpy(&y, lower + n - 8, 8); if (fgw_lower8(p + n - 8) != y) return 0; }
        return 1;
      }
      for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)p[i];
        if ((unsigned)(c - 'A') < 26u) c |= 0x20;
        if (c != (unsigned char)lower[i]) return 0;
      }
      return 1;
    }
    /* The first byte that is a control (below 0x20 but not TAB) or DEL: 16 bytes at a time. */
    static inline const char *fgw_find_ctl(const char *p, const char *e) {
    #if defined(__SSE2__)
      const __m128i limit = _mm_set1_epi8(0x1f), tab = _mm_set1_epi8('\\t'), del = _mm_set1_epi8(0x7f);
      while (e - p >= 16) {
        __m128i x = _mm_loadu_si128((const __m128i *)p);
        __m128i c = _mm_cmpeq_epi8(_mm_min_epu8(x, limit), x);
        c = _mm_andnot_si128(_mm_cmpeq_epi8(x, tab), c);
        c = _mm_or_si128(c, _mm_cmpeq_epi8(x, del));
        int m = _mm_movemask_epi8(c);
        if (m) return p + __builtin_ctz(m);
        p += 16;
      }
    #endif
      for (; p < e; p++) {
        unsigned char c = (unsigned char)*p;
        if ((c < 0x20 && c != '\\t') || c == 0x7f) return p;
      }
      return e;
    }
    """
    bint fgw_equals_lower(const char *p, const char *lower, size_t n) noexcept nogil
    const uint8_t *fgw_token
    const uint8_t *fgw_host
    const char *fgw_find_ctl(const char *p, const char *e) noexcept nogil


# The methods httptools knows; the index is `Head.method`. The first nine are HTTP's own.
METHODS = (
    "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT",
    "PROPFIND", "PROPPATCH", "MKCOL", "COPY", "MOVE", "LOCK", "UNLOCK", "SEARCH", "BIND", "REBIND", "UNBIND",
    "ACL", "REPORT", "MKACTIVITY", "CHECKOUT", "MERGE", "M-SEARCH", "NOTIFY", "SUBSCRIBE", "UNSUBSCRIBE",
    "PURGE", "MKCALENDAR", "LINK", "UNLINK", "SOURCE", "QUERY",
)
cdef dict _method_ids = {name.encode(): index for index, name in enumerate(METHODS)}


cdef int method_id(const char *p, size_t n) noexcept nogil:
    if n == 3:
        if p[0] == c"G" and p[1] == c"E" and p[2] == c"T":
            return 0
        if p[0] == c"P" and p[1] == c"U" and p[2] == c"T":
            return 3
    elif n == 4:
        if memcmp(p, b"HEAD", 4) == 0:
            return 1
        if memcmp(p, b"POST", 4) == 0:
            return 2
    with gil:
        found = _method_ids.get(PyBytes_FromStringAndSize(p, n))
        return -1 if found is None else found


cdef bint equals_lower(const char *p, const char *lower, size_t n) noexcept nogil:
    return fgw_equals_lower(p, lower, n)


cdef bint valid_name(const char *p, size_t n) noexcept nogil:
    cdef size_t i
    for i in range(n):
        if not fgw_token[<unsigned char>p[i]]:
            return False
    return n > 0


cdef bint valid_value(const char *p, size_t n) noexcept nogil:
    return fgw_find_ctl(p, p + n) == p + n


cdef int header_id(const char *name, size_t n) noexcept nogil:
    """The HeaderId of a name in any case."""
    cdef unsigned char c = <unsigned char>name[0] | 0x20
    if n == 2:
        if fgw_equals_lower(name, b"te", 2): return H_TE
    elif n == 3:
        if c == c"v" and fgw_equals_lower(name, b"via", 3): return H_VIA
    elif n == 4:
        if c == c"h" and fgw_equals_lower(name, b"host", 4): return H_HOST
        if c == c"d" and fgw_equals_lower(name, b"date", 4): return H_DATE
    elif n == 6:
        if c == c"c" and fgw_equals_lower(name, b"cookie", 6): return H_COOKIE
        if c == c"o" and fgw_equals_lower(name, b"origin", 6): return H_ORIGIN
        if c == c"a" and fgw_equals_lower(name, b"accept", 6): return H_ACCEPT
        if c == c"s" and fgw_equals_lower(name, b"server", 6): return H_SERVER
        if c == c"e" and fgw_equals_lower(name, b"expect", 6): return H_EXPECT
    elif n == 7:
        if c == c"u" and fgw_equals_lower(name, b"upgrade", 7): return H_UPGRADE
        if c == c"t" and fgw_equals_lower(name, b"trailer", 7): return H_TRAILER
    elif n == 9:
        if c == c"f" and fgw_equals_lower(name, b"forwarded", 9): return H_FORWARDED
    elif n == 10:
        if c == c"u" and fgw_equals_lower(name, b"user-agent", 10): return H_USER_AGENT
        if c == c"c" and fgw_equals_lower(name, b"connection", 10): return H_CONNECTION
        if c == c"k" and fgw_equals_lower(name, b"keep-alive", 10): return H_KEEP_ALIVE
    elif n == 11:
        if c == c"t" and fgw_equals_lower(name, b"traceparent", 11): return H_TRACEPARENT
    elif n == 12:
        if c == c"x" and fgw_equals_lower(name, b"x-request-id", 12): return H_X_REQUEST_ID
    elif n == 13:
        if c == c"a" and fgw_equals_lower(name, b"authorization", 13): return H_AUTHORIZATION
    elif n == 14:
        if c == c"c" and fgw_equals_lower(name, b"content-length", 14): return H_CONTENT_LENGTH
        if c == c"h" and fgw_equals_lower(name, b"http2-settings", 14): return H_HTTP2_SETTINGS
    elif n == 15:
        if c == c"x" and fgw_equals_lower(name, b"x-forwarded-for", 15): return H_X_FORWARDED_FOR
    elif n == 16:
        if c == c"p" and fgw_equals_lower(name, b"proxy-connection", 16): return H_PROXY_CONNECTION
        if c == c"x" and fgw_equals_lower(name, b"x-forwarded-host", 16): return H_X_FORWARDED_HOST
    elif n == 17:
        if c == c"t" and fgw_equals_lower(name, b"transfer-encoding", 17): return H_TRANSFER_ENCODING
        if c == c"x" and fgw_equals_lower(name, b"x-forwarded-proto", 17): return H_X_FORWARDED_PROTO
    elif n == 18:
        if c == c"p" and fgw_equals_lower(name, b"proxy-authenticate", 18): return H_PROXY_AUTHENTICATE
    return H_OTHER


cdef bint valid_host(const char *p, size_t n) noexcept nogil:
    """RFC 9110 7.2: uri-host [ ":" port ]. User information and sub-delims are refused."""
    cdef size_t i, colon = n
    cdef bint in_brackets = False
    if n == 0 or n > 255 + 6:
        return False
    for i in range(n):
        if not fgw_host[<unsigned char>p[i]]:
            return False
        if p[i] == c"[":
            if i != 0:
                return False
            in_brackets = True
        elif p[i] == c"]":
            if not in_brackets:
                return False
            in_brackets = False
        elif p[i] == c":" and not in_brackets:
            if colon != n or i == 0:
                return False
            colon = i
        elif colon != n and not (c"0" <= p[i] <= c"9"):
            return False
    return not in_brackets and not (colon != n and n - colon > 6)


# Header names that policies use, in lower case; bounded because a name may be made at run time.
cdef dict _names = {}


cdef bytes _lower_name(name):
    found = _names.get(name)
    if found is None:
        found = (name.encode("latin-1") if isinstance(name, str) else bytes(name)).lower()
        if not valid_name(PyBytes_AS_STRING(found), PyBytes_GET_SIZE(found)):
            raise ValueError(f"not a header name: {name!r}")
        if len(_names) < 2048:
            _names[name] = found
    return <bytes>found


cdef bytes _value_bytes(value):
    cdef bytes raw = value.encode("latin-1") if isinstance(value, str) else bytes(value)
    if not valid_value(PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw)):
        raise ValueError("a header value may not contain control characters")
    return raw


cdef class Head:
    """The head of one request or response.

    `get(name)` and friends take names in any case and give text (latin-1, as HTTP's bytes are).
    """

    def __cinit__(self):
        self.cap = 1024
        self.buf = <char*>malloc(self.cap)
        self.cap_items = 32
        self.items = <Header*>malloc(self.cap_items * sizeof(Header))
        if self.buf == NULL or self.items == NULL:
            raise MemoryError()
        self.clear()

    def __dealloc__(self):
        free(self.buf)
        free(self.items)

    cdef void clear(self) noexcept:
        """Ready for the next message. A buffer that grew far is given back."""
        cdef char *smaller
        if self.cap > 16384:
            smaller = <char*>realloc(self.buf, 4096)
            if smaller != NULL:
                self.buf = smaller
                self.cap = 4096
        self.len = 0
        self.count = 0
        self.dropped = 0
        self.status = 0
        self.method = -1
        self.content_length = 0
        self.chunked = self.has_length = self.keep_alive = self.upgrade = self.expect_continue = False
        self.named_by_connection = False
        self.target = self.target_len = self.method_len = self.reason = self.reason_len = 0
        self.line_end = self.head_len = 0

    cdef int reserve(self, uint32_t more) except -1:
        cdef uint32_t cap = self.cap
        cdef char *p
        if self.len + more <= cap:
            return 0
        while cap < self.len + more:
            cap *= 2
        p = <char*>realloc(self.buf, cap)
        if p == NULL:
            raise MemoryError()
        self.buf = p
        self.cap = cap
        return 0

    cdef int take(self, const char *p, size_t n) except -1:
        self.len = 0
        self.reserve(n)
        memcpy(self.buf, p, n)
        self.len = n
        return 0

    # ------------------------------------------------------------------ scanning

    cdef int scan_request(self, const char *p, size_t n, int max_count) noexcept:
        """The length of the head at p, 0 when it is not complete, or a ScanError. Copies nothing."""
        return self._scan_request(p, n, max_count, True)

    cdef int scan_fetch(self, const char *p, size_t n) noexcept:
        """The same for a request of our own making, which gets its Host from the endpoint."""
        return self._scan_request(p, n, 10, False)

    cdef int scan_trailers(self, const char *p, size_t n, int max_count) except -1:
        """Takes lines of fields without an empty line at their end; 1, or 0 when they are no fields of trailers."""
        cdef int i
        cdef Header *h
        self.clear()
        self.len = 0
        self.reserve(n + 2)
        memcpy(self.buf, p, n)
        memcpy(self.buf + n, b"\r\n", 2)
        self.len = n + 2
        if self._scan_lines(0, n + 2, max_count) <= 0:
            self.clear()
            return 0
        for i in range(self.count):
            # RFC 9110 6.5.1: what a recipient must know before the body, or acts on, has no place after it
            h = &self.items[i]
            if h.id != H_OTHER and not h.drop:
                h.drop = 1
                self.dropped += 1
        return 1

    cdef int _scan_request(self, const char *p, size_t n, int max_count, bint need_host) noexcept:
        cdef const char *e = p + n
        cdef const char *q = p
        cdef const char *line
        cdef const char *t
        self.clear()
        while q < e and fgw_token[<unsigned char>q[0]]:
            q += 1
        if q - p > 32:
            return SCAN_METHOD
        if q == e:
            return 0
        # RFC 9112 3: method SP request-target SP HTTP-version, single spaces
        if q == p or q[0] != c" ":
            return SCAN_BAD
        self.method_len = q - p
        q += 1
        self.target = q - p
        line = fgw_find_ctl(q, e)
        if line == e:
            return 0
        if line + 1 == e and line[0] == c"\r":
            return 0
        if line[0] != c"\r" or line[1] != c"\n":
            return SCAN_BAD
        if line - q < 10 or memcmp(line - 9, b" HTTP/", 6) != 0:
            return SCAN_VERSION if line - q > 5 and memchr(q, c" ", line - q) == NULL else SCAN_BAD
        if (line - 3)[0] != c"1" or (line - 2)[0] != c"." or not (c"0" <= (line - 1)[0] <= c"1"):
            return SCAN_VERSION
        self.minor = (line - 1)[0] - c"0"
        self.target_len = (line - 9) - q
        if self.target_len == 0:
            return SCAN_BAD
        t = q
        while t < line - 9:
            if <unsigned char>t[0] <= 0x20:
                return SCAN_BAD
            t += 1
        self.method = method_id(p, self.method_len)
        if self.method < 0:
            return SCAN_METHOD
        self.line_end = (line + 2) - p
        self.keep_alive = self.minor == 1
        # while scanning, buf is borrowed from the caller
        cdef char *mine = self.buf
        self.buf = <char*>p
        cdef int r = self._scan_lines(self.line_end, n, max_count)
        cdef Header *host
        if r > 0:
            if self.chunked and self.minor == 0:
                r = SCAN_FRAMING         # RFC 9112 6.1: chunked in HTTP/1.0 is faulty framing
            else:
                host = self.find_id(H_HOST)
                # RFC 9112 3.2: 400 for a 1.1 request without Host and for any with two or an invalid one
                if host == NULL:
                    if self.minor == 1 and need_host:
                        r = SCAN_HOST
                elif not valid_host(p + host.value, host.value_len):
                    r = SCAN_HOST
        self.buf = mine
        return r

    cdef int scan_response(self, const char *p, size_t n, int max_count) noexcept:
        cdef const char *e = p + n
        cdef const char *q
        cdef const char *line
        self.clear()
        if n < 13:
            return 0 if memcmp(p, b"HTTP/1.", n if n < 7 else 7) == 0 else SCAN_BAD
        # RFC 9112 4: HTTP-version SP status-code SP [reason]
        if memcmp(p, b"HTTP/1.", 7) != 0 or p[8] != c" " or (p[7] != c"0" and p[7] != c"1"):
            return SCAN_BAD
        q = p + 9
        if not (c"1" <= q[0] <= c"9" and c"0" <= q[1] <= c"9" and c"0" <= q[2] <= c"9"):
            return SCAN_BAD
        self.minor = p[7] - c"0"
        self.status = (q[0] - c"0") * 100 + (q[1] - c"0") * 10 + (q[2] - c"0")
        q += 3
        line = fgw_find_ctl(q, e)
        if line == e or (line + 1 == e and line[0] == c"\r"):
            return 0
        if line[0] != c"\r" or line[1] != c"\n":
            return SCAN_BAD
        if q != line:
            if q[0] != c" ":
                return SCAN_BAD
            q += 1
        self.reason = q - p
        self.reason_len = line - q
        self.line_end = (line + 2) - p
        self.keep_alive = self.minor == 1
        cdef char *mine = self.buf
        self.buf = <char*>p
        cdef int r = self._scan_lines(self.line_end, n, max_count)
        self.buf = mine
        if r > 0 and self.chunked and self.minor == 0:
            return SCAN_FRAMING
        return r

    cdef int _scan_lines(self, uint32_t at, uint32_t n, int max_count) noexcept:
        cdef const char *b = self.buf
        cdef const char *e = b + n
        cdef const char *p = b + at
        cdef const char *name
        cdef const char *value
        cdef const char *end
        cdef Header *h
        cdef Header *grown
        cdef int i, id, connections = 0
        cdef uint8_t marks, mark
        cdef int64_t length
        cdef uint32_t k
        while True:
            if p >= e:
                return 0
            if p[0] == c"\r":
                if p + 1 >= e:
                    return 0
                if p[1] != c"\n":
                    return SCAN_BAD
                p += 2
                break
            if self.count >= max_count:
                return SCAN_TOO_MANY
            if self.count == self.cap_items:
                grown = <Header*>realloc(self.items, self.cap_items * 2 * sizeof(Header))
                if grown == NULL:
                    return SCAN_TOO_MANY
                self.items = grown
                self.cap_items *= 2
            # RFC 9112 5.1: no white space between name and colon; 5.2: no obs-fold
            name = p
            marks = 0
            while p < e:
                mark = fgw_token[<unsigned char>p[0]]
                if not mark:
                    break
                marks |= mark
                p += 1
            if p >= e:
                return 0
            if p[0] != c":" or p == name or p - name > 256:
                return SCAN_BAD
            h = &self.items[self.count]
            h.name = name - b
            h.name_len = p - name
            p += 1
            while p < e and (p[0] == c" " or p[0] == c"\t"):
                p += 1
            value = p
            p = fgw_find_ctl(p, e)
            if p + 1 >= e:
                return 0 if p == e or p[0] == c"\r" else SCAN_BAD
            if p[0] != c"\r" or p[1] != c"\n":
                return SCAN_BAD
            end = p
            while end > value and ((end - 1)[0] == c" " or (end - 1)[0] == c"\t"):
                end -= 1
            p += 2
            h.value = value - b
            h.value_len = end - value
            h.end = p - b
            h.drop = 0
            id = header_id(name, h.name_len)
            h.id = id
            self.count += 1
            if id == H_OTHER:
                if marks & 2 and self.status == 0:
                    # many servers read X_User and X-User as one name: a client could pass for the gateway
                    h.drop = 1
                    self.dropped += 1
                continue
            if id == H_CONTENT_LENGTH:
                # RFC 9112 6.3: anything but one plain number is refused; the value is re-created
                if self.has_length or h.value_len == 0 or h.value_len > 18:
                    return SCAN_FRAMING
                length = 0
                for k in range(h.value_len):
                    if not (c"0" <= value[k] <= c"9"):
                        return SCAN_FRAMING
                    length = length * 10 + (value[k] - c"0")
                self.content_length = length
                self.has_length = True
                h.drop = 1
            elif id == H_TRANSFER_ENCODING:
                if self.chunked:
                    return SCAN_FRAMING
                if h.value_len != 7 or not fgw_equals_lower(value, b"chunked", 7):
                    return SCAN_TE
                self.chunked = True
                h.drop = 1
            elif id == H_CONNECTION:
                connections += 1
                h.drop = 1
            elif id == H_HOST:
                for i in range(self.count - 1):
                    if self.items[i].id == H_HOST:
                        return SCAN_HOST
            elif id == H_EXPECT:
                self.expect_continue = h.value_len == 12 and fgw_equals_lower(value, b"100-continue", 12)
            elif (id == H_TE or id == H_TRAILER or id == H_UPGRADE or id == H_KEEP_ALIVE
                    or id == H_PROXY_CONNECTION or id == H_HTTP2_SETTINGS):
                h.drop = 1                # RFC 9110 7.6.1: hop by hop
            if h.drop:
                self.dropped += 1
        self.head_len = p - b
        # RFC 9112 6.1: a message with both is an attempt at smuggling
        if self.chunked and self.has_length:
            return SCAN_FRAMING
        if connections:
            for i in range(self.count):
                if self.items[i].id == H_CONNECTION:
                    self._connection_tokens(&self.items[i])
        return self.head_len

    cdef void _connection_tokens(self, Header *h) noexcept:
        """RFC 9110 7.6.1: what Connection names goes no further than this hop."""
        cdef const char *v = self.buf + h.value
        cdef uint32_t i = 0, start, end, n = h.value_len
        cdef int k
        cdef uint32_t j
        cdef Header *other
        cdef unsigned char x, y
        cdef bint same
        while i < n:
            while i < n and (v[i] == c" " or v[i] == c"," or v[i] == c"\t"):
                i += 1
            start = i
            while i < n and v[i] != c",":
                i += 1
            end = i
            while end > start and (v[end - 1] == c" " or v[end - 1] == c"\t"):
                end -= 1
            if end == start:
                continue
            if end - start == 5 and fgw_equals_lower(v + start, b"close", 5):
                self.keep_alive = False
                self.minor |= 0x100          # close wins over keep-alive, whatever their order
                continue
            if end - start == 10 and fgw_equals_lower(v + start, b"keep-alive", 10):
                if not self.minor & 0x100:
                    self.keep_alive = True
                continue
            if end - start == 7 and fgw_equals_lower(v + start, b"upgrade", 7):
                self.upgrade = True
                continue
            for k in range(self.count):
                other = &self.items[k]
                # Host and the framing stay ours: naming them must not change what the message is
                if other.name_len != end - start or other.drop or other.id == H_HOST:
                    continue
                same = True
                for j in range(end - start):
                    x = <unsigned char>self.buf[other.name + j]
                    y = <unsigned char>v[start + j]
                    if c"A" <= x <= c"Z": x |= 0x20
                    if c"A" <= y <= c"Z": y |= 0x20
                    if x != y:
                        same = False
                        break
                if same:
                    other.drop = 1
                    self.dropped += 1
                    self.named_by_connection = True
        self.minor &= 0xff

    # ------------------------------------------------------------------ finding and editing

    cdef Header* find_id(self, int id) noexcept:
        cdef int i
        for i in range(self.count):
            if self.items[i].id == id and not self.items[i].drop:
                return &self.items[i]
        return NULL

    cdef Header* find(self, const char *lower, size_t n) noexcept:
        cdef int i
        cdef Header *h
        for i in range(self.count):
            h = &self.items[i]
            if h.name_len == n and not h.drop and (self.buf[h.name] | 0x20) == (lower[0] | 0x20) \
                    and fgw_equals_lower(self.buf + h.name, lower, n):
                return h
        return NULL

    cdef int count_of(self, const char *lower, size_t n) noexcept:
        cdef int i, found = 0
        cdef Header *h
        for i in range(self.count):
            h = &self.items[i]
            if h.name_len == n and not h.drop and fgw_equals_lower(self.buf + h.name, lower, n):
                found += 1
        return found

    cdef int remove_name(self, const char *lower, size_t n) noexcept:
        cdef int i, removed = 0
        cdef Header *h
        for i in range(self.count):
            h = &self.items[i]
            if h.name_len == n and not h.drop and (self.buf[h.name] | 0x20) == (lower[0] | 0x20) \
                    and fgw_equals_lower(self.buf + h.name, lower, n):
                h.drop = 1
                self.dropped += 1
                removed += 1
        return removed

    cdef uint32_t store(self, const char *p, size_t n) except? 0xffffffff:
        """Keeps n bytes in the buffer and gives their offset; they are no header line."""
        cdef uint32_t at = self.len
        self.reserve(n)
        memcpy(self.buf + at, p, n)
        self.len += n
        return at

    cdef int _new_item(self) except -1:
        cdef Header *grown
        if self.count == self.cap_items:
            grown = <Header*>realloc(self.items, self.cap_items * 2 * sizeof(Header))
            if grown == NULL:
                raise MemoryError()
            self.items = grown
            self.cap_items *= 2
        self.count += 1
        return self.count - 1

    cdef int append(self, const char *name, size_t nl, const char *value, size_t vl) except -1:
        """Adds one line; name and value are already known to be valid."""
        self.reserve(nl + vl + 4)
        cdef Header *h = &self.items[self._new_item()]
        cdef char *p = self.buf + self.len
        h.name = self.len
        h.name_len = nl
        memcpy(p, name, nl)
        p[nl] = c":"
        p[nl + 1] = c" "
        h.value = self.len + nl + 2
        h.value_len = vl
        memcpy(p + nl + 2, value, vl)
        p[nl + 2 + vl] = c"\r"
        p[nl + 3 + vl] = c"\n"
        self.len += nl + vl + 4
        h.end = self.len
        h.id = header_id(name, nl)
        h.drop = 0
        return 0

    cdef int append_lines(self, const char *block, size_t n, int lines) except -1:
        """Adds a block of ready lines ("Name: value\\r\\n"…) that were checked when it was made."""
        cdef const char *p = block
        cdef const char *e = block + n
        cdef const char *colon
        cdef const char *eol
        while p < e:
            colon = <const char*>memchr(p, c":", e - p)
            eol = <const char*>memchr(colon, c"\r", e - colon)
            self.append(p, colon - p, colon + 2, eol - colon - 2)
            p = eol + 2
        return 0

    cdef size_t lines_size(self) noexcept:
        return self.len + 2

    cdef char* copy_lines(self, char *out) noexcept:
        """Copies all kept lines, contiguous ones together."""
        cdef int i
        cdef Header *h
        cdef uint32_t start = 0, end = 0
        for i in range(self.count):
            h = &self.items[i]
            if h.drop:
                continue
            if h.name != end:
                if end > start:
                    memcpy(out, self.buf + start, end - start)
                    out += end - start
                start = h.name
            end = h.end
        if end > start:
            memcpy(out, self.buf + start, end - start)
            out += end - start
        return out

    cdef bytes value_of(self, Header *h):
        return PyBytes_FromStringAndSize(self.buf + h.value, h.value_len)

    # ------------------------------------------------------------------ what policies see

    def get(self, name, default=None):
        """The value of the first header of that name, as text, else `default`."""
        cdef bytes lower = _lower_name(name)
        cdef Header *h = self.find(PyBytes_AS_STRING(lower), PyBytes_GET_SIZE(lower))
        if h == NULL:
            return default
        return PyUnicode_DecodeLatin1(self.buf + h.value, h.value_len, NULL)

    def get_bytes(self, name):
        """The same as bytes, or None."""
        cdef bytes lower = _lower_name(name)
        cdef Header *h = self.find(PyBytes_AS_STRING(lower), PyBytes_GET_SIZE(lower))
        return None if h == NULL else self.value_of(h)

    def get_all(self, name):
        """Every value of that name, in order."""
        cdef bytes lower = _lower_name(name)
        cdef int i
        cdef Header *h
        cdef list found = []
        for i in range(self.count):
            h = &self.items[i]
            if h.name_len == len(lower) and not h.drop and fgw_equals_lower(self.buf + h.name, lower, h.name_len):
                found.append(PyUnicode_DecodeLatin1(self.buf + h.value, h.value_len, NULL))
        return found

    def set(self, name, value):
        """Removes every header of that name and adds this one."""
        cdef bytes lower = _lower_name(name)
        self.remove_name(PyBytes_AS_STRING(lower), PyBytes_GET_SIZE(lower))
        self.add(name, value)

    def add(self, name, value):
        cdef bytes lower = _lower_name(name)
        cdef bytes written = name.encode("latin-1") if isinstance(name, str) else bytes(name)
        cdef bytes raw = _value_bytes(value)
        if header_id(lower, len(lower)) in (H_CONTENT_LENGTH, H_TRANSFER_ENCODING, H_CONNECTION, H_KEEP_ALIVE,
                                            H_UPGRADE, H_TE, H_TRAILER, H_PROXY_CONNECTION):
            raise ValueError(f"{name} is made by the gateway and cannot be set")
        self.append(written, len(written), raw, len(raw))

    def remove(self, name):
        """Removes every header of that name; how many there were."""
        cdef bytes lower = _lower_name(name)
        return self.remove_name(PyBytes_AS_STRING(lower), PyBytes_GET_SIZE(lower))

    def __contains__(self, name):
        cdef bytes lower = _lower_name(name)
        return self.find(PyBytes_AS_STRING(lower), PyBytes_GET_SIZE(lower)) != NULL

    def pairs(self):
        """All headers as (name, value) text pairs, in order, names as received."""
        cdef int i
        cdef Header *h
        cdef list found = []
        for i in range(self.count):
            h = &self.items[i]
            if not h.drop:
                found.append((PyUnicode_DecodeLatin1(self.buf + h.name, h.name_len, NULL),
                              PyUnicode_DecodeLatin1(self.buf + h.value, h.value_len, NULL)))
        return found

    def __repr__(self):
        return f"<Head {self.count - <int>self.dropped} headers>"

    @classmethod
    def request(cls, raw):
        """A Head from the raw bytes of a request head; for tools and tests. ValueError when it is not one."""
        cdef bytes data = bytes(raw)
        cdef Head head = Head()
        cdef int n = head.scan_request(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), 1000)
        if n <= 0:
            raise ValueError(f"not a complete request head (scan said {n})")
        head.take(PyBytes_AS_STRING(data), n)
        return head

    @classmethod
    def response(cls, raw):
        """A Head from the raw bytes of a response head; for tools and tests."""
        cdef bytes data = bytes(raw)
        cdef Head head = Head()
        cdef int n = head.scan_response(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), 1000)
        if n <= 0:
            raise ValueError(f"not a complete response head (scan said {n})")
        head.take(PyBytes_AS_STRING(data), n)
        return head
