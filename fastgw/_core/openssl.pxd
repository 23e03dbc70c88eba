"""What is used of OpenSSL's C interface (3.0 and later)."""

cdef extern from "<openssl/ssl.h>":
    ctypedef struct SSL:
        pass
    ctypedef struct SSL_CTX:
        pass
    ctypedef struct SSL_SESSION:
        pass
    ctypedef struct X509:
        pass
    ctypedef struct SSL_METHOD:
        pass
    ctypedef struct EVP_CIPHER_CTX:
        pass
    ctypedef struct EVP_MAC_CTX:
        pass
    ctypedef struct X509_STORE:
        pass
    ctypedef struct X509_VERIFY_PARAM:
        pass
    ctypedef struct X509_NAMES "STACK_OF(X509_NAME)":
        pass
    X509_NAMES *sk_X509_NAME_new_null()
    const SSL_METHOD *TLS_server_method()
    const SSL_METHOD *TLS_client_method()
    SSL_CTX *SSL_CTX_new(const SSL_METHOD *method)
    void SSL_CTX_free(SSL_CTX *ctx)
    void SSL_free(SSL *ssl)
    void SSL_set_accept_state(SSL *ssl)
    void SSL_set_connect_state(SSL *ssl)
    int SSL_do_handshake(SSL *ssl)
    int SSL_read(SSL *ssl, void *p, int n)
    int SSL_write(SSL *ssl, const void *p, int n)
    int SSL_shutdown(SSL *ssl)
    void SSL_set_shutdown(SSL *ssl, int mode)
    int SSL_SENT_SHUTDOWN, SSL_RECEIVED_SHUTDOWN
    int SSL_get_error(SSL *ssl, int r)
    int SSL_session_reused(SSL *ssl)
    SSL_CTX *SSL_set_SSL_CTX(SSL *ssl, SSL_CTX *ctx)
    const char *SSL_get_servername(SSL *ssl, int kind)
    X509 *SSL_get_certificate(SSL *ssl)
    long SSL_get_verify_result(SSL *ssl)
    const char *X509_verify_cert_error_string(long n)
    void SSL_get0_alpn_selected(SSL *ssl, const unsigned char **p, unsigned int *n)
    int SSL_set_session(SSL *ssl, SSL_SESSION *session)
    void SSL_SESSION_free(SSL_SESSION *session)
    int SSL_SESSION_is_resumable(SSL_SESSION *session)
    X509_VERIFY_PARAM *SSL_get0_param(SSL *ssl)
    int SSL_CTX_set_cipher_list(SSL_CTX *ctx, const char *s)
    int SSL_CTX_set_ciphersuites(SSL_CTX *ctx, const char *s)
    unsigned long long SSL_CTX_set_options(SSL_CTX *ctx, unsigned long long options)
    int SSL_CTX_set_num_tickets(SSL_CTX *ctx, size_t n)
    int SSL_CTX_set_session_id_context(SSL_CTX *ctx, const unsigned char *p, unsigned int n)
    void SSL_CTX_set_verify(SSL_CTX *ctx, int mode, void *callback)
    void SSL_CTX_set_client_CA_list(SSL_CTX *ctx, X509_NAMES *names)
    X509_STORE *SSL_CTX_get_cert_store(SSL_CTX *ctx)
    int SSL_CTX_set_default_verify_paths(SSL_CTX *ctx)
    int SSL_CTX_set_alpn_protos(SSL_CTX *ctx, const unsigned char *p, unsigned int n)
    void SSL_CTX_set_alpn_select_cb(SSL_CTX *ctx, int (*f)(SSL *, const unsigned char **, unsigned char *,
                                    const unsigned char *, unsigned int, void *) noexcept, void *arg)
    int SSL_CTX_set_tlsext_ticket_key_evp_cb(SSL_CTX *ctx, int (*f)(SSL *, unsigned char *, unsigned char *,
                                             EVP_CIPHER_CTX *, EVP_MAC_CTX *, int) noexcept)
    void SSL_CTX_sess_set_new_cb(SSL_CTX *ctx, int (*f)(SSL *, SSL_SESSION *) noexcept)
    int SSL_select_next_proto(unsigned char **out, unsigned char *n, const unsigned char *server,
                              unsigned int server_n, const unsigned char *client, unsigned int client_n)
    SSL_CTX *SSL_get_SSL_CTX(SSL *ssl)
    int X509_STORE_set_flags(X509_STORE *store, unsigned long flags)
    int X509_VERIFY_PARAM_set1_host(X509_VERIFY_PARAM *param, const char *name, size_t n)
    int X509_VERIFY_PARAM_set1_ip(X509_VERIFY_PARAM *param, const unsigned char *ip, size_t n)
    void X509_VERIFY_PARAM_set_hostflags(X509_VERIFY_PARAM *param, unsigned int flags)
    int i2d_X509(X509 *x, unsigned char **out)
    unsigned long ERR_peek_error()
    void ERR_clear_error()
    int ERR_GET_REASON(unsigned long e)
    const char *ERR_reason_error_string(unsigned long e)
    void *OPENSSL_malloc(size_t n)
    void OPENSSL_free(void *p)
    int OPENSSL_NPN_NEGOTIATED, TLSEXT_NAMETYPE_host_name
    int SSL_ERROR_WANT_READ, SSL_ERROR_ZERO_RETURN
    int SSL_TLSEXT_ERR_OK, SSL_TLSEXT_ERR_NOACK, SSL_TLSEXT_ERR_ALERT_FATAL, SSL_AD_UNRECOGNIZED_NAME
    int SSL_VERIFY_NONE, SSL_VERIFY_PEER, SSL_VERIFY_FAIL_IF_NO_PEER_CERT, X509_V_OK
    long SSL_MODE_ENABLE_PARTIAL_WRITE, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER, SSL_MODE_RELEASE_BUFFERS
    long SSL_SESS_CACHE_OFF, SSL_SESS_CACHE_CLIENT, SSL_SESS_CACHE_NO_INTERNAL
    unsigned long long SSL_OP_NO_RENEGOTIATION, SSL_OP_NO_COMPRESSION, SSL_OP_NO_TICKET
    unsigned long X509_V_FLAG_CRL_CHECK, X509_V_FLAG_PARTIAL_CHAIN
    unsigned int X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS
    int SSL_R_HTTP_REQUEST, SSL_R_NO_SHARED_CIPHER, SSL_R_UNSUPPORTED_PROTOCOL, SSL_R_WRONG_VERSION_NUMBER
    int SSL_R_NO_APPLICATION_PROTOCOL, SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE, SSL_R_CERTIFICATE_VERIFY_FAILED
    int SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM, SSL_R_NO_SUITABLE_KEY_SHARE, SSL_R_NO_SHARED_GROUPS
    int SSL_R_VERSION_TOO_LOW, SSL_R_INAPPROPRIATE_FALLBACK


cdef extern from "openssl.h":
    int fgw_ticket(const char *keys, size_t n, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher,
                   EVP_MAC_CTX *mac, int enc)
    int fgw_store_pem(X509_STORE *store, const char *pem, size_t n, int *lists, X509_NAMES *names)
    int fgw_use_pem(SSL_CTX *ctx, const char *chain, size_t cn, const char *key, size_t kn, X509 **leaf)
    X509 *fgw_peer(SSL *ssl)
    int fgw_set_min(SSL_CTX *ctx, int version)
    int fgw_set_max(SSL_CTX *ctx, int version)
    int fgw_set_groups(SSL_CTX *ctx, const char *groups)
    long fgw_set_mode(SSL_CTX *ctx, long mode)
    long fgw_cache_mode(SSL_CTX *ctx, long mode)
    int fgw_set_name(SSL *ssl, const char *name)
    long fgw_staple(SSL *ssl, unsigned char *p, long n)
    long fgw_on_name(SSL_CTX *ctx, int (*f)(SSL *, int *, void *) noexcept, void *arg)
    long fgw_on_status(SSL_CTX *ctx, int (*f)(SSL *, void *) noexcept, void *arg)
    void *fgw_owner(SSL *ssl)
    int fgw_set_owner(SSL *ssl, void *p)
    void *fgw_of_ctx(SSL_CTX *ctx)
    int fgw_set_of_ctx(SSL_CTX *ctx, void *p)
