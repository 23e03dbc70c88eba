"""TLS towards upstreams."""
from fastgw._core.openssl cimport SSL_CTX, SSL_SESSION
from fastgw._core.reactor cimport ChannelMaker


cdef class ClientContext:
    """How the endpoints of a service are spoken to; one per identity."""
    cdef SSL_CTX *ctx
    cdef readonly bint verify, reuse
    cdef readonly bytes identity


cdef class UpstreamTls(ChannelMaker):
    """Makes the channels to one endpoint, and keeps its last session."""
    cdef ClientContext context
    cdef bytes host
    cdef bytes address                    # 4 or 16 bytes when the name is an IP address
    cdef SSL_SESSION *session
    cdef readonly str name
    cdef str told                         # what was last logged
