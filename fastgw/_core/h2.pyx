"""HTTP/2 of clients: one connection, and its streams.

libnghttp2 does frames, HPACK, flow control and the states of streams, and refuses what RFC 9113 calls malformed.
A decoded block of headers becomes the text of an HTTP/1.1 head and goes through the scanner like any other: what
follows a request over HTTP/2 is the same code, byte for byte, so there is nothing to be smuggled by a change of
protocol. Bodies are taken as fast as the upstream takes them: only what it took is given back to the window.

All of a turn's frames leave in one write, at the end of the turn. Nothing is sent from inside a callback of the
library, and nothing while the socket is full: a client that does not read cannot make us collect answers to its PINGs.
"""
import os
from base64 import b64encode

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy, memset
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastgw._core.accept cimport Codec, Connection, Listener
from fastgw._core.clock cimport Timer, timer_detach
from fastgw._core.exchange cimport Downstream, Exchange
from fastgw._core.grpc cimport messages_fit
from fastgw._core.h1 cimport date_line
from fastgw._core.h2_wire cimport (
    begin_fields, end_with_trailers, fields, flow_add, flow_take, memory, prepare,
    put, put_head, put_length, put_status, send_frames,
)
from fastgw._core.headers cimport H_EXPECT, SCAN_TOO_MANY, SCAN_METHOD, SCAN_TE, Head, Header
from fastgw._core.nghttp2 cimport *
from fastgw._core.reactor cimport HIGH_WATER, LOW_WATER, Channel
from fastgw._core.record cimport (
    C_H2_CONNECTIONS, C_H2_FRAMES, C_H2_HEADERS, C_H2_PROTOCOL, C_H2_REFUSED, C_H2_RESETS, C_H2_STALLED, C_H2_STREAMS,
)
from fastgw._core.respond cimport Relay

cdef enum:
    CONNECTION_WINDOW = 1048576   # bytes of all bodies together that may wait here
    CONNECT_METHOD = 8
    TRACE_METHOD = 7

cdef int64_t LINGER_NS = 5_000_000_000
cdef int64_t SOCKET_LINGER_NS = 2_000_000_000
cdef int64_t NOTICE_NS = 500_000_000
cdef int64_t SECOND = 1_000_000_000

cdef char _scratch[1024]
cdef nghttp2_session_callbacks *_callbacks = NULL
cdef nghttp2_option *_options = NULL


# ---------------------------------------------------------------------- what the library calls

cdef int _on_begin_frame(nghttp2_session *session, const nghttp2_frame_hd *hd, void *p) noexcept:
    cdef H2Connection connection = <H2Connection>p
    if hd.type == NGHTTP2_HEADERS:
        if not hd.flags & NGHTTP2_FLAG_END_HEADERS:
            connection.head_at = connection.reactor.now
        if hd.stream_id > connection.highest:
            if hd.stream_id > connection.highest + 2:
                connection.skipped_from, connection.skipped_to = connection.highest, hd.stream_id
            connection.highest = hd.stream_id
        elif connection.skipped_from < hd.stream_id < connection.skipped_to and connection.reason == 0:
            # RFC 9113 5.1.1: streams that were left out are closed; the library would take this for a late one
            connection.reason = C_H2_PROTOCOL
            nghttp2_session_terminate_session(session, NGHTTP2_PROTOCOL_ERROR)
    return 0


cdef int _on_begin(nghttp2_session *session, const nghttp2_frame *frame, void *p) noexcept:
    cdef H2Connection connection = <H2Connection>p
    fgw_block_begin(&connection.block, frame.hd.stream_id)
    return 0


cdef int _on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t nl,
                    const uint8_t *value, size_t vl, uint8_t flags, void *p) noexcept:
    cdef H2Connection connection = <H2Connection>p
    cdef fgw_block *block = &connection.block
    if fgw_field_check(block, name, nl, value, vl, frame.headers.cat != NGHTTP2_HCAT_REQUEST) < 0:
        block.bad = 1
    if fgw_block_add(block, name, nl, value, vl) < 0:
        return NGHTTP2_ERR_CALLBACK_FAILURE
    if connection.block.over & 2:
        connection.calm(C_H2_HEADERS)
        return NGHTTP2_ERR_CALLBACK_FAILURE
    return 0


cdef int _on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *p) noexcept:
    cdef H2Connection connection = <H2Connection>p
    cdef H2Stream stream
    cdef void *found
    cdef int kind = frame.hd.type
    try:
        if kind == NGHTTP2_HEADERS:
            connection.head_at = 0
            if frame.headers.cat == NGHTTP2_HCAT_REQUEST:
                if fgw_request_check(&connection.block, frame.hd.flags & NGHTTP2_FLAG_END_STREAM != 0) < 0:
                    return connection.malformed(frame.hd.stream_id)
                connection.head(frame.hd.stream_id, frame.hd.flags & NGHTTP2_FLAG_END_STREAM != 0)
                return 0
            found = nghttp2_session_get_stream_user_data(session, frame.hd.stream_id)
            # RFC 9113 8.1: trailers end the stream
            if connection.block.bad or frame.hd.flags & NGHTTP2_FLAG_END_STREAM == 0:
                if found == NULL:
                    return connection.malformed(frame.hd.stream_id)      # it is answered already
                (<H2Stream>found).malformed()
            elif found != NULL:
                stream = <H2Stream>found
                stream.trailers()
                stream.end_data()
        elif kind == NGHTTP2_DATA:
            if frame.hd.flags & NGHTTP2_FLAG_END_STREAM:
                found = nghttp2_session_get_stream_user_data(session, frame.hd.stream_id)
                if found != NULL:
                    stream = <H2Stream>found
                    stream.end_data()
            elif frame.hd.length == 0:
                connection.spend(&connection.frames_at, SECOND // 200, connection.codec.spare_frames * (SECOND // 200))
        elif kind == NGHTTP2_RST_STREAM:
            connection.pay_reset()
        elif kind != NGHTTP2_GOAWAY:
            # SETTINGS, PING, PRIORITY, WINDOW_UPDATE: work for us, nothing for anybody. (The library skips frames of
            # unknown kinds where they lie.)
            connection.spend(&connection.frames_at, SECOND // 200, connection.codec.spare_frames * (SECOND // 200))
    except Exception as error:
        connection.failure = error
        return NGHTTP2_ERR_CALLBACK_FAILURE
    return 0


cdef int _on_invalid(nghttp2_session *session, const nghttp2_frame *frame, int code, void *p) noexcept:
    cdef H2Connection connection = <H2Connection>p
    if code == NGHTTP2_ERR_REFUSED_STREAM:
        # RFC 9113 5.1.2: more streams than there may be. A client that has not yet acknowledged our SETTINGS may not know,
        # so the stream alone is refused; it costs as much as one that the client resets.
        connection.relay.stats.add(C_H2_REFUSED, 1)
        connection.pay_reset()
    elif code == NGHTTP2_ERR_PROTO and frame.hd.type == NGHTTP2_HEADERS and frame.headers.cat == NGHTTP2_HCAT_REQUEST:
        connection.reason = connection.reason or C_H2_PROTOCOL     # it knew: the library says GOAWAY
    return 0


cdef int _on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data, size_t n, void *p) noexcept:
    cdef H2Connection connection = <H2Connection>p
    cdef void *found = nghttp2_session_get_stream_user_data(session, id)
    cdef H2Stream stream
    try:
        if found == NULL:
            nghttp2_session_consume(session, id, n)
        else:
            stream = <H2Stream>found
            stream.data(<const char*>data, n)
    except Exception as error:
        connection.failure = error
        return NGHTTP2_ERR_CALLBACK_FAILURE
    return 0


cdef int _on_close(nghttp2_session *session, int32_t id, uint32_t code, void *p) noexcept:
    cdef H2Connection connection = <H2Connection>p
    cdef void *found = nghttp2_session_get_stream_user_data(session, id)
    cdef H2Stream stream
    if found == NULL:
        return 0
    try:
        stream = <H2Stream>found
        connection.streams.pop(id, None)
        stream.lost()
        if not connection.streams:
            connection._wake()
    except Exception as error:
        connection.failure = error
        return NGHTTP2_ERR_CALLBACK_FAILURE
    return 0


cdef ssize_t _read(nghttp2_session *session, int32_t id, uint8_t *buf, size_t n, uint32_t *flags,
                   nghttp2_data_source *source, void *p) noexcept:
    """The library wants body bytes of an answer."""
    cdef H2Connection connection = <H2Connection>p
    cdef H2Stream stream = <H2Stream>source.ptr
    cdef size_t k = flow_take(&stream.out, buf, n)
    if k:
        stream.moved = connection.reactor.now
        # a client that reads may say so: its WINDOW_UPDATEs are no flood
        connection.frames_at -= SECOND // 40
    if stream.out.n == 0:
        if stream.finished_out:
            flags[0] |= NGHTTP2_DATA_FLAG_EOF
            stream.sent_end = True
            if stream.after is not None:
                # submitted any earlier, they would go out before the body and end the stream
                end_with_trailers(session, id, stream.after, flags)
                stream.after = None
            if stream.reset_after:
                connection.over.append(stream)
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
    nghttp2_option_set_no_http_messaging(_options, 1)      # h2fields.h does it, and H2Stream.data the lengths
    nghttp2_session_callbacks_set_on_begin_frame_callback(_callbacks, _on_begin_frame)
    nghttp2_session_callbacks_set_on_begin_headers_callback(_callbacks, _on_begin)
    nghttp2_session_callbacks_set_on_header_callback(_callbacks, _on_header)
    nghttp2_session_callbacks_set_on_frame_recv_callback(_callbacks, _on_frame)
    nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(_callbacks, _on_invalid)
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(_callbacks, _on_data)
    nghttp2_session_callbacks_set_on_stream_close_callback(_callbacks, _on_close)
    return 0


cdef bytes _handshake():
    """What a handshake of a WebSocket says over HTTP/1.1 and not over HTTP/2 (RFC 8441 5): the key is ours."""
    return b"connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: " + b64encode(os.urandom(16)) + b"\r\n"


# ---------------------------------------------------------------------- the connection

cdef class H2Codec(Codec):
    """Keyword arguments: bytes and counts that a client is told of, and how much of what is no request it may send."""

    def __init__(self, *, int max_streams=128, int window=65536, int header_list=65536, int resets=200,
                 int spare_frames=2000):
        _prepare()
        self.max_streams = max_streams
        self.window = window
        self.header_list = header_list
        self.resets = resets
        self.spare_frames = spare_frames

    cdef Connection open(self, Listener listener):
        return H2Connection(listener, self)


cdef class H2Connection(Connection):
    def __cinit__(self, Listener listener, Codec codec):
        self.codec = <H2Codec>codec
        self.streams = {}
        self.eager = []
        self.thirsty = []
        self.over = []
        memset(&self.block, 0, sizeof(fgw_block))
        self.block.limit = self.codec.header_list
        self.block.most = self.settings.max_headers

    def __dealloc__(self):
        if self.session != NULL:
            nghttp2_session_del(self.session)
        fgw_block_free(&self.block)

    cdef int begin(self) except -1:
        cdef nghttp2_settings_entry ours[4]
        if nghttp2_session_server_new3(&self.session, _callbacks, <void*>self, _options, memory) != 0:
            raise MemoryError()
        ours[0].settings_id = NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS
        ours[0].value = self.codec.max_streams
        ours[1].settings_id = NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE
        ours[1].value = self.codec.window
        ours[2].settings_id = NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE
        ours[2].value = self.codec.header_list
        ours[3].settings_id = NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL
        ours[3].value = 1
        nghttp2_submit_settings(self.session, NGHTTP2_FLAG_NONE, ours, 4)
        nghttp2_session_set_local_window_size(self.session, NGHTTP2_FLAG_NONE, 0, CONNECTION_WINDOW)
        self.relay.stats.add(C_H2_CONNECTIONS, 1)
        self.reactor.wheel.arm(&self.timer, self.reactor.now + self.settings.header_ns)
        return self.mark()

    cdef int on_data(self, char *p, size_t n) except -1:
        cdef ssize_t used
        if self.closing or self.gone:
            return 0
        self.inside = True
        used = nghttp2_session_mem_recv(self.session, <const uint8_t*>p, n)
        self.inside = False
        if self.failure is not None:
            error, self.failure = self.failure, None
            raise error
        if self.gone:
            return 0
        if used < 0 and self.reason == 0:
            self.reason = C_H2_FRAMES if used == NGHTTP2_ERR_FLOODED else C_H2_PROTOCOL
            nghttp2_session_terminate_session(self.session, NGHTTP2_PROTOCOL_ERROR)
        if used < 0:
            self.pump()
            return self.end()
        if self.head_at:
            self.reactor.wheel.arm(&self.timer, self.head_at + self.settings.header_ns)
        return self.mark()

    cdef int mark(self) except -1:
        """Something is to be sent: at the end of this turn, together with all else of it."""
        if not self.dirty and not self.gone:
            self.dirty = True
            self.reactor.lastly(self)
        return 0

    cdef int on_last(self) except -1:
        self.dirty = False
        return self._work()

    cdef int _work(self) except -1:
        cdef H2Stream stream
        if self.gone or self.closing:
            return 0
        if self.eager:
            eager, self.eager = self.eager, []
            for stream in eager:
                stream.queued = False
                stream._deliver()
        self.pump()
        if self.gone:
            return 0
        if not nghttp2_session_want_read(self.session) and not nghttp2_session_want_write(self.session):
            return self.end()
        return 0

    cdef int pump(self) except -1:
        """Frames that are ready, as long as the socket takes them."""
        cdef H2Stream stream
        cdef bint more = True
        while more and self.channel is not None:
            send_frames(self.session, self.channel)
            more = False
            if self.channel is not None and self.channel.out_len and self.timer.due == 0:
                self.reactor.wheel.arm(&self.timer, self.reactor.now + self.settings.body_ns)
            if self.over:
                # RFC 9113 8.1: the answer is whole, the rest of the request is not wanted
                over, self.over = self.over, []
                for stream in over:
                    if not stream.closed and not stream.ended:
                        nghttp2_submit_rst_stream(self.session, NGHTTP2_FLAG_NONE, stream.id, NGHTTP2_NO_ERROR)
                        more = True
            if self.thirsty and self.channel is not None and not self.channel.full():
                thirsty, self.thirsty = self.thirsty, []
                for stream in thirsty:
                    stream.blocked = False
                    # one that has no room yet puts itself into the new list
                    if stream.ex is not None and stream.writable():
                        self.relay.downstream_writable(stream.ex)
                        more = True
        if self.failure is not None:
            error, self.failure = self.failure, None
            raise error
        return 0

    cdef int on_drained(self) except -1:
        return self._work()

    cdef bint spend(self, int64_t *at, int64_t cost_ns, int64_t burst_ns) noexcept:
        """A leaky bucket: False when it is over. Frames that are no requests have one budget, resets another."""
        cdef int64_t now = self.reactor.now
        if at[0] < now:
            at[0] = now
        at[0] += cost_ns
        if at[0] - now <= burst_ns:
            return True
        if at == &self.frames_at:
            self.calm(C_H2_FRAMES)
        return False

    cdef int pay_reset(self) noexcept:
        """A stream that came to nothing, whoever ended it; too many are the end of the connection."""
        if not self.spend(&self.resets_at, SECOND // 50, self.codec.resets * (SECOND // 50)):
            self.calm(C_H2_RESETS)
        return 0

    cdef int calm(self, int reason) noexcept:
        """RFC 9113 10.5: ENHANCE_YOUR_CALM, and the end of the connection."""
        if self.reason == 0:
            self.reason = reason
            nghttp2_session_terminate_session(self.session, NGHTTP2_ENHANCE_YOUR_CALM)
        return 0

    cdef int malformed(self, int32_t id) noexcept:
        """RFC 9113 8.1.1: a stream error. Each costs as much as a stream that its client resets."""
        nghttp2_submit_rst_stream(self.session, NGHTTP2_FLAG_NONE, id, NGHTTP2_PROTOCOL_ERROR)
        return self.pay_reset()

    # ------------------------------------------------------------------ a request

    cdef int head(self, int32_t id, bint end) except -1:
        """A whole block of headers opens a stream."""
        cdef Relay relay = self.relay
        cdef fgw_block *block = &self.block
        cdef H2Stream stream = H2Stream.__new__(H2Stream)
        cdef Exchange ex = relay.take()
        cdef Head head = ex.request
        cdef Header *expect
        cdef size_t n
        cdef int k
        cdef bytes method = None, handshake = None
        stream.connection = self
        stream.relay = relay
        stream.id = id
        stream.ex = ex
        stream.ended = end
        stream.promised = block.length
        self.streams[id] = stream
        nghttp2_session_set_stream_user_data(self.session, id, <void*>stream)
        self.requests += 1
        relay.stats.add(C_H2_STREAMS, 1)
        self.settings = relay.plan.settings
        self.introduce(ex)
        ex.down = stream
        ex.http2 = True
        self.reactor.wheel.cancel(&self.timer)
        if self.settings.requests_per_connection and self.requests >= self.settings.requests_per_connection:
            self.drain()
        if block.over:
            return stream.refuse("headers_too_large", f"The limits are {self.codec.header_list} bytes and "
                                                      f"{self.settings.max_headers} headers.")
        if block.path_n > <uint32_t>self.settings.max_target:
            return stream.refuse("uri_too_long", f"The limit is {self.settings.max_target} bytes.")
        if block.method_n == 7 and memcmp(block.pseudo + block.method_at, b"CONNECT", 7) == 0:
            if block.protocol_n != 9 or memcmp(block.pseudo + block.protocol_at, b"websocket", 9) != 0 or end:
                return stream.refuse("method_not_implemented", "CONNECT is offered for WebSockets only.")
            stream.socket = ex.extended = True
            method = b"GET"
            handshake = _handshake()
        # RFC 9113 8.3.1: Host, when there is one too, says the same as :authority
        if block.authority_n and block.host_n and (
                block.authority_n != block.host_n
                or memcmp(block.pseudo + block.authority_at, block.pseudo + block.host_at, block.host_n) != 0):
            return stream.refuse("bad_request", None)
        head.len = 0
        head.reserve(fgw_block_request_size(block))
        n = fgw_block_request(block, NULL if method is None else PyBytes_AS_STRING(method),
                              NULL if handshake is None else PyBytes_AS_STRING(handshake), head.buf)
        if n == 0:
            return stream.refuse("bad_request", None)
        k = head.scan_request(head.buf, n, self.settings.max_headers + 2)
        if k != <int>n:
            if k == SCAN_TOO_MANY:
                return stream.refuse("headers_too_large", f"The limit is {self.settings.max_headers} headers.")
            if k == SCAN_METHOD:
                return stream.refuse("method_not_implemented", None)
            return stream.refuse("bad_request", None)
        head.len = n
        if head.chunked:
            return stream.refuse("bad_request", None)
        ex.is_head = head.method == 1
        ex.has_body = not end and not stream.socket
        ex.request_done = not ex.has_body
        expect = head.find_id(H_EXPECT)
        if expect != NULL and not head.expect_continue:
            relay.started(ex)
            relay.fail(ex, "expectation_failed", None)
        elif head.method == TRACE_METHOD:
            relay.started(ex)
            ex.allow = b"GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS"
            relay.fail(ex, "method_not_allowed", "TRACE is not offered.")
        else:
            relay.start(ex)
        return 0

    # ------------------------------------------------------------------ the way it ends

    cdef int _wake(self) except -1:
        """No stream is open: the connection is idle, or done."""
        if self.gone:
            return 0
        self.reactor.wheel.arm(&self.timer, self.reactor.now + self.settings.idle_ns)
        if self.going and not self.inside:
            return self.mark()
        return 0

    cdef int on_timer(self, Timer *timer) except -1:
        cdef int64_t now = self.reactor.now
        if self.gone:
            return 0
        if self.closing:
            return self._close(False)
        if self.channel.out_len:
            if now - self.channel.progress >= self.settings.body_ns:
                self.relay.stats.add(C_H2_STALLED, 1)
                return self._close(True)
            if not self.going:
                self.reactor.wheel.arm(timer, self.channel.progress + self.settings.body_ns)
                return 0
        if self.head_at:
            if now - self.head_at >= self.settings.header_ns:
                self.calm(C_H2_HEADERS)
                return self.mark()
            self.reactor.wheel.arm(timer, self.head_at + self.settings.header_ns)
            return 0
        if self.going:
            # RFC 9113 6.8: the notice has had its time to arrive, now no stream after the last one is taken
            nghttp2_submit_goaway(self.session, NGHTTP2_FLAG_NONE,
                                  nghttp2_session_get_last_proc_stream_id(self.session), NGHTTP2_NO_ERROR, NULL, 0)
            if not self.streams:
                nghttp2_session_terminate_session(self.session, NGHTTP2_NO_ERROR)
            return self.mark()
        if not self.streams:
            nghttp2_session_terminate_session(self.session, NGHTTP2_NO_ERROR)
            return self.mark()
        return 0

    cdef int drain(self) except -1:
        if self.going or self.gone or self.session == NULL:
            return 0
        self.going = True
        nghttp2_submit_shutdown_notice(self.session)
        self.reactor.wheel.arm(&self.timer, self.reactor.now + NOTICE_NS)
        return self.mark()

    cdef int end(self) except -1:
        """Our last frames leave; then it closes."""
        if self.gone or self.closing:
            return 0
        if self.reason:
            self.relay.stats.add(self.reason, 1)
        self.closing = True
        self._abandon()
        if self.channel is None:
            return 0
        self.reactor.wheel.arm(&self.timer, self.reactor.now + LINGER_NS)
        return self.channel.shut()

    cdef int _abandon(self) except -1:
        """Nobody is there for the streams any more."""
        cdef H2Stream stream
        for stream in list(self.streams.values()):
            stream.lost()
        self.streams.clear()
        return 0

    cdef int on_eof(self) except -1:
        return self._close(False)

    cdef int on_broken(self) except -1:
        return self._close(False)

    cdef int on_hangup(self) except -1:
        return self._close(False)

    cdef int on_closed(self) except -1:
        return self._close(False)

    cdef int _close(self, bint reset) except -1:
        cdef Channel channel = self.channel
        if self.gone:
            return 0
        self.gone = True
        self.reactor.wheel.unlink(&self.timer)
        self.reactor.bury(self)
        self._abandon()
        self.eager.clear()
        self.thirsty.clear()
        self.over.clear()
        self.channel = None
        if channel is not None:
            channel.kill(reset)
        return self.leave()

    def __repr__(self):
        return f"<H2Connection {self.peer.text[:self.peer.text_len].decode()} {len(self.streams)} streams>"


# ---------------------------------------------------------------------- one stream

cdef class H2Stream(Downstream):
    def __cinit__(self):
        memset(&self.timer, 0, sizeof(Timer))
        self.timer.owner = <void*>self

    def __dealloc__(self):
        free(self.kept)
        free(self.out.p)
        timer_detach(&self.timer)

    cdef Downstream carrier(self):
        return self.connection

    # ------------------------------------------------------------------ the request's body

    cdef int data(self, const char *p, size_t n) except -1:
        """Body bytes came. Until the upstream takes them they wait here, within the window the client was given."""
        cdef Exchange ex = self.ex
        self.arrived += n
        if self.promised >= 0 and self.arrived > self.promised:
            self.malformed()
        if self.faulty or ex is None or (ex.request_done and not self.socket):
            nghttp2_session_consume(self.connection.session, self.id, n)
            return 0
        self.received += n
        if ex.body_limit >= 0 and self.received > ex.body_limit and not self.socket and not ex.grpc:
            nghttp2_session_consume(self.connection.session, self.id, n)
            return self.relay.fail(ex, "body_too_large", f"The limit here is {ex.body_limit} bytes.")
        if self.wanted and self.kept_n == 0:
            return self.take_data(p, n)
        if fgw_block_room(&self.kept, &self.kept_cap, self.kept_n + n) < 0:
            raise MemoryError()
        memcpy(self.kept + self.kept_n, p, n)
        self.kept_n += n
        return 0

    cdef int take_data(self, const char *p, size_t n) except -1:
        cdef Exchange ex = self.ex
        cdef H2Connection connection = self.connection
        ex.bytes_in += n
        if ex.grpc and not messages_fit(&self.messages, p, n, ex.body_limit):
            self.unused += n
            return self.relay.fail(ex, "body_too_large", f"The limit of a message is {ex.body_limit} bytes here.")
        self.relay.request_data(ex, p, n)
        if self.ex is ex and ex.up is not None and not ex.up.writable():
            self.wanted = False
            self.unused += n
            self.reactor_timer(0)
            return 0
        if connection.session != NULL and not self.closed:
            nghttp2_session_consume(connection.session, self.id, n)
        if self.ex is ex and not self.ended and not self.socket and not ex.grpc:
            self.reactor_timer(connection.settings.body_ns)
        return 0

    cdef int reactor_timer(self, int64_t after) except -1:
        cdef H2Connection connection = self.connection
        if after == 0:
            connection.reactor.wheel.cancel(&self.timer)
        else:
            connection.reactor.wheel.arm(&self.timer, connection.reactor.now + after)
        return 0

    cdef int malformed(self) noexcept:
        """What follows the head is not what it may be. The stream is lost when the word of it is out."""
        if not self.faulty and not self.closed:
            self.faulty = True
            self.connection.malformed(self.id)
        return 0

    cdef int end_data(self) except -1:
        # RFC 9113 8.1.1: Content-Length is the sum of the lengths of the DATA frames
        if self.promised >= 0 and self.arrived != self.promised:
            self.malformed()
        if self.faulty:
            return 0
        self.ended = True
        if self.socket and self.ex is not None and self.kept_n == 0:
            return self._half_close()
        if self.ex is None or self.ex.request_done:
            return 0
        if self.kept_n == 0:
            self.reactor_timer(0)
            return self.relay.request_end(self.ex)
        return 0

    cdef int _half_close(self) except -1:
        """RFC 8441 5: the end of the stream is the client's FIN. Browsers send it with their Close frame, and wait for
        the service's: it gets a while for that."""
        if not self.ex.upgraded:
            return self._hang_up()
        self.reactor_timer(SOCKET_LINGER_NS)
        return self.relay.request_end(self.ex)

    cdef int _hang_up(self) except -1:
        self.relay.downstream_gone(self.ex, "client_closed")
        nghttp2_submit_rst_stream(self.connection.session, NGHTTP2_FLAG_NONE, self.id, NGHTTP2_NO_ERROR)
        return self.connection.mark()

    cdef int trailers(self) except -1:
        """RFC 9113 8.1: fields after the body. They are kept apart; an upstream that can have them gets them."""
        cdef Exchange ex = self.ex
        cdef fgw_block *block = &self.connection.block
        cdef Head head
        if ex is None or block.over or block.n == 0:
            return 0
        head = Head()
        if head.scan_trailers(block.lines, block.n, self.connection.settings.max_headers) > 0:
            ex.request_trailers = head
        return 0

    cdef int want_body(self, Exchange ex) except -1:
        """The upstream takes more. What was kept is delivered at the end of the turn: who asks may be in our call."""
        cdef H2Connection connection = self.connection
        if self.ex is not ex or self.wanted or self.closed:
            return 0
        self.wanted = True
        if self.unused:
            nghttp2_session_consume(connection.session, self.id, self.unused)
            self.unused = 0
            connection.mark()
        if self.kept_n or self.ended:
            if not self.queued:
                self.queued = True
                connection.eager.append(self)
                connection.mark()
        elif not self.socket and not ex.grpc:
            self.reactor_timer(connection.settings.body_ns)
        return 0

    cdef int hold_body(self, Exchange ex) except -1:
        if self.ex is ex:
            self.wanted = False
            self.reactor_timer(0)
        return 0

    cdef int _deliver(self) except -1:
        cdef char *p = self.kept
        cdef uint32_t n = self.kept_n
        cdef Exchange ex = self.ex
        if self.closed or ex is None or not self.wanted:
            return 0
        self.kept = NULL
        self.kept_n = self.kept_cap = 0
        try:
            if n:
                self.take_data(p, n)
        finally:
            free(p)
        if self.ended and self.ex is ex and self.socket:
            return self._half_close()
        if self.ended and self.ex is ex and not ex.request_done:
            self.reactor_timer(0)
            return self.relay.request_end(ex)
        return 0

    # ------------------------------------------------------------------ the answer

    cdef int refuse(self, str code, object detail) except -1:
        """The head itself is at fault: answered without a route."""
        cdef Exchange ex = self.ex
        ex.request.take(b"", 0)
        ex.request.clear()
        ex.request_done = True
        ex.has_body = not self.ended
        self.relay.started(ex)
        return self.relay.fail(ex, code, detail)

    cdef int send_interim(self, Exchange ex, Head head) except -1:
        if self.closed or self.submitted or self.connection.session == NULL:
            return 0
        begin_fields()
        put_status(head.status)
        put_head(head)
        nghttp2_submit_headers(self.connection.session, NGHTTP2_FLAG_NONE, self.id, NULL, fields.nv, fields.n, NULL)
        return self.connection.mark()

    cdef int send_head(self, Exchange ex, bint end) except -1:
        cdef Head head = ex.response
        cdef H2Connection connection = self.connection
        cdef bytes text
        cdef int64_t length = -1
        # an answer of trailers alone is told by the end of the stream in its HEADERS; gRPC clients insist on it
        cdef bint bodiless = head.status == 204 or head.status == 304 or ex.is_head \
            or (ex.empty and not ex.local and not ex.response_filtered)
        cdef nghttp2_data_provider provider
        if self.closed or connection.session == NULL:
            return 0
        # RFC 9110 8.6: a length is told where it is known, also of a body that HEAD and 304 leave out
        if head.status == 204 or head.status < 200:
            pass
        elif ex.whole and head.status != 304:
            length = len(ex.local_body)
        elif head.has_length and not ex.response_filtered and not (head.status == 304 and ex.local):
            length = head.content_length
        begin_fields()
        if self.socket and ex.upgraded:
            # RFC 8441 5: 200 is what 101 is over HTTP/1.1, and nothing is proved by a key
            head.remove_name(b"sec-websocket-accept", 20)
            put_status(200)
        elif self.socket and 200 <= head.status < 300:
            put_status(501 if ex.local else 502)  # an answer, not a socket: a success would say that there is one
        else:
            put_status(head.status)
        put_head(head)
        if length >= 0:
            put_length(length)
        if ex.local:
            text = date_line()
            put(b"date", 4, PyBytes_AS_STRING(text) + 6, PyBytes_GET_SIZE(text) - 8)
            if connection.settings.server_header is not None:
                text = connection.settings.server_header
                put(b"server", 6, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
        elif connection.settings.via is not None:
            text = connection.settings.via
            if PyBytes_GET_SIZE(text) < <Py_ssize_t>sizeof(_scratch) - 8:
                memcpy(_scratch, b"1.1 ", 4)
                memcpy(_scratch + 4, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
                put(b"via", 3, _scratch, 4 + PyBytes_GET_SIZE(text))
        if connection.hsts is not None:
            text = connection.hsts
            put(b"strict-transport-security", 25, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
        self.submitted = True
        self.moved = connection.reactor.now
        provider.source.ptr = <void*>self
        provider.read_callback = _read
        # the library copies the fields
        nghttp2_submit_response(connection.session, self.id, fields.nv, fields.n, NULL if end or bodiless else &provider)
        if end or bodiless:
            self.sent_end = True
            if not self.ended:
                connection.over.append(self)
        elif self.socket and ex.upgraded:
            self.want_body(ex)
        return connection.mark()

    cdef int send_data(self, Exchange ex, const char *p, size_t n) except -1:
        cdef H2Connection connection = self.connection
        if self.closed or n == 0 or self.sent_end:
            return 0
        if self.out.n == 0:
            self.moved = connection.reactor.now
        flow_add(&self.out, p, n)
        if self.timer.due == 0:
            self.reactor_timer(connection.settings.body_ns)
        return self._resume()

    cdef int _resume(self) except -1:
        if self.deferred:
            self.deferred = False
            nghttp2_session_resume_data(self.connection.session, self.id)
        return self.connection.mark()

    cdef int send_end(self, Exchange ex) except -1:
        if self.closed or self.sent_end:
            return 0
        self.finished_out = True
        if not self.ended and self.socket:
            # RFC 8441 5: a reset is what RST is to TCP, browsers call that an abnormal closure; the client's end is due
            self.reactor_timer(SOCKET_LINGER_NS)
        elif not self.ended:
            self.reset_after = True
        self.after = <Head>ex.response_trailers
        return self._resume()

    cdef int abort(self, Exchange ex) except -1:
        if self.closed:
            return 0
        nghttp2_submit_rst_stream(self.connection.session, NGHTTP2_FLAG_NONE, self.id, NGHTTP2_INTERNAL_ERROR)
        return self.connection.mark()

    cdef bint writable(self) noexcept:
        cdef H2Connection connection = self.connection
        if self.closed or connection.channel is None:
            return True
        if self.out.n < HIGH_WATER // 2 and not connection.channel.full():
            return True
        if not self.blocked:
            self.blocked = True
            connection.thirsty.append(self)
        return False

    cdef int finished(self, Exchange ex) except -1:
        self.ex = None
        if self.closed:
            return 0
        if self.kept_n:
            nghttp2_session_consume(self.connection.session, self.id, self.kept_n)
            self.kept_n = 0
        if self.unused:
            nghttp2_session_consume(self.connection.session, self.id, self.unused)
            self.unused = 0
        return self.connection.mark()

    cdef int on_timer(self, Timer *timer) except -1:
        """Nothing came for a body that is wanted, or nothing went of an answer that waits."""
        cdef H2Connection connection = self.connection
        cdef int64_t quiet = connection.reactor.now - self.moved
        if self.closed:
            return 0
        if self.out.n:
            if quiet < connection.settings.body_ns:
                connection.reactor.wheel.arm(timer, self.moved + connection.settings.body_ns)
                return 0
            connection.relay.stats.add(C_H2_STALLED, 1)
            if self.ex is not None:
                self.relay.downstream_gone(self.ex, "client_stalled")
            nghttp2_submit_rst_stream(connection.session, NGHTTP2_FLAG_NONE, self.id, NGHTTP2_CANCEL)
            return connection.mark()
        if self.ex is not None and self.socket and self.ended:
            return self._hang_up()
        if self.ex is None and self.socket:
            nghttp2_submit_rst_stream(connection.session, NGHTTP2_FLAG_NONE, self.id, NGHTTP2_CANCEL)
            return connection.mark()
        if self.ex is not None and self.wanted and not self.ended and not self.socket \
                and not self.ex.grpc:
            return self.relay.fail(self.ex, "body_timeout", None)
        return 0

    cdef int lost(self) except -1:
        """The stream is closed, by whomever."""
        cdef Exchange ex = self.ex
        if self.closed:
            return 0
        self.closed = True
        self.connection.reactor.wheel.unlink(&self.timer)
        self.connection.reactor.bury(self)
        if ex is not None:
            self.relay.downstream_gone(ex, "client_closed")
        return 0
