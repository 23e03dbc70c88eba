"""Sets of address ranges: the longest prefix that holds an address says what is to become of it.

A table is made once, and then only read; a new one may take its place. Prefixes nest or are apart, so sorted by where they begin they are a walk
through a tree (a radix tree in pre-order); a stack of those that are open makes ranges of it that do not overlap, and
finding an address is one binary search over where these begin: 17 steps for 100,000 entries, without a pointer to follow.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, qsort, realloc
from libc.string cimport memcmp, memcpy
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastgw._core.exchange cimport CONTINUE, PHASE_REQUEST, Exchange, Hook
from fastgw._core.policy cimport apply_problem

import ipaddress

from fastgw._core.exchange import Problem

cdef extern from *:
    """
    #include <arpa/inet.h>
    #include <string.h>
    /* 4 or 6, and the address as 16 bytes; 0 when it is none */
    static inline int fgw_address(const char *text, unsigned char *out) {
      static const unsigned char mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
      memcpy(out, mapped, 12);
      if (inet_pton(AF_INET, text, out + 12) == 1) return 4;
      if (inet_pton(AF_INET6, text, out) == 1) return memcmp(out, mapped, 12) == 0 ? 46 : 6;
      return 0;
    }
    """
    int fgw_address(const char *text, unsigned char *out) noexcept nogil

cdef enum:
    MAX_LINE = 200
    MAX_ENTRIES = 2_000_000
    DEPTH = 130                          # nested prefixes, one for each length, on top of no prefix at all

cdef uint8_t[12] MAPPED = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]

ctypedef struct Prefix:
    u128 start
    uint8_t bits                         # of 128
    uint8_t word

ctypedef struct Open:
    u128 end
    uint8_t word

# What is wrong with a line.
cdef enum Wrong:
    W_ADDRESS = -1
    W_BITS = -2
    W_HOST = -3
    W_LONG = -4
    W_MANY = -5

cdef dict WRONG = {
    W_ADDRESS: "is not an address or range", W_BITS: "has a prefix that is too long",
    W_HOST: "has bits set beyond the prefix", W_LONG: "is too long for a range",
    W_MANY: f"is one range too many: a table takes {MAX_ENTRIES}",
}


cdef inline u128 _number(const uint8_t *bytes16) noexcept nogil:
    cdef u128 value = 0
    cdef int i
    for i in range(16):
        value = (value << 8) | bytes16[i]
    return value


cdef int _compare(const void *a, const void *b) noexcept nogil:
    cdef const Prefix *x = <const Prefix*>a
    cdef const Prefix *y = <const Prefix*>b
    if x.start != y.start:
        return -1 if x.start < y.start else 1
    if x.bits != y.bits:
        return -1 if x.bits < y.bits else 1
    return <int>x.word - <int>y.word


cdef int _line(const char *p, size_t n, Prefix *out) noexcept nogil:
    """1 with a prefix, 0 for a line without one, a Wrong else. `#` and `;` begin a comment."""
    cdef char text[MAX_LINE]
    cdef uint8_t raw[16]
    cdef size_t i, end = 0, slash = 0
    cdef int family, bits = -1, most
    for i in range(n):
        if p[i] == c"#" or p[i] == c";":
            n = i
            break
    while n > 0 and (p[0] == c" " or p[0] == c"\t"):
        p += 1
        n -= 1
    while n > 0 and (p[n - 1] == c" " or p[n - 1] == c"\t" or p[n - 1] == c"\r"):
        n -= 1
    if n == 0:
        return 0
    if n >= MAX_LINE:
        return W_LONG
    memcpy(text, p, n)
    text[n] = 0
    for i in range(n):
        if text[i] == 0:
            return W_ADDRESS
        if text[i] == c"/":
            text[i] = 0
            if i + 1 == n or n - i > 4:
                return W_ADDRESS
            bits = 0
            for end in range(i + 1, n):
                if not c"0" <= text[end] <= c"9":
                    return W_ADDRESS
                bits = bits * 10 + (text[end] - c"0")
            break
    family = fgw_address(text, raw)
    if family == 0:
        return W_ADDRESS
    most = 32 if family == 4 else 128
    if bits < 0:
        bits = most
    elif bits > most:
        return W_BITS
    if family == 4:
        bits += 96
    out.start = _number(raw)
    out.bits = bits
    if bits == 0:
        return 1 if out.start == 0 else W_HOST
    if bits < 128 and out.start << bits != 0:
        return W_HOST
    return 1


cdef class CidrTable:
    """`CidrTable(sources)`: each source is (Listed, its name in errors, bytes with a range on each line).

    Raises ValueError with source and line for what is no range. Parsing does not hold the interpreter's lock.
    """

    def __init__(self, sources):
        cdef Prefix *found = NULL
        cdef size_t count = 0, room = 0
        cdef bytes text
        cdef const char *p
        cdef size_t n
        cdef int word, wrong
        cdef size_t line = 0
        try:
            for kind, name, text in sources:
                word = kind
                p = PyBytes_AS_STRING(text)
                n = PyBytes_GET_SIZE(text)
                with nogil:
                    wrong = _parse(p, n, word, &found, &count, &room, &line)
                if wrong == -100:
                    raise MemoryError
                if wrong < 0:
                    bad = text.split(b"\n", line)[line - 1][:80].decode("latin-1").strip()
                    raise ValueError(f"{name}:{line}: {bad!r} {WRONG[wrong]}")
            self.entries = count
            with nogil:
                if count:
                    qsort(found, count, sizeof(Prefix), _compare)
                wrong = _flatten(self, found, count)
            if wrong < 0:
                raise MemoryError
        finally:
            free(found)

    def __dealloc__(self):
        free(self.starts4)
        free(self.starts6)
        free(self.words4)
        free(self.words6)

    def __repr__(self):
        return f"<CidrTable {self.entries} entries>"

    cdef int find(self, const uint8_t *address) noexcept nogil:
        """Listed, for an address of 16 bytes (IPv4 mapped)."""
        cdef uint32_t low = 0, high, middle, wanted4
        cdef u128 wanted
        if memcmp(address, MAPPED, 12) == 0:
            wanted4 = (<uint32_t>address[12] << 24) | (<uint32_t>address[13] << 16) | (<uint32_t>address[14] << 8) \
                | address[15]
            high = self.count4
            while high - low > 1:
                middle = (low + high) >> 1
                if self.starts4[middle] <= wanted4:
                    low = middle
                else:
                    high = middle
            return self.words4[low]
        wanted = _number(address)
        high = self.count6
        while high - low > 1:
            middle = (low + high) >> 1
            if self.starts6[middle] <= wanted:
                low = middle
            else:
                high = middle
        return self.words6[low]

    def become(self, CidrTable other not None):
        """Holds what `other` held, from one moment to the next, and the other way round."""
        self.starts4, other.starts4 = other.starts4, self.starts4
        self.starts6, other.starts6 = other.starts6, self.starts6
        self.words4, other.words4 = other.words4, self.words4
        self.words6, other.words6 = other.words6, self.words6
        self.count4, other.count4 = other.count4, self.count4
        self.count6, other.count6 = other.count6, self.count6
        self.entries, other.entries = other.entries, self.entries

    def look_up(self, str address):
        """Listed, for an address as text. ValueError for what is none."""
        cdef bytes raw
        parsed = ipaddress.ip_address(address)
        raw = (b"\0" * 10 + b"\xff\xff" if parsed.version == 4 else b"") + parsed.packed
        return Listed(self.find(<const uint8_t*>PyBytes_AS_STRING(raw)))


cdef int _parse(const char *p, size_t n, int word, Prefix **found, size_t *count, size_t *room,
                size_t *line) noexcept nogil:
    """Adds the ranges of a text; 0, or a Wrong and its line, or -100 when there is no memory."""
    cdef size_t at = 0, end
    cdef Prefix *more
    cdef Prefix one
    cdef int got
    line[0] = 0
    while at < n:
        end = at
        while end < n and p[end] != c"\n":
            end += 1
        line[0] += 1
        got = _line(p + at, end - at, &one)
        if got < 0:
            return got
        if got:
            if count[0] == room[0]:
                if room[0] >= MAX_ENTRIES:
                    return W_MANY
                room[0] = room[0] * 2 if room[0] else 1024
                more = <Prefix*>realloc(found[0], room[0] * sizeof(Prefix))
                if more == NULL:
                    return -100
                found[0] = more
            one.word = word
            found[0][count[0]] = one
            count[0] += 1
        at = end + 1
    return 0


ctypedef struct Ranges:
    u128 *starts
    uint8_t *words
    uint32_t count


cdef inline void _emit(Ranges *to, u128 start, uint8_t word) noexcept nogil:
    if to.count and to.starts[to.count - 1] == start:
        to.words[to.count - 1] = word
        return
    if to.count and to.words[to.count - 1] == word:
        return
    to.starts[to.count] = start
    to.words[to.count] = word
    to.count += 1


cdef int _flatten(CidrTable table, const Prefix *found, size_t count) noexcept nogil:
    """Fills both tables. 0, or -1 when there is no memory."""
    cdef Ranges four, six
    cdef uint32_t i
    if _ranges(found, count, True, &four) < 0:
        return -1
    table.starts4 = <uint32_t*>malloc(four.count * sizeof(uint32_t))
    if table.starts4 == NULL or _ranges(found, count, False, &six) < 0:
        free(four.starts)
        free(four.words)
        return -1
    for i in range(four.count):
        table.starts4[i] = <uint32_t>four.starts[i]
    free(four.starts)
    table.words4 = four.words
    table.count4 = four.count
    table.starts6 = six.starts
    table.words6 = six.words
    table.count6 = six.count
    return 0


cdef inline bint _is_four(const Prefix *one) noexcept nogil:
    """::/0 is every IPv6 address, and no IPv4 one: only what lies within ::ffff:0:0/96 is of that family."""
    return one.bits >= 96 and one.start >> 32 == 0xffff


cdef int _ranges(const Prefix *found, size_t count, bint four, Ranges *to) noexcept nogil:
    """The sorted prefixes of one family → ranges that do not overlap, from 0 (of the whole, or of the IPv4) on."""
    cdef Open stack[DEPTH]
    cdef int depth = 0
    cdef u128 last = ~<u128>0, none = 0, base = <u128>0xffff << 32, end, start
    cdef size_t i
    if four:
        last = 0xffffffff
    else:
        base = 0
    to.count = 0
    to.starts = <u128*>malloc((2 * count + 2) * sizeof(u128))
    to.words = <uint8_t*>malloc(2 * count + 2)
    if to.starts == NULL or to.words == NULL:
        free(to.starts)
        free(to.words)
        return -1
    stack[0].word = NOWHERE
    _emit(to, none, NOWHERE)
    for i in range(count):
        if _is_four(&found[i]) != four:
            continue
        if i + 1 < count and found[i + 1].start == found[i].start and found[i + 1].bits == found[i].bits:
            continue                              # the same range once more, with a word that counts more
        start = found[i].start - base
        while depth and stack[depth].end < start:
            end = stack[depth].end
            depth -= 1
            _emit(to, end + 1, stack[depth].word)
        end = start
        if found[i].bits < 128:
            end |= (~<u128>0) >> found[i].bits
        depth += 1
        stack[depth].end = end
        stack[depth].word = found[i].word
        _emit(to, start, found[i].word)
    while depth:
        end = stack[depth].end
        depth -= 1
        if end != last:
            _emit(to, end + 1, stack[depth].word)
    return 0


cdef class IpFilter(Hook):
    """`IpFilter(table, closed, report, keep)`: refuses who is DENIED, and with `closed` who is not ALLOWED.

    With a `report` (called with the exchange) nobody is refused. `keep` is held for as long as this lives.
    """

    def __init__(self, CidrTable table not None, bint closed, report=None, keep=None):
        self.name = "ip"
        self.keep = keep
        self.phases = PHASE_REQUEST
        self.table = table
        self.closed = closed
        self.report = report

    cdef int request(self, Exchange ex) except -1:
        cdef int word = self.table.find(ex.client_addr)
        if word == ALLOWED or (word == NOWHERE and not self.closed):
            return CONTINUE
        if self.report is not None:
            self.report(ex)
            return CONTINUE
        return apply_problem(ex, Problem(403, "ip_denied"))
