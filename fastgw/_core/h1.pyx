"""One HTTP/1.1 connection of a client.

Pipelined requests are answered in order, one at a time; what comes early is kept up to a bound and then left in
the kernel. The request body is taken only as fast as the upstream takes it.
"""
from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memchr, memcmp, memcpy
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastgw._core.accept cimport Codec, Connection, Listener
from fastgw._core.clock cimport Timer, realtime_ns
from fastgw._core.exchange cimport Exchange
from fastgw._core.headers cimport (
    H_EXPECT, SCAN_METHOD, SCAN_TE, SCAN_TOO_MANY, SCAN_VERSION, Head, Header,
)
from fastgw._core.parse cimport Authorities, Authority, Chunked, chunked_begin, chunked_feed
from fastgw._core.reactor cimport RBUF, SCRATCH, Channel
from fastgw._core.respond cimport Relay
from fastgw._core.settings cimport Settings
from fastgw._core.upstream cimport F_CHUNKED, F_CLOSE, F_LENGTH, F_NONE, F_TUNNEL

from email.utils import formatdate
from http import HTTPStatus

cdef extern from *:
    """
    #define _GNU_SOURCE
    #include <string.h>
    """
    void *memmem(const void *p, size_t n, const void *what, size_t k)

cdef enum:
    LAST = 16384                 # an answer up to this is not sent before the end that follows it
    DROP_LIMIT = 65536           # body bytes read and dropped to keep a connection whose answer came early
    CONNECT_METHOD = 8
    TRACE_METHOD = 7

cdef int64_t LINGER_NS = 5_000_000_000
cdef int64_t FIRST_NS = 500_000_000

cdef const char *PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# "HTTP/1.1 200 OK\r\n" by status
cdef list _lines = [None] * 600
for _status in range(100, 600):
    try:
        _reason = HTTPStatus(_status).phrase
    except ValueError:
        _reason = "Client Closed Request" if _status == 499 else ""
    _lines[_status] = f"HTTP/1.1 {_status} {_reason}\r\n".encode()

# The Date of local replies, made anew each second.
cdef int64_t _date_second = 0
cdef bytes _date = b""


cdef bytes date_line():
    global _date_second, _date
    cdef int64_t second = realtime_ns() // 1000000000
    if second != _date_second:
        _date_second = second
        _date = b"Date: " + formatdate(second, usegmt=True).encode() + b"\r\n"
    return _date


cdef class H1Codec(Codec):
    def __init__(self, Codec h2=None):
        self.checks = Authorities(True)
        self.h2 = h2

    cdef Connection open(self, Listener listener):
        return H1Downstream(listener, self)


cdef class RedirectCodec(H1Codec):
    """`RedirectCodec(port)`: of a plain listener that sends everybody to https, at this port.

    0 is the port of the listener of that name, as `ports` (Engine.ports) has it when a client comes.
    """

    def __init__(self, int port, str name=None, dict ports=None):
        H1Codec.__init__(self)
        self.port = port
        self.name = name
        self.ports = ports

    cdef Connection open(self, Listener listener):
        cdef H1Redirect connection = H1Redirect(listener, self)
        connection.port = self.port or <int>self.ports.get(self.name, 443)
        return connection


cdef class H1Downstream(Connection):
    def __cinit__(self, Listener listener, Codec codec):
        self.checks = (<H1Codec>codec).checks
        self.h2 = (<H1Codec>codec).h2
        self.phase = D_IDLE
        self.fresh = True

    def __dealloc__(self):
        free(self.stash)

    cdef int begin(self) except -1:
        self.reactor.wheel.arm(&self.timer, self.reactor.now + self.settings.header_ns)
        return 0

    # ------------------------------------------------------------------ bytes in

    cdef int _keep_bytes(self, const char *p, size_t n) except -1:
        cdef uint32_t cap
        cdef char *grown
        if self.stash_len + n > self.stash_cap:
            cap = (self.stash_len + n + 1023) & ~<uint32_t>1023
            grown = <char*>realloc(self.stash, cap)
            if grown == NULL:
                raise MemoryError()
            self.stash = grown
            self.stash_cap = cap
        memcpy(self.stash + self.stash_len, p, n)
        self.stash_len += n
        return 0

    cdef int on_data(self, char *p, size_t n) except -1:
        if self.phase == D_CLOSING or self.phase == D_GONE:
            return 0
        if self.stash_len == 0:
            return self._process(p, n)
        if self.phase == D_HEAD and memchr(p, c"\n", n) == NULL \
                and self.stash_len + n < <size_t>self.settings.max_target:
            return self._keep_bytes(p, n)         # no line ended: nothing new to look at
        self._keep_bytes(p, n)
        if self.phase == D_BUSY or (self.phase == D_BODY and not self.body_wanted):
            self._early(p, n)
            return 0
        return self._process_stash()

    cdef int _process_stash(self) except -1:
        cdef char *p = self.stash
        cdef uint32_t n = self.stash_len
        self.stash = NULL
        self.stash_len = self.stash_cap = 0
        self.early = 0
        try:
            self._process(p, n)
        finally:
            free(p)
        return 0

    cdef int on_kick(self) except -1:
        if self.stash_len and not self.in_process:
            self._process_stash()
        if self.channel is not None and self.channel.paused and self.phase != D_BUSY \
                and not (self.phase == D_BODY and not self.body_wanted):
            self.channel.resume()
        return 0

    cdef int _process(self, char *p, size_t n) except -1:
        cdef Py_ssize_t used
        cdef uint32_t empty = 0
        self.in_process = True
        try:
            while n:
                if self.phase == D_IDLE or self.phase == D_HEAD:
                    # RFC 9112 2.2: an empty line before a request-line is ignored
                    while n >= 2 and p[0] == c"\r" and p[1] == c"\n" and empty < 4:
                        p += 2
                        n -= 2
                        empty += 1
                    if n == 0:
                        break
                    if n == 1 and p[0] == c"\r":
                        used = self._partial()
                    else:
                        used = self._head(p, n)
                elif self.phase == D_BODY:
                    if not self.body_wanted:
                        self._keep_bytes(p, n)
                        self.channel.pause()
                        break
                    used = self._pipe(p, n) if self.tunnel else self._body(p, n)
                elif self.phase == D_DISCARD:
                    used = self._drop(p, n)
                elif self.phase == D_BUSY:
                    self._keep_bytes(p, n)
                    self._early(p, n)
                    break
                else:
                    break
                if used <= 0:
                    if used == 0:
                        self._keep_bytes(p, n)
                    break
                p += used
                n -= used
        finally:
            self.in_process = False
        return 0

    cdef int _early(self, const char *p, size_t n) except -1:
        """Bytes of requests that have to wait: bounded in bytes, and in heads as far as they can be told."""
        cdef const char *e = p + n
        while True:
            p = <const char*>memmem(p, e - p, b"\r\n\r\n", 4)
            if p == NULL:
                break
            self.early += 1
            p += 4
        if self.early >= self.settings.pipelined or self.stash_len > RBUF:
            self.channel.pause()
        return 0

    # ------------------------------------------------------------------ the head

    cdef Py_ssize_t _head(self, char *p, size_t n) except -2:
        """One request head: bytes used, 0 when it is not complete, -1 when it was refused."""
        cdef Relay relay = self.relay
        cdef Settings settings = relay.plan.settings
        cdef Exchange ex = relay.take()
        cdef Head head = ex.request
        cdef Header *expect
        cdef int k = head.scan_request(p, n, settings.max_headers)
        cdef bint has_body
        self.settings = settings
        if k <= 0:
            head.count = 0
            if self.fresh and self.h2 is not None and n >= 3 and memcmp(p, PREFACE, 24 if n > 24 else n) == 0:
                relay.give(ex)
                return self._hand_over(p, n)
            if k == 0:
                if n > <size_t>settings.max_target + 64 and memchr(p, c"\n", n) == NULL:
                    return self._refuse(ex, "uri_too_long", f"The limit is {settings.max_target} bytes.")
                if n >= <size_t>settings.max_head:
                    return self._refuse(ex, "headers_too_large", f"The limit is {settings.max_head} bytes.")
                relay.give(ex)
                return self._partial()
            if k == SCAN_TOO_MANY:
                return self._refuse(ex, "headers_too_large", f"The limit is {settings.max_headers} headers.")
            if k == SCAN_TE:
                return self._refuse(ex, "unsupported_transfer_encoding", None)
            if k == SCAN_METHOD:
                return self._refuse(ex, "method_not_implemented", None)
            if k == SCAN_VERSION:
                return self._refuse(ex, "version_not_supported", None)
            return self._refuse(ex, "bad_request", None)
        if head.target_len > <uint32_t>settings.max_target:
            return self._refuse(ex, "uri_too_long", f"The limit is {settings.max_target} bytes.")
        if k > settings.max_head:
            return self._refuse(ex, "headers_too_large", f"The limit is {settings.max_head} bytes.")
        if head.method == CONNECT_METHOD:
            return self._refuse(ex, "method_not_implemented", "CONNECT is not offered.")
        has_body = head.chunked or head.content_length > 0
        if head.upgrade and has_body:
            # httptools would not parse the body of an upgrade request: where it ends is not agreed
            return self._refuse(ex, "bad_request", "An upgrade request may not have a body.")
        if has_body:
            self.authority = self.checks.take()
            if self.authority.check(p, k, False, False) < 0:
                return self._refuse(ex, "bad_request", None)
        elif self.checks.whole.check(p, k, True, not head.keep_alive) < 0:
            return self._refuse(ex, "bad_request", None)
        head.take(p, k)
        self._begin(ex)
        ex.has_body = has_body
        ex.request_done = not has_body
        self.chunked = head.chunked
        if head.chunked:
            chunked_begin(&self.chunk)
        self.rest = head.content_length
        self.body_wanted = False
        self.phase = D_BODY if has_body else D_BUSY
        self.reactor.wheel.cancel(&self.timer)
        expect = head.find_id(H_EXPECT)
        if expect != NULL and not head.expect_continue:
            relay.started(ex)
            relay.fail(ex, "expectation_failed", None)
        elif head.method == TRACE_METHOD:
            relay.started(ex)
            ex.allow = b"GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS"
            relay.fail(ex, "method_not_allowed", "TRACE is not offered.")
        else:
            self._start(ex)
        return k

    cdef int _hand_over(self, char *p, size_t n) except -2:
        """RFC 9113 3.3: a client that knows that we speak HTTP/2 begins with that."""
        cdef Connection connection = self.h2.open(self.listener)
        self.phase = D_GONE
        connection.follow(self)
        connection.begin()
        connection.on_data(p, n)
        return -1

    cdef int _start(self, Exchange ex) except -1:
        """A whole head: on its way."""
        return self.relay.start(ex)

    cdef Py_ssize_t _partial(self) except -2:
        """A head has begun: the time for it runs from its first byte."""
        if self.phase == D_IDLE:
            self.phase = D_HEAD
            self.reactor.wheel.arm(&self.timer, self.reactor.now + self.settings.header_ns)
        return 0

    cdef int _begin(self, Exchange ex) except -1:
        """What an exchange knows of the connection it came by."""
        self.requests += 1
        self.fresh = False
        self.ex = ex
        ex.down = self
        self.introduce(ex)
        ex.is_head = ex.request.method == 1
        self.keep = ex.request.keep_alive and not self.relay.draining and (
            self.settings.requests_per_connection == 0
            or self.requests < self.settings.requests_per_connection)
        self.interim_100 = False
        return 0

    cdef int _refuse(self, Exchange ex, str code, object detail) except -2:
        """The head itself is at fault: answered without a route, and the connection closes."""
        ex.request.take(b"", 0)
        ex.request.count = 0
        ex.request.keep_alive = False
        self._begin(ex)
        ex.request_done = ex.close_after = True
        self.phase = D_BUSY
        self.relay.started(ex)
        self.relay.fail(ex, code, detail)
        return -1

    # ------------------------------------------------------------------ the body

    cdef Py_ssize_t _body(self, char *p, size_t n) except -2:
        cdef Exchange ex = self.ex
        cdef size_t used = n, data = n
        cdef bint done = False
        cdef int r
        cdef Chunked ahead
        if self.chunked:
            ahead = self.chunk
            r = chunked_feed(&ahead, p, n, &used, &data, False)
            if r < 0:
                self.relay.fail(ex, "bad_request", "The chunked body is not valid.")
                return -1
            done = r == 1
        else:
            if <int64_t>n > self.rest:
                used = data = <size_t>self.rest
            self.rest -= used
            done = self.rest == 0
        # a chunk counts as soon as its size is known
        if ex.body_limit >= 0 and ex.bytes_in + <int64_t>data > ex.body_limit - (
                <int64_t>ahead.rest if self.chunked and not done else 0):
            self.relay.fail(ex, "body_too_large", f"The limit here is {ex.body_limit} bytes.")
            return -1
        if self.authority.check(p, used, done, done and not ex.request.keep_alive) < 0:
            self.relay.fail(ex, "bad_request", None)
            return -1
        if self.chunked:
            chunked_feed(&self.chunk, p, n, &used, &data, True)
        ex.bytes_in += data
        if done:
            self.phase = D_BUSY
            self.reactor.wheel.cancel(&self.timer)
            self.checks.give(self.authority)
            self.authority = None
            ex.request_done = True
        else:
            self.reactor.wheel.arm(&self.timer, self.reactor.now + self.settings.body_ns)
        if data:
            self.relay.request_data(ex, p, data)
        if self.ex is not ex:
            return used                           # answered meanwhile
        if done:
            self.relay.request_end(ex)
        elif ex.up is not None and not ex.up.writable():
            self.body_wanted = False
            self.channel.pause()
            self.reactor.wheel.cancel(&self.timer)
        return used

    cdef Py_ssize_t _pipe(self, char *p, size_t n) except -2:
        """Bytes of a client after the change of protocol."""
        cdef Exchange ex = self.ex
        ex.bytes_in += n
        self.relay.request_data(ex, p, n)
        if self.ex is ex and ex.up is not None and not ex.up.writable():
            self.body_wanted = False
            self.channel.pause()
        return n

    cdef Py_ssize_t _drop(self, char *p, size_t n) except -2:
        """The rest of a body nobody wants any more, so that the connection can be used again."""
        cdef size_t used = n
        if <int64_t>n > self.rest:
            used = <size_t>self.rest
        if self.authority.check(p, used, <int64_t>used == self.rest, False) < 0:
            self._close(False)
            return -1
        self.rest -= used
        if self.rest == 0:
            self.checks.give(self.authority)
            self.authority = None
            self._idle()
        return used

    cdef int want_body(self, Exchange ex) except -1:
        if self.ex is not ex or self.phase != D_BODY or self.body_wanted:
            return 0
        self.body_wanted = True
        if not self.tunnel:
            self.reactor.wheel.arm(&self.timer, self.reactor.now + self.settings.body_ns)
        if not self.in_process:
            self.channel.paused = False
            return self.channel.kick()
        return 0

    cdef int hold_body(self, Exchange ex) except -1:
        if self.ex is ex and self.phase == D_BODY and self.body_wanted and not self.in_process:
            self.body_wanted = False
            self.channel.pause()
            self.reactor.wheel.cancel(&self.timer)
        return 0

    # ------------------------------------------------------------------ the way it ends

    cdef int on_timer(self, Timer *timer) except -1:
        cdef int64_t quiet
        if self.channel is None:
            return 0
        if self.channel.out_len:
            # bytes wait for a client that does not read
            quiet = self.reactor.now - self.channel.progress
            if quiet >= self.settings.body_ns:
                return self._stalled()
            self.reactor.wheel.arm(timer, self.channel.progress + self.settings.body_ns)
            return 0
        if self.phase == D_IDLE or self.phase == D_CLOSING or self.phase == D_DISCARD:
            return self._close(False)
        if self.phase == D_HEAD:
            return self._head_timeout()
        if self.phase == D_BODY and self.body_wanted and not self.tunnel:
            self.relay.fail(self.ex, "body_timeout", None)
        return 0

    cdef int _head_timeout(self) except -1:
        self.stash_len = 0
        self._refuse(self.relay.take(), "header_timeout", None)
        return 0

    cdef int _stalled(self) except -1:
        if self.ex is not None:
            self.relay.downstream_gone(self.ex, "client_stalled")
        return self._close(True)

    cdef int on_eof(self) except -1:
        if self.phase == D_IDLE and self.channel.out_len:
            return self._shut()                   # the last answer is still leaving
        return self._left()

    cdef int on_broken(self) except -1:
        return self._left()

    cdef int on_hangup(self) except -1:
        return self._left()

    cdef int _left(self) except -1:
        """The client is gone. (A half-close counts as that: the same as nginx does.)"""
        if self.ex is not None:
            self.relay.downstream_gone(self.ex, "client_closed")
        return self._close(False)

    cdef int _close(self, bint reset) except -1:
        cdef Channel channel = self.channel
        if self.phase == D_GONE:
            return 0
        self.phase = D_GONE
        self.reactor.wheel.unlink(&self.timer)
        self.reactor.bury(self)
        self.channel = None
        self.stash_len = 0
        if self.authority is not None:
            self.authority.stale = True
            self.checks.give(self.authority)
            self.authority = None
        if channel is not None:
            channel.kill(reset)
        return self.leave()

    cdef int _shut(self) except -1:
        """Close once the output is out; what the client still sends is read and dropped meanwhile."""
        self.phase = D_CLOSING
        self.stash_len = 0
        self.reactor.wheel.arm(&self.timer, self.reactor.now + LINGER_NS)
        return self.channel.shut()

    cdef int on_closed(self) except -1:
        return self._close(False)

    cdef int _idle(self) except -1:
        """Ready for the next request."""
        self.phase = D_IDLE
        if self.relay.draining and not self.relay.patient and self.stash_len == 0 and not self.in_process:
            return self._shut()
        self.reactor.wheel.arm(&self.timer, self.reactor.now + self.settings.idle_ns)
        if not self.in_process and (self.stash_len or self.channel.paused):
            return self.channel.kick()
        return 0

    cdef int drain(self) except -1:
        if self.relay.patient:
            return 0                              # its next answer says that it closes
        if self.fresh and self.phase == D_IDLE:
            # its first request may be on the way: a moment for that
            self.reactor.wheel.arm(&self.timer, self.reactor.now + FIRST_NS)
        elif self.phase == D_IDLE and not self.in_process and self.stash_len == 0:
            self._shut()
        else:
            self.keep = False
        return 0

    cdef int finished(self, Exchange ex) except -1:
        self.ex = None
        if self.phase == D_GONE or self.phase == D_CLOSING or self.channel is None:
            return 0
        if self.channel.out_len:
            self.reactor.wheel.arm(&self.timer, self.reactor.now + self.settings.body_ns)
        if not self.keep or ex.close_after:
            # RFC 9112 9.6: a client that says "close" must not send anything after this request
            self.channel.parting = (not ex.request.keep_alive and not ex.close_after and ex.request_done
                                    and self.stash_len == 0)
            return self._shut()
        if self.phase == D_BODY:
            self.phase = D_DISCARD
            self.reactor.wheel.arm(&self.timer, self.reactor.now + LINGER_NS)
            if not self.in_process:
                self.channel.paused = False
                return self.channel.kick()
            return 0
        return self._idle()

    # ------------------------------------------------------------------ the response

    cdef bint writable(self) noexcept:
        return self.channel is None or not self.channel.full()

    cdef int on_drained(self) except -1:
        if self.ex is not None:
            return self.relay.downstream_writable(self.ex)
        return 0

    cdef int send_interim(self, Exchange ex, Head head) except -1:
        cdef bytes line
        cdef char *block
        cdef char *o
        if self.channel is None:
            return 0
        if head.status == 100:
            self.interim_100 = True
        line = <bytes>_lines[head.status]
        block = <char*>malloc(head.lines_size() + 64)
        if block == NULL:
            raise MemoryError()
        memcpy(block, PyBytes_AS_STRING(line), PyBytes_GET_SIZE(line))
        o = head.copy_lines(block + PyBytes_GET_SIZE(line))
        memcpy(o, b"\r\n", 2)
        self.channel.write(block, o + 2 - block)
        free(block)
        return 0

    cdef int _decide(self, Exchange ex) noexcept:
        """RFC 9112 6: how the body to the client is framed, and whether the connection can stay."""
        cdef Head head = ex.response
        cdef bint one = ex.request.minor == 1
        if ex.close_after:
            self.keep = False
        if not ex.request_done and (self.chunked or self.rest > DROP_LIMIT
                                    or (ex.request.expect_continue and not self.interim_100)):
            self.keep = False                     # the rest of the upload will not be read to its end
        if self.relay.draining:
            self.keep = False
        self.unsent = -1
        if ex.upgraded:
            self.framing = F_TUNNEL
            self.keep = False
        elif head.status == 204 or head.status == 304 or head.status < 200:
            self.framing = F_NONE
            if head.status == 304 and not ex.local and head.has_length:
                self.unsent = head.content_length
        elif ex.whole:
            self.framing = F_LENGTH
            self.unsent = len(ex.local_body)
        elif ex.is_head:
            self.framing = F_NONE
            if head.has_length and not ex.response_filtered:
                self.unsent = head.content_length
        elif head.has_length and not ex.response_filtered:
            self.framing = F_LENGTH
            self.unsent = head.content_length
        elif one:
            self.framing = F_CHUNKED
        else:
            self.framing = F_CLOSE
            self.keep = False
        return 0

    cdef int send_head(self, Exchange ex, bint end) except -1:
        cdef Head head = ex.response
        cdef Settings settings = self.settings
        cdef bytes line
        cdef char *mine = NULL
        cdef char *start
        cdef char *o
        cdef size_t need = head.lines_size() + 512
        cdef int64_t n
        cdef char digits[24]
        cdef int i = 24
        if self.channel is None:
            return 0
        self._decide(ex)
        if settings.via is not None:
            need += PyBytes_GET_SIZE(settings.via)
        if settings.server_header is not None:
            need += PyBytes_GET_SIZE(settings.server_header)
        if self.hsts is not None:
            need += PyBytes_GET_SIZE(self.hsts)
        if need > SCRATCH // 2:
            mine = <char*>malloc(need)
            if mine == NULL:
                raise MemoryError()
            start = mine
        else:
            start = self.reactor.dbuf
        if head.reason_len and not ex.local:
            memcpy(start, b"HTTP/1.1 ", 9)
            o = start + 9
            o[0] = c"0" + head.status // 100
            o[1] = c"0" + head.status // 10 % 10
            o[2] = c"0" + head.status % 10
            o[3] = c" "
            memcpy(o + 4, head.buf + head.reason, head.reason_len)
            o += 4 + head.reason_len
            o[0] = c"\r"
            o[1] = c"\n"
            o += 2
        else:
            line = <bytes>_lines[head.status]
            o = start
            memcpy(o, PyBytes_AS_STRING(line), PyBytes_GET_SIZE(line))
            o += PyBytes_GET_SIZE(line)
        if ex.local:
            line = date_line()
            memcpy(o, PyBytes_AS_STRING(line), PyBytes_GET_SIZE(line))
            o += PyBytes_GET_SIZE(line)
        o = head.copy_lines(o)
        if self.unsent >= 0:
            memcpy(o, b"Content-Length: ", 16)
            o += 16
            n = self.unsent
            if n == 0:
                i = 23
                digits[23] = c"0"
            while n:
                i -= 1
                digits[i] = c"0" + n % 10
                n //= 10
            memcpy(o, digits + i, 24 - i)
            o += 24 - i
            o[0] = c"\r"
            o[1] = c"\n"
            o += 2
        elif self.framing == F_CHUNKED:
            memcpy(o, b"Transfer-Encoding: chunked\r\n", 28)
            o += 28
        if ex.local and settings.server_header is not None:
            memcpy(o, b"Server: ", 8)
            memcpy(o + 8, PyBytes_AS_STRING(settings.server_header), PyBytes_GET_SIZE(settings.server_header))
            o += 8 + PyBytes_GET_SIZE(settings.server_header)
            memcpy(o, b"\r\n", 2)
            o += 2
        if settings.via is not None and not ex.local:
            memcpy(o, b"Via: 1.1 ", 9)
            memcpy(o + 9, PyBytes_AS_STRING(settings.via), PyBytes_GET_SIZE(settings.via))
            o += 9 + PyBytes_GET_SIZE(settings.via)
            memcpy(o, b"\r\n", 2)
            o += 2
        if self.hsts is not None:
            memcpy(o, b"Strict-Transport-Security: ", 27)
            memcpy(o + 27, PyBytes_AS_STRING(self.hsts), PyBytes_GET_SIZE(self.hsts))
            o += 27 + PyBytes_GET_SIZE(self.hsts)
            memcpy(o, b"\r\n", 2)
            o += 2
        if self.framing == F_TUNNEL:
            memcpy(o, b"Connection: Upgrade\r\nUpgrade: websocket\r\n", 41)
            o += 41
        elif not self.keep:
            memcpy(o, b"Connection: close\r\n", 19)
            o += 19
        elif ex.request.minor == 0:
            memcpy(o, b"Connection: keep-alive\r\n", 24)
            o += 24
        memcpy(o, b"\r\n", 2)
        o += 2
        if self.framing == F_TUNNEL:
            # nothing waits for a first piece of a body, and what the client sent ahead goes on
            self.channel.write(start, o - start)
            free(mine)
            self.phase = D_BODY
            self.tunnel = self.body_wanted = True
            self.reactor.wheel.cancel(&self.timer)
            return self.channel.kick()
        if mine != NULL:
            self.channel.cork(start, o - start)
            free(mine)
        elif end or self.framing == F_NONE:
            self.channel.write(start, o - start)
        else:
            self.head_n = o - start
        return 0

    cdef int send_data(self, Exchange ex, const char *p, size_t n) except -1:
        cdef uint32_t head_n = self.head_n
        if self.channel is None or n == 0:
            return 0
        if self.framing == F_LENGTH:
            self.unsent -= n
            if self.unsent < 0:
                raise RuntimeError("more response bytes than announced")
        elif self.framing == F_NONE:
            return 0
        self.head_n = 0
        if self.framing == F_CHUNKED:
            if head_n:
                self.channel.cork(self.reactor.dbuf, head_n)
            self.channel.write_chunk(p, n, False)
        elif head_n == 0:
            self.channel.write(p, n)
        elif head_n + n <= SCRATCH:
            memcpy(self.reactor.dbuf + head_n, p, n)
            if not self.keep and self.secure and self.unsent == 0 and n <= LAST:
                self.channel.cork(self.reactor.dbuf, head_n + n)       # leaves together with close_notify
            else:
                self.channel.write(self.reactor.dbuf, head_n + n)
        else:
            self.channel.write2(self.reactor.dbuf, head_n, p, n)
        if self.channel.out_len and self.timer.due == 0:
            self.reactor.wheel.arm(&self.timer, self.reactor.now + self.settings.body_ns)
        return 0

    cdef int flush(self) except -1:
        cdef uint32_t n = self.head_n
        if n and self.channel is not None:
            self.head_n = 0
            return self.channel.write(self.reactor.dbuf, n)
        return 0

    cdef int send_end(self, Exchange ex) except -1:
        self.flush()
        if self.channel is not None and self.framing == F_CHUNKED:
            self.channel.write(b"0\r\n\r\n", 5)
        return 0

    cdef int abort(self, Exchange ex) except -1:
        """The head is out and the body cannot be completed: the client must see that it was cut."""
        self.flush()
        self.keep = False
        if self.channel is None:
            return 0
        if self.framing == F_CLOSE:
            return self._close(True)              # a clean end would look like the end of the body
        return self._shut()

    def __repr__(self):
        return f"<H1Downstream {self.peer.text[:self.peer.text_len].decode()} phase {self.phase}>"


cdef class H1Redirect(H1Downstream):
    cdef int _start(self, Exchange ex) except -1:
        """In the place of routing, on a plain listener that only sends to https: the same URL there."""
        cdef Relay relay = self.relay
        cdef Head head = ex.request
        cdef bytes host, target
        if relay.understand(ex):
            return 0
        host = head.buf[ex.authority:ex.authority + ex.authority_len]
        bare, colon, digits = host.rpartition(b":")
        if colon and digits.isdigit():
            host = bare
        target = head.buf[ex.path:ex.path + ex.path_len]
        if ex.has_query:
            target += b"?" + head.buf[ex.query:ex.query + ex.query_len]
        if not host:
            return relay.fail(ex, "bad_request", "Without a Host there is nowhere to be sent to.")
        if self.port != 443:
            host += b":%d" % self.port
        ex.set_reply(308, b"", None)
        ex.response.add("Location", b"https://" + host + target)
        relay.answer(ex)
        return 0
