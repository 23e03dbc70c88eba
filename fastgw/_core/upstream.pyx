"""Stage `upstream`: one HTTP/1.1 connection to an endpoint.

An answer is treated with the suspicion a request gets: httptools and the scanner must agree on it, its head is
bounded, an upgrade nobody asked for is an error, and bytes after its end cost the connection, so that they can
never become part of somebody else's answer.
"""
import os
import socket
from base64 import b64encode
from hashlib import sha1

from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastgw._core.clock cimport Timer
from fastgw._core.dial cimport Dialed
from fastgw._core.exchange cimport CONTINUE, REPLIED, TOUCHED, UNTOUCHED, WAIT, Exchange
from fastgw._core.forwarding cimport forwarding_size, put_forwarding
from fastgw._core.headers cimport H_HOST, SCAN_TOO_MANY, Head, Header
from fastgw._core.parse cimport Authorities, Authority, Chunked, chunked_begin, chunked_feed
from fastgw._core.pool cimport Endpoint, PooledStream
from fastgw._core.reactor cimport RBUF, SCRATCH, Channel, Reactor
from fastgw._core.settings cimport Settings
from fastgw._core.trailers cimport collect

cdef extern from *:
    """
    #include <errno.h>
    #include <sys/socket.h>
    static inline int fgw_unread(int fd) {      /* 1: closed, failed or something to read */
      char c; ssize_t n = recv(fd, &c, 1, MSG_PEEK | MSG_DONTWAIT);
      return !(n < 0 && errno == EAGAIN);
    }
    """
    int fgw_unread(int fd)

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"      # RFC 6455 1.3

cdef enum:
    MAX_INTERIMS = 16
    CHECK_IDLE_NS = 5000000           # younger ones were looked at by epoll at the beginning of this batch


cdef class H1Opener(Opener):
    """Makes HTTP/1.1 connections; `max_head` bytes and `max_headers` lines bound each answer's head."""

    def __init__(self, Reactor reactor, int max_head=65536, int max_headers=200):
        self.reactor = reactor
        self.checks = Authorities(False)
        self.max_head = min(max_head, RBUF)
        self.max_headers = max_headers

    cdef PooledStream open(self, Endpoint endpoint):
        cdef H1Upstream stream = H1Upstream(self, endpoint)
        stream.dial()
        return stream


cdef class H1Upstream(Dialed):
    def __cinit__(self, H1Opener opener, Endpoint endpoint):
        self.opener = opener
        self.reactor = opener.reactor
        self.endpoint = endpoint

    def __dealloc__(self):
        free(self.stash)

    # ------------------------------------------------------------------ the connection

    cdef int established(self) except -1:
        self.phase = U_IDLE
        self.idle_since = self.reactor.now
        self.reactor.wheel.arm(&self.timer, self.reactor.now + self.endpoint.limits.idle_ns)
        return self.endpoint.opened(self)

    cdef int adopt(self, Channel channel) except -1:
        """A connection that was made for whatever ALPN would say."""
        channel.owner = self
        self.channel = channel
        return 0

    cdef int give_up(self) except -1:
        return self._close()

    cdef int on_timer(self, Timer *timer) except -1:
        if self.connecting:
            return self.dial_overdue()
        if self.phase == U_IDLE:
            self.endpoint.lost_idle(self)
            return self._close()
        if self.phase == U_HEAD:
            return self._fail("upstream_response_timeout")
        if self.phase == U_BODY:
            return self._fail("upstream_idle_timeout")
        return 0

    cdef bint usable(self) noexcept:
        if self.phase != U_IDLE or self.channel is None or self.channel.readable or self.channel.broken:
            return False
        return self.reactor.now - self.idle_since < CHECK_IDLE_NS or not fgw_unread(self.channel.fd)

    cdef int bind(self, Exchange ex) except -1:
        self.ex = ex
        ex.up = self
        self.channel.first = False
        self.phase = U_HEAD
        self.held = self.got_byte = self.request_ended = self.keep = False
        self.interims = 0
        return 0

    cdef int drop(self) except -1:
        return self._close()

    cdef int _close(self) except -1:
        cdef Channel channel = self.channel
        self.phase = U_CLOSED
        self.reactor.wheel.unlink(&self.timer)
        self.reactor.bury(self)
        self.channel = None
        self.stash_len = 0
        if self.authority is not None:
            self.authority.stale = True
            self.opener.checks.give(self.authority)
            self.authority = None
        if channel is not None:
            channel.kill(False)
        return 0

    # ------------------------------------------------------------------ the request

    cdef int send_head(self, Exchange ex, bint end) except -1:
        """Serialises the request: kept lines in the order received, then what the gateway adds, then framing."""
        cdef Head head = ex.request
        cdef Settings settings = <Settings>ex.settings
        cdef Header *h
        cdef bytes host = ex.host_out
        cdef size_t need
        cdef char *mine = NULL
        cdef char *o
        cdef char *start
        need = head.lines_size() + head.len + forwarding_size(ex, settings) + 512
        if need > SCRATCH:
            mine = <char*>malloc(need)
            if mine == NULL:
                raise MemoryError()
            start = mine
        else:
            start = self.reactor.ubuf
        o = start
        if ex.out_method_len:
            memcpy(o, head.buf + ex.out_method, ex.out_method_len)
            o += ex.out_method_len
        else:
            memcpy(o, head.buf, head.method_len)
            o += head.method_len
        o[0] = c" "
        o += 1
        if ex.out_target_len:
            memcpy(o, head.buf + ex.out_target, ex.out_target_len)
            o += ex.out_target_len
        else:
            memcpy(o, head.buf + ex.path, ex.path_len)
            o += ex.path_len
            if ex.has_query:
                o[0] = c"?"
                memcpy(o + 1, head.buf + ex.query, ex.query_len)
                o += 1 + ex.query_len
        memcpy(o, b" HTTP/1.1\r\n", 11)
        o += 11
        # RFC 9112 3.2: exactly one Host, and the authority the client meant
        h = head.find_id(H_HOST)
        if host is None and (h == NULL or h.value != ex.authority):
            if ex.authority_len == 0:
                host = self.endpoint.host
        if host is not None or h == NULL or h.value != ex.authority:
            if h != NULL:
                h.drop = 1
                head.dropped += 1
            memcpy(o, b"Host: ", 6)
            o += 6
            if host is not None:
                memcpy(o, PyBytes_AS_STRING(host), PyBytes_GET_SIZE(host))
                o += PyBytes_GET_SIZE(host)
            else:
                memcpy(o, head.buf + ex.authority, ex.authority_len)
                o += ex.authority_len
            o[0] = c"\r"
            o[1] = c"\n"
            o += 2
        o = put_forwarding(o, ex, settings)
        o = head.copy_lines(o)
        if settings.via is not None:
            # RFC 9110 7.6.3: after what proxies before us wrote
            memcpy(o, b"Via: 1.0 " if head.minor == 0 else b"Via: 1.1 ", 9)
            o += 9
            memcpy(o, PyBytes_AS_STRING(settings.via), PyBytes_GET_SIZE(settings.via))
            o += PyBytes_GET_SIZE(settings.via)
            memcpy(o, b"\r\n", 2)
            o += 2
        if ex.upgrading:
            memcpy(o, b"Connection: Upgrade\r\nUpgrade: websocket\r\n", 41)
            o += 41
        self.chunked_request = False
        if ex.has_body and (not head.has_length or ex.body_filtered):
            self.chunked_request = True
            memcpy(o, b"Transfer-Encoding: chunked\r\n", 28)
            o += 28
        elif head.has_length and ex.request_buffer is None:
            o = _put_length(o, head.content_length)
        elif ex.request_buffer is not None:
            o = _put_length(o, len(ex.request_buffer))
        memcpy(o, b"\r\n", 2)
        o += 2
        self.request_ended = end
        self.reactor.wheel.arm(&self.timer, self.reactor.now + ex.response_ns)
        if end:
            self.channel.write(start, o - start)
        else:
            self.channel.cork(start, o - start)
        free(mine)
        return 0

    cdef int send_data(self, Exchange ex, const char *p, size_t n) except -1:
        if self.channel is None or n == 0:
            return 0
        self.reactor.wheel.arm(&self.timer, self.reactor.now + ex.response_ns)
        if self.chunked_request:
            return self.channel.write_chunk(p, n, False)
        return self.channel.write(p, n)

    cdef int send_end(self, Exchange ex) except -1:
        if self.channel is None:
            return 0
        self.request_ended = True
        if self.chunked_request:
            return self.channel.write(b"0\r\n\r\n", 5)
        return self.channel.uncork()

    cdef bint writable(self) noexcept:
        return self.channel is not None and not self.channel.full() and not self.connecting

    cdef int on_drained(self) except -1:
        if self.ex is not None:
            return self.ex.driver.upstream_writable(self.ex)
        return 0

    cdef int want_data(self, Exchange ex) except -1:
        """The client can take more, or the response hooks are through: go on with what was kept."""
        if self.ex is not ex or self.channel is None:
            return 0
        self.held = False
        self.reactor.wheel.arm(&self.timer, self.reactor.now + ex.idle_ns)
        self.channel.paused = False
        if self.phase == U_BODY and self.framing == F_NONE:
            return self._complete(self.stash_len == 0)
        if self.stash_len:
            self._process_stash()
        if self.ex is ex and self.channel is not None and not self.channel.paused:
            self.channel.resume()
            if ex.down is not None:
                ex.down.flush()
        return 0

    cdef int cancel(self, Exchange ex) except -1:
        """The exchange needs this attempt no more."""
        if self.ex is not ex:
            return 0
        self.ex = None
        ex.up = None
        self._close()
        return self.endpoint.release(self, False)

    # ------------------------------------------------------------------ the response

    cdef int _keep_bytes(self, const char *p, size_t n) except -1:
        cdef uint32_t cap
        cdef char *grown
        if self.stash_len + n > self.stash_cap:
            cap = (self.stash_len + n + 4095) & ~<uint32_t>4095
            grown = <char*>realloc(self.stash, cap)
            if grown == NULL:
                raise MemoryError()
            self.stash = grown
            self.stash_cap = cap
        memcpy(self.stash + self.stash_len, p, n)
        self.stash_len += n
        return 0

    cdef int on_data(self, char *p, size_t n) except -1:
        if self.ex is None:
            # bytes nobody asked for: the connection cannot be trusted any more
            self.endpoint.lost_idle(self)
            return self._close()
        self.got_byte = True
        if self.stash_len:
            self._keep_bytes(p, n)
            if self.held:
                return 0
            return self._process_stash()
        if self.held:
            return self._keep_bytes(p, n)
        return self._process(p, n)

    cdef int _process_stash(self) except -1:
        cdef char *p = self.stash
        cdef uint32_t n = self.stash_len
        self.stash = NULL
        self.stash_len = self.stash_cap = 0
        try:
            self._process(p, n)
        finally:
            free(p)
        return 0

    cdef int _process(self, char *p, size_t n) except -1:
        cdef Py_ssize_t used
        cdef Exchange ex = self.ex
        while n and self.ex is ex and not self.held:
            if self.phase == U_HEAD:
                used = self._head(p, n)
                if used == 0:
                    if n >= <size_t>self.opener.max_head:
                        return self._fail("upstream_headers_too_large")
                    return self._keep_bytes(p, n)
            else:
                used = self._body(p, n)
            if used < 0:
                return 0                          # failed, or it is over
            p += used
            n -= used
            if self.phase == U_BODY and self.framing == F_NONE and not self.held and self.ex is ex:
                return self._complete(n == 0)
            if n and self.ex is ex and not self.held and self.channel.paused:
                break
        if self.ex is ex:
            if n:
                self._keep_bytes(p, n)
            elif self.phase == U_BODY and not self.channel.paused:
                self.reactor.wheel.arm(&self.timer, self.reactor.now + ex.idle_ns)
            if ex.down is not None and not self.held:
                ex.down.flush()
        return 0

    cdef Py_ssize_t _head(self, char *p, size_t n) except -2:
        """One head, interim or final: bytes used, 0 when it is not complete, -1 when the exchange left us."""
        cdef Exchange ex = self.ex
        cdef Head head = ex.response
        cdef int k = head.scan_response(p, n, self.opener.max_headers)
        cdef int verdict
        if k == 0:
            return 0
        if k < 0:
            self._fail("upstream_headers_too_large" if k == SCAN_TOO_MANY else "upstream_protocol_error")
            return -1
        if k > self.opener.max_head:
            self._fail("upstream_headers_too_large")
            return -1
        if head.status < 200:
            self.interims += 1
            if head.status == 101 and ex.upgrading:
                return self._upgraded(p, n, k)
            if head.status == 101 or self.interims > MAX_INTERIMS or head.has_length or head.chunked \
                    or self.opener.checks.whole.check(p, k, True, False) < 0:
                self._fail("upstream_protocol_error")
                return -1
            head.take(p, k)
            ex.driver.interim(ex, head)
            return k
        # RFC 9112 6.3: how the body of a response is framed, in this order
        if ex.is_head or head.status == 204 or head.status == 304:
            self.framing = F_NONE
        elif head.chunked:
            self.framing = F_CHUNKED
            chunked_begin(&self.chunk)
            self.pass_trailers = self.endpoint.limits.response_trailers
        elif head.has_length:
            self.framing = F_LENGTH if head.content_length else F_NONE
            self.rest = head.content_length
        else:
            self.framing = F_CLOSE
        self.keep = head.keep_alive and self.framing != F_CLOSE
        if self._agreed(p, n, k) < 0:
            self._fail("upstream_protocol_error")
            return -1
        head.take(p, k)
        ex.t_head = self.reactor.now
        self.phase = U_BODY
        self.reactor.wheel.arm(&self.timer, self.reactor.now + ex.idle_ns)
        verdict = ex.driver.response_head(ex)
        if self.ex is not ex:
            return -1                             # replaced by a local reply, or gone
        if verdict == WAIT:
            self.held = True
            self.channel.pause()
            self.reactor.wheel.cancel(&self.timer)
            self._keep_bytes(p + k, n - k)
            return -1
        return k

    cdef Py_ssize_t _upgraded(self, char *p, size_t n, uint32_t k) except -2:
        """101: the upstream speaks WebSocket from the next byte on. It must show that it knows what it does."""
        cdef Exchange ex = self.ex
        cdef Head head = ex.response
        cdef Header *h
        cdef bytes found
        cdef int verdict
        self.opener.checks.whole.stale = True
        head.take(p, k)
        h = head.find(b"sec-websocket-accept", 20)
        found = b"" if h == NULL else head.buf[h.value:h.value + h.value_len]
        if found != socket_accept(ex.request) or head.count_of(b"sec-websocket-accept", 20) != 1 or head.has_length or head.chunked:
            self._fail("upstream_protocol_error")
            return -1
        self.keep = False
        self.framing = F_TUNNEL
        self.phase = U_BODY
        ex.t_head = self.reactor.now
        ex.driver.upgraded(ex)
        self.reactor.wheel.arm(&self.timer, self.reactor.now + ex.idle_ns)
        verdict = ex.driver.response_head(ex)
        if self.ex is not ex:
            return -1
        if verdict == WAIT:
            self.held = True
            self.channel.pause()
            self.reactor.wheel.cancel(&self.timer)
            self._keep_bytes(p + k, n - k)
            return -1
        return k

    cdef int _agreed(self, char *p, size_t n, uint32_t k) except -2:
        """httptools on the head and what is here of the body: 0 when both see the same end, else -1."""
        cdef Chunked ahead
        cdef int r
        cdef size_t used = 0, data = 0
        cdef bint complete, last = not self.keep
        cdef Authority authority
        cdef Head head = self.ex.response
        if self.framing == F_NONE:
            used = 0
            complete = True
            if self.ex.is_head and head.status != 204 and head.status != 304:
                # httptools does not know that HEAD has no body: it would wait for one
                complete = head.has_length and head.content_length == 0
                last = last or not complete
        elif self.framing == F_LENGTH:
            used = n - k if <int64_t>(n - k) < self.rest else <size_t>self.rest
            complete = <int64_t>used == self.rest
        elif self.framing == F_CHUNKED:
            ahead = self.chunk
            complete = False
            if n > k:
                r = chunked_feed(&ahead, p + k, n - k, &used, &data, False)
                if r < 0:
                    return -1
                complete = r == 1
        else:
            used = n - k
            complete = False
        authority = self.opener.checks.whole
        if not complete and self.framing != F_NONE:
            authority = self.opener.checks.take()
        if not complete and self.framing != F_NONE:
            last = False                          # it goes on: its end decides
        if authority.check(p, k + used, complete, last) < 0:
            return -1
        if not complete and self.framing != F_NONE:
            self.authority = authority
        self.checked_ahead = used
        return 0

    cdef Py_ssize_t _body(self, char *p, size_t n) except -2:
        """A piece of the body: bytes used, -1 when the exchange is over or left us."""
        cdef Exchange ex = self.ex
        cdef size_t used = n, data = n
        cdef int r
        cdef bint done = False
        cdef Chunked ahead
        if self.framing == F_LENGTH:
            if <int64_t>n > self.rest:
                used = data = <size_t>self.rest
            self.rest -= used
            done = self.rest == 0
        elif self.framing == F_CHUNKED:
            ahead = self.chunk
            r = chunked_feed(&ahead, p, n, &used, &data, False)
            if r < 0:
                self._fail("upstream_protocol_error")
                return -1
            done = r == 1
        # the first piece was checked together with the head
        if self.framing == F_TUNNEL:
            pass
        elif self.checked_ahead:
            self.checked_ahead = 0
        elif self.authority.check(p, used, done, done and not self.keep) < 0:
            self._fail("upstream_protocol_error")
            return -1
        if self.framing == F_CHUNKED:
            chunked_feed(&self.chunk, p, n, &used, &data, True)
            if self.chunk.trailers < used and self.pass_trailers:
                self.trailers = collect(self.trailers, p + self.chunk.trailers, used - self.chunk.trailers)
        if data:
            ex.driver.response_data(ex, p, data)
            if self.ex is not ex:
                return -1
            if not done and ex.down is not None and (ex.clogged or not ex.down.writable()):
                self.channel.pause()              # the client is slower; its time is not the upstream's
                self.reactor.wheel.cancel(&self.timer)
        if done:
            self._complete(used == n)
            return -1
        return used

    cdef int _complete(self, bint clean) except -1:
        """The answer is whole. `clean`: nothing came after it."""
        cdef Exchange ex = self.ex
        self.ex = None
        ex.up = None
        ex.t_end_upstream = self.reactor.now
        if self.trailers is not None:
            self.trailers.settle(ex, self.opener.max_headers)
            self.trailers = None
        ex.driver.response_end(ex)
        if self.authority is not None:
            self.authority.stale = self.authority.stale or self.framing == F_CLOSE
            self.opener.checks.give(self.authority)
            self.authority = None
        if self.channel is not None and self.keep and clean and self.request_ended \
                and not self.channel.eof and not self.channel.broken and self.channel.out_len == 0:
            self.phase = U_IDLE
            self.channel.first = True
            self.channel.paused = False
            self.idle_since = self.reactor.now
            self.reactor.wheel.arm(&self.timer, self.reactor.now + self.endpoint.limits.idle_ns)
            self.endpoint.release(self, True)
        else:
            self._close()
            self.endpoint.release(self, False)
        return ex.driver.settle(ex)

    cdef int _fail(self, str code) except -1:
        cdef Exchange ex = self.ex
        cdef int untouched = UNTOUCHED if self.reused and not self.got_byte else TOUCHED
        if ex is None:
            return 0
        self.ex = None
        ex.up = None
        self._close()
        self.endpoint.release(self, False)
        return ex.driver.upstream_failed(ex, code, untouched)

    cdef int on_eof(self) except -1:
        if self.ex is None:
            if self.phase == U_IDLE:
                self.endpoint.lost_idle(self)
            return self._close()
        if self.phase == U_BODY:
            if (self.framing == F_CLOSE or self.framing == F_TUNNEL) and not self.channel.broken:
                return self._complete(False)
            return self._fail("upstream_truncated")
        return self._fail("upstream_protocol_error" if self.stash_len else "upstream_reset")

    cdef int on_broken(self) except -1:
        if self.ex is None:
            if self.phase == U_IDLE:
                self.endpoint.lost_idle(self)
            return self._close()
        return self._fail("upstream_truncated" if self.phase == U_BODY else "upstream_reset")

    def __repr__(self):
        return f"<H1Upstream {self.endpoint.name} phase {self.phase}{' reused' if self.reused else ''}>"


cdef bytes socket_accept(Head request):
    """RFC 6455 4.2.2: what proves that the key of a handshake was read."""
    cdef Header *key = request.find(b"sec-websocket-key", 17)
    return b64encode(sha1(request.buf[key.value:key.value + key.value_len] + GUID).digest())


cdef char* _put_length(char *o, int64_t n) noexcept:
    cdef char digits[24]
    cdef int i = 24
    memcpy(o, b"Content-Length: ", 16)
    o += 16
    if n == 0:
        i -= 1
        digits[i] = c"0"
    while n:
        i -= 1
        digits[i] = c"0" + n % 10
        n //= 10
    memcpy(o, digits + i, 24 - i)
    o += 24 - i
    o[0] = c"\r"
    o[1] = c"\n"
    return o + 2
