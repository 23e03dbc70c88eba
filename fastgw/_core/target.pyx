"""The request target, normalised once, before routing: policies and upstream see the same bytes.

Refused in every mode: a fragment, an encoded NUL, an escape that is none, a backslash (some servers take it for a
slash), an authority with user information. `normalize` decodes escapes of unreserved characters, writes the others
with upper-case digits, resolves `.` and `..`, also encoded ones, and (by default) merges slashes; `%2F` stays what it
is, data within a segment, and is refused where it hides a dot segment, as `;` is. `strict` refuses what `normalize` would have to resolve. `raw` changes nothing.
"""
from libc.stdint cimport uint32_t

from fastgw._core.headers cimport H_HOST, Head, Header, equals_lower, valid_host

cdef enum:
    OPTIONS = 6
    BAD = -1


cdef inline int _hex(unsigned char c) noexcept nogil:
    if c"0" <= c <= c"9":
        return c - c"0"
    c |= 0x20
    if c"a" <= c <= c"f":
        return c - c"a" + 10
    return -1


cdef inline bint _unreserved(unsigned char c) noexcept nogil:
    """RFC 3986 2.3"""
    return (c"a" <= (c | 0x20) <= c"z") or (c"0" <= c <= c"9") or c == c"-" or c == c"." or c == c"_" or c == c"~"


cdef int normalize(Head head, int mode, bint merge_slashes, uint32_t *path, uint32_t *path_len, uint32_t *query,
                   uint32_t *query_len, bint *has_query, uint32_t *authority, uint32_t *authority_len) except -2:
    cdef const char *t = head.buf + head.target
    cdef uint32_t n = head.target_len, i = 0, start = 0, end
    cdef Header *host = head.find_id(H_HOST)
    cdef unsigned char c
    cdef bint special = False
    authority[0] = host.value if host != NULL else 0
    authority_len[0] = host.value_len if host != NULL else 0
    has_query[0] = False
    query_len[0] = 0
    if t[0] != c"/":
        if n == 1 and t[0] == c"*":
            # RFC 9112 3.2.4: asterisk-form is for OPTIONS
            path[0] = head.target
            path_len[0] = 1
            return 0 if head.method == OPTIONS else BAD
        # RFC 9112 3.2.2: absolute-form; its authority stands in the place of Host
        if n > 7 and equals_lower(t, b"http://", 7):
            start = 7
        elif n > 8 and equals_lower(t, b"https://", 8):
            start = 8
        else:
            return BAD
        i = start
        while i < n and t[i] != c"/" and t[i] != c"?" and t[i] != c"#":
            i += 1
        if not valid_host(t + start, i - start):
            return BAD
        authority[0] = head.target + start
        authority_len[0] = i - start
    start = i
    # one pass: does anything need a second look?
    while i < n:
        c = <unsigned char>t[i]
        if c == c"?":
            break
        if c == c"%" or c == c"\\" or c == c"#" or c >= 0x7f:
            special = True
        elif c == c"/" and i + 1 < n and (t[i + 1] == c"/" or t[i + 1] == c"."):
            special = True
        i += 1
    end = i
    if i < n:
        has_query[0] = True
        query[0] = head.target + i + 1
        query_len[0] = n - i - 1
        i += 1
        while i < n:
            c = <unsigned char>t[i]
            if c == c"#" or c >= 0x7f:
                return BAD
            i += 1
    if start == end:
        # "http://host" and "http://host?query": RFC 9110 4.2.3, the empty path is "/"
        path[0] = head.store(b"/", 1)
        path_len[0] = 1
        return 0
    path[0] = head.target + start
    path_len[0] = end - start
    if not special:
        return 0
    return _careful(head, mode, merge_slashes, path, path_len)


cdef int _careful(Head head, int mode, bint merge_slashes, uint32_t *path, uint32_t *path_len) except -2:
    """The path has an escape, a dot segment, a double slash or a character that is refused."""
    cdef uint32_t n = path_len[0], i = 0, at
    cdef const char *p
    cdef char *out
    cdef char *o
    cdef unsigned char c
    cdef int hi, lo, value
    # room for the result first: the buffer may move
    head.reserve(n + 1)
    p = head.buf + path[0]
    at = head.len
    out = head.buf + at
    o = out
    while i < n:
        c = <unsigned char>p[i]
        if c == c"\\" or c == c"#" or c >= 0x7f:
            return BAD
        if c != c"%":
            o[0] = c
            o += 1
            i += 1
            continue
        if i + 2 >= n:
            return BAD
        hi = _hex(p[i + 1])
        lo = _hex(p[i + 2])
        if hi < 0 or lo < 0:
            return BAD
        value = hi * 16 + lo
        if value == 0:
            return BAD
        if mode == MODE_STRICT and (value == c"/" or value == c"\\"):
            return BAD
        if _unreserved(value):
            o[0] = value
            o += 1
        else:
            o[0] = c"%"
            o[1] = c"0" + hi if hi < 10 else c"A" + hi - 10
            o[2] = c"0" + lo if lo < 10 else c"A" + lo - 10
            o += 3
        i += 3
    if mode == MODE_RAW:
        return 0                              # only looked at
    n = o - out
    if mode == MODE_STRICT:
        if _has_empty_segment(out, n) or _has_dots(out, n):
            return BAD
    else:
        n = _resolve(out, n, merge_slashes)
        # what is left of them is hidden: no client means it, and a service may find what its route kept from it
        if _has_dots(out, n):
            return BAD
    head.len = at + n
    path[0] = at
    path_len[0] = n
    return 0


cdef bint _has_empty_segment(const char *p, uint32_t n) noexcept nogil:
    """`//` somewhere; a slash at the end is none."""
    cdef uint32_t i
    for i in range(1, n):
        if p[i] == c"/" and p[i - 1] == c"/":
            return True
    return False


cdef bint _has_dots(const char *p, uint32_t n) noexcept nogil:
    """A segment that is `.` or `..`, or is one for a server that decodes %2F and %5C before it resolves (`..%2Fb`), or
    that takes parameters off a segment as servlet containers do (`..;x`). Escapes are in upper case by now.
    """
    cdef uint32_t i = 0, dots = 0
    cdef bint others = False
    cdef unsigned char c
    while i < n:
        c = <unsigned char>p[i]
        i += 1
        if c == c"%" and i + 1 < n:
            if p[i] == c"2" and p[i + 1] == c"F" or p[i] == c"5" and p[i + 1] == c"C":
                c = c"/"
            elif p[i] == c"3" and p[i + 1] == c"B":
                c = c";"
            i += 2
        if c == c".":
            dots += 1
        elif c == c"/" or c == c";":
            if 1 <= dots <= 2 and not others:
                return True
            dots = 0
            others = c == c";"                # dots in a parameter are none of the segment
        else:
            others = True
    return 1 <= dots <= 2 and not others


cdef uint32_t _resolve(char *p, uint32_t n, bint merge_slashes) noexcept nogil:
    """RFC 3986 5.2.4, in place; never above the root."""
    cdef uint32_t i = 0, o = 0, start, length
    while i < n:
        # p[i] is the slash before a segment
        start = i + 1
        i = start
        while i < n and p[i] != c"/":
            i += 1
        length = i - start
        if length == 0 and i < n and merge_slashes:
            continue
        if length == 1 and p[start] == c".":
            if i == n:
                p[o] = c"/"
                o += 1
            continue
        if length == 2 and p[start] == c"." and p[start + 1] == c".":
            while o > 0:
                o -= 1
                if p[o] == c"/":
                    break
            if i == n:
                p[o] = c"/"
                o += 1
            continue
        p[o] = c"/"
        o += 1
        while start < i:
            p[o] = p[start]
            o += 1
            start += 1
    if o == 0:
        p[0] = c"/"
        o = 1
    return o


def normalize_target(bytes target, mode="normalize", merge_slashes=True, method="GET"):
    """For tools and tests: (path, query or None) of a target, as bytes; None when it is refused."""
    cdef Head head
    cdef uint32_t path, path_len, query, query_len, authority, authority_len
    cdef bint has_query
    try:
        head = Head.request(method.encode() + b" " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    except ValueError:
        return None
    if normalize(head, ("normalize", "strict", "raw").index(mode), merge_slashes, &path, &path_len, &query,
                 &query_len, &has_query, &authority, &authority_len) < 0:
        return None
    return head.buf[path:path + path_len], head.buf[query:query + query_len] if has_query else None
