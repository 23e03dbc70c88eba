"""Who the client is, behind trusted proxies, and what the upstream is told about it."""
from libc.stdint cimport uint64_t

from fastgw._core.exchange cimport Exchange
from fastgw._core.settings cimport Settings

cdef int find_client(Exchange ex, Settings settings) except -1
cdef char* put_forwarding(char *o, Exchange ex, Settings settings) noexcept
cdef size_t forwarding_size(Exchange ex, Settings settings) noexcept
cdef int begin_trace(Exchange ex, Settings settings) noexcept
cdef uint64_t random64() noexcept
cdef void make_id(Exchange ex) noexcept
cdef int parse_address(const char *p, size_t n, unsigned char *out) noexcept
