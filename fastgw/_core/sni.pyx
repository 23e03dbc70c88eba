"""The first message of TLS, a ClientHello, read only for the name it asks for (SNI).

It is read where somebody else will read it again: what could be understood in two ways is refused, so that both see
the same name. Nothing is kept and nothing is allocated.
"""
from libc.stdint cimport uint8_t
from libc.string cimport memcpy, memset

cdef enum:
    HANDSHAKE = 22           # RFC 8446 5.1
    CLIENT_HELLO = 1         # RFC 8446 4
    SERVER_NAME = 0          # RFC 8446 4.2
    RECORD_MAX = 16384       # RFC 8446 5.1


ctypedef struct Rest:
    const uint8_t *p
    size_t n


cdef inline bint _take(Rest *rest, size_t n, Rest *taken) noexcept nogil:
    if rest.n < n:
        return False
    taken.p = rest.p
    taken.n = n
    rest.p += n
    rest.n -= n
    return True


cdef inline bint _vector(Rest *rest, int size, Rest *taken) noexcept nogil:
    """RFC 8446 3.4: a vector, its length in `size` bytes before it."""
    cdef Rest head
    cdef size_t n = 0
    cdef int i
    if not _take(rest, size, &head):
        return False
    for i in range(size):
        n = n << 8 | head.p[i]
    return _take(rest, n, taken)


cdef bint _name(Rest *names, Hello *hello) noexcept nogil:
    """RFC 6066 3: a list, with at most one name of each type. Other types than host_name were never defined."""
    cdef Rest entry, kind
    cdef uint8_t c
    cdef size_t i
    cdef bint label = False
    if not _take(names, 1, &kind) or kind.p[0] != 0 or not _vector(names, 2, &entry) or names.n:
        return False
    if entry.n == 0 or entry.n > NAME_MAX:
        return False
    for i in range(entry.n):
        c = entry.p[i]
        if c == c".":
            # an empty label, and a dot at the end, which RFC 6066 3 leaves out
            if not label or i == entry.n - 1:
                return False
            label = False
        else:
            if c >= c"A" and c <= c"Z":
                c |= 0x20
            if not (c >= c"a" and c <= c"z") and not (c >= c"0" and c <= c"9") and c != c"-" and c != c"_":
                return False
            label = True
        hello.name[i] = c
    hello.name_len = <int>entry.n
    return True


cdef int _client_hello(Rest rest, Hello *hello) noexcept nogil:
    """RFC 8446 4.1.2, RFC 5246 7.4.1.2; `rest` is the body of the message."""
    cdef Rest part, extensions, kind, names
    cdef bint seen = False
    if not _take(&rest, 2, &part) or part.p[0] != 3 or not _take(&rest, 32, &part):
        return HELLO_MALFORMED
    if not _vector(&rest, 1, &part) or part.n > 32:                   # legacy_session_id
        return HELLO_MALFORMED
    if not _vector(&rest, 2, &part) or part.n == 0 or part.n & 1:     # cipher_suites
        return HELLO_MALFORMED
    if not _vector(&rest, 1, &part) or part.n == 0:                   # legacy_compression_methods
        return HELLO_MALFORMED
    if rest.n == 0:
        return 1                                  # RFC 5246 7.4.1.2: there may be no extensions
    if not _vector(&rest, 2, &extensions) or rest.n:
        return HELLO_MALFORMED
    while extensions.n:
        if not _take(&extensions, 2, &kind) or not _vector(&extensions, 2, &part):
            return HELLO_MALFORMED
        if kind.p[0] == 0 and kind.p[1] == SERVER_NAME:
            # RFC 8446 4.2: no extension twice
            if seen or not _vector(&part, 2, &names) or part.n or not _name(&names, hello):
                return HELLO_MALFORMED
            seen = True
    return 1


cdef int hello_read(const uint8_t *p, size_t n, Hello *hello) noexcept nogil:
    """The message may be cut into records anywhere (RFC 8446 5.1): it is put together on the stack."""
    cdef uint8_t whole[HELLO_MAX]
    cdef size_t at = 0, got = 0, length, size = 0
    cdef Rest body
    hello.name_len = 0
    hello.need = 5
    if n == 0:
        return HELLO_MORE
    if p[0] != HANDSHAKE or (n > 1 and p[1] != 3):
        return HELLO_NONE
    while True:
        if n - at < 5:
            hello.need = at + 5
            return HELLO_MORE if hello.need <= HELLO_MAX else HELLO_TOO_LONG
        length = <size_t>p[at + 3] << 8 | p[at + 4]
        # RFC 8446 5.1: nothing else comes between the records of a message, and none of them is empty
        if p[at] != HANDSHAKE or p[at + 1] != 3 or length == 0 or length > RECORD_MAX:
            return HELLO_MALFORMED
        if at + 5 + length > HELLO_MAX:
            return HELLO_TOO_LONG
        hello.need = at + 5 + length
        if n < hello.need:
            # what is wrong already need not be waited for
            return HELLO_MORE if got or n - at < 6 or p[at + 5] == CLIENT_HELLO else HELLO_MALFORMED
        memcpy(whole + got, p + at + 5, length)
        got += length
        at = hello.need
        if whole[0] != CLIENT_HELLO:
            return HELLO_MALFORMED
        if got >= 4:
            size = 4 + (<size_t>whole[1] << 16 | <size_t>whole[2] << 8 | whole[3])
            if size > HELLO_MAX:
                return HELLO_TOO_LONG
            if got == size:
                break
            # RFC 8446 5.1: nothing follows a ClientHello until it was answered, least of all in its record
            if got > size:
                return HELLO_MALFORMED
    body.p = whole + 4
    body.n = size - 4
    return _client_hello(body, hello)


def read(bytes data not None):
    """For tests: the name that the ClientHello at the beginning of `data` asks for, b"" when none; the bytes it needs
    at least, when not all of it is there; "none", "malformed" or "too_long"."""
    cdef Hello hello
    memset(&hello, 0, sizeof(Hello))
    cdef int found = hello_read(<const uint8_t*><const char*>data, len(data), &hello)
    if found == HELLO_MORE:
        return hello.need
    if found < 0:
        return {HELLO_NONE: "none", HELLO_MALFORMED: "malformed", HELLO_TOO_LONG: "too_long"}[found]
    return hello.name[:hello.name_len]
