"""httptools decides, the scanner indexes: the agreement of the two, and body framing."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from fastgw._core.headers cimport Head


ctypedef struct Chunked:
    uint8_t state
    uint64_t rest            # bytes of the current chunk still to come
    uint32_t digits
    uint32_t overhead        # bytes of extensions and trailers so far
    size_t trailers          # where in the bytes of the last call the trailers began or went on

cdef void chunked_begin(Chunked *c) noexcept nogil
# 1 = the body is complete, 0 = more to come, -1 = not valid. `used` counts raw bytes, `data` decoded ones.
# compact=True moves the decoded bytes together to the front of p.
cdef int chunked_feed(Chunked *c, char *p, size_t n, size_t *used, size_t *data, bint compact) noexcept nogil


cdef class _View:
    cdef const char *p
    cdef Py_ssize_t n


cdef class Authority:
    """An httptools parser that is fed the very bytes the scanner indexed."""
    cdef bint for_requests
    cdef object parser, feed_data
    cdef _View view
    cdef int completed
    cdef bint stale
    cdef int renew(self) except -1
    # 0 = httptools agrees: the bytes are valid and the message is complete exactly when `complete` says so
    cdef int check(self, const char *p, size_t n, bint complete, bint last) except? -2


cdef class Authorities:
    """The parsers of one worker: one for messages that are whole at once, spare ones for the others."""
    cdef Authority whole
    cdef bint for_requests
    cdef list spare
    cdef Authority take(self)
    cdef int give(self, Authority authority) except -1
