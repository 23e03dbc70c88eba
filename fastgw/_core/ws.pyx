"""What is looked after in an open WebSocket: bounds, pings, times, and a proper end.

It stands between the two codecs of an exchange whose protocol was changed, and knows neither: bytes come by `data`,
and go on by the exchange's `up` and `down`. Frames pass as they are, with their masks and whatever extension made of
their payload. What the gateway itself says (a ping, a close frame) goes out between two frames.
"""
import os

from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcmp, memcpy, memset
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastgw._core.clock cimport Timer, realtime_ns, timer_detach
from fastgw._core.exchange cimport S_DONE, Exchange
from fastgw._core.reactor cimport Reactor
from fastgw._core.record cimport (
    C_WS_CLOSE, C_WS_FRAMES_IN, C_WS_FRAMES_OUT, C_WS_MESSAGES_IN, C_WS_MESSAGES_OUT, C_WS_OPEN, C_WS_OPENED, C_WS_PINGS,
    Stats,
)
from fastgw._core.ws_frames cimport (
    ABNORMAL, FORWARD, GOING_AWAY, HEAD_MAX, INTERNAL_ERROR, O_CLOSE, O_PING, O_PONG, POLICY_VIOLATION, PROTOCOL_ERROR,
    SERVICE_RESTART, SWALLOW, TOO_BIG, W_ENDED, W_HEAD, W_LOST, Reader, put_control,
)
from fastgw._core.ws_messages cimport Collector, Inspection, collector_of

cdef enum:
    CONTROL = 125

cdef int64_t CLOSE_NS = 2_000_000_000          # for both sides to answer a close frame

# The gateway's own reasons: text of the close frame, and the word for the log by who was at fault.
cdef dict REASONS = {
    PROTOCOL_ERROR: (b"not a valid frame", "websocket_protocol_error", "upstream_websocket_error"),
    1007: (b"not valid UTF-8", "websocket_protocol_error", "upstream_websocket_error"),
    TOO_BIG: (b"message too large", "websocket_too_large", "upstream_body_too_large"),
    POLICY_VIOLATION: (b"too many messages", "rate_limited", "rate_limited"),
}


cdef class Rules:
    """`Rules(idle_ns=…, …)`: see websocket: in the configuration. `limited` and `pinged`: client, service or both."""

    def __init__(self, int64_t idle_ns, int64_t max_age_ns=0, int64_t max_frame=0, int64_t max_message=0,
                 int64_t every_ns=0, int64_t burst=0, str limited="client", int64_t ping_ns=0, int64_t pong_ns=0,
                 str pinged="client", bint recheck=False, bint strict=False, Inspection inspection=None):
        self.idle_ns = idle_ns
        self.max_age_ns = max_age_ns
        self.max_frame = max_frame
        self.max_message = max_message
        self.every_ns = every_ns
        self.burst_ns = every_ns * burst
        self.ping_ns = ping_ns
        self.pong_ns = pong_ns
        self.recheck = recheck
        self.limited[CLIENT] = limited != "service"
        self.limited[SERVICE] = limited != "client"
        self.pinged[CLIENT] = pinged != "service"
        self.pinged[SERVICE] = pinged != "client"
        self.inspection = inspection
        self.strict = strict or inspection is not None or max_frame != 0 or max_message != 0 or every_ns != 0 or ping_ns != 0

    def __repr__(self):
        return f"<Rules {'frames are read' if self.strict else 'frames pass'}>"


cdef class Ear(Reader):
    cdef int forward(self, const uint8_t *p, size_t n) except -1:
        if self.watch is None:
            return 0
        if self.collector is not None:
            return self.watch._inspect(self, p, n)
        return self.watch._pass(self.side, <const char*>p, n)

    cdef int control(self) except -1:
        cdef char text[CONTROL]
        cdef bytes nonce
        if self.watch is None:
            return SWALLOW
        nonce = self.watch.nonce
        if self.opcode == O_PONG and nonce is not None and self.payload_n == PyBytes_GET_SIZE(nonce) + 2:
            self.unmasked(text)
            if memcmp(text, PyBytes_AS_STRING(nonce), PyBytes_GET_SIZE(nonce)) == 0:
                return SWALLOW                    # to a ping of ours: the other side did not ask
        return FORWARD


    cdef bint answered(self) noexcept:
        """Its own close frame came, or cannot be found any more."""
        return self.close_code != 0 or self.state == W_LOST


cdef Ear _ear(Watch watch, int side):
    cdef Ear ear = Ear()
    cdef Rules rules = watch.rules
    ear.watch = watch
    ear.side = side
    ear.want_mask = side == CLIENT                # RFC 6455 5.1
    ear.heard_at = watch.reactor.now
    ear.max_frame = rules.max_frame
    ear.max_message = rules.max_message
    ear.collector = collector_of(rules.inspection, side)
    if rules.limited[side]:
        ear.every_ns = rules.every_ns
        ear.burst_ns = rules.burst_ns
    if watch.ex.detached:
        return ear                                # a stream of the gateway's own: nobody's socket
    ear.frames = &watch.stats.counters[C_WS_FRAMES_IN if side == CLIENT else C_WS_FRAMES_OUT]
    ear.messages = &watch.stats.counters[C_WS_MESSAGES_IN if side == CLIENT else C_WS_MESSAGES_OUT]
    return ear


cdef int withhold_extensions(Exchange ex) except -1:
    """The client's offer of extensions, where policies want to read what it sends (RFC 6455 9.1)."""
    if (<Rules>ex.route.websocket).inspection is not None:
        ex.request.remove("sec-websocket-extensions")
    return 0


cdef int begin_watch(Exchange ex, Rules rules, Reactor reactor, Stats stats, set home, bint draining) except -1:
    """An exchange was upgraded, and its answer is about to leave: from now on its bytes come by `ex.watch`."""
    cdef Watch self = Watch()
    cdef int64_t now = reactor.now
    self.ex = ex
    self.rules = rules
    self.reactor = reactor
    self.stats = stats
    self.home = home
    self.client = _ear(self, CLIENT)
    self.service = _ear(self, SERVICE)
    if rules.strict:
        _extensions(ex, self.client, self.service)
    if rules.ping_ns:
        self.nonce = os.urandom(8)
    if rules.max_age_ns:
        self.age_at = now + rules.max_age_ns
    if rules.recheck and ex.claims is not None:
        expires = ex.claims.get("exp")
        if expires is not None:
            try:
                expires = float(expires)
            except (TypeError, ValueError):
                expires = 0                       # nobody can say how long it holds
            self.expires_at = max(now + 1, now + <int64_t>(max(0, min(expires, 1 << 33)) * 1e9) - realtime_ns())
    if draining:
        self.leave_at = now
    ex.watch = self
    home.add(self)
    if not ex.detached:
        stats.add(C_WS_OPENED, 1)
        stats.add(C_WS_OPEN, 1)
    return self._arm()


cdef int _extensions(Exchange ex, Ear client, Ear service) except -1:
    """RFC 6455 9.1: what the reserved bits mean is what both ends agreed on.

    Where policies see messages the client's offer was taken out, and an answer that has one all the same is void.
    """
    cdef int allowed = 0
    if (<Rules>ex.route.websocket).inspection is not None:
        ex.response.remove("sec-websocket-extensions")
        return 0
    for name, value in ex.response.pairs():
        if name.lower() == "sec-websocket-extensions":
            for extension in value.split(","):
                if extension.split(";")[0].strip().lower() in ("permessage-deflate", "x-webkit-deflate-frame"):
                    allowed = 4
                else:
                    client.rsv_anywhere = service.rsv_anywhere = True
    client.rsv_allowed = service.rsv_allowed = allowed
    return 0


cdef class Watch(Timed):
    def __cinit__(self):
        memset(&self.timer, 0, sizeof(Timer))
        self.timer.owner = <void*>self

    def __dealloc__(self):
        timer_detach(&self.timer)

    # ------------------------------------------------------------------ bytes

    cdef int data(self, int side, const char *p, size_t n) except -1:
        """Bytes from one side, for the other."""
        cdef Ear ear = self.client if side == CLIENT else self.service
        cdef Ear other = self.service if side == CLIENT else self.client
        cdef int code
        ear.heard_at = self.reactor.now
        if self.closing:
            return self._closing_data(ear, p, n)
        if not self.rules.strict:
            # every frame is the other side's business; where frames end, and with which code, is all that is seen
            ear.follow(<const uint8_t*>p, n, False)
            return self._pass(side, p, n)
        ear.now = self.reactor.now
        code = ear.read(<const uint8_t*>p, n)
        if self.ex is None:
            return 0
        code = ear.refused or code
        if code:
            return self._refuse(ear, code)
        if other.ping_owed:
            return self._ping(other)
        return 0

    cdef int _inspect(self, Ear ear, const uint8_t *p, size_t n) except -1:
        """What comes goes on when the policies have seen it; after a refusal nothing of this side does."""
        cdef Collector collector = ear.collector
        cdef bytearray out
        if ear.refused:
            return 0
        ear.refused = collector.feed(self.ex, p, n)
        out = collector.out
        if not out:
            return 0
        collector.out = bytearray()
        return self._pass(ear.side, PyByteArray_AS_STRING(out), len(out))

    cdef int _pass(self, int side, const char *p, size_t n) except -1:
        cdef Exchange ex = self.ex
        if side == SERVICE:
            ex.bytes_out += n
            return ex.down.send_data(ex, p, n)
        return ex.up.send_data(ex, p, n) if ex.up is not None else 0

    cdef int _send(self, int side, int opcode, const char *payload, size_t n) except -1:
        """A frame of the gateway's own."""
        cdef char frame[HEAD_MAX + CONTROL]
        cdef Exchange ex = self.ex
        cdef bytes mask
        cdef size_t size
        if side == CLIENT:
            size = put_control(frame, opcode, payload, n, NULL)
            return ex.down.send_data(ex, frame, size)
        mask = os.urandom(4)
        size = put_control(frame, opcode, payload, n, <const uint8_t*>PyBytes_AS_STRING(mask))
        return ex.up.send_data(ex, frame, size) if ex.up is not None else 0

    # ------------------------------------------------------------------ the end

    cdef int _refuse(self, Ear ear, int code) except -1:
        """One side broke a rule: it is told which, the other one that it went."""
        if ear.refused and ear.collector.problem is not None:
            downstream = upstream = ear.collector.problem.code
            reason = downstream.encode()[:CONTROL - 2]
        else:
            reason, downstream, upstream = REASONS[code]
        if ear.side == CLIENT:
            return self.close(code, GOING_AWAY, reason, downstream, 1)
        return self.close(GOING_AWAY, code, reason, upstream, 3)

    cdef int close(self, int to_client, int to_service, bytes reason, str word, int side) except -1:
        """Close frames to both sides, each at the next border of frames; then it waits for theirs, a moment."""
        cdef Ear ear
        if self.closing:
            return 0
        self.closing = True
        self.reason = reason
        self.word = word
        self.client.code = to_client
        self.service.code = to_service
        for ear in (self.client, self.service):
            # a frame of which a part went on must go on to its end; what was held back does not
            ear.cut = not ear.border() if self.rules.strict else ear.state != W_HEAD or ear.head_n != 0
            if ear.state == W_LOST and self.rules.strict:
                ear.cut = False                   # it ends before the frame that was refused
            if ear.collector is not None:
                ear.cut = False                   # only whole messages went on
            ear.passed_close = ear.close_code != 0 and ear.refused == 0
        if word is not None:
            self.ex.code = word
            self.ex.side = side
        self.until = self.reactor.now + CLOSE_NS
        self.reactor.wheel.arm(&self.timer, self.until)
        return self._tell()

    cdef int _closing_data(self, Ear ear, const char *p, size_t n) except -1:
        """While it closes: the end of a frame that is under way still goes on, then only a close frame is waited for."""
        cdef size_t used
        if ear.cut:
            used = ear.follow(<const uint8_t*>p, n, True)
            self._pass(ear.side, p, used)
            if self.ex is None:
                return 0
            if ear.state != W_HEAD or ear.head_n != 0:
                return 0
            ear.cut = False
            ear.passed_close = ear.close_code != 0
            p += used
            n -= used
        ear.follow(<const uint8_t*>p, n, False)
        return self._tell()

    cdef int _tell(self) except -1:
        cdef char payload[CONTROL]
        cdef Ear ear, source
        cdef size_t n = PyBytes_GET_SIZE(self.reason)
        for ear in (self.client, self.service):
            source = self.service if ear.side == CLIENT else self.client
            if not ear.told and not source.cut:
                ear.told = True
                # RFC 6455 5.5.1: one close frame each way; the other side's own may have gone
                if source.passed_close:
                    continue
                payload[0] = <char>(ear.code >> 8)
                payload[1] = <char>(ear.code & 0xff)
                memcpy(payload + 2, PyBytes_AS_STRING(self.reason), n)
                self._send(ear.side, O_CLOSE, payload, n + 2)
                if self.ex is None:
                    return 0                      # who was told answered at once, and that was the end
        if self.client.told and self.service.told and self.client.answered() and self.service.answered():
            return self._over()
        return 0

    cdef int _over(self) except -1:
        """As if the service had ended it."""
        cdef Exchange ex = self.ex
        if ex.up is not None:
            ex.up.cancel(ex)
        ex.driver.response_end(ex)
        return ex.driver.settle(ex)

    cdef int leave(self, int64_t at) except -1:
        self.leave_at = at
        if at < self.timer.due or self.timer.due == 0:
            self.reactor.wheel.arm(&self.timer, at)
        return 0

    cdef int ended(self) except -1:
        cdef int code = self.client.close_code or self.service.close_code
        if self.ex is None:
            return 0
        if self.closing:
            code = self.client.code if self.client.code != GOING_AWAY else self.service.code
        if code == 0:
            code = ABNORMAL
        if not self.ex.detached:
            self.stats.add(C_WS_OPEN, -1)
            self.stats.add(C_WS_CLOSE + (code - 1000 if 1000 <= code < 1015 else 15 if 3000 <= code < 4000
                                         else 16 if 4000 <= code < 5000 else 17), 1)
        self.reactor.wheel.unlink(&self.timer)
        self.reactor.bury(self)                   # it may be in the middle of a call
        self.home.discard(self)
        self.ex.watch = None
        self.ex = None
        self.client.watch = self.service.watch = None
        return 0

    # ------------------------------------------------------------------ time

    cdef int _arm(self) except -1:
        """For the first of all that is due."""
        cdef int64_t due = max(self.client.heard_at, self.service.heard_at) + self.rules.idle_ns
        cdef Ear ear
        for at in (self.age_at, self.expires_at, self.leave_at):
            if 0 < at < due:
                due = at
        if self.rules.ping_ns:
            for ear in (self.client, self.service):
                if self.rules.pinged[ear.side]:
                    due = min(due, ear.pong_by or ear.heard_at + self.rules.ping_ns)
        self.reactor.wheel.arm(&self.timer, due)
        return 0

    cdef int on_timer(self, Timer *timer) except -1:
        cdef Exchange ex = self.ex
        cdef int64_t now = self.reactor.now
        if ex is None or ex.state == S_DONE:
            return 0
        if self.closing:
            if now < self.until:
                self.reactor.wheel.arm(timer, self.until)
                return 0
            if self.client.told:
                return self._over()
            # within a frame that does not end: what the client has is not whole, and must not look so
            return ex.driver.fail(ex, self.word or "upstream_truncated", None)
        if self.leave_at and now >= self.leave_at:
            return self.close(SERVICE_RESTART, SERVICE_RESTART, b"service restart", "draining", 2)
        if self.expires_at and now >= self.expires_at:
            return self.close(POLICY_VIOLATION, GOING_AWAY, b"token expired", "token_expired", 1)
        if self.age_at and now >= self.age_at:
            return self.close(GOING_AWAY, GOING_AWAY, b"open for too long", "route_timeout", 2)
        if now >= max(self.client.heard_at, self.service.heard_at) + self.rules.idle_ns:
            return self.close(GOING_AWAY, GOING_AWAY, b"quiet for too long", "websocket_idle_timeout", 2)
        if self.rules.ping_ns:
            if self.rules.pinged[CLIENT]:
                self._ping_due(self.client, now)
            if self.rules.pinged[SERVICE] and not self.closing:
                self._ping_due(self.service, now)
        return 0 if self.closing or self.ex is None else self._arm()

    cdef int _ping_due(self, Ear ear, int64_t now) except -1:
        """RFC 6455 5.5.2. Whatever comes shows that there is somebody: a pong cannot overtake a long frame."""
        cdef Ear source = self.service if ear.side == CLIENT else self.client
        if ear.pong_by:
            if ear.heard_at > ear.pong_by - self.rules.pong_ns:
                ear.pong_by = 0
            elif now >= ear.pong_by:
                if ear.side == CLIENT:
                    return self.close(INTERNAL_ERROR, GOING_AWAY, b"no pong", "websocket_pong_timeout", 1)
                return self.close(GOING_AWAY, INTERNAL_ERROR, b"no pong", "websocket_pong_timeout", 3)
        if ear.pong_by == 0 and now >= ear.heard_at + self.rules.ping_ns:
            ear.pong_by = now + self.rules.pong_ns
            ear.ping_owed = True
            if source.border():
                return self._ping(ear)
        return 0

    cdef int _ping(self, Ear ear) except -1:
        """At a border of frames towards it."""
        cdef Ear source = self.service if ear.side == CLIENT else self.client
        cdef bytes payload
        if not source.border() or source.state == W_ENDED:
            return 0
        ear.ping_owed = False
        ear.pong_by = self.reactor.now + self.rules.pong_ns
        self.pings = self.pings + 1 & 0xffff
        payload = self.nonce + self.pings.to_bytes(2, "big")
        self.stats.add(C_WS_PINGS, 1)
        return self._send(ear.side, O_PING, PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload))
