"""The first message of TLS, read only for the name it asks for."""
from libc.stdint cimport uint8_t

cdef enum:
    HELLO_MORE = 0           # not all of it is there yet
    HELLO_NONE = -1          # the bytes are not TLS's
    HELLO_MALFORMED = -2
    HELLO_TOO_LONG = -3
    HELLO_MAX = 16384        # bytes of it, with the heads of its records
    NAME_MAX = 255


ctypedef struct Hello:
    size_t need              # with HELLO_MORE: bytes before which another look is no use
    int name_len             # 0: it asks for no name
    char name[NAME_MAX + 1]  # lower case


cdef int hello_read(const uint8_t *p, size_t n, Hello *hello) noexcept nogil     # 1 when it is whole, or HELLO_*
