"""TLS of listeners."""
from libc.stdint cimport int64_t

from fastgw._core.accept cimport Codec, Connection
from fastgw._core.openssl cimport SSL, SSL_CTX


cdef class ServerContext:
    """The certificates and rules of one listener."""
    cdef SSL_CTX **contexts               # one per group of certificates; the first is the default
    cdef int count
    cdef dict by_name                     # DNS name or wildcard → index of the group
    cdef bint refuse_unknown
    cdef bytes offered                    # ALPN as it is on the wire, the best first
    cdef bytes keys                       # ticket keys, 80 bytes each, the newest first
    cdef list staples                     # (address of the X509, DER of its OCSP response)
    cdef readonly int client_auth
    cdef bint unknown_name                # the handshake that runs asked for a name nobody has
    cdef SSL *new_ssl(self) except NULL
    cdef int _build(self, SSL_CTX *ctx, object spec, tuple numbers) except -1
    cdef int _certificate(self, SSL_CTX *ctx, object certificate) except -1
    cdef int _clients(self, SSL_CTX *ctx, object spec) except -1


cdef class Handshakes:
    """Handshakes under way in one worker, by listener; it goes on over plans."""
    cdef int in_flight
    cdef dict addresses


cdef class TlsCodec(Codec):
    cdef ServerContext context
    cdef Codec h1, h2
    cdef Handshakes gate
    cdef int per_address, most
    cdef int64_t timeout_ns
    cdef bytes hsts


cdef class TlsHandshake(Connection):
    cdef TlsCodec codec
    cdef bint entered
    cdef int _left(self, int reason) except -1
    cdef int _out(self) except -1
