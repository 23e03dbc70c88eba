"""A kept answer: its head as ready-made lines, and what has to be known of it without reading them."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastgw._core.cache_freshness cimport Fate, Rules
from fastgw._core.headers cimport Head

cdef enum:
    META_VERSION = 1
    META_SIZE = 64
    MAX_HEAD = 65536         # bytes of a kept head, with the index of its lines

cdef enum Kind:
    K_ANSWER = 1
    K_VARIANTS               # which request headers tell the variants apart: its head has their names
    K_PASS                   # what is asked for here is not to be kept, for a while

cdef extern from *:
    """
    typedef struct {
      uint8_t version, kind; uint16_t status, flags, count;
      uint32_t lines, age, while_revalidate, if_error, etag, etag_len;
      int64_t modified; uint64_t nonce; int64_t lifetime; uint64_t spare;
    } fgw_meta;
    _Static_assert(sizeof(fgw_meta) == 64, "the storage keeps 64 bytes of it");
    """
    ctypedef struct Meta "fgw_meta":
        uint8_t version
        uint8_t kind
        uint16_t status
        uint16_t flags           # cache_freshness.Flag
        uint16_t count           # header lines
        uint32_t lines           # bytes of them; the index follows
        uint32_t age             # seconds, when it was stored
        uint32_t while_revalidate, if_error
        uint32_t etag, etag_len  # where its value is in the lines; no ETag: 0, 0
        int64_t modified         # seconds since 1970; DATE_INVALID
        uint64_t nonce           # K_VARIANTS: part of the keys of its variants
        int64_t lifetime
        uint64_t spare


cdef class Packer:
    """Puts heads together for the storage; one of these is used again and again."""
    cdef char *buf
    cdef uint32_t n
    cdef Meta meta
    cdef int pack(self, Head head, Fate *fate, Rules rules) except -1       # 0, or -2 when the head is too large
    cdef bint _left_out(self, Head head, int i, Fate *fate, Rules rules) noexcept

cdef int unpack(const char *packed, uint32_t n, Meta *meta, Head into) except -1      # 1, or 0 when it is not to be trusted
cdef int freshened(Head stored, Head news) except -1        # RFC 9111 3.2
cdef int bodiless(Head head) noexcept                        # leaves a 304: what describes a body goes
