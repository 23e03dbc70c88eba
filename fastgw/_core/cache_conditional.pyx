"""Conditions and ranges of a request, against a kept answer: RFC 9110 13 and 14."""
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcmp
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastgw._core.cache_directives cimport DATE_INVALID, date_of
from fastgw._core.headers cimport Head, Header, equals_lower


cdef bint etag_listed(const char *p, size_t n, const char *etag, size_t k) noexcept nogil:
    """RFC 9110 8.8.3.2: the weak comparison, with each of a list; `*` is any."""
    cdef size_t i = 0, start
    if k == 0:
        return False
    if k > 2 and etag[0] == c"W" and etag[1] == c"/":
        etag += 2
        k -= 2
    while i < n:
        while i < n and (p[i] == c" " or p[i] == c"\t" or p[i] == c","):
            i += 1
        if i < n and p[i] == c"*":
            return True
        if i + 1 < n and p[i] == c"W" and p[i + 1] == c"/":
            i += 2
        start = i
        if i < n and p[i] == c'"':
            i += 1
            while i < n and p[i] != c'"':
                i += 1
            if i < n:
                i += 1
        else:
            while i < n and p[i] != c"," and p[i] != c" ":
                i += 1
        if i - start == k and memcmp(p + start, etag, k) == 0:
            return True
        while i < n and p[i] != c",":
            i += 1
    return False


cdef bint not_modified(Head request, int count, const char *etag, size_t n, int64_t modified) noexcept:
    """May a 304 answer this GET or HEAD? Of its first `count` lines, those that were taken out for the service too.
    `modified`: Last-Modified of the kept answer, or when it came."""
    cdef int i
    cdef Header *h
    cdef Header *since = NULL
    cdef bint named = False
    cdef int64_t date
    for i in range(count):
        h = &request.items[i]
        if h.name_len == 13 and equals_lower(request.buf + h.name, b"if-none-match", 13):
            named = True
            if etag_listed(request.buf + h.value, h.value_len, etag, n):
                return True
        elif h.name_len == 17 and equals_lower(request.buf + h.name, b"if-modified-since", 17):
            since = h
    # RFC 9110 13.1.3: with If-None-Match it counts for nothing, nor does one that is no date
    if named or since == NULL or modified == DATE_INVALID:
        return False
    date = date_of(request.buf + since.value, since.value_len)
    return date != DATE_INVALID and modified <= date


cdef bint still_holds(Head request, const char *etag, size_t n, int64_t modified) noexcept:
    """RFC 9110 13.1.5: the strong comparison; without If-Range it holds."""
    cdef int i
    cdef Header *h
    cdef const char *p
    for i in range(request.count):
        h = &request.items[i]
        if h.name_len == 8 and equals_lower(request.buf + h.name, b"if-range", 8):
            p = request.buf + h.value
            if h.value_len and (p[0] == c'"' or p[0] == c"W"):
                return p[0] == c'"' and h.value_len == n and memcmp(p, etag, n) == 0
            return modified != DATE_INVALID and date_of(p, h.value_len) == modified
    return True


cdef size_t _number(const char *p, size_t i, size_t n, uint64_t *value) noexcept nogil:
    """The end of a number at i; i itself when there is none. Saturates."""
    value[0] = 0
    while i < n and c"0" <= p[i] <= c"9":
        if value[0] < <uint64_t>1 << 60:
            value[0] = value[0] * 10 + <uint64_t>(p[i] - c"0")
        i += 1
    return i


cdef int ranges_of(const char *p, size_t n, uint64_t size, Range *ranges) noexcept nogil:
    """RFC 9110 14.2. Ranges that overlap are no reason to send the same bytes twice: such a request gets the whole."""
    cdef size_t i = 6, at
    cdef uint64_t first, last
    cdef int count = 0, asked = 0, k
    if n < 6 or not equals_lower(p, b"bytes=", 6):
        return WHOLE
    while True:
        while i < n and (p[i] == c" " or p[i] == c"\t" or p[i] == c","):
            i += 1
        if i >= n:
            break
        asked += 1
        if asked > RANGES:
            return WHOLE
        if p[i] == c"-":
            at = i + 1
            i = _number(p, at, n, &last)
            if i == at:
                return WHOLE
            if last > size:
                last = size
            first = size - last
            last = size
            if first == size:
                first = size + 1              # the last 0 bytes: nothing can satisfy that
        else:
            at = i
            i = _number(p, at, n, &first)
            if i == at or i >= n or p[i] != c"-":
                return WHOLE
            at = i + 1
            i = _number(p, at, n, &last)
            if i == at:
                last = size
            else:
                if last < first:
                    return WHOLE
                last = last + 1 if last < size else size
        while i < n and (p[i] == c" " or p[i] == c"\t"):
            i += 1
        if i < n and p[i] != c",":
            return WHOLE
        if first < size:
            for k in range(count):
                if first < ranges[k].first + ranges[k].length and ranges[k].first < last:
                    return WHOLE
            ranges[count].first = first
            ranges[count].length = last - first
            count += 1
    if asked == 0:
        return WHOLE
    return count if count else UNSATISFIABLE


def ranges(bytes value, size):
    """[(first, length), …] of a Range header; [] when the whole is to be sent, None when nothing can be. For tests."""
    cdef Range found[RANGES]
    cdef int i, count = ranges_of(PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), size, found)
    if count < 0:
        return None
    return [(found[i].first, found[i].length) for i in range(count)]


def unmodified(bytes raw, bytes etag, modified):
    """May a 304 answer this request? For tests."""
    cdef Head head = Head.request(raw)
    return not_modified(head, head.count, PyBytes_AS_STRING(etag), PyBytes_GET_SIZE(etag),
                        DATE_INVALID if modified is None else modified)


def matches(bytes listed, bytes etag):
    """The weak comparison of an entity tag with those of If-None-Match. For tests."""
    return bool(etag_listed(PyBytes_AS_STRING(listed), PyBytes_GET_SIZE(listed), PyBytes_AS_STRING(etag),
                            PyBytes_GET_SIZE(etag)))
