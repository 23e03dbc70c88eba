"""What both sides of HTTP/2 share: fields on their way out, bodies on their way out, frames into the socket."""
from libc.stdlib cimport calloc
from libc.string cimport memchr, memcpy, memmove

from fastgw._core.headers cimport Head, Header
from fastgw._core.nghttp2 cimport *
from fastgw._core.reactor cimport Channel

cdef extern from "h2memory.h":
    nghttp2_mem fgw_h2_memory

cdef enum:
    OUT = 65536                   # frames that are collected before they are written
    SPARE = 12                    # fields that the gateway adds after those of a head

cdef char _out[OUT]
memory = &fgw_h2_memory
fields = <Fields*>calloc(1, sizeof(Fields))
if fields == NULL:
    raise MemoryError()


cdef inline void _lower(char *to, const char *p, size_t n) noexcept:
    # RFC 9113 8.2.1: names are sent in lower case
    cdef size_t i
    for i in range(n):
        to[i] = p[i] | 0x20 if c"A" <= p[i] <= c"Z" else p[i]


cdef int put_head(Head head) noexcept:
    cdef int i, before = fields.n
    cdef Header *h
    cdef char *name
    for i in range(head.count):
        h = &head.items[i]
        if h.drop:
            continue
        if fields.n >= FIELDS - SPARE or fields.names_n + h.name_len > NAMES:
            break
        name = fields.names + fields.names_n
        _lower(name, head.buf + h.name, h.name_len)
        fields.names_n += h.name_len
        put(name, h.name_len, head.buf + h.value, h.value_len)
    return fields.n - before


cdef int put_lines(char *p, size_t n) noexcept:
    cdef char *end = p + n
    cdef char *colon
    cdef char *stop
    cdef int before = fields.n
    while p < end and fields.n < FIELDS:
        colon = <char*>memchr(p, c":", end - p)
        stop = <char*>memchr(p, c"\n", end - p)
        if colon == NULL or stop == NULL or colon > stop:
            break
        _lower(p, p, colon - p)
        put(p, colon - p, colon + 2, stop - colon - 3)       # ": " before, "\r" after the value
        p = stop + 1
    return fields.n - before


cdef void put_status(int status) noexcept:
    fields.status[0] = c"0" + status // 100
    fields.status[1] = c"0" + status // 10 % 10
    fields.status[2] = c"0" + status % 10
    put(b":status", 7, fields.status, 3)


cdef void put_length(int64_t length) noexcept:
    cdef int i = 24
    while length >= 10:
        i -= 1
        fields.length[i] = c"0" + length % 10
        length //= 10
    i -= 1
    fields.length[i] = c"0" + length
    put(b"content-length", 14, fields.length + i, 24 - i)


cdef int flow_add(Flow *flow, const char *p, size_t n) except -1:
    if flow.at and flow.at + flow.n + n > flow.cap:
        memmove(flow.p, flow.p + flow.at, flow.n)
        flow.at = 0
    if fgw_block_room(&flow.p, &flow.cap, flow.at + flow.n + n) < 0:
        raise MemoryError()
    memcpy(flow.p + flow.at + flow.n, p, n)
    flow.n += <uint32_t>n
    return 0


cdef bint send_frames(nghttp2_session *session, Channel channel) except -1:
    cdef const uint8_t *p
    cdef ssize_t n
    cdef size_t fill = 0
    cdef bint all = False
    while not channel.full():
        n = nghttp2_session_mem_send(session, &p)
        if n <= 0:
            all = True
            break
        if fill + n > OUT:
            channel.write(_out, fill)
            fill = 0
        if n > OUT:
            channel.write(<const char*>p, n)
        else:
            memcpy(_out + fill, p, n)
            fill += n
    if fill:
        channel.write(_out, fill)
    return all


cdef int _on_invalid_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t nl,
                            const uint8_t *value, size_t vl, uint8_t flags, void *p) noexcept:
    return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE      # RFC 9113 8.2.1: malformed, not a field to be left out


cdef int prepare(nghttp2_session_callbacks **callbacks, nghttp2_option **options) except -1:
    if nghttp2_session_callbacks_new(callbacks) != 0 or nghttp2_option_new(options) != 0:
        raise MemoryError()
    nghttp2_session_callbacks_set_on_invalid_header_callback(callbacks[0], _on_invalid_header)
    nghttp2_option_set_no_auto_window_update(options[0], 1)
    nghttp2_option_set_max_outbound_ack(options[0], 1000)
    return 0


cdef void end_with_trailers(nghttp2_session *session, int32_t id, Head trailers, uint32_t *flags) noexcept:
    begin_fields()
    put_head(trailers)
    if nghttp2_submit_trailer(session, id, fields.nv, fields.n) == 0:      # the library copies them
        flags[0] |= NGHTTP2_DATA_FLAG_NO_END_STREAM
