"""The PROXY protocol, versions 1 and 2 (https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt, "the spec").

Reads from memory and writes to it; who reads the socket is `prelude`, who writes to one `tunnel`.
"""
from libc.stdint cimport uint8_t, uint16_t
from libc.stdio cimport snprintf
from libc.string cimport memchr, memcmp, memcpy, memset, strlen

cdef extern from "<arpa/inet.h>" nogil:
    int AF_INET, AF_INET6
    int inet_pton(int family, const char *text, void *to)
    const char *inet_ntop(int family, const void *address, char *text, unsigned int size)

cdef enum:
    V1_MAX = 107             # spec 2.1: the longest line, CR and LF included
    V2_HEAD = 16

cdef const char *V1_START = b"PROXY "
cdef const char *MAPPED = b"\0\0\0\0\0\0\0\0\0\0\xff\xff"      # before an IPv4 address in an IPv6 one
cdef const char *V2_START = b"\r\n\r\n\0\r\nQUIT\n"


cdef inline bint _begins(const uint8_t *p, size_t n, const char *start, size_t start_n) noexcept nogil:
    """Whether what is there of it is the beginning of `start`, or begins with it."""
    return memcmp(p, start, n if n < start_n else start_n) == 0


cdef int proxy_read(const uint8_t *p, size_t n, ProxyHead *head) noexcept nogil:
    memset(head, 0, sizeof(ProxyHead))
    if n == 0:
        return PROXY_MORE
    if _begins(p, n, V2_START, 12):
        head.version = 2
        return _read_v2(p, n, head) if n >= V2_HEAD else _early_v2(p, n)
    if _begins(p, n, V1_START, 6):
        head.version = 1
        return _read_v1(p, n, head)
    return PROXY_NONE


cdef void _store(uint8_t *to, const uint8_t *address, bint v6) noexcept nogil:
    if v6:
        memcpy(to, address, 16)
    else:
        memcpy(to, MAPPED, 12)
        memcpy(to + 12, address, 4)


cdef void _tell(ProxyHead *head, const uint8_t *address, const uint8_t *target, bint v6, uint16_t port,
                uint16_t target_port) noexcept nogil:
    """An IPv4-mapped IPv6 address is the IPv4 address, as for connections of our own."""
    _store(head.source, address, v6)
    _store(head.target, target, v6)
    head.target_port = target_port
    if memcmp(head.source, MAPPED, 12) == 0:
        inet_ntop(AF_INET, head.source + 12, head.text, 48)
    else:
        inet_ntop(AF_INET6, head.source, head.text, 48)
    head.text_len = <int>strlen(head.text)
    head.port = port
    head.told = True


# ------------------------------------------------------------------ version 1: a line of text

cdef int _port(const uint8_t *p, size_t n) noexcept nogil:
    """Spec 2.1: 0 to 65535 in decimal, no leading zero. -1 otherwise."""
    cdef int value = 0
    cdef size_t i
    if n == 0 or n > 5 or (n > 1 and p[0] == c"0"):
        return -1
    for i in range(n):
        if p[i] < c"0" or p[i] > c"9":
            return -1
        value = value * 10 + (p[i] - c"0")
    return value if value <= 65535 else -1


cdef bint _address(const uint8_t *p, size_t n, bint v6, uint8_t *to) noexcept nogil:
    cdef char text[48]
    if n == 0 or n > 45 or memchr(p, 0, n) != NULL:
        return False
    memcpy(text, p, n)
    text[n] = 0
    return inet_pton(AF_INET6 if v6 else AF_INET, text, to) == 1


cdef int _read_v1(const uint8_t *p, size_t n, ProxyHead *head) noexcept nogil:
    cdef const uint8_t *lf = <const uint8_t*>memchr(p, c"\n", n if n < V1_MAX else V1_MAX)
    cdef const uint8_t *word[4]
    cdef const uint8_t *at
    cdef const uint8_t *end
    cdef const uint8_t *space
    cdef size_t length[4]
    cdef uint8_t source[16]
    cdef uint8_t destination[16]
    cdef int i, port, target_port
    cdef bint v6
    if lf == NULL:
        return PROXY_MORE if n < V1_MAX else PROXY_TOO_LONG
    end = lf - 1
    if end < p + 6 or end[0] != c"\r":
        return PROXY_MALFORMED
    at = p + 6
    # spec 2.1: after UNKNOWN the receiver must ignore anything up to CRLF
    if end - at >= 7 and memcmp(at, b"UNKNOWN", 7) == 0 and (end - at == 7 or at[7] == c" "):
        return <int>(lf + 1 - p)
    if end - at < 5 or memcmp(at, b"TCP", 3) != 0 or (at[3] != c"4" and at[3] != c"6") or at[4] != c" ":
        return PROXY_MALFORMED
    v6 = at[3] == c"6"
    at += 5
    for i in range(4):                            # spec 2.1: exactly one space between them
        word[i] = at
        space = <const uint8_t*>memchr(at, c" ", end - at)
        if (space == NULL) != (i == 3):
            return PROXY_MALFORMED
        if i == 3:
            space = end
        length[i] = space - at
        at = space + 1
    port = _port(word[2], length[2])
    target_port = _port(word[3], length[3])
    if port < 0 or target_port < 0 or not _address(word[0], length[0], v6, source) \
            or not _address(word[1], length[1], v6, destination):
        return PROXY_MALFORMED
    _tell(head, source, destination, v6, <uint16_t>port, <uint16_t>target_port)
    return <int>(lf + 1 - p)


# ------------------------------------------------------------------ version 2: binary

cdef int _early_v2(const uint8_t *p, size_t n) noexcept nogil:
    """Less than the fixed part: what is wrong already need not be waited for."""
    return PROXY_MALFORMED if n > 12 and p[12] != 0x20 and p[12] != 0x21 else PROXY_MORE


cdef inline uint16_t _number(const uint8_t *p) noexcept nogil:
    return <uint16_t>((<int>p[0] << 8) | p[1])


cdef int _read_v2(const uint8_t *p, size_t n, ProxyHead *head) noexcept nogil:
    cdef size_t length = (<size_t>p[14] << 8) | p[15]
    cdef uint8_t family = p[13] >> 4
    cdef uint8_t transport = p[13] & 15
    cdef size_t need
    # spec 2.2: the version must be 2; connections with other commands than LOCAL and PROXY must be dropped
    if p[12] != 0x20 and p[12] != 0x21:
        return PROXY_MALFORMED
    if length > PROXY_MAX - V2_HEAD:
        return PROXY_TOO_LONG
    if p[12] == 0x21:
        # spec 2.2: other values of family and transport must be rejected as invalid
        if family > 3 or transport > 2:
            return PROXY_MALFORMED
        need = 12 if family == 1 else 36 if family == 2 else 216 if family == 3 else 0
        if length < need:
            return PROXY_MALFORMED
    if n < V2_HEAD + length:
        return PROXY_MORE
    # LOCAL: the balancer's own connection (a health check); UNSPEC, unix and datagrams tell nothing about ours.
    # TLVs behind the addresses are skipped.
    if p[12] == 0x21 and transport == 1 and family == 1:
        _tell(head, p + 16, p + 20, False, _number(p + 24), _number(p + 26))
    elif p[12] == 0x21 and transport == 1 and family == 2:
        _tell(head, p + 16, p + 32, True, _number(p + 48), _number(p + 50))
    return <int>(V2_HEAD + length)


# ------------------------------------------------------------------ writing

cdef int proxy_write(uint8_t *out, int version, const uint8_t *source, uint16_t port, const uint8_t *target,
                     uint16_t target_port) noexcept nogil:
    """Addresses are IPv6, or IPv4-mapped; two of IPv4 are told as such. Without one of them nothing is told of either:
    the receiver then takes the connection for what it is (spec 2.1 UNKNOWN, 2.2 UNSPEC)."""
    cdef char a[48]
    cdef char b[48]
    cdef bint v4
    cdef size_t n = 0
    if source == NULL or target == NULL:
        if version == 1:
            memcpy(out, b"PROXY UNKNOWN\r\n", 15)
            return 15
        memcpy(out, V2_START, 12)
        memcpy(out + 12, b"\x21\0\0\0", 4)
        return V2_HEAD
    v4 = memcmp(source, MAPPED, 12) == 0 and memcmp(target, MAPPED, 12) == 0
    if version == 1:
        inet_ntop(AF_INET if v4 else AF_INET6, source + 12 if v4 else source, a, 48)
        inet_ntop(AF_INET if v4 else AF_INET6, target + 12 if v4 else target, b, 48)
        return snprintf(<char*>out, PROXY_WRITTEN + 1, b"PROXY TCP%c %s %s %d %d\r\n", c"4" if v4 else c"6", a, b,
                        <int>port, <int>target_port)
    memcpy(out, V2_START, 12)
    out[12] = 0x21
    out[13] = 0x11 if v4 else 0x21
    n = 4 if v4 else 16
    out[14] = 0
    out[15] = <uint8_t>(2 * n + 4)
    memcpy(out + 16, source + 16 - n, n)
    memcpy(out + 16 + n, target + 16 - n, n)
    out += 16 + 2 * n
    out[0] = port >> 8
    out[1] = port & 255
    out[2] = target_port >> 8
    out[3] = target_port & 255
    return <int>(20 + 2 * n)


def write(int version, source, target):
    """For tests: the header for (16 bytes, port) and (16 bytes, port), either None where it is not known."""
    cdef uint8_t out[PROXY_WRITTEN + 1]
    cdef bytes a = b"" if source is None else source[0]
    cdef bytes b = b"" if target is None else target[0]
    cdef int n = proxy_write(
        out, version, NULL if source is None else <const uint8_t*><const char*>a, 0 if source is None else source[1],
        NULL if target is None else <const uint8_t*><const char*>b, 0 if target is None else target[1])
    return (<const char*>out)[:n]


def read(bytes data not None):
    """For tests: (bytes used, version, address or None, port) of a header at the beginning of `data`; 0 when more is
    needed; "none", "malformed" or "too_long"."""
    cdef ProxyHead head
    cdef int used = proxy_read(<const uint8_t*><const char*>data, len(data), &head)
    if used == PROXY_MORE:
        return 0
    if used < 0:
        return {PROXY_NONE: "none", PROXY_MALFORMED: "malformed", PROXY_TOO_LONG: "too_long"}[used]
    return used, head.version, head.text[:head.text_len].decode() if head.told else None, head.port
