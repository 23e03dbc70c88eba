"""A kept answer: its head as ready-made lines, and what has to be known of it without reading them.

    head in the storage    lines ("Name: value\r\n" …) | their index, an array of headers.Header

A hit copies both into the exchange's response as they are. They come out of memory that other processes write to, or from
a disk or another host: `unpack` believes no offset.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastgw._core.cache_directives cimport DATE_INVALID, date_of
from fastgw._core.cache_freshness cimport COOKIES_STRIP, F_WEAK_ETAG, Fate, Rules
from fastgw._core.headers cimport H_DATE, H_PROXY_AUTHENTICATE, Head, Header, equals_lower

cdef enum:
    MAX_LINES = 256


cdef class Packer:
    def __cinit__(self):
        self.buf = <char*>malloc(MAX_HEAD)
        if self.buf == NULL:
            raise MemoryError()

    def __dealloc__(self):
        free(self.buf)

    cdef bint _left_out(self, Head head, int i, Fate *fate, Rules rules) noexcept:
        cdef Header *h = &head.items[i]
        cdef const char *name = head.buf + h.name
        cdef int k
        if h.drop or h.id == H_PROXY_AUTHENTICATE:
            return True                           # RFC 9111 3.1
        if h.name_len == 3 and equals_lower(name, b"age", 3):
            return True                           # made anew each time
        if h.name_len == 25 and equals_lower(name, b"proxy-authentication-info", 25):
            return True
        if h.name_len == 19 and equals_lower(name, b"proxy-authorization", 19):
            return True
        if rules.cookies == COOKIES_STRIP and h.name_len == 10 and equals_lower(name, b"set-cookie", 10):
            return True
        for k in range(fate.said.n_fields):
            # RFC 9111 5.2.2.4, 5.2.2.7: no-cache="…", private="…"
            if fate.said.fields[k].n == h.name_len and _same(name, fate.said.fields[k].name, h.name_len):
                return True
        return False

    cdef int pack(self, Head head, Fate *fate, Rules rules) except -1:
        cdef Header items[MAX_LINES]
        cdef Header *h
        cdef Header *to
        cdef Meta *meta = &self.meta
        cdef uint32_t at = 0, size
        cdef int i, count = 0
        memset(meta, 0, sizeof(Meta))
        meta.version = META_VERSION
        meta.kind = K_ANSWER
        meta.status = head.status
        meta.flags = fate.flags
        meta.age = fate.age
        meta.lifetime = fate.lifetime
        meta.while_revalidate = fate.while_revalidate
        meta.if_error = fate.if_error
        meta.modified = DATE_INVALID
        for i in range(head.count):
            if self._left_out(head, i, fate, rules):
                continue
            h = &head.items[i]
            size = h.end - h.name
            if count == MAX_LINES or at + size + (count + 1) * sizeof(Header) > MAX_HEAD:
                return -2
            memcpy(self.buf + at, head.buf + h.name, size)
            to = &items[count]
            to[0] = h[0]
            to.name = at
            to.value = at + (h.value - h.name)
            to.end = at + size
            if h.name_len == 4 and meta.etag_len == 0 and equals_lower(head.buf + h.name, b"etag", 4):
                meta.etag = to.value
                meta.etag_len = h.value_len
                if h.value_len > 2 and head.buf[h.value] == c"W" and head.buf[h.value + 1] == c"/":
                    meta.flags |= F_WEAK_ETAG
            elif h.name_len == 13 and equals_lower(head.buf + h.name, b"last-modified", 13):
                meta.modified = date_of(head.buf + h.value, h.value_len)
            at += size
            count += 1
        memcpy(self.buf + at, items, count * sizeof(Header))
        meta.lines = at
        meta.count = count
        self.n = at + count * sizeof(Header)
        return 0


cdef bint _same(const char *a, const char *b, size_t n) noexcept nogil:
    cdef size_t i
    cdef unsigned char x, y
    for i in range(n):
        x = <unsigned char>a[i]
        y = <unsigned char>b[i]
        if c"A" <= x <= c"Z": x |= 0x20
        if c"A" <= y <= c"Z": y |= 0x20
        if x != y:
            return False
    return True


cdef int unpack(const char *packed, uint32_t n, Meta *meta, Head into) except -1:
    """Fills a head that is empty: lines, index, status. The caller says how long the body is."""
    cdef uint32_t lines = meta.lines
    cdef int i, count = meta.count
    cdef Header *h
    if meta.version != META_VERSION or lines > MAX_HEAD or count > MAX_LINES \
            or lines + count * sizeof(Header) != n or meta.status < 200 or meta.status > 599 \
            or <uint64_t>meta.etag + meta.etag_len > lines:
        return 0
    into.len = 0
    into.reserve(lines + 512)
    memcpy(into.buf, packed, lines)
    into.len = lines
    while into.cap_items < count + 4:
        into.count = into.cap_items
        into._new_item()
    memcpy(into.items, packed + lines, count * sizeof(Header))
    into.count = 0
    for i in range(count):
        h = &into.items[i]
        if h.name > h.value or <uint64_t>h.name + h.name_len > h.value or <uint64_t>h.value + h.value_len > h.end \
                or h.end > lines or h.drop:
            return 0
    into.count = count
    into.dropped = 0
    into.status = meta.status
    into.reason_len = 0
    into.keep_alive = True
    into.chunked = False
    return 1


cdef int freshened(Head stored, Head news) except -1:
    """The fields of a 304 go into the head of the kept answer, in the place of those of the same name."""
    cdef int i
    cdef Header *h
    cdef char lower[256]
    cdef size_t k
    for i in range(news.count):
        h = &news.items[i]
        if h.drop or h.name_len > 255 or _fixed(news, h):
            continue
        for k in range(h.name_len):
            lower[k] = news.buf[h.name + k] | (0x20 if c"A" <= news.buf[h.name + k] <= c"Z" else 0)
        stored.remove_name(lower, h.name_len)
    for i in range(news.count):
        h = &news.items[i]
        if not h.drop and h.name_len <= 255 and not _fixed(news, h):
            stored.append(news.buf + h.name, h.name_len, news.buf + h.value, h.value_len)
    return 0


cdef bint _fixed(Head head, Header *h) noexcept:
    """RFC 9111 3.2: what says how the kept body is to be read stays."""
    cdef const char *name = head.buf + h.name
    if h.name_len == 16:
        return equals_lower(name, b"content-encoding", 16)
    return h.name_len == 13 and equals_lower(name, b"content-range", 13)


cdef int bodiless(Head head) noexcept:
    """RFC 9110 15.4.5: Content-Location, Date, ETag, Vary, Cache-Control and Expires stay, and what is not of the body."""
    cdef int i
    cdef Header *h
    for i in range(head.count):
        h = &head.items[i]
        if not h.drop and h.name_len > 8 and equals_lower(head.buf + h.name, b"content-", 8) and not (
                (h.name_len == 16 and equals_lower(head.buf + h.name, b"content-location", 16))
                or (h.name_len == 23 and equals_lower(head.buf + h.name, b"content-security-policy", 23))):
            h.drop = 1
            head.dropped += 1
    head.has_length = False
    head.chunked = False
    head.content_length = 0
    return 0
