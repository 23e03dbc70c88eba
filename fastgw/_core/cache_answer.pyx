"""A kept answer as one client gets it: whole, in part (RFC 9110 14), or as the news that his own still holds (13)."""
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastgw._core.cache_conditional cimport (
    RANGES, UNSATISFIABLE, WHOLE, Range, not_modified, ranges_of, still_holds,
)
from fastgw._core.cache_directives cimport DATE_INVALID, date_of
from fastgw._core.cache_head cimport Meta, bodiless
from fastgw._core.cache_reader cimport Reader
from fastgw._core.cache_store cimport Found, Storage
from fastgw._core.exchange cimport Exchange
from fastgw._core.forwarding cimport random64
from fastgw._core.headers cimport H_DATE, Head, Header, equals_lower
from fastgw._core.respond cimport Relay


cdef int shape(Exchange ex, Found *found, Meta *meta, int lines, Portion *portion) except -1:
    """ex.response is a kept answer: what this client's conditions and ranges make of it. Of the request the first `lines`
    are the client's own, also those that were taken out for the service."""
    cdef Head head = ex.response
    cdef Header *h
    cdef Header *asked = NULL
    cdef const char *etag = found.head + meta.etag
    cdef int64_t modified = meta.modified
    cdef int i
    portion.count = 1 if found.body_len else 0
    portion.parts[0].first = 0
    portion.parts[0].length = found.body_len
    if meta.status < 200 or meta.status > 299:
        return 0
    if modified == DATE_INVALID:
        # RFC 9111 4.3.2: without Last-Modified its Date
        h = head.find_id(H_DATE)
        if h != NULL:
            modified = date_of(head.buf + h.value, h.value_len)
    if not_modified(ex.request, lines, etag, meta.etag_len, modified):
        head.status = 304
        portion.count = 0
        return bodiless(head)
    for i in range(lines):
        h = &ex.request.items[i]
        if h.name_len == 5 and equals_lower(ex.request.buf + h.name, b"range", 5):
            asked = h
    if asked == NULL or meta.status != 200 or ex.is_head \
            or not still_holds(ex.request, etag, meta.etag_len, meta.modified):
        return 0
    return _ranges(ex, found, asked, portion)


cdef int _ranges(Exchange ex, Found *found, Header *asked, Portion *portion) except -1:
    cdef Head head = ex.response
    cdef Range parts[RANGES]
    cdef int count = ranges_of(ex.request.buf + asked.value, asked.value_len, found.body_len, parts)
    cdef bytes line
    if count == WHOLE:
        return 0
    if count == UNSATISFIABLE:
        head.status = 416
        portion.count = 0
        bodiless(head)
        head.has_length = True
        line = b"bytes */%d" % found.body_len
    else:
        head.status = 206
        portion.count = count
        memcpy(portion.parts, parts, sizeof(parts))
        if count > 1:
            return 0                              # the parts say themselves which they are
        head.content_length = <int64_t>parts[0].length
        line = b"bytes %d-%d/%d" % (parts[0].first, parts[0].first + parts[0].length - 1, found.body_len)
    return head.append(b"Content-Range", 13, PyBytes_AS_STRING(line), PyBytes_GET_SIZE(line))


cdef list _multipart(Exchange ex, Found *found, Portion *portion):
    """RFC 9110 14.6: what stands before each part, and after the last; Content-Type and length are set."""
    cdef Head head = ex.response
    cdef Header *h = head.find(b"content-type", 12)
    cdef bytes kind = b"" if h == NULL else b"\r\nContent-Type: " + head.value_of(h)
    cdef bytes boundary = b"%016x%016x" % (random64(), random64())
    cdef bytes line
    cdef list between = []
    cdef int i
    cdef uint64_t total = 0
    for i in range(portion.count):
        between.append(b"\r\n--%b%b\r\nContent-Range: bytes %d-%d/%d\r\n\r\n" % (
            boundary, kind, portion.parts[i].first, portion.parts[i].first + portion.parts[i].length - 1,
            found.body_len))
        total += portion.parts[i].length
    between.append(b"\r\n--%b--\r\n" % boundary)
    head.remove_name(b"content-type", 12)
    line = b"multipart/byteranges; boundary=" + boundary
    head.append(b"Content-Type", 12, PyBytes_AS_STRING(line), PyBytes_GET_SIZE(line))
    head.content_length = <int64_t>total + sum([len(each) for each in between])
    return between


cdef Reader reader(Exchange ex, Storage storage, Found *found, Portion *portion):
    """Takes `found` over, and sends those parts of it."""
    cdef Reader made = Reader()
    made.relay = <Relay>ex.driver
    made.storage = storage
    made.found = found[0]
    found.entry = 0
    made.count = portion.count
    memcpy(made.ranges, portion.parts, sizeof(made.ranges))
    if portion.count > 1:
        made.between = _multipart(ex, &made.found, portion)
    return made


cdef int instead(Exchange ex, Storage storage, Found *found, Portion *portion) except -1:
    """ex.response takes the place of an answer that is on its way, or failed. Takes `found` over. A small body goes the way
    of collected ones; a large one comes from the storage, for which the upstream is let go."""
    cdef const char *p
    cdef size_t n
    cdef uint64_t at
    ex.empty = False
    if ex.is_head:
        portion.count = 0
    elif portion.count <= 1 and (portion.count == 0 or portion.parts[0].length <= COPIED):
        ex.response_buffer = bytearray()
        if portion.count:
            at = portion.parts[0].first
            while <uint64_t>len(ex.response_buffer) < portion.parts[0].length:
                p = storage.piece(found, at, &n)
                if p == NULL or n == 0:
                    raise RuntimeError("a kept answer cannot be read")
                if n > portion.parts[0].length - <uint64_t>len(ex.response_buffer):
                    n = <size_t>(portion.parts[0].length - <uint64_t>len(ex.response_buffer))
                ex.response_buffer += p[:n]
                at += n
        storage.release(found)
        found.entry = 0
        return 0
    if ex.up is not None:
        ex.up.cancel(ex)
    ex.caching = None
    reader(ex, storage, found, portion).begin(ex)
    return 0
