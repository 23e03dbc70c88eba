"""Who the client is, behind trusted proxies, and what the upstream is told about it.

X-Forwarded-* and Forwarded from a peer that is not in `trusted_proxies` are dropped before any policy sees them.
From a trusted peer the chain is walked from the right: the first address that is not trusted is the client.
W3C traceparent is validated, continued or begun here too: both are what travels besides the message.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastgw._core.exchange cimport Exchange
from fastgw._core.headers cimport (
    H_FORWARDED, H_TRACEPARENT, H_X_FORWARDED_FOR, H_X_FORWARDED_HOST, H_X_FORWARDED_PROTO, Head, Header,
    equals_lower,
)
from fastgw._core.settings cimport Settings

import os

cdef extern from *:
    """
    #include <arpa/inet.h>
    #include <string.h>
    /* text → 16 bytes, IPv4 mapped; 1 when it is an address */
    static inline int fgw_pton(const char *p, unsigned char *out) {
      struct in_addr a4;
      if (inet_pton(AF_INET, p, &a4) == 1) {
        memset(out, 0, 10); out[10] = out[11] = 0xff; memcpy(out + 12, &a4, 4); return 1; }
      return inet_pton(AF_INET6, p, out) == 1;
    }
    """
    int fgw_pton(const char *p, unsigned char *out)


cdef enum:
    RETOLD = 2        # Header.drop: its value goes on in a line of ours, and again with each further attempt

# A small fast generator for ids: unique, not secret. Seeded per process; see Engine and reseed().
cdef uint64_t _s0, _s1


def reseed():
    """Called in each worker after the fork: two workers must never make the same ids."""
    global _s0, _s1
    seed = os.urandom(16)
    _s0 = int.from_bytes(seed[:8], "little") | 1
    _s1 = int.from_bytes(seed[8:], "little")


reseed()


cdef uint64_t random64() noexcept:
    """xoroshiro128+ (Blackman and Vigna)."""
    global _s0, _s1
    cdef uint64_t a = _s0, b = _s1, r = _s0 + _s1
    b ^= a
    _s0 = ((a << 24) | (a >> 40)) ^ b ^ (b << 16)
    _s1 = (b << 37) | (b >> 27)
    return r


cdef void make_id(Exchange ex) noexcept:
    ex.id_hi = random64()
    ex.id_lo = random64()


cdef int parse_address(const char *p, size_t n, unsigned char *out) noexcept:
    """An address as X-Forwarded-For and Forwarded write it: with or without brackets, quotes and a port."""
    cdef char text[64]
    cdef size_t i, colons = 0, end
    while n and (p[0] == c" " or p[0] == c"\t" or p[0] == c'"'):
        p += 1
        n -= 1
    while n and (p[n - 1] == c" " or p[n - 1] == c"\t" or p[n - 1] == c'"'):
        n -= 1
    if n == 0 or n > 60:
        return 0
    if p[0] == c"[":
        end = 1
        while end < n and p[end] != c"]":
            end += 1
        if end == n:
            return 0
        p += 1
        n = end - 1
    else:
        for i in range(n):
            if p[i] == c":":
                colons += 1
                end = i
        if colons == 1:
            n = end
    memcpy(text, p, n)
    text[n] = 0
    return fgw_pton(text, out)


cdef int _text_of(Exchange ex, const char *p, size_t n) noexcept:
    """Notes the client's address as text, without the decorations parse_address allows."""
    cdef size_t i, k = 0
    cdef unsigned char ch
    cdef bint bracket = False
    for i in range(n):
        ch = <unsigned char>p[i]
        if ch == c"[":
            bracket = True
        elif ch == c"]":
            break
        elif (c"0" <= ch <= c"9") or (c"a" <= (ch | 0x20) <= c"f") or ch == c"." or ch == c":":
            if k < 45:
                ex.client_text[k] = ch
                k += 1
    # an IPv4 address with a port has exactly one colon
    cdef int colons = 0
    cdef size_t last = 0
    for i in range(k):
        if ex.client_text[i] == c":":
            colons += 1
            last = i
    if colons == 1 and not bracket:
        k = last
    ex.client_len = k
    return 0


cdef int _walk(Exchange ex, Settings settings, Header *h, bint *done) except -1:
    """One X-Forwarded-For line, from its right end."""
    cdef const char *v = ex.request.buf + h.value
    cdef int64_t end = h.value_len, start
    cdef uint8_t address[16]
    while end > 0 and not done[0]:
        start = end
        while start > 0 and v[start - 1] != c",":
            start -= 1
        if not parse_address(v + start, end - start, address):
            done[0] = True                # what stands further left cannot be believed
            return 0
        memcpy(ex.client_addr, address, 16)
        _text_of(ex, v + start, end - start)
        if not settings.is_trusted(address):
            done[0] = True
            return 0
        end = start - 1
    return 0


cdef int _walk_forwarded(Exchange ex, Settings settings, Header *h, bint *done) except -1:
    """RFC 7239 4: the same for the `for=` parameters of a Forwarded line."""
    cdef const char *v = ex.request.buf + h.value
    cdef int64_t end = h.value_len, start, at, stop
    cdef uint8_t address[16]
    while end > 0 and not done[0]:
        start = end
        while start > 0 and v[start - 1] != c",":
            start -= 1
        at = start
        while at + 4 <= end and not equals_lower(v + at, b"for=", 4):
            at += 1
        if at + 4 > end:
            done[0] = True
            return 0
        at += 4
        stop = at
        while stop < end and v[stop] != c";":
            stop += 1
        if not parse_address(v + at, stop - at, address):
            done[0] = True
            return 0
        memcpy(ex.client_addr, address, 16)
        _text_of(ex, v + at, stop - at)
        if not settings.is_trusted(address):
            done[0] = True
            return 0
        end = start - 1
    return 0


cdef int _drop_certificates(Head head) noexcept:
    """What a client says of its certificate itself is not passed on, on whatever listener it comes."""
    cdef int i
    cdef Header *h
    for i in range(head.count):
        h = &head.items[i]
        if h.name_len > 14 and not h.drop and equals_lower(head.buf + h.name, b"x-client-cert-", 14):
            h.drop = 1
            head.dropped += 1
    return 0


cdef int find_client(Exchange ex, Settings settings) except -1:
    """ex.client_* holds the peer; afterwards the client. Untrusted forwarding headers are dropped."""
    cdef Head head = ex.request
    cdef int i
    cdef Header *h
    cdef bint seen = False, done = False, has_xff = False
    if settings.client_certs:
        _drop_certificates(head)
    for i in range(head.count):
        if H_FORWARDED <= head.items[i].id <= H_X_FORWARDED_HOST:
            seen = True
            has_xff = has_xff or head.items[i].id == H_X_FORWARDED_FOR
    if not seen:
        return 0
    if settings.trusted_count == 0 or not settings.is_trusted(ex.client_addr):
        for i in range(head.count):
            h = &head.items[i]
            if H_FORWARDED <= h.id <= H_X_FORWARDED_HOST and not h.drop:
                h.drop = 1
                head.dropped += 1
        return 0
    ex.trusted_peer = True
    for i in range(head.count - 1, -1, -1):
        h = &head.items[i]
        if h.drop or done:
            continue
        if h.id == H_X_FORWARDED_FOR:
            _walk(ex, settings, h, &done)
        elif h.id == H_FORWARDED and not has_xff:
            _walk_forwarded(ex, settings, h, &done)
    h = head.find_id(H_X_FORWARDED_PROTO)
    if h != NULL:
        ex.secure = h.value_len == 5 and equals_lower(head.buf + h.value, b"https", 5)
        if not ex.secure and not (h.value_len == 4 and equals_lower(head.buf + h.value, b"http", 4)):
            head.remove_name(b"x-forwarded-proto", 17)     # not one of the two words: ours goes in its place
    return 0


# ---------------------------------------------------------------------- what the upstream is told

cdef inline char* _put(char *o, const char *p, size_t n) noexcept nogil:
    memcpy(o, p, n)
    return o + n


cdef size_t forwarding_size(Exchange ex, Settings settings) noexcept:
    """An upper bound of what put_forwarding writes."""
    cdef size_t certificate = 0
    if ex.client_cert is not None:
        certificate = len(<bytes>ex.client_cert.lines)
    return 640 + certificate + 2 * ex.authority_len + (ex.request.head_len if ex.trusted_peer else 0)


cdef char* put_forwarding(char *o, Exchange ex, Settings settings) noexcept:
    """Writes X-Forwarded-*, Forwarded and traceparent; drops the lines it replaces."""
    cdef Head head = ex.request
    cdef int i
    cdef Header *h
    cdef bint proto = False, host = False, first = True
    if ex.peer_len or not ex.detached:           # a copy of a client's request has one behind it too
        if settings.x_forwarded:
            o = _put(o, b"X-Forwarded-For: ", 17)
            if ex.trusted_peer:
                for i in range(head.count):
                    h = &head.items[i]
                    if h.drop and h.drop != RETOLD:
                        continue
                    if h.id == H_X_FORWARDED_FOR:
                        o = _put(o, head.buf + h.value, h.value_len)
                        o = _put(o, b", ", 2)
                        head.dropped += not h.drop
                        h.drop = RETOLD
                    elif h.id == H_X_FORWARDED_PROTO:
                        proto = True
                    elif h.id == H_X_FORWARDED_HOST:
                        host = True
            o = _put(o, ex.peer_text, ex.peer_len)
            if not proto:
                if ex.secure:
                    o = _put(o, b"\r\nX-Forwarded-Proto: https", 26)
                else:
                    o = _put(o, b"\r\nX-Forwarded-Proto: http", 25)
            if not host and ex.authority_len:
                o = _put(o, b"\r\nX-Forwarded-Host: ", 20)
                o = _put(o, head.buf + ex.authority, ex.authority_len)
            o = _put(o, b"\r\n", 2)
        if settings.forwarded:
            o = _put(o, b"Forwarded: ", 11)
            for i in range(head.count):
                h = &head.items[i]
                if h.id == H_FORWARDED and (not h.drop or h.drop == RETOLD):
                    o = _put(o, head.buf + h.value, h.value_len)
                    o = _put(o, b", ", 2)
                    head.dropped += not h.drop
                    h.drop = RETOLD
            o = _put_forwarded(o, ex)
    if ex.client_cert is not None:
        o = _put_certificate(o, ex)
    if ex.trace_flags != 0xff:
        o = _put_trace(o, ex)
    return o


cdef char* _put_certificate(char *o, Exchange ex) noexcept:
    cdef bytes lines = ex.client_cert.lines
    return _put(o, PyBytes_AS_STRING(lines), PyBytes_GET_SIZE(lines))


cdef char* _put_forwarded(char *o, Exchange ex) noexcept:
    """RFC 7239 4: one element; IPv6 in brackets and quotes."""
    cdef bint v6 = False
    cdef int i
    for i in range(ex.peer_len):
        if ex.peer_text[i] == c":":
            v6 = True
    if ex.peer_len == 0:
        o = _put(o, b"for=unknown", 11)
    elif v6:
        o = _put(o, b'for="[', 6)
        o = _put(o, ex.peer_text, ex.peer_len)
        o = _put(o, b']"', 2)
    else:
        o = _put(o, b"for=", 4)
        o = _put(o, ex.peer_text, ex.peer_len)
    if ex.authority_len:
        o = _put(o, b';host="', 7)
        o = _put(o, ex.request.buf + ex.authority, ex.authority_len)
        o = _put(o, b'"', 1)
    if ex.secure:
        return _put(o, b";proto=https\r\n", 14)
    return _put(o, b";proto=http\r\n", 13)


cdef const char *_digits = "0123456789abcdef"


cdef inline char* _put_hex(char *o, const uint8_t *p, int n) noexcept:
    cdef int i
    for i in range(n):
        o[0] = _digits[p[i] >> 4]
        o[1] = _digits[p[i] & 15]
        o += 2
    return o


cdef char* _put_trace(char *o, Exchange ex) noexcept:
    o = _put(o, b"traceparent: 00-", 16)
    o = _put_hex(o, ex.trace_id, 16)
    o[0] = c"-"
    o = _put_hex(o + 1, ex.span_id, 8)
    o[0] = c"-"
    o = _put_hex(o + 1, &ex.trace_flags, 1)
    return _put(o, b"\r\n", 2)


cdef inline int _unhex(unsigned char ch) noexcept:
    if c"0" <= ch <= c"9":
        return ch - c"0"
    if c"a" <= ch <= c"f":
        return ch - c"a" + 10
    return -1                             # W3C Trace Context 3.2: lower case only


cdef int _read_hex(const char *p, uint8_t *out, int n) noexcept:
    """n bytes of hex; 0 when malformed or all zero."""
    cdef int i, hi, lo, any_set = 0
    for i in range(n):
        hi = _unhex(p[2 * i])
        lo = _unhex(p[2 * i + 1])
        if hi < 0 or lo < 0:
            return 0
        out[i] = hi * 16 + lo
        any_set |= out[i]
    return any_set != 0


cdef int begin_trace(Exchange ex, Settings settings) noexcept:
    """W3C Trace Context: a valid traceparent is continued under a new parent id, else a trace begins here."""
    cdef Head head = ex.request
    cdef Header *h = head.find_id(H_TRACEPARENT)
    cdef Header *state
    cdef const char *v
    cdef uint8_t version, parent[8]
    cdef uint64_t r
    cdef bint valid = False
    ex.trace_flags = 0
    if h != NULL:
        v = head.buf + h.value
        # version-format: 2 "-" 32 "-" 16 "-" 2; a later version may be longer, version ff is forbidden
        if h.value_len >= 55 and v[2] == c"-" and v[35] == c"-" and v[52] == c"-" \
                and (_read_hex(v, &version, 1) or (v[0] == c"0" and v[1] == c"0")) \
                and _read_hex(v + 3, ex.trace_id, 16) and _read_hex(v + 36, parent, 8) \
                and _unhex(v[53]) >= 0 and _unhex(v[54]) >= 0:
            if v[0] == c"0" and v[1] == c"0":
                valid = h.value_len == 55
            else:
                valid = not (v[0] == c"f" and v[1] == c"f") and (h.value_len == 55 or v[55] == c"-")
            if valid:
                ex.trace_flags = (_unhex(v[53]) * 16 + _unhex(v[54])) & 0x03
        head.remove_name(b"traceparent", 11)
    if not valid:
        # W3C Trace Context 4.3: without a valid traceparent, tracestate goes no further
        ex.trace_flags = 0
        state = head.find(b"tracestate", 10)
        if state != NULL:
            head.remove_name(b"tracestate", 10)
        r = random64()
        memcpy(ex.trace_id, &r, 8)
        r = random64()
        memcpy(ex.trace_id + 8, &r, 8)
        ex.trace_flags = 1 if (random64() >> 32) < settings.sample_below else 0
    r = random64() | 1
    memcpy(ex.span_id, &r, 8)
    return 0
