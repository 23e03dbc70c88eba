"""`websocket_broadcast`: one stream of a service for many sockets of clients.

    service → exchange of the gateway's own → Intake → Feed → Listening → exchange of a client's socket
                                                          ↘ Listening → …

Both ends are codecs like any other, so that what is between (pools, TLS, HTTP/2, ws.Watch with its rules) is the same
as for every request. The watch passes heads and control frames when they are whole, which both ends rely on.
A worker has one stream for a route as long as somebody listens, and a while longer. When it ends it is opened anew,
after a pause that doubles; sockets stay meanwhile.
"""
import logging
import os
from base64 import b64encode
from collections import deque
from hashlib import sha1
from random import random

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memset
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from fastgw._core.clock cimport Timer
from fastgw._core.exchange cimport CONTINUE, S_DONE, WAIT, Downstream, Exchange, Route, UpstreamStream
from fastgw._core.headers cimport Head, Header, equals_lower, valid_value
from fastgw._core.pool cimport Endpoint, Service
from fastgw._core.record cimport C_FEED_DROPPED, C_FEED_MESSAGES, C_FEED_STREAMS
from fastgw._core.respond cimport Relay
from fastgw._core.settings cimport Settings
from fastgw._core.ws cimport Rules, Watch
from fastgw._core.ws_frames cimport GOING_AWAY, NORMAL, O_CLOSE, O_PING, O_TEXT, TRY_AGAIN, put_control

logger = logging.getLogger("fastgw.broadcast")

cdef enum:
    CONTROL = 125
    ID_MAX = 1024

cdef int64_t LINGER_NS = 5_000_000_000         # a stream nobody listens to: the next client is often near
cdef int64_t QUIET_NS = 300_000_000_000        # of a stream of events: then it is opened anew
cdef int64_t PING_NS = 30_000_000_000

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"      # RFC 6455 1.3


cdef size_t _head(Frame *frame, const uint8_t *p, size_t n) except 0:
    """A whole head: how long it is."""
    cdef size_t need = 2, i
    cdef uint64_t size
    if n >= 2:
        size = p[1] & 0x7f
        need += (2 if size == 126 else 8 if size == 127 else 0) + (4 if p[1] & 0x80 else 0)
    if n < need:
        raise RuntimeError("the head of a frame came in pieces")
    if size >= 126:
        need = 4 if size == 126 else 10
        size = 0
        for i in range(2, need):
            size = size << 8 | p[i]
    else:
        need = 2
    memset(frame.mask, 0, 4)
    if p[1] & 0x80:
        for i in range(4):
            frame.mask[i] = p[need + i]
        need += 4
    frame.fin = p[0] & 0x80 != 0
    frame.opcode = p[0] & 15
    frame.rest = <int64_t>size
    frame.at = 0
    return need


cdef bytes _message(int opcode, bytes payload):
    """A message in one frame of a server."""
    cdef Py_ssize_t n = PyBytes_GET_SIZE(payload)
    cdef bytes first = bytes((0x80 | opcode,))
    if n < 126:
        return first + bytes((n,)) + payload
    if n < 65536:
        return first + b"\x7e" + n.to_bytes(2, "big") + payload
    return first + b"\x7f" + n.to_bytes(8, "big") + payload


cdef class Feed(Endpoint):
    """`Feed(relay, name, source, path, …)`. `source` is `websocket` or `sse`; `slow` is `drop` or `close`; ns and bytes.

    `service` is set by whoever builds plans, again with each.
    """

    def __init__(self, Relay relay, str name, str source, bytes path, int queue, int64_t queue_size, str slow,
                 int64_t max_message, int64_t retry_ns, int64_t retry_max_ns):
        Endpoint.__init__(self, relay.reactor, None, f"broadcast:{name}", f"broadcast:{name}", b"", (None,), None)
        self.relay = relay
        self.events = source == "sse"
        self.path = path
        self.queue_messages = queue
        self.queue_bytes = queue_size
        self.drops = slow == "drop"
        self.max_message = max_message
        self.retry_ns = self.backoff_ns = retry_ns
        self.retry_max_ns = max(retry_ns, retry_max_ns)
        self.listeners = set()
        self.last_id = b""

    cdef int checkout(self, Exchange ex, bint fresh) except -1:
        cdef Listening listening = Listening()
        listening.feed = self
        listening.ex = ex
        listening.control = bytearray()
        ex.up = listening
        ex.endpoint = self
        return CONTINUE

    cdef int join(self, Listening listening) except -1:
        self.listeners.add(listening)
        if self.intake is None and self.timer.due == 0:
            return self._start()
        if self.intake is not None:
            self.reactor.wheel.cancel(&self.timer)
        return 0

    cdef int leave(self, Listening listening) except -1:
        self.listeners.discard(listening)
        if not self.listeners:
            self.reactor.wheel.arm(&self.timer, self.reactor.now + LINGER_NS)
        return 0

    cdef int publish(self, int opcode, bytes payload) except -1:
        cdef bytes frame = _message(opcode, payload)
        cdef Listening listening
        cdef Exchange ex
        self.relay.stats.add(C_FEED_MESSAGES, 1)
        for listening in list(self.listeners):
            try:
                listening.offer(frame)
            except Exception as error:
                # one of many: the others go on
                logger.error("a socket that listens failed", exc_info=error)
                ex = listening.ex
                if ex is not None:
                    ex.driver.fail(ex, "internal_error", None)
        return 0

    # ------------------------------------------------------------------ the stream

    cdef int _start(self) except -1:
        cdef Intake intake = Intake()
        self.relay.stats.add(C_FEED_STREAMS, 1)
        intake.feed = self
        intake.partial = bytearray()
        intake.lines = []
        self.intake = intake
        return intake.begin()

    cdef int lost(self, Intake intake) except -1:
        """The stream ended, or did not come to be."""
        cdef int64_t pause
        self.intake = None
        if intake.useful:
            self.backoff_ns = self.retry_ns
            self.complained = False
        if not self.listeners or self.relay.draining:
            return 0
        if not self.complained:
            self.complained = True
            logger.warning("%s: the stream ended (%s); it is opened anew", self.name, intake.problem or "by the service")
        pause = <int64_t>(self.backoff_ns * (0.5 + random() / 2))     # not all workers at once
        self.backoff_ns = min(2 * self.backoff_ns, self.retry_max_ns)
        self.reactor.wheel.arm(&self.timer, self.reactor.now + pause)
        return 0

    cdef int on_timer(self, Timer *timer) except -1:
        if not self.listeners:
            return self.intake.stop("nobody listens") if self.intake is not None else 0
        return self._start() if self.intake is None and not self.relay.draining else 0

    def __repr__(self):
        return f"<Feed {self.name}: {len(self.listeners)} listen, {'open' if self.intake is not None else 'no'} stream>"


cdef class Intake(Downstream):
    cdef int begin(self) except -1:
        cdef Feed feed = self.feed
        cdef Relay relay = feed.relay
        cdef Exchange ex
        cdef Head head
        cdef bytes raw
        if feed.events:
            raw = b"Accept: text/event-stream\r\nCache-Control: no-store\r\n"
            if feed.last_id:
                raw += b"Last-Event-ID: " + feed.last_id + b"\r\n"
        else:
            raw = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + b64encode(os.urandom(16)) + b"\r\n"
        raw = b"GET " + feed.path + b" HTTP/1.1\r\n" + raw + b"\r\n"
        relay.reactor.outside()
        ex = relay.take()
        head = ex.request
        # without a Host: the endpoint's own goes out
        if head.scan_fetch(PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw)) <= 0:
            relay.give(ex)
            raise ValueError(f"{feed.name}: not a request: {feed.path!r}")
        head.take(PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw))
        self.ex = ex
        ex.down = self
        ex.plan = relay.plan
        ex.settings = relay.plan.settings
        ex.detached = True
        ex.request_done = True
        ex.upgrading = not feed.events
        ex.path = head.target
        at = feed.path.find(b"?")
        ex.path_len = head.target_len if at < 0 else at
        if at >= 0:
            ex.has_query = True
            ex.query = head.target + at + 1
            ex.query_len = head.target_len - at - 1
        ex.route = Route(feed.name, service=feed.service, idle_ns=QUIET_NS, websocket=Rules(
            1 << 60, max_message=feed.max_message, ping_ns=PING_NS, pong_ns=PING_NS, pinged="service"))
        relay.started(ex)
        return relay.dispatch(ex)

    cdef int send_head(self, Exchange ex, bint end) except -1:
        cdef Head head = ex.response
        cdef Header *h
        if not self.feed.events:
            return 0 if ex.upgraded else self.stop(f"it answered {head.status}")
        h = head.find(b"content-type", 12)
        if head.status != 200:
            return self.stop(f"it answered {head.status}")
        if h == NULL or h.value_len < 17 or not equals_lower(head.buf + h.value, b"text/event-stream", 17):
            return self.stop("its answer is no text/event-stream")
        return 0

    cdef int send_data(self, Exchange ex, const char *p, size_t n) except -1:
        if self.feed.events:
            return 0 if self.stopped else self._events(p[:n])
        return self._frames(p, n) if ex.upgraded else 0

    cdef int abort(self, Exchange ex) except -1:
        self.problem = self.problem or ex.code
        return 0

    cdef int finished(self, Exchange ex) except -1:
        self.problem = self.problem or ex.code
        self.ex = None
        self.feed.reactor.bury(self)              # who calls may be called by it
        return self.feed.lost(self)

    cdef int stop(self, str problem) except -1:
        """Not from within: what calls may be the exchange itself."""
        if not self.stopped:
            self.stopped = True
            self.problem = problem
            self.feed.reactor.lastly(self)
        return 0

    cdef int on_last(self) except -1:
        cdef Exchange ex = self.ex
        if ex is None or ex.state == S_DONE:
            return 0
        if ex.watch is not None:
            return (<Watch>ex.watch).close(GOING_AWAY, NORMAL, b"", None, 0)
        return ex.driver.downstream_gone(ex, "client_closed")

    # ------------------------------------------------------------------ a WebSocket

    cdef int _frames(self, const char *p, size_t n) except -1:
        cdef Frame *frame = &self.frame
        cdef size_t k
        while n:
            if frame.rest == 0:
                k = _head(frame, <const uint8_t*>p, n)
                p += k
                n -= k
                if frame.opcode < O_CLOSE and frame.opcode != 0:
                    self.opcode = frame.opcode
            k = n if <int64_t>n < frame.rest else <size_t>frame.rest
            frame.rest -= k
            self._frame(p, k)
            p += k
            n -= k
        return 0

    cdef int _frame(self, const char *p, size_t n) except -1:
        """A piece of a frame's payload, the last when frame.rest is 0."""
        cdef Frame *frame = &self.frame
        cdef Exchange ex = self.ex
        cdef char out[CONTROL + 14]
        cdef bytes mask
        cdef size_t size
        if frame.opcode < O_CLOSE:
            if self.stopped:
                return 0
            self.useful = True
            if frame.rest == 0 and frame.fin and not self.partial:
                return self.feed.publish(self.opcode, PyBytes_FromStringAndSize(p, n))
            self.partial += p[:n]
            if frame.rest == 0 and frame.fin:
                whole = bytes(self.partial)
                self.partial.clear()
                return self.feed.publish(self.opcode, whole)
            return 0
        # ws.Watch passes control frames whole, and none after a close frame
        if frame.opcode == O_PING or (frame.opcode == O_CLOSE and not self.said_close):
            mask = os.urandom(4)
            if frame.opcode == O_CLOSE:
                self.said_close = True
                size = put_control(out, O_CLOSE, p, n if n < 2 else 2, <const uint8_t*>PyBytes_AS_STRING(mask))
            else:
                size = put_control(out, 10, p, n, <const uint8_t*>PyBytes_AS_STRING(mask))
            return ex.driver.request_data(ex, out, size)
        return 0

    # ------------------------------------------------------------------ Server-Sent Events

    cdef int _events(self, bytes data) except -1:
        """WHATWG HTML 9.2.6: lines end with LF, CR, or both."""
        cdef bytes line
        if not self.begun:
            self.begun = True
            data = data.removeprefix(b"\xef\xbb\xbf")
        if self.after_cr and data.startswith(b"\n"):
            data = data[1:]
        if not data:
            return 0
        self.after_cr = data.endswith(b"\r")
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if b"\n" not in data:
            if len(self.partial) + len(data) > self.feed.max_message + ID_MAX:
                return self.stop("an event is larger than max_message")
            self.partial += data
            return 0
        lines = (bytes(self.partial) + data).split(b"\n")
        self.partial = bytearray(lines.pop())
        for line in lines:
            self._line(line)
            if self.stopped:
                break
        return 0

    cdef int _line(self, bytes line) except -1:
        cdef bytes payload
        if line:
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if name == b"data":
                self.size += len(value) + 1
                if self.size > self.feed.max_message + 1:
                    return self.stop("an event is larger than max_message")
                self.lines.append(value)
            elif name == b"id" and len(value) <= ID_MAX and valid_value(value, len(value)):
                self.id = value
            return 0
        if self.id is not None:
            self.feed.last_id = self.id
        if self.lines:
            payload = b"\n".join(self.lines)
            self.lines.clear()
            self.size = 0
            self.useful = True
            try:
                payload.decode()
            except UnicodeDecodeError:
                payload = payload.decode("utf-8", "replace").encode()
            return self.feed.publish(O_TEXT, payload)
        return 0


cdef class Listening(UpstreamStream):
    cdef int send_head(self, Exchange ex, bint end) except -1:
        """The handshake is the gateway's to answer (RFC 6455 4.2.2)."""
        cdef Head head = ex.response
        cdef Header *key
        cdef bytes raw
        if not ex.upgrading:
            return ex.driver.fail(ex, "bad_request", "Here are WebSockets only.")
        key = ex.request.find(b"sec-websocket-key", 17)
        raw = b64encode(sha1(ex.request.buf[key.value:key.value + key.value_len] + GUID).digest())
        raw = b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: " + raw + b"\r\n\r\n"
        head.scan_response(PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw), 10)
        head.take(PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw))
        ex.driver.upgraded(ex)
        if ex.driver.response_head(ex) != WAIT and self.ex is ex:
            return self._begin()
        return 0

    cdef int _begin(self) except -1:
        if self.ex.watch is None:
            return 0                              # its answer was replaced
        self.joined = True
        return self.feed.join(self)

    cdef int send_data(self, Exchange ex, const char *p, size_t n) except -1:
        """From the client: pings and close frames are answered, messages are for nobody."""
        cdef Frame *frame = &self.frame
        cdef size_t k, i
        while n and self.ex is ex:
            if frame.rest == 0:
                k = _head(frame, <const uint8_t*>p, n)
                p += k
                n -= k
            k = n if <int64_t>n < frame.rest else <size_t>frame.rest
            if frame.opcode >= O_CLOSE:
                for i in range(k):
                    self.control.append(<uint8_t>p[i] ^ frame.mask[frame.at + i & 3])
                frame.at += k
            frame.rest -= k
            p += k
            n -= k
            if frame.rest == 0 and frame.opcode >= O_CLOSE:
                self._whole()
        return 0

    cdef int _whole(self) except -1:
        cdef char out[CONTROL + 14]
        cdef bytes payload = bytes(self.control)
        cdef size_t size
        cdef Exchange ex = self.ex
        self.control.clear()
        if self.frame.opcode == O_PING:
            size = put_control(out, 10, PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload), NULL)
            return ex.driver.response_data(ex, out, size)
        if self.frame.opcode == O_CLOSE and not self.said_close:
            self.said_close = True
            payload = payload[:2]
            size = put_control(out, O_CLOSE, PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload), NULL)
            ex.driver.response_data(ex, out, size)
            return self.feed.reactor.lastly(self) # who called is not through with the exchange yet
        return 0

    cdef int on_last(self) except -1:
        cdef Exchange ex = self.ex
        if ex is None or ex.state == S_DONE:
            return 0
        self.cancel(ex)
        ex.driver.response_end(ex)
        return ex.driver.settle(ex)

    cdef int send_end(self, Exchange ex) except -1:
        """The client half-closed, over a stream of HTTP/2: it is gone."""
        return self.feed.reactor.lastly(self)

    cdef int want_data(self, Exchange ex) except -1:
        if self.ex is not ex:
            return 0
        return self._flush() if self.joined else self._begin()

    cdef int cancel(self, Exchange ex) except -1:
        if self.ex is not ex:
            return 0
        self.ex = None
        ex.up = None
        self.feed.reactor.bury(self)              # who calls may be called by it
        return self.feed.leave(self)

    # ------------------------------------------------------------------ messages

    cdef int offer(self, bytes frame) except -1:
        cdef Exchange ex = self.ex
        cdef Feed feed = self.feed
        if ex is None or self.said_close:
            return 0
        if not self.queue and ex.down.writable():
            return ex.driver.response_data(ex, PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame))
        if self.queue is None:
            self.queue = deque()
        self.queue.append(frame)
        self.queued += PyBytes_GET_SIZE(frame)
        while len(self.queue) > feed.queue_messages or self.queued > feed.queue_bytes:
            if not feed.drops:
                self.queue.clear()
                self.queued = 0
                feed.relay.stats.add(C_FEED_DROPPED, 1)
                return (<Watch>ex.watch).close(TRY_AGAIN, GOING_AWAY, b"too slow", "client_stalled", 1)
            self.queued -= PyBytes_GET_SIZE(<bytes>self.queue.popleft())
            feed.relay.stats.add(C_FEED_DROPPED, 1)
        return 0

    cdef int _flush(self) except -1:
        cdef Exchange ex = self.ex
        cdef bytes frame
        while self.queue and self.ex is ex and ex.down.writable():
            frame = self.queue.popleft()
            self.queued -= PyBytes_GET_SIZE(frame)
            ex.driver.response_data(ex, PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame))
        return 0
