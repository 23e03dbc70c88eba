"""TLS of listeners: certificates by name, sessions, clients' certificates, and a connection until its handshake is
through. Then the protocol that was agreed on (ALPN, RFC 7301) says which codec takes its place.
"""
import logging

from libc.errno cimport EPROTO
from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from fastgw._core.accept cimport Codec, Connection, Listener
from fastgw._core.clock cimport Timer
from fastgw._core.openssl cimport *
from fastgw._core.reactor cimport Channel, Reactor
from fastgw._core.record cimport (
    C_TLS_ALERT, C_TLS_ALPN, C_TLS_BUSY, C_TLS_CERTIFICATE, C_TLS_CIPHER, C_TLS_CLOSED, C_TLS_FULL, C_TLS_NAME,
    C_TLS_PLAIN, C_TLS_PROTOCOL, C_TLS_RESUMED, C_TLS_TIMEOUT, C_TLS_VERSION,
)
from fastgw._core.tls cimport TlsChannel, new_ssl, why, wire

from fastgw._core.client_certificate import client_certificate
from fastgw._core.tls import TlsError

logger = logging.getLogger("fastgw.tls")

cdef enum:
    ALERTS = 1000                 # OpenSSL: the reason of an alert is its number and this

cdef int64_t LINGER_NS = 1_000_000_000

cdef bytes PLAIN_HTTP = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/problem+json\r\nContent-Length: 113\r\n"
    b"Connection: close\r\n\r\n"
    b'{"type":"about:blank","title":"This port speaks TLS: use https","status":400,"code":"plain_http","side":"downstream"}'
)
PLAIN_HTTP = PLAIN_HTTP.replace(b"113", str(len(PLAIN_HTTP.partition(b"\r\n\r\n")[2])).encode())


cdef int _counter(unsigned long e) noexcept:
    """The counter of a failed handshake."""
    cdef int reason = ERR_GET_REASON(e)
    if reason >= ALERTS:
        return C_TLS_ALERT
    if reason == SSL_R_HTTP_REQUEST:
        return C_TLS_PLAIN
    if reason == SSL_R_NO_SHARED_CIPHER or reason == SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM \
            or reason == SSL_R_NO_SUITABLE_KEY_SHARE or reason == SSL_R_NO_SHARED_GROUPS:
        return C_TLS_CIPHER
    if reason == SSL_R_UNSUPPORTED_PROTOCOL or reason == SSL_R_VERSION_TOO_LOW or reason == SSL_R_INAPPROPRIATE_FALLBACK:
        return C_TLS_VERSION
    if reason == SSL_R_NO_APPLICATION_PROTOCOL:
        return C_TLS_ALPN
    if reason == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE or reason == SSL_R_CERTIFICATE_VERIFY_FAILED:
        return C_TLS_CERTIFICATE
    return C_TLS_PROTOCOL


cdef int _on_name(SSL *ssl, int *alert, void *arg) noexcept:
    """RFC 6066 3: the client may say which name it wants."""
    cdef ServerContext context = <ServerContext>arg
    cdef const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name)
    if name == NULL:
        return SSL_TLSEXT_ERR_NOACK               # it may not: it gets the default
    try:
        wanted = (<bytes>name).lower().rstrip(b".")
        found = context.by_name.get(wanted)
        if found is None:
            found = context.by_name.get(b"*." + wanted.partition(b".")[2])
        if found is not None:
            SSL_set_SSL_CTX(ssl, context.contexts[<int>found])
            return SSL_TLSEXT_ERR_OK
    except Exception:
        pass
    if not context.refuse_unknown:
        return SSL_TLSEXT_ERR_NOACK
    context.unknown_name = True
    alert[0] = SSL_AD_UNRECOGNIZED_NAME
    return SSL_TLSEXT_ERR_ALERT_FATAL


cdef int _on_alpn(SSL *ssl, const unsigned char **out, unsigned char *n, const unsigned char *offered,
                  unsigned int offered_n, void *arg) noexcept:
    """RFC 7301 3.2: what we like best of what the client knows; when there is nothing, no_application_protocol."""
    cdef ServerContext context = <ServerContext>arg
    cdef unsigned char *chosen = NULL
    if SSL_select_next_proto(&chosen, n, <const unsigned char*>PyBytes_AS_STRING(context.offered),
                             <unsigned int>PyBytes_GET_SIZE(context.offered), offered,
                             offered_n) != OPENSSL_NPN_NEGOTIATED:
        return SSL_TLSEXT_ERR_ALERT_FATAL
    out[0] = chosen
    return SSL_TLSEXT_ERR_OK


cdef int _on_ticket(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac,
                    int encrypt) noexcept:
    cdef ServerContext context = <ServerContext>fgw_of_ctx(SSL_get_SSL_CTX(ssl))
    return fgw_ticket(PyBytes_AS_STRING(context.keys), PyBytes_GET_SIZE(context.keys), name, iv, cipher, mac, encrypt)


cdef int _on_status(SSL *ssl, void *arg) noexcept:
    """RFC 6066 8: the staple of the certificate that was chosen."""
    cdef ServerContext context = <ServerContext>arg
    cdef X509 *leaf = SSL_get_certificate(ssl)
    cdef unsigned char *copied
    cdef Py_ssize_t n
    for address, staple in context.staples:
        if <size_t>address == <size_t>leaf:
            n = PyBytes_GET_SIZE(staple)
            copied = <unsigned char*>OPENSSL_malloc(n)
            if copied == NULL:
                return SSL_TLSEXT_ERR_NOACK
            memcpy(copied, PyBytes_AS_STRING(staple), n)
            fgw_staple(ssl, copied, n)
            return SSL_TLSEXT_ERR_OK
    return SSL_TLSEXT_ERR_NOACK


cdef class ServerContext:
    """`ServerContext(spec)`: of a plan.tls.TlsSpec. TlsError when OpenSSL does not take what it says."""

    def __init__(self, spec, alpn=None):
        cdef int i
        groups = [spec.default_group()]
        self.by_name = {}
        for name, numbers in spec.by_name().items():
            numbers = tuple(numbers)
            if numbers not in groups:
                groups.append(numbers)
            self.by_name[name] = groups.index(numbers)
        self.refuse_unknown = spec.unknown_sni == "refuse"
        self.offered = wire(spec.alpn if alpn is None else alpn)
        self.keys = b"".join(spec.ticket_keys)
        self.client_auth = spec.client_auth
        self.staples = []
        self.contexts = <SSL_CTX**>calloc(len(groups), sizeof(SSL_CTX*))
        if self.contexts == NULL:
            raise MemoryError()
        self.count = len(groups)
        for i in range(self.count):
            self.contexts[i] = SSL_CTX_new(TLS_server_method())
            if self.contexts[i] == NULL:
                raise MemoryError()
            self._build(self.contexts[i], spec, groups[i])

    def __dealloc__(self):
        cdef int i
        for i in range(self.count):
            SSL_CTX_free(self.contexts[i])
        free(self.contexts)

    cdef int _build(self, SSL_CTX *ctx, object spec, tuple numbers) except -1:
        cdef bytes trust
        ERR_clear_error()
        fgw_set_of_ctx(ctx, <void*>self)
        fgw_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER
                     | SSL_MODE_RELEASE_BUFFERS)
        SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION)
        fgw_set_min(ctx, spec.min_version)
        fgw_set_max(ctx, spec.max_version)
        if spec.ciphers and SSL_CTX_set_cipher_list(ctx, <bytes>spec.ciphers) != 1:
            raise TlsError(f"ciphers: {why()}")
        if spec.ciphersuites and SSL_CTX_set_ciphersuites(ctx, <bytes>spec.ciphersuites) != 1:
            raise TlsError(f"ciphersuites: {why()}")
        if spec.groups and fgw_set_groups(ctx, <bytes>spec.groups) != 1:
            raise TlsError(f"groups: {why()}")
        # sessions are in tickets alone: there is no cache that workers would have to share
        fgw_cache_mode(ctx, SSL_SESS_CACHE_OFF)
        if self.keys:
            SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx, _on_ticket)
            SSL_CTX_set_num_tickets(ctx, 1)
        else:
            SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET)
            SSL_CTX_set_num_tickets(ctx, 0)
        SSL_CTX_set_session_id_context(ctx, b"fastgw", 6)
        fgw_on_name(ctx, _on_name, <void*>self)
        if self.offered:
            SSL_CTX_set_alpn_select_cb(ctx, _on_alpn, <void*>self)
        for number in numbers:
            self._certificate(ctx, spec.certificates[number])
        if any(spec.certificates[number].ocsp for number in numbers):
            fgw_on_status(ctx, _on_status, <void*>self)
        if spec.client_auth:
            self._clients(ctx, spec)
        return 0

    cdef int _certificate(self, SSL_CTX *ctx, object certificate) except -1:
        cdef bytes chain = certificate.chain_pem, private = certificate.key_pem
        cdef X509 *leaf = NULL
        if fgw_use_pem(ctx, PyBytes_AS_STRING(chain), PyBytes_GET_SIZE(chain), PyBytes_AS_STRING(private),
                       PyBytes_GET_SIZE(private), &leaf) != 1:
            raise TlsError(f"the certificate {certificate.name}: {why()}")
        if certificate.ocsp:
            self.staples.append((<size_t>leaf, certificate.ocsp))
        return 0

    cdef int _clients(self, SSL_CTX *ctx, object spec) except -1:
        cdef X509_STORE *store = SSL_CTX_get_cert_store(ctx)
        cdef X509_NAMES *names = sk_X509_NAME_new_null()
        cdef bytes pem = spec.client_ca
        cdef int lists = 0
        SSL_CTX_set_client_CA_list(ctx, names)    # owns them
        if fgw_store_pem(store, PyBytes_AS_STRING(pem), PyBytes_GET_SIZE(pem), &lists, names) <= 0:
            raise TlsError(f"client_ca: {why()}")
        if spec.crl:
            pem = spec.crl
            if fgw_store_pem(store, PyBytes_AS_STRING(pem), PyBytes_GET_SIZE(pem), &lists, NULL) < 0 or lists == 0:
                raise TlsError(f"crl: {why()}")
            X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK)
        # an authority in the file is trusted as it stands, be it an intermediate one
        X509_STORE_set_flags(store, X509_V_FLAG_PARTIAL_CHAIN)
        SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | (SSL_VERIFY_FAIL_IF_NO_PEER_CERT if spec.client_auth == 2 else 0), NULL)
        return 0

    cdef SSL *new_ssl(self) except NULL:
        cdef SSL *ssl = new_ssl(self.contexts[0])
        SSL_set_accept_state(ssl)
        return ssl


cdef class Handshakes:
    def __init__(self):
        self.addresses = {}


cdef class TlsCodec(Codec):
    """`TlsCodec(spec, h1, h2, gate)`: what a listener with TLS opens its connections by. `h2` None: not spoken."""

    def __init__(self, spec, Codec h1, Codec h2, Handshakes gate):
        self.context = ServerContext(spec, [p for p in spec.alpn if p != b"h2" or h2 is not None])
        self.h1 = h1
        self.speaks_http = h1.speaks_http
        self.h2 = h2
        self.gate = gate
        self.per_address = spec.handshakes_per_address
        self.most = spec.handshakes_in_flight
        self.timeout_ns = spec.handshake_timeout_ns
        self.hsts = spec.hsts or None

    cdef Connection open(self, Listener listener):
        return TlsHandshake(listener, self)

    cdef Channel channel(self, Reactor reactor):
        cdef TlsChannel channel = TlsChannel(reactor)
        channel.server = True
        channel.context = self.context
        channel.ssl = self.context.new_ssl()
        return channel


cdef class TlsHandshake(Connection):
    """A connection until its handshake is through."""

    def __cinit__(self, Listener listener, Codec codec):
        self.codec = <TlsCodec>codec

    cdef int begin(self) except -1:
        cdef Handshakes gate = self.codec.gate
        cdef bytes key = PyBytes_FromStringAndSize(<const char*>self.peer.address, 16)
        count = gate.addresses.get(key, 0)
        if gate.in_flight >= self.codec.most or (count >= self.codec.per_address and not self.listener.is_unix):
            return self._left(C_TLS_BUSY)
        self.entered = True
        gate.in_flight += 1
        gate.addresses[key] = count + 1
        self.reactor.wheel.arm(&self.timer, self.reactor.now + self.codec.timeout_ns)
        return 0

    cdef int _out(self) except -1:
        """No handshake is under way here any more."""
        cdef Handshakes gate = self.codec.gate
        if self.entered:
            self.entered = False
            gate.in_flight -= 1
            key = PyBytes_FromStringAndSize(<const char*>self.peer.address, 16)
            count = gate.addresses.get(key, 1) - 1
            if count > 0:
                gate.addresses[key] = count
            else:
                gate.addresses.pop(key, None)
        return 0

    cdef int _left(self, int reason) except -1:
        """It came to nothing. What OpenSSL had to say is on its way."""
        cdef Channel channel = self.channel
        if channel is None:
            return 0
        self.relay.stats.add(reason, 1)
        if reason != C_TLS_BUSY and reason != C_TLS_CLOSED:
            self.listener.failed(&self.peer)
        self._out()
        if channel.out_len or (<TlsChannel>channel).failed:
            if not channel.closing:
                self.reactor.wheel.arm(&self.timer, self.reactor.now + LINGER_NS)
                channel.shut()
            return 0
        return self.on_closed()

    cdef int on_connected(self, int error) except -1:
        cdef TlsChannel channel = <TlsChannel>self.channel
        cdef Connection connection
        cdef Codec codec
        cdef int reason
        if error:
            reason = C_TLS_CLOSED
            if error == EPROTO:
                reason = _counter(ERR_peek_error())
                if self.codec.context.unknown_name:
                    reason = C_TLS_NAME
                    self.codec.context.unknown_name = False
                ERR_clear_error()
                if reason == C_TLS_PLAIN:
                    Channel.write(channel, PyBytes_AS_STRING(PLAIN_HTTP), PyBytes_GET_SIZE(PLAIN_HTTP))
            return self._left(reason)
        if self.codec.context.client_auth:
            try:
                self.client_cert = client_certificate(channel.peer_certificate())
            except Exception as failure:
                # OpenSSL took what the library that reads it for us does not: nobody would know who this is
                why_not = type(failure).__name__
                logger.warning("%s: a client's certificate cannot be read: %s", self.listener.name, why_not)
                return self._left(C_TLS_CERTIFICATE)
        self._out()
        self.relay.stats.add(C_TLS_RESUMED if SSL_session_reused(channel.ssl) else C_TLS_FULL, 1)
        codec = self.codec.h1
        if self.codec.h2 is not None and channel.alpn() == "h2":
            codec = self.codec.h2
        connection = codec.open(self.listener)
        self.secure = True
        connection.follow(self)
        connection.hsts = self.codec.hsts
        connection.begin()
        if self.relay.draining:
            connection.drain()
        return 0

    cdef int on_timer(self, Timer *timer) except -1:
        if self.channel is None:
            return 0
        if self.entered:
            self.relay.stats.add(C_TLS_TIMEOUT, 1)
            self.listener.failed(&self.peer)
        return self.on_closed()

    cdef int on_eof(self) except -1:
        return self._left(C_TLS_CLOSED)

    cdef int on_broken(self) except -1:
        if self.entered:
            self.relay.stats.add(C_TLS_CLOSED, 1)
        return self.on_closed()

    cdef int on_hangup(self) except -1:
        return self.on_broken()

    cdef int on_closed(self) except -1:
        cdef Channel channel = self.channel
        if channel is None:
            return 0
        self._out()
        self.channel = None
        self.reactor.wheel.unlink(&self.timer)
        self.reactor.bury(self)
        channel.kill(False)
        return self.leave()
