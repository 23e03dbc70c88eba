"""What Cache-Control and the like say: directives, dates, numbers of seconds."""
from libc.stdint cimport int64_t, uint32_t

from fastgw._core.headers cimport Head

cdef enum Said:
    NO_STORE = 1
    NO_CACHE = 2             # without field names
    PRIVATE = 4              # without field names
    PUBLIC = 8
    MUST_REVALIDATE = 16
    PROXY_REVALIDATE = 32
    MUST_UNDERSTAND = 64
    ONLY_IF_CACHED = 128
    NO_TRANSFORM = 256
    INVALID_AGE = 512        # a lifetime that is no number: what has it counts as stale
    ANY_STALENESS = 1024     # max-stale without a number
    HAS_MAX_AGE = 2048
    HAS_S_MAXAGE = 4096

cdef enum:
    FIELDS = 16              # names in no-cache="…" and private="…" that are told apart; more are as though there were none
    SECONDS_MAX = 2147483648

ctypedef struct Field:
    const char *name
    uint32_t n

ctypedef struct Directives:
    uint32_t said
    int64_t max_age, s_maxage                # seconds, -1 without
    int64_t while_revalidate, if_error       # of RFC 5861
    int64_t max_stale, min_fresh             # of requests
    int n_fields
    Field fields[FIELDS]                     # these headers are not to be given to others; in the head's buffer

cdef void nothing_said(Directives *d) noexcept nogil
cdef void read_directives(const char *p, size_t n, Directives *d) noexcept nogil
cdef int directives_of(Head head, const char *lower, size_t n, Directives *d) noexcept      # how many lines there were
cdef int64_t seconds_of(const char *p, size_t n) noexcept nogil          # -1: it is no number
cdef int64_t age_of(const char *p, size_t n) noexcept nogil              # of an Age header; -1: it is none
cdef int64_t date_of(const char *p, size_t n) noexcept nogil             # seconds since 1970; DATE_INVALID
cdef bint structured(const char *p, size_t n, Directives *d) noexcept nogil   # RFC 9213: False when it is not valid

cdef enum:
    DATE_INVALID = -9000000000000
