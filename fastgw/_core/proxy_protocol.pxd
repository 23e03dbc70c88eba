"""The PROXY protocol, versions 1 and 2: what a proxy says of a connection before its first byte."""
from libc.stdint cimport uint8_t, uint16_t

cdef enum:
    PROXY_MORE = 0           # not all of it is there yet
    PROXY_NONE = -1          # the bytes are not the protocol's
    PROXY_MALFORMED = -2
    PROXY_TOO_LONG = -3      # more than we read of one
    PROXY_MAX = 4112         # of version 2: 16 bytes, and 4096 of addresses and TLVs


ctypedef struct ProxyHead:
    int version
    bint told                # source and port were told; else the connection's own hold
    uint8_t source[16]       # IPv4 as IPv4-mapped IPv6
    char text[48]            # the same, printed
    int text_len
    uint16_t port
    uint8_t target[16]       # where it connected to, likewise
    uint16_t target_port


cdef enum:
    PROXY_WRITTEN = 107      # the longest that is written

cdef int proxy_write(uint8_t *out, int version, const uint8_t *source, uint16_t port, const uint8_t *target,
                     uint16_t target_port) noexcept nogil     # bytes; NULL for `source` or `target`: not known
cdef int proxy_read(const uint8_t *p, size_t n, ProxyHead *head) noexcept nogil   # bytes of the header, or PROXY_*
