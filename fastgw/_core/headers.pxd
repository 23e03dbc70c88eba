"""A message head: start line and header lines as offsets into one owned buffer."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

# Names the engine itself must know. Everything else is H_OTHER.
cpdef enum HeaderId:
    H_OTHER = 0
    H_HOST
    H_CONNECTION
    H_CONTENT_LENGTH
    H_TRANSFER_ENCODING
    H_TE
    H_TRAILER
    H_UPGRADE
    H_KEEP_ALIVE
    H_PROXY_CONNECTION
    H_EXPECT
    H_FORWARDED
    H_X_FORWARDED_FOR
    H_X_FORWARDED_PROTO
    H_X_FORWARDED_HOST
    H_VIA
    H_AUTHORIZATION
    H_COOKIE
    H_ORIGIN
    H_USER_AGENT
    H_X_REQUEST_ID
    H_TRACEPARENT
    H_DATE
    H_SERVER
    H_ACCEPT
    H_HTTP2_SETTINGS
    H_PROXY_AUTHENTICATE

# What scan() answers when it is not a length. 0 = the head is not complete yet.
cdef enum ScanError:
    SCAN_BAD = -1            # syntax
    SCAN_TOO_MANY = -2       # more header lines than allowed
    SCAN_VERSION = -3        # not HTTP/1.0 or HTTP/1.1
    SCAN_TE = -4             # a transfer coding that is not `chunked`
    SCAN_FRAMING = -5        # Content-Length and Transfer-Encoding disagree or repeat
    SCAN_HOST = -6           # no Host, two of them, or not a host
    SCAN_METHOD = -7         # not one of METHODS

ctypedef struct Header:
    uint32_t name            # offset of the name; the line begins here
    uint32_t value           # offset of the value, without surrounding white space
    uint32_t value_len
    uint32_t end             # offset after the line's CRLF
    uint16_t name_len
    uint8_t id               # HeaderId
    uint8_t drop             # not forwarded, not seen


cdef class Head:
    # the bytes: the head as received, then what policies appended
    cdef char *buf
    cdef uint32_t len, cap
    cdef Header *items
    cdef int count, cap_items
    # start line (offsets into buf)
    cdef uint32_t method_len          # the method begins at 0
    cdef uint32_t target, target_len
    cdef uint32_t reason, reason_len
    cdef uint32_t line_end            # where the header lines begin
    cdef uint32_t head_len            # length of the head as received, with the empty line
    cdef public int status
    cdef readonly int minor           # HTTP/1.minor
    cdef readonly int method          # index into METHODS, -1 unknown
    # framing as received
    cdef readonly bint chunked, has_length, keep_alive, upgrade, expect_continue
    cdef bint named_by_connection     # Connection named headers that were dropped
    cdef int64_t content_length
    cdef uint32_t dropped             # how many items have drop set

    cdef int scan_request(self, const char *p, size_t n, int max_count) noexcept
    cdef int scan_fetch(self, const char *p, size_t n) noexcept
    cdef int scan_response(self, const char *p, size_t n, int max_count) noexcept
    cdef int scan_trailers(self, const char *p, size_t n, int max_count) except -1
    cdef int _scan_request(self, const char *p, size_t n, int max_count, bint need_host) noexcept
    cdef int _scan_lines(self, uint32_t at, uint32_t n, int max_count) noexcept
    cdef void _connection_tokens(self, Header *h) noexcept
    cdef int take(self, const char *p, size_t n) except -1       # copies n bytes as the new content
    cdef int reserve(self, uint32_t more) except -1
    cdef void clear(self) noexcept
    cdef Header* find_id(self, int id) noexcept
    cdef Header* find(self, const char *lower, size_t n) noexcept      # name in lower case
    cdef int count_of(self, const char *lower, size_t n) noexcept
    cdef int remove_name(self, const char *lower, size_t n) noexcept   # how many were there
    cdef int append(self, const char *name, size_t nl, const char *value, size_t vl) except -1
    cdef int append_lines(self, const char *block, size_t n, int lines) except -1
    cdef uint32_t store(self, const char *p, size_t n) except? 0xffffffff   # bytes kept in buf, no header
    cdef int _new_item(self) except -1
    cdef char* copy_lines(self, char *out) noexcept                    # all kept lines
    cdef size_t lines_size(self) noexcept                              # an upper bound of the above
    cdef bytes value_of(self, Header *h)


cdef bint equals_lower(const char *p, const char *lower, size_t n) noexcept nogil
cdef int header_id(const char *name, size_t n) noexcept nogil
cdef int method_id(const char *p, size_t n) noexcept nogil
cdef bint valid_value(const char *p, size_t n) noexcept nogil
cdef bint valid_host(const char *p, size_t n) noexcept nogil
cdef bint valid_name(const char *p, size_t n) noexcept nogil
