"""The PROXY protocol, versions 1 and 2 (https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt, "the spec").

Reads from memory; who reads the socket is `prelude`.
"""
from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memchr, memcmp, memcpy, memset, strlen

cdef extern from "<arpa/inet.h>" nogil:
    int AF_INET, AF_INET6
    int inet_pton(int family, const char *text, void *to)
    const char *inet_ntop(int family, const void *address, char *text, unsigned int size)

cdef enum:
    V1_MAX = 107             # spec 2.1: the longest line, CR and LF included
    V2_HEAD = 16

cdef const char *V1_START = b"PROXY "
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


cdef void _tell(ProxyHead *head, const uint8_t *address, bint v6, uint16_t port) noexcept nogil:
    """An IPv4-mapped IPv6 address is the IPv4 address, as for connections of our own."""
    if v6:
        memcpy(head.source, address, 16)
    else:
        head.source[10] = head.source[11] = 0xff
        memcpy(head.source + 12, address, 4)
    if memcmp(head.source, b"\0\0\0\0\0\0\0\0\0\0\xff\xff", 12) == 0:
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
    cdef int i, port
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
    if port < 0 or _port(word[3], length[3]) < 0 or not _address(word[0], length[0], v6, source) \
            or not _address(word[1], length[1], v6, destination):
        return PROXY_MALFORMED
    _tell(head, source, v6, <uint16_t>port)
    return <int>(lf + 1 - p)


# ------------------------------------------------------------------ version 2: binary

cdef int _early_v2(const uint8_t *p, size_t n) noexcept nogil:
    """Less than the fixed part: what is wrong already need not be waited for."""
    return PROXY_MALFORMED if n > 12 and p[12] != 0x20 and p[12] != 0x21 else PROXY_MORE


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
        _tell(head, p + 16, False, <uint16_t>((<int>p[24] << 8) | p[25]))
    elif p[12] == 0x21 and transport == 1 and family == 2:
        _tell(head, p + 16, True, <uint16_t>((<int>p[48] << 8) | p[49]))
    return <int>(V2_HEAD + length)


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
