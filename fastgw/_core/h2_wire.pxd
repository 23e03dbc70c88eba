"""What both sides of HTTP/2 share: fields on their way out, bodies on their way out, frames into the socket."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.string cimport memcpy

from fastgw._core.headers cimport Head
from fastgw._core.nghttp2 cimport *
from fastgw._core.reactor cimport Channel

cdef enum:
    FIELDS = 320                  # fields of one head, ours included
    NAMES = 32768                 # bytes of their names in lower case


ctypedef struct Fields:
    # One block of header fields while it is put together. The library copies it when it is submitted.
    nghttp2_nv nv[FIELDS]
    int n
    char names[NAMES]
    uint32_t names_n
    char status[4]
    char length[24]


ctypedef struct Flow:
    # Bytes of a body that wait for the window, or for the socket.
    char *p
    uint32_t at, n, cap


cdef nghttp2_mem *memory          # for all sessions of this process


cdef Fields *fields               # the one of this process: a block is begun and submitted in one go


cdef inline void put(const char *name, size_t nl, const char *value, size_t vl) noexcept:
    cdef nghttp2_nv *nv = &fields.nv[fields.n]
    nv.name = <uint8_t*>name
    nv.namelen = nl
    nv.value = <uint8_t*>value
    nv.valuelen = vl
    nv.flags = NGHTTP2_NV_FLAG_NONE
    fields.n += 1


cdef inline void begin_fields() noexcept:
    fields.n = 0
    fields.names_n = 0


cdef int put_head(Head head) noexcept             # its kept lines; how many there were
cdef int put_lines(char *p, size_t n) noexcept    # lines of text of our own; the names are made lower case where they lie
cdef void put_status(int status) noexcept         # `:status`, at the beginning
cdef void put_length(int64_t length) noexcept     # `content-length`
cdef int flow_add(Flow *flow, const char *p, size_t n) except -1


cdef inline size_t flow_take(Flow *flow, uint8_t *to, size_t room) noexcept:
    cdef size_t k = flow.n if flow.n < room else room
    if k:
        memcpy(to, flow.p + flow.at, k)
        flow.at += <uint32_t>k
        flow.n -= <uint32_t>k
    if flow.n == 0:
        flow.at = 0
    return k


# Frames that are ready, as long as the socket takes them. False: there are more, or there is no socket.
cdef bint send_frames(nghttp2_session *session, Channel channel) except -1


# What the sessions of both sides have in common; the callbacks are to be added.
cdef int prepare(nghttp2_session_callbacks **callbacks, nghttp2_option **options) except -1
# From a read callback that gave the last of a body: trailers follow it.
cdef void end_with_trailers(nghttp2_session *session, int32_t id, Head trailers, uint32_t *flags) noexcept
