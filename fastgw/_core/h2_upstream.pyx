"""Stage `upstream`: HTTP/2 to services. One connection carries many exchanges.

libnghttp2 does frames, HPACK, flow control and the states of streams. An answer's block of headers becomes the text of
an HTTP/1.1 head and goes through the scanner like any other. The window of the connection is given back at once, that
of a stream as its client takes the bytes: a slow client holds up its own stream, not the others of the connection.

A stream that the service refused (RFC 9113 8.7), or that came after the last one of its GOAWAY, was not worked on: it
may be sent again whatever its method. All of a turn's frames leave in one write, at the end of the turn.
"""
import logging

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastgw._core.clock cimport Timer, timer_detach
from fastgw._core.exchange cimport REFUSED, TOUCHED, UNTOUCHED, WAIT, Exchange
from fastgw._core.forwarding cimport forwarding_size, put_forwarding
from fastgw._core.h2_wire cimport (
    begin_fields, end_with_trailers, fields, flow_add, flow_take, memory, prepare,
    put, put_head, put_length, put_lines, send_frames,
)
from fastgw._core.headers cimport H_HOST, H_TE, Head, Header
from fastgw._core.nghttp2 cimport *
from fastgw._core.pool cimport Endpoint, Limits, PooledStream
from fastgw._core.reactor cimport HIGH_WATER, SCRATCH, Channel, ChannelMaker, Reactor
from fastgw._core.settings cimport Settings
from fastgw._core.shared cimport SharedConnection, SharedEndpoint
from fastgw._core.trailers cimport fit
from fastgw._core.upstream cimport H1Opener, socket_accept

logger = logging.getLogger("fastgw.upstream")

cdef enum:
    MAX_INTERIMS = 16
    UNKNOWN_STREAMS = 100         # until its SETTINGS come
    LAST_ID = 1 << 30             # a connection is replaced before its ids run out
    CONNECTION_WINDOW = 16777216
    SPARE_FRAMES = 2000           # SETTINGS, PING, empty DATA…: 200 a second, and this many at once

cdef int64_t SECOND = 1_000_000_000

cdef nghttp2_session_callbacks *_callbacks = NULL
cdef nghttp2_option *_options = NULL


# ---------------------------------------------------------------------- what the library calls

cdef int _on_begin(nghttp2_session *session, const nghttp2_frame *frame, void *p) noexcept:
    fgw_block_begin(&(<H2Upstream>p).block, frame.hd.stream_id)
    return 0


cdef int _on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t nl,
                    const uint8_t *value, size_t vl, uint8_t flags, void *p) noexcept:
    cdef H2Upstream connection = <H2Upstream>p
    if fgw_block_add(&connection.block, name, nl, value, vl) < 0 or connection.block.over & 2:
        return NGHTTP2_ERR_CALLBACK_FAILURE
    return 0


cdef int _on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *p) noexcept:
    cdef H2Upstream connection = <H2Upstream>p
    cdef H2UpstreamStream stream = None
    cdef int kind = frame.hd.type
    cdef void *found = NULL
    try:
        if kind == NGHTTP2_HEADERS or kind == NGHTTP2_DATA:
            found = nghttp2_session_get_stream_user_data(session, frame.hd.stream_id)
            if found == NULL:
                return 0
            stream = <H2UpstreamStream>found
            connection.turn_to(stream)
            if kind == NGHTTP2_HEADERS:
                # one block with :status is an answer's head, interim or final; one without, its trailers
                if connection.block.status:
                    stream.head(&connection.block, frame.hd.flags & NGHTTP2_FLAG_END_STREAM != 0)
                else:
                    stream.trailers(&connection.block)
            elif frame.hd.length == 0 and not frame.hd.flags & NGHTTP2_FLAG_END_STREAM:
                return connection_spend(connection)
            if frame.hd.flags & NGHTTP2_FLAG_END_STREAM:
                stream.end_data()
        elif kind == NGHTTP2_GOAWAY:
            connection._part()
        elif kind == NGHTTP2_PING and frame.hd.flags & NGHTTP2_FLAG_ACK:
            connection.ping_at = 0
        elif kind == NGHTTP2_SETTINGS:
            if not frame.hd.flags & NGHTTP2_FLAG_ACK:
                connection.learn()
            return connection_spend(connection)
        elif kind != NGHTTP2_RST_STREAM and kind != NGHTTP2_WINDOW_UPDATE:
            return connection_spend(connection)
    except Exception as error:
        connection.failure = error
        return NGHTTP2_ERR_CALLBACK_FAILURE
    return 0


cdef int connection_spend(H2Upstream connection) noexcept:
    """A leaky bucket for frames that are no answers."""
    cdef int64_t now = connection.reactor.now
    if connection.frames_at < now:
        connection.frames_at = now
    connection.frames_at += SECOND // 200
    if connection.frames_at - now > SPARE_FRAMES * (SECOND // 200):
        return NGHTTP2_ERR_CALLBACK_FAILURE
    return 0


cdef int _on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data, size_t n, void *p) noexcept:
    cdef H2Upstream connection = <H2Upstream>p
    cdef void *found = nghttp2_session_get_stream_user_data(session, id)
    cdef H2UpstreamStream stream
    nghttp2_session_consume_connection(session, n)
    try:
        if found == NULL:
            nghttp2_session_consume_stream(session, id, n)
        else:
            stream = <H2UpstreamStream>found
            connection.turn_to(stream)
            stream.data(<const char*>data, n)
    except Exception as error:
        connection.failure = error
        return NGHTTP2_ERR_CALLBACK_FAILURE
    return 0


cdef int _on_close(nghttp2_session *session, int32_t id, uint32_t code, void *p) noexcept:
    cdef H2Upstream connection = <H2Upstream>p
    cdef H2UpstreamStream stream
    try:
        stream = <H2UpstreamStream>connection.streams.pop(id, None)
        connection.freed = True
        if stream is not None:
            connection.turn_to(stream)
            stream.lost(code)
    except Exception as error:
        connection.failure = error
        return NGHTTP2_ERR_CALLBACK_FAILURE
    return 0


cdef ssize_t _read(nghttp2_session *session, int32_t id, uint8_t *buf, size_t n, uint32_t *flags,
                   nghttp2_data_source *source, void *p) noexcept:
    """The library wants body bytes of a request."""
    cdef H2UpstreamStream stream = <H2UpstreamStream>source.ptr
    cdef size_t k = flow_take(&stream.out, buf, n)
    if stream.out.n:
        return k
    if stream.finished_out:
        flags[0] |= NGHTTP2_DATA_FLAG_EOF
        stream.sent_end = True
        if stream.after is not None:
            end_with_trailers(session, id, stream.after, flags)
            stream.after = None
        return k
    if k == 0:
        stream.deferred = True
        return NGHTTP2_ERR_DEFERRED
    return k


cdef int _prepare() except -1:
    global _callbacks, _options
    if _callbacks != NULL:
        return 0
    prepare(&_callbacks, &_options)
    nghttp2_session_callbacks_set_on_begin_headers_callback(_callbacks, _on_begin)
    nghttp2_session_callbacks_set_on_header_callback(_callbacks, _on_header)
    nghttp2_session_callbacks_set_on_frame_recv_callback(_callbacks, _on_frame)
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(_callbacks, _on_data)
    nghttp2_session_callbacks_set_on_stream_close_callback(_callbacks, _on_close)
    nghttp2_option_set_no_closed_streams(_options, 1)
    nghttp2_option_set_peer_max_concurrent_streams(_options, UNKNOWN_STREAMS)
    return 0


# ---------------------------------------------------------------------- the pool's half

cdef class H2Opener(Opener):
    """`negotiate`: ALPN chooses between HTTP/2 and HTTP/1.1; `demand`: ALPN must say h2; neither: prior knowledge.

    `max_streams` exchanges at once over one connection, `window` bytes that an answer may be ahead of its client,
    `ping_ns` of silence with exchanges under way after which the service is asked whether it is there (0: never), and
    `pong_ns` for its answer.
    """

    def __init__(self, H1Opener plain, *, bint negotiate=False, bint demand=False, int max_streams=128,
                 int window=262144, int64_t ping_ns=0, int64_t pong_ns=5_000_000_000):
        _prepare()
        self.plain = plain
        self.reactor = plain.reactor
        self.negotiate = negotiate
        self.demand = demand
        self.max_streams = max_streams
        self.window = window
        self.ping_ns = ping_ns
        self.pong_ns = pong_ns
        self.max_head = plain.max_head
        self.max_headers = plain.max_headers

    cdef PooledStream open(self, Endpoint endpoint):
        cdef H2Upstream connection = H2Upstream(self, endpoint)
        connection.dial()
        return connection

    cdef Endpoint endpoint(self, Reactor reactor, str name, str url, bytes host, tuple addresses, Limits limits,
                           ChannelMaker maker):
        return SharedEndpoint(self.plain, self.max_streams, reactor, self, name, url, host, addresses, limits, maker)


# ---------------------------------------------------------------------- one connection

cdef class H2Upstream(SharedConnection):
    def __cinit__(self, H2Opener opener, Endpoint endpoint):
        self.opener = opener
        self.reactor = opener.reactor
        self.endpoint = endpoint
        self.streams = {}
        self.eager = []
        self.early = []
        self.thirsty = []
        memset(&self.block, 0, sizeof(fgw_block))
        self.block.limit = opener.max_head
        self.block.most = opener.max_headers

    def __dealloc__(self):
        if self.session != NULL:
            nghttp2_session_del(self.session)
        fgw_block_free(&self.block)

    cdef int established(self) except -1:
        cdef nghttp2_settings_entry ours[3]
        cdef SharedEndpoint endpoint = <SharedEndpoint>self.endpoint
        if (self.opener.negotiate or self.opener.demand) and endpoint.maker.protocol(self.channel) != "h2":
            if self.opener.negotiate:
                self.gone = True
                self.reactor.wheel.unlink(&self.timer)
                self.reactor.bury(self)
                return endpoint.plain_ready(self)
            logger.warning("%s does not speak HTTP/2: it did not agree to h2 by ALPN", endpoint.name)
            self._close()
            return endpoint.open_failed(self, "upstream_protocol_error")
        if nghttp2_session_client_new3(&self.session, _callbacks, <void*>self, _options, memory) != 0:
            raise MemoryError()
        ours[0].settings_id = NGHTTP2_SETTINGS_ENABLE_PUSH
        ours[0].value = 0
        ours[1].settings_id = NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE
        ours[1].value = self.opener.window
        ours[2].settings_id = NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE
        ours[2].value = self.opener.max_head
        nghttp2_submit_settings(self.session, NGHTTP2_FLAG_NONE, ours, 3)
        nghttp2_session_set_local_window_size(self.session, NGHTTP2_FLAG_NONE, 0, CONNECTION_WINDOW)
        self.counted = True
        self.most = endpoint.per_connection       # what is known from others, until it tells
        self.heard_at = self.reactor.now
        self.channel.first = True
        self._rest()
        self.mark()
        return endpoint.ready(self)

    cdef int give_up(self) except -1:
        return self._close()

    cdef int drop(self) except -1:
        return self._close()

    cdef void learn(self) noexcept:
        """Its SETTINGS: how many streams it takes. Connections to come begin with that."""
        cdef uint32_t most = nghttp2_session_get_remote_settings(self.session, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS)
        self.most = self.opener.max_streams if most > <uint32_t>self.opener.max_streams else <int>most
        if self.most:
            self.endpoint.per_connection = self.most
        self.freed = True                         # perhaps there are more now
        self.told = True
        self.sockets = nghttp2_session_get_remote_settings(
            self.session, NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL) == 1

    cdef bint room(self) noexcept:
        if self.going or self.gone or self.channel is None or self.channel.broken or self.channel.eof:
            return False
        return len(self.streams) < self.most

    cdef bint quiet(self) noexcept:
        return not self.streams

    cdef int part(self) except -1:
        self._part()
        return self.mark()

    cdef int carry(self, Exchange ex) except -1:
        """A stream for the exchange; it is opened by its head."""
        cdef H2UpstreamStream stream = H2UpstreamStream.__new__(H2UpstreamStream)
        stream.connection = self
        stream.ex = ex
        stream.reused = self.carried > 0
        self.carried += 1
        ex.up = stream
        return 0

    # ------------------------------------------------------------------ the turn

    cdef int on_data(self, char *p, size_t n) except -1:
        cdef ssize_t used
        if self.gone:
            return 0
        self.heard_at = self.reactor.now
        used = nghttp2_session_mem_recv(self.session, <const uint8_t*>p, n)
        if self.failure is not None:
            error, self.failure = self.failure, None
            self._lose("upstream_protocol_error")
            raise error
        self.turn_to(None)
        if self.gone:
            return 0
        if used < 0:
            # what the library wants to say of it is said, then it is over
            send_frames(self.session, self.channel)
            return self._lose("upstream_protocol_error")
        return self.mark()

    cdef int turn_to(self, H2UpstreamStream stream) except -1:
        """What was put together for the client of another stream is sent first: the buffer of heads is the worker's."""
        cdef Exchange ex
        if self.unflushed is None or self.unflushed is stream:
            return 0
        ex = self.unflushed.ex
        self.unflushed = None
        if ex is not None and ex.down is not None:
            ex.down.flush()
        return 0

    cdef int mark(self) except -1:
        """Something is to be sent: at the end of this turn, together with all else of it."""
        if not self.dirty and not self.gone:
            self.dirty = True
            self.reactor.lastly(self)
        return 0

    cdef int on_last(self) except -1:
        self.dirty = False
        return self._work()

    cdef int on_drained(self) except -1:
        return self._work()

    cdef int _work(self) except -1:
        cdef H2UpstreamStream stream
        if self.gone:
            return 0
        if self.eager:
            eager, self.eager = self.eager, []
            for stream in eager:
                stream.queued = False
                stream._deliver()
        if self.early and self.told:
            early, self.early = self.early, []
            for stream in early:
                if stream.ex is not None:
                    stream.send_head(stream.ex, False)
        if self.gone:
            return 0
        send_frames(self.session, self.channel)
        if self.thirsty and not self.gone and not self.channel.full():
            thirsty, self.thirsty = self.thirsty, []
            for stream in thirsty:
                stream.blocked = False
                # one that has no room yet puts itself into the new list
                if stream.ex is not None and stream.writable():
                    stream.ex.driver.upstream_writable(stream.ex)
        if self.failure is not None:
            error, self.failure = self.failure, None
            raise error
        if self.gone:
            return 0
        if self.freed:
            self.freed = False
            self._rest()
            if not self.going:
                (<SharedEndpoint>self.endpoint).room_made(self)
        if self.gone:
            return 0
        if self.going and not self.streams:
            return self._leave()
        if not nghttp2_session_want_read(self.session) and not nghttp2_session_want_write(self.session):
            # the library found a fault, said so in a GOAWAY, and is done with it
            return self._lose("upstream_protocol_error")
        return 0

    cdef int _rest(self) except -1:
        """What the connection waits for now: its next PING, or the end of its idle time."""
        cdef int64_t now = self.reactor.now
        if not self.streams:
            self.reactor.wheel.arm(&self.timer, now + self.endpoint.limits.idle_ns)
        elif self.opener.ping_ns:
            self.reactor.wheel.arm(&self.timer, now + self.opener.ping_ns)
        else:
            self.reactor.wheel.cancel(&self.timer)
        return 0

    cdef int on_timer(self, Timer *timer) except -1:
        cdef int64_t now = self.reactor.now
        if self.connecting:
            return self.dial_overdue()
        if self.gone:
            return 0
        if not self.streams:
            self._part()
            return self._leave()
        if self.opener.ping_ns == 0:
            return 0
        if self.ping_at and self.heard_at < self.ping_at:
            if now - self.ping_at >= self.opener.pong_ns:
                logger.warning("%s does not answer a PING: its connection is given up", self.endpoint.name)
                return self._lose("upstream_idle_timeout")
        elif now - self.heard_at >= self.opener.ping_ns:
            self.ping_at = now
            nghttp2_submit_ping(self.session, NGHTTP2_FLAG_NONE, NULL)
            self.mark()
        if self.ping_at and self.heard_at < self.ping_at:
            self.reactor.wheel.arm(timer, self.ping_at + self.opener.pong_ns)
        else:
            self.reactor.wheel.arm(timer, self.heard_at + self.opener.ping_ns)
        return 0

    # ------------------------------------------------------------------ the way it ends

    cdef int _part(self) except -1:
        """No more exchanges; those under way go on."""
        if not self.going:
            self.going = True
            (<SharedEndpoint>self.endpoint).parted(self)
        return 0

    cdef int _leave(self) except -1:
        """RFC 9113 5.4.1, 6.8: with a GOAWAY, so that the service knows that nothing got lost."""
        nghttp2_session_terminate_session(self.session, NGHTTP2_NO_ERROR)
        send_frames(self.session, self.channel)
        return self._lose("upstream_reset")

    cdef int on_eof(self) except -1:
        return self._lose("upstream_reset")

    cdef int on_broken(self) except -1:
        return self._lose("upstream_reset")

    cdef int _lose(self, str code) except -1:
        """The connection is over, and with it what it carried."""
        cdef H2UpstreamStream stream
        if self.gone:
            return 0
        streams = [*self.streams.values(), *self.early]
        self.streams.clear()
        self.early.clear()
        self._close()
        for stream in streams:
            stream.closed = True
            if stream.ended:
                stream._deliver()                 # all of it is here
            else:
                stream.fail("upstream_truncated" if stream.answered and code == "upstream_reset" else code,
                            UNTOUCHED if stream.reused and not stream.got_byte and code == "upstream_reset" else TOUCHED)
        return 0

    cdef int _close(self) except -1:
        cdef Channel channel = self.channel
        self.gone = self.going = True
        self.channel = None
        self.reactor.wheel.unlink(&self.timer)
        self.reactor.bury(self)
        if channel is not None:
            channel.kill(False)
        self.eager.clear()
        self.thirsty.clear()
        return (<SharedEndpoint>self.endpoint).parted(self)

    def __repr__(self):
        return f"<H2Upstream {self.endpoint.name} {len(self.streams)} streams{' going' if self.going else ''}>"


# ---------------------------------------------------------------------- one exchange

cdef class H2UpstreamStream(UpstreamStream):
    def __cinit__(self):
        memset(&self.timer, 0, sizeof(Timer))
        self.timer.owner = <void*>self

    def __dealloc__(self):
        free(self.kept.p)
        free(self.out.p)
        timer_detach(&self.timer)

    # ------------------------------------------------------------------ the request

    cdef int send_head(self, Exchange ex, bint end) except -1:
        """The same fields as over HTTP/1.1, with the start line and Host as pseudo-headers (RFC 9113 8.3.1)."""
        cdef H2Upstream connection = self.connection
        cdef Head head = ex.request
        cdef Settings settings = <Settings>ex.settings
        cdef bytes host = ex.host_out
        cdef bytes via = settings.via
        cdef Header *h
        cdef nghttp2_data_provider provider
        cdef size_t need = forwarding_size(ex, settings) + ex.path_len + ex.query_len + 2
        cdef bint wait = False
        cdef char *mine = NULL
        cdef char *start = connection.reactor.ubuf
        cdef char *o
        cdef char *lines
        if ex.upgrading:
            end = False
            self._socket(ex, &wait)
            if wait or self.ex is not ex:
                return 0
        if via is not None:
            need += PyBytes_GET_SIZE(via) + 16
        if need > SCRATCH:
            mine = <char*>malloc(need)
            if mine == NULL:
                raise MemoryError()
            start = mine
        o = start
        begin_fields()
        if ex.upgrading:
            put(b":method", 7, b"CONNECT", 7)
            put(b":protocol", 9, b"websocket", 9)
        else:
            put(b":method", 7, head.buf + ex.out_method, ex.out_method_len or head.method_len)
        if connection.endpoint.maker is None:
            put(b":scheme", 7, b"http", 4)
        else:
            put(b":scheme", 7, b"https", 5)
        if host is None and ex.authority_len == 0:
            host = connection.endpoint.host
        if host is not None:
            put(b":authority", 10, PyBytes_AS_STRING(host), PyBytes_GET_SIZE(host))
        else:
            put(b":authority", 10, head.buf + ex.authority, ex.authority_len)
        if ex.out_target_len:
            put(b":path", 5, head.buf + ex.out_target, ex.out_target_len)
        elif not ex.has_query:
            put(b":path", 5, head.buf + ex.path, ex.path_len)
        else:
            memcpy(o, head.buf + ex.path, ex.path_len)
            o[ex.path_len] = c"?"
            memcpy(o + ex.path_len + 1, head.buf + ex.query, ex.query_len)
            put(b":path", 5, o, ex.path_len + 1 + ex.query_len)
            o += ex.path_len + 1 + ex.query_len
        lines = o
        o = put_forwarding(o, ex, settings)       # first: it drops the lines it replaces
        h = head.find_id(H_HOST)
        if h != NULL:
            h.drop = 1
            head.dropped += 1
        h = head.find(b"sec-websocket-key", 17) if ex.upgrading else NULL
        if h != NULL:
            h.drop = 1                            # RFC 8441 5: it proves nothing here; another attempt may need it
        put_head(head)
        if h != NULL:
            h.drop = 0
        if via is not None:
            # RFC 9110 7.6.3: after what proxies before us wrote
            memcpy(o, b"via: 1.0 " if head.minor == 0 else b"via: 1.1 ", 9)
            memcpy(o + 9, PyBytes_AS_STRING(via), PyBytes_GET_SIZE(via))
            o += 9 + PyBytes_GET_SIZE(via)
            memcpy(o, b"\r\n", 2)
            o += 2
        put_lines(lines, o - lines)
        if _asks_trailers(head):
            # RFC 9110 10.1.4: for this hop, and we can have them
            put(b"te", 2, b"trailers", 8)
        if ex.request_buffer is not None and not ex.body_filtered:
            put_length(len(ex.request_buffer))
        elif head.has_length and not ex.body_filtered:
            put_length(head.content_length)
        provider.source.ptr = <void*>self
        provider.read_callback = _read
        self.sent_end = self.finished_out = end
        self.id = nghttp2_submit_request(connection.session, NULL, fields.nv, fields.n, NULL if end else &provider,
                                         <void*>self)
        free(mine)
        if self.id <= 0 or self.id > LAST_ID:
            connection._part()
        if self.id <= 0:
            self.closed = True
            return self.fail("upstream_reset", REFUSED)
        connection.streams[self.id] = self
        if len(connection.streams) == 1:
            connection._rest()
        connection.reactor.wheel.arm(&self.timer, connection.reactor.now + ex.response_ns)
        return connection.mark()

    cdef int _socket(self, Exchange ex, bint *wait) except -1:
        """RFC 8441 3: an extended CONNECT goes to whoever said that it takes one, which its SETTINGS tell."""
        cdef H2Upstream connection = self.connection
        if not connection.told:
            wait[0] = True
            connection.early.append(self)
            connection.reactor.wheel.arm(&self.timer, connection.reactor.now + ex.response_ns)
            return 0
        if not connection.sockets:
            logger.warning("%s takes no WebSockets over HTTP/2 (RFC 8441)", connection.endpoint.name)
            return self.fail("upstream_protocol_error", TOUCHED)
        self.accept = socket_accept(ex.request)
        return 0

    cdef int send_data(self, Exchange ex, const char *p, size_t n) except -1:
        if self.closed or n == 0 or self.sent_end:
            return 0
        self.connection.reactor.wheel.arm(
            &self.timer, self.connection.reactor.now + (ex.idle_ns if self.answered else ex.response_ns))
        flow_add(&self.out, p, n)
        return self._resume()

    cdef int send_end(self, Exchange ex) except -1:
        if self.closed or self.sent_end or self.finished_out:
            return 0
        self.finished_out = True
        self.after = fit(<Head>ex.request_trailers)
        return self._resume()

    cdef int _resume(self) except -1:
        if self.deferred:
            self.deferred = False
            nghttp2_session_resume_data(self.connection.session, self.id)
        return self.connection.mark()

    cdef bint writable(self) noexcept:
        cdef H2Upstream connection = self.connection
        if self.closed or connection.channel is None:
            return True
        if self.out.n < HIGH_WATER // 2 and not connection.channel.full():
            return True
        if not self.blocked:
            self.blocked = True
            connection.thirsty.append(self)
        return False

    cdef int cancel(self, Exchange ex) except -1:
        """The exchange needs this attempt no more."""
        if self.ex is not ex:
            return 0
        self.ex = None
        ex.up = None
        return self._let_go(NGHTTP2_CANCEL)

    cdef int _let_go(self, uint32_t code) except -1:
        """Its exchange has left; what the service still wants to have or to say is not wanted."""
        cdef H2Upstream connection = self.connection
        connection.endpoint.busy -= 1
        connection.reactor.wheel.unlink(&self.timer)
        connection.reactor.bury(self)
        if not self.closed and self.id > 0 and not (self.ended and self.sent_end):
            nghttp2_submit_rst_stream(connection.session, NGHTTP2_FLAG_NONE, self.id, code)
            connection.mark()
        return 0

    # ------------------------------------------------------------------ the answer

    cdef int head(self, fgw_block *block, bint end) except -1:
        cdef H2Upstream connection = self.connection
        cdef Exchange ex = self.ex
        cdef Head head
        cdef size_t n
        cdef int k
        if ex is None:
            return 0
        self.got_byte = True
        if block.over:
            return self.fail("upstream_headers_too_large", TOUCHED)
        if block.status < 100 or block.status == 101 or self.answered:
            return self.fail("upstream_protocol_error", TOUCHED)
        head = ex.response
        head.len = 0
        head.reserve(block.n + 64)
        if self.accept is not None and 200 <= block.status < 300:
            block.status = 101                    # RFC 8441 5: what 200 is over HTTP/2
        n = fgw_block_response(block, head.buf)
        k = head.scan_response(head.buf, n, connection.opener.max_headers)
        if k != <int>n or head.chunked:
            return self.fail("upstream_protocol_error", TOUCHED)
        head.len = n
        if block.status < 200 and block.status != 101:
            self.interims += 1
            if self.interims > MAX_INTERIMS or head.has_length:
                return self.fail("upstream_protocol_error", TOUCHED)
            return ex.driver.interim(ex, head)
        self.answered = True
        ex.empty = end
        if block.status == 101:
            head.append(b"Sec-WebSocket-Accept", 20, PyBytes_AS_STRING(self.accept), PyBytes_GET_SIZE(self.accept))
            ex.driver.upgraded(ex)
        ex.t_head = connection.reactor.now
        connection.reactor.wheel.arm(&self.timer, connection.reactor.now + ex.idle_ns)
        connection.unflushed = self
        if ex.driver.response_head(ex) == WAIT and self.ex is ex:
            self.held = True
            connection.reactor.wheel.cancel(&self.timer)
        return 0

    cdef int trailers(self, fgw_block *block) except -1:
        """RFC 9113 8.1: fields after the body."""
        cdef Head head
        if self.ex is None or block.n == 0:
            return 0
        if block.over:
            return self.fail("upstream_headers_too_large", TOUCHED)
        head = Head()
        if head.scan_trailers(block.lines, block.n, self.connection.opener.max_headers) > 0:
            self.ex.response_trailers = fit(head)
        return 0

    cdef int data(self, const char *p, size_t n) except -1:
        cdef Exchange ex = self.ex
        cdef H2Upstream connection = self.connection
        if ex is None:
            nghttp2_session_consume_stream(connection.session, self.id, n)
            return 0
        if self.held or self.kept.n:
            return flow_add(&self.kept, p, n)     # no more than the window
        connection.reactor.wheel.arm(&self.timer, connection.reactor.now + ex.idle_ns)
        ex.driver.response_data(ex, p, n)
        if self.ex is ex and ex.down is not None and (ex.clogged or not ex.down.writable()):
            self.unused += n                      # the client is slower; its time is not the service's
            connection.reactor.wheel.cancel(&self.timer)
        elif not self.closed:
            nghttp2_session_consume_stream(connection.session, self.id, n)
        return 0

    cdef int want_data(self, Exchange ex) except -1:
        """The client can take more, or the response hooks are through: what was kept follows at the end of the turn."""
        cdef H2Upstream connection = self.connection
        if self.ex is not ex:
            return 0
        self.held = False
        if self.unused:
            if not self.closed:
                nghttp2_session_consume_stream(connection.session, self.id, self.unused)
            self.unused = 0
        if self.closed and connection.gone:
            return self._deliver()
        connection.reactor.wheel.arm(&self.timer, connection.reactor.now + ex.idle_ns)
        if (self.kept.n or self.ended) and not self.queued:
            self.queued = True
            connection.eager.append(self)
        elif ex.down is not None:
            ex.down.flush()
        return connection.mark()

    cdef int _deliver(self) except -1:
        cdef Exchange ex = self.ex
        cdef char *p = self.kept.p
        cdef uint32_t n = self.kept.n
        if ex is None or self.held:
            return 0
        if n:
            self.kept.p = NULL
            self.kept.at = self.kept.n = self.kept.cap = 0
            try:
                self.data(p, n)
            finally:
                free(p)
        if self.ended and self.ex is ex:
            return self._complete()
        if ex.down is not None:
            ex.down.flush()
        return 0

    cdef int end_data(self) except -1:
        if self.ended:
            return 0
        self.ended = True
        if self.ex is None or self.held or self.kept.n:
            return 0
        return self._complete()

    cdef int _complete(self) except -1:
        """The answer is whole."""
        cdef Exchange ex = self.ex
        if not self.answered:
            return self.fail("upstream_protocol_error", TOUCHED)
        self.ex = None
        ex.up = None
        ex.t_end_upstream = self.connection.reactor.now
        self._let_go(NGHTTP2_NO_ERROR)            # RFC 9113 8.1: the rest of the request, when there is one
        ex.driver.response_end(ex)
        return ex.driver.settle(ex)

    cdef int fail(self, str code, int untouched) except -1:
        cdef Exchange ex = self.ex
        if ex is None:
            return 0
        self.ex = None
        ex.up = None
        self._let_go(NGHTTP2_CANCEL)
        return ex.driver.upstream_failed(ex, code, untouched)

    cdef int lost(self, uint32_t code) except -1:
        """The stream is closed, by whomever."""
        self.closed = True
        if self.ended or self.ex is None:
            return 0                              # whole; or nobody waits for it
        if code == NGHTTP2_REFUSED_STREAM:
            return self.fail("upstream_reset", TOUCHED if self.got_byte else REFUSED)
        if code == NGHTTP2_PROTOCOL_ERROR:
            return self.fail("upstream_protocol_error", TOUCHED)
        return self.fail("upstream_truncated" if self.answered else "upstream_reset", TOUCHED)

    cdef int on_timer(self, Timer *timer) except -1:
        if self.ex is None:
            return 0
        return self.fail("upstream_idle_timeout" if self.answered else "upstream_response_timeout", TOUCHED)


cdef bint _asks_trailers(Head head) noexcept:
    """RFC 9110 10.1.4: the field is between neighbours, so the scanner dropped it; gRPC services insist on it."""
    cdef int i
    cdef Header *h
    for i in range(head.count):
        h = &head.items[i]
        if h.id == H_TE and h.value_len >= 8 and fgw_has_trailers(head.buf + h.value, h.value_len):
            return True
    return False
