"""TLS towards upstreams: whose certificates are believed, what is shown to them, and the session that goes on."""
import ipaddress
import logging

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastgw._core.openssl cimport *
from fastgw._core.reactor cimport Channel, ChannelMaker, Reactor
from fastgw._core.tls cimport TlsChannel, new_ssl, why, wire

from fastgw._core.tls import TlsError

logger = logging.getLogger("fastgw.tls")


cdef int _on_session(SSL *ssl, SSL_SESSION *session) noexcept:
    """A ticket came: the next connection to this endpoint goes on with it."""
    cdef void *owner = fgw_owner(ssl)
    cdef UpstreamTls upstream
    if owner == NULL:
        return 0
    upstream = <UpstreamTls>owner
    if upstream.session != NULL:
        SSL_SESSION_free(upstream.session)
    upstream.session = session
    return 1                                      # the reference is ours


cdef class ClientContext:
    """`ClientContext(spec)`: of a plan.tls.UpstreamTlsSpec. TlsError when OpenSSL does not take what it says."""

    def __init__(self, spec, alpn=None):
        cdef bytes pem, private, offered
        cdef X509 *leaf = NULL
        cdef int lists = 0
        ERR_clear_error()
        self.identity = spec.identity
        self.verify = spec.verify
        self.reuse = spec.session_reuse
        self.ctx = SSL_CTX_new(TLS_client_method())
        if self.ctx == NULL:
            raise MemoryError()
        fgw_set_mode(self.ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER
                     | SSL_MODE_RELEASE_BUFFERS)
        SSL_CTX_set_options(self.ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION)
        fgw_set_min(self.ctx, spec.min_version)
        offered = wire(spec.alpn if alpn is None else alpn)
        SSL_CTX_set_alpn_protos(self.ctx, <const unsigned char*>PyBytes_AS_STRING(offered),
                                <unsigned int>PyBytes_GET_SIZE(offered))
        if spec.verify:
            pem = spec.ca_pem
            if not pem:
                SSL_CTX_set_default_verify_paths(self.ctx)
            elif fgw_store_pem(SSL_CTX_get_cert_store(self.ctx), PyBytes_AS_STRING(pem), PyBytes_GET_SIZE(pem),
                               &lists, NULL) <= 0:
                raise TlsError(f"ca: {why()}")
            X509_STORE_set_flags(SSL_CTX_get_cert_store(self.ctx), X509_V_FLAG_PARTIAL_CHAIN)
            SSL_CTX_set_verify(self.ctx, SSL_VERIFY_PEER, NULL)
        else:
            SSL_CTX_set_verify(self.ctx, SSL_VERIFY_NONE, NULL)
        if spec.cert_pem:
            pem, private = spec.cert_pem, spec.key_pem
            if fgw_use_pem(self.ctx, PyBytes_AS_STRING(pem), PyBytes_GET_SIZE(pem), PyBytes_AS_STRING(private),
                           PyBytes_GET_SIZE(private), &leaf) != 1:
                raise TlsError(f"cert: {why()}")
        fgw_cache_mode(self.ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL if self.reuse
                       else SSL_SESS_CACHE_OFF)
        if self.reuse:
            SSL_CTX_sess_set_new_cb(self.ctx, _on_session)

    def __dealloc__(self):
        SSL_CTX_free(self.ctx)


cdef class UpstreamTls(ChannelMaker):
    """`UpstreamTls(context, server_name)`: the name (or address) of one endpoint, asked for and checked."""

    def __init__(self, ClientContext context, bytes server_name):
        self.context = context
        self.name = server_name.decode("ascii", "replace")
        self.host = server_name
        try:
            self.address = ipaddress.ip_address(self.name.strip("[]")).packed
        except ValueError:
            self.address = None

    def __dealloc__(self):
        if self.session != NULL:
            SSL_SESSION_free(self.session)

    @property
    def identity(self):
        return self.context.identity

    cdef Channel make(self, Reactor reactor):
        cdef TlsChannel channel = TlsChannel(reactor)
        cdef SSL *ssl = new_ssl(self.context.ctx)
        cdef X509_VERIFY_PARAM *rules
        channel.ssl = ssl
        channel.context = self
        fgw_set_owner(ssl, <void*>self)
        SSL_set_connect_state(ssl)
        rules = SSL_get0_param(ssl)
        if self.address is not None:
            # RFC 6066 3: an address is no server name; it is looked for in the certificate all the same
            X509_VERIFY_PARAM_set1_ip(rules, <const unsigned char*>PyBytes_AS_STRING(self.address),
                                      PyBytes_GET_SIZE(self.address))
        else:
            fgw_set_name(ssl, self.host)
            X509_VERIFY_PARAM_set_hostflags(rules, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS)
            X509_VERIFY_PARAM_set1_host(rules, PyBytes_AS_STRING(self.host), PyBytes_GET_SIZE(self.host))
        if self.session != NULL and SSL_SESSION_is_resumable(self.session):
            SSL_set_session(ssl, self.session)
        return channel

    cdef int failed(self, Channel channel) except -1:
        """The handshake failed: says why, once for a reason."""
        cdef TlsChannel tls = <TlsChannel>channel
        cdef long verdict = SSL_get_verify_result(tls.ssl) if tls.ssl != NULL else 0
        cdef str said = why()
        if self.context.verify and verdict != X509_V_OK:
            said = X509_verify_cert_error_string(verdict).decode("ascii", "replace")
        if self.session != NULL:
            SSL_SESSION_free(self.session)
            self.session = NULL
        if said != self.told:
            self.told = said
            logger.warning("TLS to %s failed: %s", self.name, said)
        return 0

    cdef int succeeded(self, Channel channel) except -1:
        self.told = None
        return 0

    cdef str protocol(self, Channel channel):
        return (<TlsChannel>channel).alpn()
