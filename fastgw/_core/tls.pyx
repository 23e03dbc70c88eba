"""TLS by OpenSSL, between a socket and whatever speaks over it.

A `TlsChannel` is a `Channel`: codecs do not know that it is there. All connections share one BIO of our own, which
reads the bytes that were just received where they are and collects records to be sent, so a message is one
system call here as it is in plaintext. What is decrypted goes to the owner from the reactor's buffer.
"""
from libc.errno cimport EAGAIN, ECONNRESET, EINTR, EPROTO, errno
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy
from cpython.bytes cimport PyBytes_FromStringAndSize

from fastgw._core.openssl cimport *
from fastgw._core.reactor cimport RBUF, READS, Channel, Reactor

cdef extern from *:
    """
    #include "openssl.h"
    #include <sys/socket.h>

    /* What the one BIO reads from and writes to while an SSL function runs. */
    static const char *fgw_in; static size_t fgw_in_n;
    static char *fgw_out; static size_t fgw_out_n, fgw_out_cap;
    static BIO *fgw_bio;

    static int fgw_bio_write(BIO *b, const char *p, int n) {
      BIO_clear_retry_flags(b);
      if (fgw_out_n + n > fgw_out_cap) {
        size_t cap = (fgw_out_n + n + 65535) & ~(size_t)65535;
        char *grown = realloc(fgw_out, cap);
        if (grown == NULL) return -1;
        fgw_out = grown; fgw_out_cap = cap;
      }
      memcpy(fgw_out + fgw_out_n, p, n); fgw_out_n += n;
      return n;
    }
    static int fgw_bio_read(BIO *b, char *p, int n) {
      BIO_clear_retry_flags(b);
      if (fgw_in_n == 0) { BIO_set_retry_read(b); return -1; }
      if ((size_t)n > fgw_in_n) n = (int)fgw_in_n;
      memcpy(p, fgw_in, n); fgw_in += n; fgw_in_n -= n;
      return n;
    }
    static long fgw_bio_ctrl(BIO *b, int command, long number, void *p) { return command == BIO_CTRL_FLUSH; }
    static int fgw_bio_create(BIO *b) { BIO_set_init(b, 1); return 1; }
    static int fgw_tls_begin(void) {
      BIO_METHOD *m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "fastgw");
      if (m == NULL) return -1;
      BIO_meth_set_write(m, fgw_bio_write); BIO_meth_set_read(m, fgw_bio_read);
      BIO_meth_set_ctrl(m, fgw_bio_ctrl); BIO_meth_set_create(m, fgw_bio_create);
      fgw_bio = BIO_new(m);
      return fgw_bio == NULL ? -1 : 0;
    }
    static SSL *fgw_new_ssl(SSL_CTX *ctx) {
      SSL *ssl = SSL_new(ctx);
      if (ssl == NULL) return NULL;
      BIO_up_ref(fgw_bio);
      SSL_set_bio(ssl, fgw_bio, fgw_bio);
      return ssl;
    }
    """
    const char *fgw_in
    size_t fgw_in_n
    char *fgw_out
    size_t fgw_out_n
    int fgw_tls_begin()
    SSL *fgw_new_ssl(SSL_CTX *ctx)
    ssize_t recv(int fd, void *p, size_t n, int flags) nogil

cdef enum:
    RECORD = 16384                # RFC 8446 5.1: plaintext of one record
    SEALED = 131072               # records that are collected before they are sent
    UNREAD = 16384                # what TLS itself may have to say to a peer that does not read
    CIPHER = RBUF - 20480         # received at once: with what a record before left, it fits the reactor's buffer

cdef char _cipher[CIPHER]         # what the connection that reads now received
cdef char _record[RECORD]         # plaintext that is put together for one record

if fgw_tls_begin() < 0:
    raise MemoryError()


class TlsError(ValueError):
    """OpenSSL does not take a certificate, a key or a name of the configuration. No secret is in the message."""


cdef str why():
    """What OpenSSL says of its last error, and forgets it."""
    cdef unsigned long e = ERR_peek_error()
    cdef const char *text = ERR_reason_error_string(e) if e else NULL
    ERR_clear_error()
    return text.decode("ascii", "replace") if text != NULL else "unknown reason"


cdef bytes wire(object protocols):
    return b"".join(bytes([len(protocol)]) + protocol for protocol in protocols)


cdef SSL *new_ssl(SSL_CTX *ctx) except NULL:
    """On the one BIO; it belongs to the caller."""
    cdef SSL *ssl = fgw_new_ssl(ctx)
    if ssl == NULL:
        raise MemoryError()
    return ssl


cdef class TlsChannel(Channel):
    def __dealloc__(self):
        if self.ssl != NULL:
            SSL_free(self.ssl)
        free(self.plain)

    cdef int _connected(self, int error) except -1:
        """To an upstream: TCP is through, now it is our turn to speak."""
        global fgw_in_n
        if error:
            return self.owner.on_connected(error)
        fgw_in_n = 0
        return self._handshake()

    cdef int _handshake(self) except -1:
        cdef int r, e
        if ERR_peek_error():
            ERR_clear_error()                     # left by somebody else: SSL_get_error would take it for ours
        r = SSL_do_handshake(self.ssl)
        e = 0 if r == 1 else SSL_get_error(self.ssl, r)
        if r != 1 and e != SSL_ERROR_WANT_READ:
            self.failed = True
        self._push()
        if r == 1:
            self.established = True
            if self.plain_len and not self.corked:
                self._gather(NULL, 0, NULL, 0, NULL, 0)
            return self.owner.on_connected(0)
        if self.failed:
            # OpenSSL's error stands for the owner to look at
            return self.owner.on_connected(EPROTO)
        return 0

    cdef int _read(self) except -1:
        cdef ssize_t n
        cdef int i
        for i in range(READS):
            if self.fd < 0 or self.paused or not self.readable:
                return 0
            n = recv(self.fd, _cipher, CIPHER, 0)
            if n > 0:
                if n < CIPHER and not self.eof:
                    self.readable = False
                if self.closing or self.failed:
                    continue                      # we only wait for our output to leave
                self._received(n)
                if not self.readable:
                    return 0
            elif n == 0:
                self.readable = False
                self.eof = True
                if self.closing:
                    return self._closed() if self.out_len == 0 else 0
                return self._ended()
            elif errno == EAGAIN:
                self.readable = False
                return 0
            elif errno != EINTR:
                self.readable = False
                self.broken = True
                if self.closing:
                    return self._closed()
                return self.owner.on_broken() if self.established else self.owner.on_connected(ECONNRESET)
        if self.fd >= 0 and not self.paused:
            self.reactor.later(self)
        return 0

    cdef int _ended(self) except -1:
        if not self.established:
            return self.owner.on_connected(ECONNRESET)
        if self.server or self.clean:
            return self.owner.on_eof()
        # RFC 8446 6.1: without close_notify an end may be somebody's cut
        self.broken = True
        return self.owner.on_broken()

    cdef int _received(self, size_t n) except -1:
        """Bytes of the peer stand in _cipher: decrypts all of them."""
        global fgw_in, fgw_in_n
        cdef Reactor reactor = self.reactor
        cdef int r = 0, e = 0
        cdef size_t total = 0
        fgw_in = _cipher
        fgw_in_n = n
        if not self.established:
            self._handshake()
            if not self.established or self.fd < 0 or self.broken:
                return 0
        if ERR_peek_error():
            ERR_clear_error()
        while total < RBUF:
            r = SSL_read(self.ssl, reactor.rbuf + total, <int>(RBUF - total))
            if r <= 0:
                e = SSL_get_error(self.ssl, r)
                break
            total += r
        if fgw_out_n:
            self._reply()
        if total and not self.closing and self.fd >= 0:
            self.owner.on_data(reactor.rbuf, total)
        if self.fd < 0 or r > 0 or e == SSL_ERROR_WANT_READ:
            return 0
        self.readable = False
        if e == SSL_ERROR_ZERO_RETURN:
            self.clean = True
            self.eof = True
            if self.closing:
                return self._closed() if self.out_len == 0 else 0
            return self.owner.on_eof()
        ERR_clear_error()
        self.failed = True
        self.broken = True
        return self._closed() if self.closing else self.owner.on_broken()

    # ------------------------------------------------------------------ output

    cdef int _reply(self) except -1:
        """Sends what reading caused: an alert, our half of a key update.

        A peer can cause it without end (RFC 8446 4.6.3, RFC 5246 7.2.2), and need not read it: that is bounded."""
        self.unread = self.unread + fgw_out_n if self.out_len else 0
        self._push()
        return self._fail() if self.unread > UNREAD else 0

    cdef int _push(self) except -1:
        """Sends the records that were collected."""
        global fgw_out_n
        cdef size_t n = fgw_out_n
        if n == 0 or self.ending:
            return 0
        fgw_out_n = 0
        return Channel.write(self, fgw_out, n)

    cdef int _end(self) except -1:
        """RFC 8446 6.1: each side ends its own half, by close_notify. With what was corked it is one write."""
        self.ending = True
        self.uncork()
        if self.established and not self.broken and not self.finished:
            SSL_shutdown(self.ssl)
            ERR_clear_error()
        self.ending = False
        return self._push()

    cdef int _seal(self, const char *p, size_t n) except -1:
        cdef int r
        while n:
            r = SSL_write(self.ssl, p, RECORD if n > RECORD else <int>n)
            if r <= 0:
                ERR_clear_error()
                return self._fail()
            p += r
            n -= r
            if fgw_out_n >= SEALED:
                self._push()
                if self.broken:
                    return 0
        return 0

    cdef int _hold(self, const char *p, size_t n) except -1:
        cdef char *grown
        cdef size_t cap
        if n == 0:
            return 0
        if self.plain_len + n > self.plain_cap:
            cap = (self.plain_len + n + 1023) & ~<size_t>1023
            grown = <char*>realloc(self.plain, cap)
            if grown == NULL:
                raise MemoryError()
            self.plain = grown
            self.plain_cap = cap
        memcpy(self.plain + self.plain_len, p, n)
        self.plain_len += n
        return 0

    cdef int _gather(self, const char *a, size_t an, const char *b, size_t bn, const char *c, size_t cn) except -1:
        """What was corked, then a, b and c, in as few records as they fit in."""
        cdef const char *parts[4]
        cdef size_t sizes[4]
        cdef size_t fill = 0, k, total = self.plain_len + an + bn + cn
        cdef int i
        if self.broken or self.fd < 0:
            return 0
        if not self.established:
            self._hold(a, an)
            self._hold(b, bn)
            return self._hold(c, cn)
        if ERR_peek_error():
            ERR_clear_error()
        self.corked = False
        parts[0], sizes[0] = self.plain, self.plain_len
        parts[1], sizes[1] = a, an
        parts[2], sizes[2] = b, bn
        parts[3], sizes[3] = c, cn
        for i in range(4):
            while sizes[i] and not self.broken:
                if fill == 0 and (sizes[i] >= RECORD or sizes[i] == total):
                    k = RECORD if sizes[i] > RECORD else sizes[i]
                    self._seal(parts[i], k)
                else:
                    k = RECORD - fill if sizes[i] > RECORD - fill else sizes[i]
                    memcpy(_record + fill, parts[i], k)
                    fill += k
                    if fill == RECORD:
                        self._seal(_record, fill)
                        fill = 0
                parts[i] += k
                sizes[i] -= k
        if fill and not self.broken:
            self._seal(_record, fill)
        if self.plain != NULL:
            free(self.plain)
            self.plain = NULL
            self.plain_len = self.plain_cap = 0
        return self._push()

    cdef int write(self, const char *p, size_t n) except -1:
        return self._gather(p, n, NULL, 0, NULL, 0)

    cdef int write2(self, const char *a, size_t an, const char *b, size_t bn) except -1:
        return self._gather(a, an, b, bn, NULL, 0)

    cdef int write_chunk(self, const char *p, size_t n, bint last) except -1:
        cdef char head[20]
        cdef int i = 18
        cdef size_t rest = n
        head[18] = c"\r"
        head[19] = c"\n"
        while rest:
            i -= 1
            head[i] = b"0123456789abcdef"[rest & 15]
            rest >>= 4
        return self._gather(head + i, 20 - i, p, n, b"\r\n0\r\n\r\n", 7 if last else 2)

    cdef int cork(self, const char *p, size_t n) except -1:
        if self.broken or self.fd < 0:
            return 0
        self._hold(p, n)
        self.corked = True
        return self.reactor.later(self)

    cdef int uncork(self) except -1:
        if self.corked:
            return self._gather(NULL, 0, NULL, 0, NULL, 0)
        return 0

    cdef int finish(self) except -1:
        if self.fd >= 0 and not self.finished and not self.closing and not self.broken and not self.failed:
            self._end()
        return Channel.finish(self)

    cdef int shut(self) except -1:
        if self.fd >= 0 and not self.closing and not self.broken and not self.failed:
            self._end()
        return Channel.shut(self)

    cdef int kill(self, bint reset) except -1:
        Channel.kill(self, reset)
        if self.ssl != NULL:
            if self.established and not self.failed:
                # without this, freeing it would mark its session, which is somebody's now, as not to be resumed
                SSL_set_shutdown(self.ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN)
            SSL_free(self.ssl)
            self.ssl = NULL
        self.context = None
        free(self.plain)
        self.plain = NULL
        self.plain_len = self.plain_cap = 0
        return 0

    # ------------------------------------------------------------------ what was agreed on

    cdef str alpn(self):
        cdef const unsigned char *p = NULL
        cdef unsigned int n = 0
        SSL_get0_alpn_selected(self.ssl, &p, &n)
        return (<const char*>p)[:n].decode("latin-1") if n else ""

    cdef bytes peer_certificate(self):
        """DER, or None."""
        cdef X509 *peer = fgw_peer(self.ssl)
        cdef unsigned char *der = NULL
        cdef int n
        if peer == NULL:
            return None
        n = i2d_X509(peer, &der)
        if n <= 0:
            ERR_clear_error()
            return None
        found = PyBytes_FromStringAndSize(<char*>der, n)
        OPENSSL_free(der)
        return found
