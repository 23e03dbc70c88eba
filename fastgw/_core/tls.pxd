"""TLS by OpenSSL, between a socket and whatever speaks over it."""
from fastgw._core.openssl cimport SSL, SSL_CTX
from fastgw._core.reactor cimport Channel

cdef str why()                            # what OpenSSL says of its last error, which is forgotten then
cdef bytes wire(object protocols)         # ALPN as it is on the wire
cdef SSL *new_ssl(SSL_CTX *ctx) except NULL


cdef class TlsChannel(Channel):
    """A Channel whose bytes are TLS records. Its owner hears `on_connected` when the handshake is through."""
    cdef SSL *ssl
    cdef object context                   # keeps what made it alive
    cdef bint server, established, failed
    cdef bint clean                       # the peer said close_notify
    cdef bint ending                      # close_notify follows at once: records wait for it
    cdef char *plain                      # corked bytes, before they are encrypted
    cdef unsigned int plain_len, plain_cap
    cdef size_t unread                    # bytes of TLS's own that wait behind output which the peer does not read
    cdef int _handshake(self) except -1
    cdef int _received(self, size_t n) except -1
    cdef int _ended(self) except -1
    cdef int _hold(self, const char *p, size_t n) except -1
    cdef int _gather(self, const char *a, size_t an, const char *b, size_t bn, const char *c, size_t cn) except -1
    cdef int _seal(self, const char *p, size_t n) except -1
    cdef int _reply(self) except -1
    cdef int _push(self) except -1
    cdef int _end(self) except -1
    cdef str alpn(self)
    cdef bytes peer_certificate(self)
