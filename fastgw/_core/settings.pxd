"""What the server section of the configuration says, in the form the hot path reads. One per plan."""
from libc.stdint cimport int64_t, uint8_t


cdef class Settings:
    # limits
    cdef readonly int max_head, max_headers, max_target, pipelined, max_connections, max_per_address
    cdef readonly int64_t body_limit, requests_per_connection
    # timeouts, ns
    cdef readonly int64_t header_ns, body_ns, idle_ns, total_ns
    # the target
    cdef readonly int path_mode
    cdef readonly bint merge_slashes
    # forwarding
    cdef readonly bint x_forwarded, forwarded, trace
    cdef readonly bint client_certs       # a listener asks for certificates: X-Client-Cert-* are ours alone
    cdef readonly int64_t sample_below    # of 2**32: the share of traces begun here that are sampled
    cdef readonly bytes via               # pseudonym, None = no Via
    cdef readonly bytes server_header     # on the gateway's own answers; None = none
    cdef readonly object arrivals         # arrivals.Arrivals, or None: anybody, at any rate
    cdef bytes trusted                    # 17 bytes each: the address as IPv6, and the prefix length
    cdef readonly int trusted_count
    cdef bint is_trusted(self, const uint8_t *address) noexcept
