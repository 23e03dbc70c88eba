"""What Cache-Control and the like say: directives, dates, numbers of seconds.

Nothing here allocates or raises; what is not understood is left out, and a lifetime that is no number makes its answer
stale (RFC 9111 4.2.1). Of a directive that is there twice the first counts.
"""
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memcmp, memset
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastgw._core.headers cimport Head, Header, equals_lower

cdef extern from *:
    """
    /* RFC 9110 5.6.2: token = 1*tchar */
    static inline int fgw_tchar(unsigned char c) {
      if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) return 1;
      switch (c) { case '!': case '#': case '$': case '%': case '&': case '\\'': case '*': case '+': case '-': case '.':
        case '^': case '_': case '`': case '|': case '~': return 1; }
      return 0;
    }
    """
    bint fgw_tchar(unsigned char c) noexcept nogil

cdef const char *MONTHS = b"janfebmaraprmayjunjulaugsepoctnovdec"
cdef const char *DAYS = b"monday tuesday wednesday thursday friday saturday sunday "


cdef void nothing_said(Directives *d) noexcept nogil:
    d.said = 0
    d.max_age = d.s_maxage = d.while_revalidate = d.if_error = d.max_stale = d.min_fresh = -1
    d.n_fields = 0


cdef int64_t seconds_of(const char *p, size_t n) noexcept nogil:
    """RFC 9111 1.2.2: digits; what is too large is 2^31."""
    cdef int64_t value = 0
    cdef size_t i
    if n == 0:
        return -1
    for i in range(n):
        if not (c"0" <= p[i] <= c"9"):
            return -1
        if value < SECONDS_MAX:
            value = value * 10 + (p[i] - c"0")
    return SECONDS_MAX if value > SECONDS_MAX else value


cdef int64_t age_of(const char *p, size_t n) noexcept nogil:
    """RFC 9111 5.1: of a list the first; one that is invalid is ignored."""
    cdef size_t i = 0
    while i < n and c"0" <= p[i] <= c"9":
        i += 1
    if i < n and p[i] != c"," and p[i] != c";" and p[i] != c" " and p[i] != c"\t":
        return -1
    return seconds_of(p, i)


cdef bint _is(const char *p, size_t n, const char *lower, size_t k) noexcept nogil:
    return n == k and equals_lower(p, lower, k)


cdef void _once(int64_t *into, const char *p, size_t n, Directives *d, uint32_t lifetime) noexcept nogil:
    """A number of seconds, the first of its name. `lifetime`: a wrong one makes the answer stale; the flag it gets."""
    cdef int64_t value
    if into[0] >= 0:
        return
    value = seconds_of(p, n)
    if value < 0 and lifetime:
        d.said |= INVALID_AGE
        value = 0
    if lifetime:
        d.said |= lifetime
    into[0] = value


cdef void _names(const char *p, size_t n, Directives *d, uint32_t whole) noexcept nogil:
    """The field names in no-cache="…" or private="…"; without any the directive holds for the whole answer."""
    cdef size_t i = 0, start
    cdef int before = d.n_fields
    while i < n:
        while i < n and (p[i] == c" " or p[i] == c"\t" or p[i] == c","):
            i += 1
        start = i
        while i < n and fgw_tchar(p[i]):
            i += 1
        if i == start or d.n_fields == FIELDS:
            if i < n or d.n_fields == FIELDS:
                d.said |= whole               # no list of names, or too many: the careful reading
            break
        d.fields[d.n_fields].name = p + start
        d.fields[d.n_fields].n = <uint32_t>(i - start)
        d.n_fields += 1
    if d.n_fields == before:
        d.said |= whole


cdef void _directive(const char *p, size_t n, bint has_value, const char *v, size_t vn, Directives *d) noexcept nogil:
    if n < 6 or n > 22:
        return
    if n == 6:
        if _is(p, n, b"public", 6):
            d.said |= PUBLIC
    elif n == 7:
        if _is(p, n, b"max-age", 7):
            _once(&d.max_age, v, vn, d, HAS_MAX_AGE)
        elif _is(p, n, b"private", 7):
            if has_value:
                _names(v, vn, d, PRIVATE)
            else:
                d.said |= PRIVATE
    elif n == 8:
        if _is(p, n, b"no-store", 8):
            d.said |= NO_STORE
        elif _is(p, n, b"no-cache", 8):
            if has_value:
                _names(v, vn, d, NO_CACHE)
            else:
                d.said |= NO_CACHE
        elif _is(p, n, b"s-maxage", 8):
            _once(&d.s_maxage, v, vn, d, HAS_S_MAXAGE)
    elif n == 9:
        if _is(p, n, b"max-stale", 9):
            if has_value:
                _once(&d.max_stale, v, vn, d, 0)
            else:
                d.said |= ANY_STALENESS
        elif _is(p, n, b"min-fresh", 9):
            _once(&d.min_fresh, v, vn, d, 0)
    elif n == 12:
        if _is(p, n, b"no-transform", 12):
            d.said |= NO_TRANSFORM
    elif n == 14:
        if _is(p, n, b"only-if-cached", 14):
            d.said |= ONLY_IF_CACHED
        elif _is(p, n, b"stale-if-error", 14):
            _once(&d.if_error, v, vn, d, 0)
    elif n == 15:
        if _is(p, n, b"must-revalidate", 15):
            d.said |= MUST_REVALIDATE
        elif _is(p, n, b"must-understand", 15):
            d.said |= MUST_UNDERSTAND
    elif n == 16:
        if _is(p, n, b"proxy-revalidate", 16):
            d.said |= PROXY_REVALIDATE
    elif n == 22:
        if _is(p, n, b"stale-while-revalidate", 22):
            _once(&d.while_revalidate, v, vn, d, 0)


cdef void read_directives(const char *p, size_t n, Directives *d) noexcept nogil:
    """One line of Cache-Control: `#( token [ "=" ( token / quoted-string ) ] )`. Adds to what is in `d`."""
    cdef size_t i = 0, start, end, value, value_end
    cdef bint has_value, spaced
    while i < n:
        while i < n and (p[i] == c" " or p[i] == c"\t" or p[i] == c","):
            i += 1
        start = i
        while i < n and fgw_tchar(p[i]):
            i += 1
        end = value = value_end = i
        has_value = False
        while i < n and (p[i] == c" " or p[i] == c"\t"):
            i += 1
        if i < n and p[i] == c"=":
            # RFC 9110 5.6.6: no white space around it. With some it is no number, and the answer stale
            has_value = True
            spaced = i != end
            i += 1
            if i < n and p[i] == c'"':
                i += 1
                value = i
                while i < n and p[i] != c'"':
                    i += 2 if p[i] == c"\\" and i + 1 < n else 1
                value_end = i if i < n else n
                i += 1
            else:
                value = i
                while i < n and p[i] != c"," and p[i] != c'"':
                    i += 1
                value_end = i
            if spaced:
                value_end = value
        if end > start:
            _directive(p + start, end - start, has_value, p + value, value_end - value, d)
        # the rest of an item that is not understood; what stands in quotes says nothing
        while i < n and p[i] != c",":
            if p[i] == c'"':
                i += 1
                while i < n and p[i] != c'"':
                    i += 2 if p[i] == c"\\" and i + 1 < n else 1
            i += 1


cdef int directives_of(Head head, const char *lower, size_t n, Directives *d) noexcept:
    """All lines of one name, in their order; `d` is begun anew."""
    cdef int i, lines = 0
    cdef Header *h
    nothing_said(d)
    for i in range(head.count):
        h = &head.items[i]
        if h.name_len == n and not h.drop and equals_lower(head.buf + h.name, lower, n):
            read_directives(head.buf + h.value, h.value_len, d)
            lines += 1
    return lines


# ---------------------------------------------------------------------- RFC 9213, on RFC 8941

cdef size_t _bare(const char *p, size_t i, size_t n, int *kind) noexcept nogil:
    """The end of one bare item at i, 0 when there is none. kind: i(nteger) d(ecimal) s(tring) t(oken) b(oolean) x."""
    cdef size_t start = i, dots = 0
    cdef char c = p[i]
    kind[0] = 0
    if c == c"-" or c"0" <= c <= c"9":
        if c == c"-":
            i += 1
        start = i
        while i < n and (c"0" <= p[i] <= c"9" or (p[i] == c"." and dots == 0)):
            dots += p[i] == c"."
            i += 1
        if i == start or p[i - 1] == c"." or p[start] == c"." or i - start > 16:
            return 0
        kind[0] = c"d" if dots else c"i"
        return i
    if c == c'"':
        i += 1
        while i < n and p[i] != c'"':
            if p[i] == c"\\":
                i += 1
                if i >= n or (p[i] != c'"' and p[i] != c"\\"):
                    return 0
            elif p[i] < 0x20 or <unsigned char>p[i] > 0x7e:
                return 0
            i += 1
        kind[0] = c"s"
        return i + 1 if i < n else 0
    if c == c"*" or c"A" <= c <= c"Z" or c"a" <= c <= c"z":
        while i < n and (fgw_tchar(p[i]) or p[i] == c":" or p[i] == c"/"):
            i += 1
        kind[0] = c"t"
        return i
    if c == c"?":
        kind[0] = c"b"
        return i + 2 if i + 1 < n and (p[i + 1] == c"0" or p[i + 1] == c"1") else 0
    if c == c":":
        i += 1
        while i < n and p[i] != c":":
            if not (fgw_tchar(p[i]) or p[i] == c"/" or p[i] == c"="):
                return 0
            i += 1
        kind[0] = c"x"
        return i + 1 if i < n else 0
    return 0


cdef size_t _key(const char *p, size_t i, size_t n) noexcept nogil:
    cdef size_t start = i
    if i >= n or not (p[i] == c"*" or c"a" <= p[i] <= c"z" or c"A" <= p[i] <= c"Z"):
        return 0
    # RFC 9213 2.1: names are as in Cache-Control, where case does not matter
    while i < n and (c"a" <= p[i] <= c"z" or c"A" <= p[i] <= c"Z" or c"0" <= p[i] <= c"9" or p[i] == c"_"
                     or p[i] == c"-" or p[i] == c"." or p[i] == c"*"):
        i += 1
    return i if i > start else 0


cdef size_t _parameters(const char *p, size_t i, size_t n, bint *fine) noexcept nogil:
    cdef int kind
    cdef size_t end
    while i < n and p[i] == c";":
        i += 1
        while i < n and p[i] == c" ":
            i += 1
        end = _key(p, i, n)
        if end == 0:
            fine[0] = False
            return i
        i = end
        if i < n and p[i] == c"=":
            end = _bare(p, i + 1, n, &kind) if i + 1 < n else 0
            if end == 0:
                fine[0] = False
                return i
            i = end
    return i


cdef bint structured(const char *p, size_t n, Directives *d) noexcept nogil:
    """One value of CDN-Cache-Control: a Dictionary of RFC 8941. One that is invalid says nothing at all."""
    cdef size_t i = 0, start, end, value
    cdef int kind
    cdef bint fine = True
    nothing_said(d)
    while i < n and p[i] == c" ":
        i += 1
    if i >= n:
        return False
    while True:
        start = i
        end = _key(p, i, n)
        if end == 0:
            return False
        i = end
        if i < n and p[i] == c"=":
            value = i + 1
            i = _bare(p, value, n, &kind) if value < n else 0
            if i == 0:
                return False
            if kind == c"i" or kind == c"s":
                if kind == c"s" and (_is(p + start, end - start, b"max-age", 7)
                                     or _is(p + start, end - start, b"s-maxage", 8)):
                    return False              # RFC 9213 2.1: of the wrong type
                if kind == c"s":
                    _directive(p + start, end - start, True, p + value + 1, i - value - 2, d)
                else:
                    _directive(p + start, end - start, True, p + value, i - value, d)
            elif kind != c"b" or p[value + 1] == c"1":
                if _is(p + start, end - start, b"max-age", 7) or _is(p + start, end - start, b"s-maxage", 8):
                    return False
                _directive(p + start, end - start, False, NULL, 0, d)
        else:
            if _is(p + start, end - start, b"max-age", 7) or _is(p + start, end - start, b"s-maxage", 8):
                return False
            _directive(p + start, end - start, False, NULL, 0, d)
        i = _parameters(p, i, n, &fine)
        if not fine:
            return False
        while i < n and (p[i] == c" " or p[i] == c"\t"):
            i += 1
        if i >= n:
            return True
        if p[i] != c",":
            return False
        i += 1
        while i < n and (p[i] == c" " or p[i] == c"\t"):
            i += 1
        if i >= n:
            return False                      # RFC 8941 4.2.2: no comma at the end


# ---------------------------------------------------------------------- dates

cdef int _digits(const char *p, int n) noexcept nogil:
    cdef int value = 0, i
    for i in range(n):
        if not (c"0" <= p[i] <= c"9"):
            return -1
        value = value * 10 + (p[i] - c"0")
    return value


cdef int _month(const char *p) noexcept nogil:
    cdef int i
    for i in range(12):
        if equals_lower(p, MONTHS + 3 * i, 3):
            return i + 1
    return -1


cdef int64_t _days(int64_t y, int64_t m, int64_t d) noexcept nogil:
    """Days since 1970-01-01 of a date of the Gregorian calendar."""
    cdef int64_t era, yoe, doy
    y -= m <= 2
    era = (y if y >= 0 else y - 399) // 400
    yoe = y - era * 400
    doy = (153 * (m + (-3 if m > 2 else 9)) + 2) // 5 + d - 1
    return era * 146097 + yoe * 365 + yoe // 4 - yoe // 100 + doy - 719468


cdef int64_t _time(const char *p, int day, int month, int year) noexcept nogil:
    """`p`: HH:MM:SS"""
    cdef int h = _digits(p, 2), m = _digits(p + 3, 2), s = _digits(p + 6, 2)
    if p[2] != c":" or p[5] != c":" or h < 0 or h > 23 or m < 0 or m > 59 or s < 0 or s > 60 \
            or day < 1 or day > 31 or month < 1 or year < 0:
        return DATE_INVALID
    return _days(year, month, day) * 86400 + h * 3600 + m * 60 + s


cdef int64_t date_of(const char *p, size_t n) noexcept nogil:
    """RFC 9110 5.6.7: IMF-fixdate, and the two obsolete forms."""
    cdef size_t i = 0, j
    cdef int year
    if n == 29:
        # Sun, 06 Nov 1994 08:49:37 GMT
        if p[3] != c"," or p[4] != c" " or p[7] != c" " or p[11] != c" " or p[16] != c" " \
                or not equals_lower(p + 25, b" gmt", 4):
            return DATE_INVALID
        return _time(p + 17, _digits(p + 5, 2), _month(p + 8), _digits(p + 12, 4))
    if n == 24:
        # Sun Nov  6 08:49:37 1994
        if p[3] != c" " or p[7] != c" " or p[10] != c" " or p[19] != c" ":
            return DATE_INVALID
        return _time(p + 11, p[9] - c"0" if p[8] == c" " and c"0" <= p[9] <= c"9" else _digits(p + 8, 2),
                     _month(p + 4), _digits(p + 20, 4))
    if 30 <= n <= 33:
        # Sunday, 06-Nov-94 08:49:37 GMT
        while p[i] != c",":
            i += 1
            if i > 9:
                return DATE_INVALID
        if n != i + 24:
            return DATE_INVALID
        j = 0
        while DAYS[j]:
            if equals_lower(p, DAYS + j, i) and DAYS[j + i] == c" ":
                break
            while DAYS[j] != c" ":
                j += 1
            j += 1
        if not DAYS[j]:
            return DATE_INVALID
        p += i
        if p[1] != c" " or p[4] != c"-" or p[8] != c"-" or p[11] != c" " or not equals_lower(p + 20, b" gmt", 4):
            return DATE_INVALID
        year = _digits(p + 9, 2)
        if year < 0:
            return DATE_INVALID
        # RFC 9110 5.6.7: more than 50 years ahead means the past
        return _time(p + 12, _digits(p + 2, 2), _month(p + 5), year + (2000 if year < 77 else 1900))
    return DATE_INVALID


# ---------------------------------------------------------------------- for tests and tools

WORDS = ("no-store", "no-cache", "private", "public", "must-revalidate", "proxy-revalidate", "must-understand",
         "only-if-cached", "no-transform")


cdef dict _told(Directives *d):
    cdef dict found = {}
    cdef int i
    for i, word in enumerate(WORDS):
        if d.said & (1 << i):
            found[word] = True
    for name, value in (("max-age", d.max_age), ("s-maxage", d.s_maxage), ("max-stale", d.max_stale),
                        ("stale-while-revalidate", d.while_revalidate), ("stale-if-error", d.if_error),
                        ("min-fresh", d.min_fresh)):
        if value >= 0:
            found[name] = value
    if d.said & ANY_STALENESS:
        found["max-stale"] = True
    if d.said & INVALID_AGE:
        found["invalid"] = True
    if d.n_fields:
        found["fields"] = [d.fields[i].name[:d.fields[i].n].decode("latin-1").lower() for i in range(d.n_fields)]
    return found


def parse(bytes value):
    """What a value of Cache-Control says: directives by name; `fields` of no-cache="…" and private="…"; `invalid` when a
    lifetime is no number."""
    cdef Directives d
    nothing_said(&d)
    read_directives(PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), &d)
    return _told(&d)


def parse_structured(bytes value):
    """The same of CDN-Cache-Control; None when it is not a Dictionary of RFC 8941."""
    cdef Directives d
    if not structured(PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), &d):
        return None
    return _told(&d)


def parse_date(bytes value):
    """Seconds since 1970, or None."""
    cdef int64_t found = date_of(PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
    return None if found == DATE_INVALID else found


def parse_age(bytes value):
    """Seconds, or None."""
    cdef int64_t found = age_of(PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
    return None if found < 0 else found
