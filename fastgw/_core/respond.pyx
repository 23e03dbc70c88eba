"""Stage `respond`: moves exchanges through their hooks, to the upstream and back.

    start → route → request hooks → around hooks → pool → upstream
                                                                 ↓
    record ← end ← body relay ← response hooks ← around hooks (in reverse)

Everything is a direct call. A hook that answers WAIT leaves the exchange where it is; `resume` goes on from there.
A local reply takes the way back from where it was made, through the response hooks of the policies entered.
"""
import logging
from random import random

from libc.stdint cimport int64_t
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from fastgw._core.admission cimport admit, answered, failed, left, refusal, waits
from fastgw._core.body cimport (
    abandon, drained, early, judge, problem_of, push, request_through, whole_through,
)
from fastgw._core.endure cimport outlives
from fastgw._core.exchange cimport (
    ALL_HOOKS, COLLECT, CONTINUE, PHASE_AROUND, PHASE_FILTER, PHASE_RECORD, PHASE_REQUEST, PHASE_REQUEST_BODY,
    PHASE_RESPONSE, PHASE_RESPONSE_BODY, PHASE_SEND, PHASE_SOCKET, PHASE_TAP, REPLIED, S_AROUND, S_DONE, S_POLICY,
    S_POOL, S_RELAY, S_RESPONSE, S_SENT, WAIT, Downstream, Exchange, Hook, Route, UpstreamStream,
)
from fastgw._core.grpc cimport end_with
from fastgw._core.headers cimport Head
from fastgw._core.hedge cimport Hedge, arm_next, call_off, dropped, hedge, outlived
from fastgw._core.plan cimport Plan
from fastgw._core.policy cimport apply_problem, cancel_tasks, sending
from fastgw._core.pool cimport Endpoint, Service
from fastgw._core.reactor cimport Reactor
from fastgw._core.record cimport Stats
from fastgw._core.retry cimport begin_try, kept, repeat, rewind, silent
from fastgw._core.rewrite cimport Rewrite
from fastgw._core.settings cimport Settings
from fastgw._core.split cimport Split
from fastgw._core.ws cimport CLIENT, SERVICE, Rules, Watch, begin_watch

from fastgw._core.codes import CODES, INDEX
from fastgw._core.exchange import Problem
from fastgw._core.grpc_status import expected as grpc_expected, trailers_only

logger = logging.getLogger("fastgw.respond")

cdef enum:
    SPARE = 1024

cdef int64_t NEVER = 1 << 60

# After these the connection cannot carry another request: where the next one begins is not known.
cdef frozenset CLOSING = frozenset((
    "bad_request", "bad_target", "header_timeout", "body_timeout", "body_too_large", "uri_too_long", "headers_too_large",
    "unsupported_transfer_encoding", "version_not_supported", "method_not_implemented", "overloaded",
    "expectation_failed",
))


cdef class Relay(Arrivals):
    def __init__(self, Reactor reactor, Stats stats):
        self.reactor = reactor
        self.stats = stats
        self.spare = []
        self.sockets = set()

    cdef Exchange take(self):
        cdef Exchange ex
        if self.spare:
            ex = <Exchange>self.spare.pop()
        else:
            ex = Exchange()
            ex.driver = self
        ex.t_start = self.reactor.now
        return ex

    cdef int give(self, Exchange ex) except -1:
        ex.recycle()
        if len(self.spare) < SPARE:
            self.spare.append(ex)
        return 0

    cdef int upgraded(self, Exchange ex) except -1:
        """The upstream changed the protocol: from here on both ways are open, and no time is set to the whole."""
        ex.upgraded = True
        ex.has_body = True
        ex.request_done = False
        ex.idle_ns = ex.response_ns = NEVER       # its own times are looked after by ws.Watch
        ex.total_at = 0
        self.reactor.wheel.cancel(&ex.total)
        return 0

    def leave_sockets(self, double spread):
        """Every WebSocket is told to go within `spread` seconds, each at another moment."""
        cdef Watch watch
        for watch in list(self.sockets):
            # streams of the gateway's own are what others still listen to: last
            watch.leave(self.reactor.now + <int64_t>((1 if watch.ex.detached else random()) * spread * 1e9))

    # ------------------------------------------------------------------ policy

    cdef int hooks(self, Exchange ex) except -1:
        """Request hooks, as written, from ex.at on."""
        cdef Route route = ex.route
        cdef Hook hook
        cdef int verdict, i = ex.at
        cdef tuple chain = route.chain
        if not route.phases & PHASE_REQUEST:
            ex.entered = route.chain_len
            return self._dispatch(ex)
        while i < route.chain_len:
            hook = <Hook>chain[i]
            if hook.phases & PHASE_REQUEST:
                ex.at = i
                if hook.buffer_request >= 0 and ex.has_body and not ex.request_done:
                    return self._collect_request(ex, hook.buffer_request)
                verdict = hook.request(ex)
                if verdict == COLLECT:
                    return self._collect_whole(ex)
                if verdict != CONTINUE:
                    if ex.state != S_POLICY:      # the hook has answered, or ended it, by itself
                        return 0
                    ex.entered = i + 1
                    if verdict == REPLIED:
                        return self.reply(ex)
                    return 0
            i += 1
        ex.at = i
        ex.entered = i
        return self._dispatch(ex)

    cdef int _collect_request(self, Exchange ex, int64_t limit) except -1:
        ex.buffer_limit = limit
        if ex.request.has_length and ex.request.content_length > limit:
            return self.fail(ex, "body_too_large", f"A policy here reads bodies of {limit} bytes at most.")
        if ex.request_buffer is None:
            ex.request_buffer = bytearray()
        if ex.request.expect_continue and ex.request.minor == 1:
            self._continue_100(ex)
        return ex.down.want_body(ex)

    cdef int _collect_whole(self, Exchange ex) except -1:
        """The hook that runs wants the body, as it found out only now."""
        if ex.has_body and not ex.request_done:
            return self._collect_request(ex, ex.buffer_limit)
        if ex.request_buffer is not None:
            return self.fail(ex, "policy_failed", "A policy asked for the body a second time.")
        ex.request_buffer = bytearray()
        return self.hooks(ex)

    cdef int _continue_100(self, Exchange ex) except -1:
        """We want the body ourselves, so the permission is ours to give, and goes no further."""
        cdef Head interim = Head.response(b"HTTP/1.1 100 Continue\r\n\r\n")
        ex.request.remove_name(b"expect", 6)
        return ex.down.send_interim(ex, interim)

    def resume_from_task(self, Exchange ex, generation, int verdict):
        """A Task of a hook is done: goes on, from outside a turn of the reactor."""
        if ex.generation == generation and ex.state != S_DONE:
            self.reactor.outside()
            try:
                self.resume(ex, verdict)
            except Exception as error:
                logger.error("resuming %s failed", ex, exc_info=error)
                self.fail(ex, "internal_error", None)

    cdef int resume(self, Exchange ex, int verdict) except -1:
        ex.parked = None
        if ex.composing is not None:
            verdict = (<Hook>(<tuple>ex.composing)[0]).resumed(ex, verdict)
            if verdict == WAIT:
                return 0
        if ex.state == S_POLICY:
            if verdict == REPLIED:
                return self.reply(ex)
            if verdict == COLLECT:
                return self._collect_whole(ex)
            ex.at += 1
            return self.hooks(ex)
        if ex.state == S_AROUND:
            if verdict == REPLIED:
                return self.reply(ex)
            return self._dispatch(ex)
        if ex.state == S_RESPONSE:
            if verdict == REPLIED:
                self._discard(ex)
            return self._answer_on(ex)
        if ex.state == S_POOL and waits(ex):
            return self._admit(ex, verdict)
        return 0

    cdef int _answer_on(self, Exchange ex) except -1:
        """After a wait in the response hooks: send the head, then let the upstream go on."""
        cdef int verdict
        if ex.redispatch:
            ex.redispatch = False
            return self._again(ex)
        verdict = self.answer(ex)
        if verdict == CONTINUE and ex.state == S_RELAY and ex.up is not None:
            return ex.up.want_data(ex)
        return 0

    # ------------------------------------------------------------------ dispatch

    cdef int _dispatch(self, Exchange ex) except -1:
        cdef Route route = ex.route
        cdef Hook hook
        cdef int verdict
        ex.state = S_AROUND
        if route.phases & PHASE_AROUND:
            while ex.around_at < route.chain_len:
                hook = <Hook>route.chain[ex.around_at]
                ex.around_at += 1
                if hook.phases & PHASE_AROUND:
                    verdict = hook.around(ex)
                    if verdict == WAIT:
                        return 0
                    if verdict == REPLIED:
                        # its own turn on the way back is over: it answered
                        ex.around_at -= 1
                        return self.reply(ex)
        if ex.request_buffer is not None and ex.has_body and not ex.request_done:
            return 0                              # goes on in request_end
        return self._checkout(ex, False)

    cdef int _checkout(self, Exchange ex, bint fresh) except -1:
        cdef Route route = ex.route
        cdef Service service
        if ex.watched:
            left(ex)
        if ex.instead is not None:
            service = <Service>ex.instead
        elif route.split is not None:
            service = <Service>(<Split>route.split).services[(<Split>route.split).pick(ex)]
        elif route.service is None:
            return self.fail(ex, "internal_error", "The route has neither a service nor a policy that answered.")
        else:
            service = <Service>route.service
        ex.service = service
        ex.response_ns = route.response_ns or service.response_ns
        ex.idle_ns = route.idle_ns or service.idle_ns
        ex.host_out = route.host_rewrite if route.host_rewrite is not None else service.host_header
        ex.head_arrived = False
        ex.retry = route.retry if route.retry is not None else service.retry
        ex.fresh = fresh
        if ex.retry is not None:
            begin_try(ex, self.reactor.now)
        if service.admissions is None and route.admissions is None:
            return self._pick(ex)
        ex.state = S_POOL
        return self._admit(ex, CONTINUE)

    cdef int _admit(self, Exchange ex, int verdict) except -1:
        """Asks who may refuse the attempt or make it wait; `verdict`: of who made it wait until now."""
        if verdict == CONTINUE:
            verdict = admit(ex, self.reactor.now)
        if verdict == REPLIED:
            return self._end_by(ex, refusal(ex))
        return 0 if verdict == WAIT else self._pick(ex)

    cdef int _pick(self, Exchange ex) except -1:
        cdef Route route = ex.route
        cdef Service service = <Service>ex.service
        cdef Endpoint endpoint = service.begin(ex)
        cdef int verdict
        if endpoint is None:
            problem = service.balancer.refusal()
            return self.fail(ex, "no_endpoint", None) if problem is None else self._end_by(ex, problem)
        if ex.t_dispatch == 0:
            ex.t_dispatch = self.reactor.now
            if route.rewrite is not None and ex.out_target_len == 0:
                (<Rewrite>route.rewrite).apply(ex)
        ex.attempts += 1
        ex.state = S_POOL
        ex.t_pool = self.reactor.now
        if route.hedge is not None and ex.attempts == 1:
            (<Hedge>route.hedge).begin(ex, self.reactor)
        verdict = endpoint.checkout(ex, ex.fresh)
        if verdict == CONTINUE:
            return self._send(ex)
        if verdict == WAIT and route.connect_ns:
            ex.connect_at = ex.t_pool + route.connect_ns
            arm_next(ex, self.reactor)
        if verdict == REPLIED:
            return self.fail(ex, "pool_exhausted" if endpoint.addresses else "no_endpoint", None)
        return 0

    cdef int dispatch(self, Exchange ex) except -1:
        """Sends an exchange that needs neither a route nor policies: a subrequest."""
        return self._checkout(ex, False)

    def fetch(self, parent, *args):
        """A subrequest; see subrequest.fetch."""
        from fastgw._core.subrequest import fetch

        return fetch(self, parent, *args)

    cdef int connected(self, Exchange ex, UpstreamStream up) except -1:
        return self._send(ex)

    cdef int pool_failed(self, Exchange ex, str code) except -1:
        return 0 if outlived(ex, code) or repeat(ex, code, self.reactor, self.stats) else self.fail(ex, code, None)

    cdef int _send(self, Exchange ex) except -1:
        cdef UpstreamStream up = ex.up
        cdef bytes body
        ex.state = S_SENT
        ex.connect_at = 0
        ex.t_sent = self.reactor.now
        ex.body_filtered = ex.has_body and ex.route.phases & PHASE_REQUEST_BODY != 0
        if ex.route.phases & PHASE_SEND:
            sending(ex)
        if not ex.has_body or (ex.request_buffer is None and ex.request_done and ex.bytes_in == 0):
            return up.send_head(ex, True)
        if ex.request_buffer is not None:
            body = bytes(ex.request_buffer)
            up.send_head(ex, len(body) == 0 and not ex.body_filtered)
            if ex.body_filtered:
                self._filter_request(ex, body, True)
            elif body:
                up.send_data(ex, PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body))
            if ex.up is up:
                up.send_end(ex)
            return 0
        if ex.translated and ex.request.expect_continue:
            self._continue_100(ex)                # gRPC has no such thing: nobody behind us would say it
        up.send_head(ex, False)
        if ex.replay is None and ex.replay_limit and ex.attempts == 1 and not ex.body_filtered and not ex.upgrading:
            ex.replay = bytearray()
        elif ex.replay:
            up.send_data(ex, PyByteArray_AS_STRING(ex.replay), PyByteArray_GET_SIZE(ex.replay))
            if ex.request_done and ex.up is up:
                return up.send_end(ex)
        return ex.down.want_body(ex)

    cdef int _filter_request(self, Exchange ex, bytes chunk, bint end) except -1:
        cdef bytes out
        try:
            out = request_through(ex, chunk, end)
        except Exception as error:
            return self._end_by(ex, problem_of(ex, error))
        if out and ex.copy is not None:
            ex.copy.send_data(ex, PyBytes_AS_STRING(out), PyBytes_GET_SIZE(out))
        if out and ex.up is not None:
            ex.up.send_data(ex, PyBytes_AS_STRING(out), PyBytes_GET_SIZE(out))
        return 0

    cdef int request_data(self, Exchange ex, const char *p, size_t n) except -1:
        cdef Watch watch
        if ex.state == S_DONE:
            return 0
        if ex.request_buffer is not None:
            if <int64_t>(len(ex.request_buffer) + n) > ex.buffer_limit:
                return self.fail(ex, "body_too_large",
                                 f"A policy here reads bodies of {ex.buffer_limit} bytes at most.")
            ex.request_buffer += PyBytes_FromStringAndSize(p, n)
            return 0
        if ex.up is None:
            return 0                              # the answer is on its way already; the rest is dropped
        if ex.body_filtered:
            if ex.upgraded:
                watch = <Watch>ex.watch
                return watch.data(CLIENT, p, n)
            return self._filter_request(ex, PyBytes_FromStringAndSize(p, n), False)
        if ex.replay is not None:
            if <int64_t>(len(ex.replay) + n) > ex.replay_limit:
                ex.replay = None
            else:
                ex.replay += PyBytes_FromStringAndSize(p, n)
        if ex.copy is not None:
            ex.copy.send_data(ex, p, n)
        return ex.up.send_data(ex, p, n)

    cdef int request_end(self, Exchange ex) except -1:
        ex.request_done = True
        if ex.copy is not None:
            ex.copy.send_end(ex)
        if ex.state == S_DONE:
            return 0
        if ex.request_buffer is not None:
            if ex.state == S_POLICY:
                return self.hooks(ex)
            return 0
        if ex.up is None:
            return 0
        if ex.body_filtered and not ex.upgraded:
            self._filter_request(ex, b"", True)
        if ex.up is not None:
            return ex.up.send_end(ex)
        return 0

    cdef int upstream_writable(self, Exchange ex) except -1:
        if ex.has_body and not ex.request_done and ex.request_buffer is None and ex.down is not None:
            return ex.down.want_body(ex)
        return 0

    # ------------------------------------------------------------------ the way back

    cdef int interim(self, Exchange ex, Head head) except -1:
        """RFC 9110 15.2: a proxy forwards 1xx answers, but not to HTTP/1.0 clients."""
        if ex.request.minor == 1 and ex.down is not None and ex.state == S_SENT:
            return ex.down.send_interim(ex, head)
        return 0

    cdef int response_head(self, Exchange ex) except -1:
        """The upstream's answer stands in ex.response. A Verdict for the upstream codec."""
        cdef Hook hook
        ex.state = S_RESPONSE
        if ex.watched:
            answered(ex, self.reactor.now)
        if ex.hedge is not None and dropped(ex, self.reactor.now):
            return REPLIED
        if ex.retry is not None and repeat(ex, None, self.reactor, self.stats):
            return REPLIED
        if (ex.route.buffers_response or ex.hold >= 0) and not ex.is_head and not ex.upgraded \
                and ex.response.status != 204 and ex.response.status != 304:
            ex.collecting = True
            ex.response_buffer = bytearray()
            ex.buffer_limit = ex.route.buffer_limit
            if ex.hold >= 0 and (ex.buffer_limit < 0 or ex.hold < ex.buffer_limit):
                ex.buffer_limit = ex.hold
            return CONTINUE
        return self.answer(ex)

    cdef int reply(self, Exchange ex) except -1:
        """A hook answered in the place of the upstream."""
        ex.local = True
        ex.passed = ex.entered
        self.answer(ex)
        return 0

    cdef int _discard(self, Exchange ex) except -1:
        """The upstream's answer is not wanted: a local reply took its place."""
        ex.local = True
        ex.collecting = False
        ex.response_buffer = None
        ex.passed = ex.entered + 1
        if ex.pipe is not None:
            abandon(ex)
        if ex.up is not None:
            ex.up.cancel(ex)
        return 0

    cdef int _again(self, Exchange ex) except -1:
        """An around hook wants another attempt: from the hook after it inwards."""
        if not kept(ex):
            return self.fail(ex, "policy_failed", "The request body cannot be sent a second time.")
        rewind(ex)
        ex.local = False
        ex.local_body = None
        ex.collecting = False
        ex.response_buffer = None
        ex.passed = ALL_HOOKS
        ex.code = None
        ex.side = 0
        ex.around_at += 1
        return self._dispatch(ex)

    cdef int answer(self, Exchange ex) except -1:
        """ex.response is to be the answer: around hooks and response hooks in reverse, then the head goes out.

        WAIT when a hook waits, REPLIED when a hook replaced an upstream's answer, else CONTINUE.
        """
        cdef Hook hook
        cdef int verdict
        cdef bint was_local = ex.local
        ex.state = S_RESPONSE
        ex.head_arrived = True
        if ex.route is not None:
            while ex.around_at > 0:
                ex.around_at -= 1
                hook = <Hook>ex.route.chain[ex.around_at]
                if hook.phases & PHASE_AROUND:
                    verdict = hook.around_done(ex)
                    if verdict == WAIT:
                        return WAIT
                    if ex.redispatch:
                        ex.redispatch = False
                        self._again(ex)
                        return REPLIED
                    if verdict == REPLIED:
                        self._discard(ex)
            while ex.entered > 0:
                ex.entered -= 1
                hook = <Hook>ex.route.chain[ex.entered]
                if hook.phases & PHASE_RESPONSE:
                    verdict = hook.response(ex)
                    if verdict == WAIT:
                        return WAIT
                    if verdict == REPLIED:
                        self._discard(ex)
        if ex.state != S_RESPONSE or ex.down is None:
            return REPLIED
        ex.state = S_RELAY
        ex.replay = None
        if ex.local or ex.response_buffer is not None:
            self._send_whole(ex)
            return CONTINUE if was_local else REPLIED
        if ex.route.phases & PHASE_RESPONSE_BODY and not ex.is_head and not ex.upgraded:
            ex.response_filtered = True
        ex.head_sent = True
        if ex.upgraded:
            ex.body_filtered = True
            begin_watch(ex, <Rules>ex.route.websocket, self.reactor, self.stats, self.sockets, self.draining)
        ex.down.send_head(ex, False)
        if ex.cached and ex.up is not None and ex.caching is None:
            ex.down.flush()                       # what follows comes from the cache's own reader, and not at once
        return CONTINUE

    cdef int _send_whole(self, Exchange ex) except -1:
        """A local reply, or an upstream's answer that was collected for a policy."""
        cdef bytes body = ex.local_body if ex.local else bytes(ex.response_buffer)
        if body is None:
            body = b""
        if ex.upgraded:
            # a hook, or a failure, came between the service's 101 and the client
            ex.upgraded = ex.has_body = False
            ex.request_done = True
        if ex.route is not None and ex.route.phases & (PHASE_RESPONSE_BODY | PHASE_TAP | PHASE_FILTER):
            if ex.is_head and ex.pipe is not None:
                return self._send_parts(ex)       # how long it would be is not known
            try:
                body = whole_through(ex, body)
            except Exception as error:
                abandon(ex)
                apply_problem(ex, problem_of(ex, error))
                body = ex.local_body
            if body is None:
                return self._send_parts(ex)
        if ex.http2 and not ex.translated and ex.local and ex.response.status >= 300 and grpc_expected(ex):
            trailers_only(ex, body)
            body = b""
        ex.local_body = body
        ex.whole = True
        ex.head_sent = True
        ex.down.send_head(ex, ex.is_head or not body)
        if body and not ex.is_head and ex.response.status != 204 and ex.response.status != 304:
            ex.bytes_out += PyBytes_GET_SIZE(body)
            ex.down.send_data(ex, PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body))
        ex.down.send_end(ex)
        ex.response_done = True
        if ex.up is None:
            return self._finish(ex)
        return 0

    cdef int _send_parts(self, Exchange ex) except -1:
        """An answer that is here whole, but whose end is still with a filter."""
        cdef bytes came = early(ex) if not ex.is_head else b""
        ex.head_sent = True
        ex.down.send_head(ex, False)
        if came:
            ex.bytes_out += PyBytes_GET_SIZE(came)
            ex.down.send_data(ex, PyBytes_AS_STRING(came), PyBytes_GET_SIZE(came))
        if not ex.is_head:
            return ex.down.flush()
        self._pass(ex, b"", 0, True)
        return self.settle(ex)

    cdef int response_data(self, Exchange ex, const char *p, size_t n) except -1:
        cdef Route route = ex.route
        cdef Watch watch
        if ex.collecting:
            if <int64_t>(len(ex.response_buffer) + n) > ex.buffer_limit:
                return self.fail(ex, "upstream_body_too_large", None)
            ex.response_buffer += PyBytes_FromStringAndSize(p, n)
            return 0
        if route.phases & (PHASE_RESPONSE_BODY | PHASE_TAP | PHASE_FILTER | PHASE_SOCKET):
            if ex.upgraded:
                watch = <Watch>ex.watch
                return watch.data(SERVICE, p, n)
            if route.phases & (PHASE_RESPONSE_BODY | PHASE_TAP | PHASE_FILTER):
                return self._pass(ex, p, n, False)
        ex.bytes_out += n
        return ex.down.send_data(ex, p, n)

    cdef int _pass(self, Exchange ex, const char *p, size_t n, bint end) except -1:
        """A piece of the answer, through the hooks of the route."""
        try:
            push(ex, ex.passed, p, n, end)
            if ex.pipe is not None:
                judge(ex)
        except Exception as error:
            self._end_by(ex, problem_of(ex, error))
        return 0

    cdef int emit(self, Exchange ex, int at, const char *p, size_t n, bint end) except -1:
        """A filter gives what it held; not within a call of the upstream's."""
        try:
            push(ex, at, p, n, end)
        except Exception as error:
            return self._end_by(ex, problem_of(ex, error))
        if ex.response_done and ex.up is None:
            return self.settle(ex)
        ex.down.flush()
        judge(ex)
        # one that does not take more now says so when it does
        if not ex.clogged and ex.up is not None and ex.state == S_RELAY and ex.down.writable():
            return ex.up.want_data(ex)
        return 0

    cdef int response_end(self, Exchange ex) except -1:
        """The last byte of the upstream's answer; the upstream calls settle() when it has let go."""
        if ex.state == S_DONE:
            return 0
        if ex.collecting:
            ex.collecting = False
            self.answer(ex)
            return 0
        return self._end(ex)

    cdef int _end(self, Exchange ex) except -1:
        if ex.route.phases & (PHASE_RESPONSE_BODY | PHASE_TAP | PHASE_FILTER) and not ex.upgraded:
            self._pass(ex, b"", 0, True)
            # a filter may need time for the rest; no head may wait for that
            return 0 if ex.response_done or ex.down is None else ex.down.flush()
        ex.response_done = True
        return ex.down.send_end(ex)

    cdef int settle(self, Exchange ex) except -1:
        if ex.response_done and ex.state != S_DONE:
            return self._finish(ex)
        return 0

    cdef int downstream_writable(self, Exchange ex) except -1:
        if ex.pipe is not None:
            drained(ex)
        if ex.up is not None and ex.state == S_RELAY and not ex.clogged:
            return ex.up.want_data(ex)
        return 0

    # ------------------------------------------------------------------ failure

    cdef int upstream_failed(self, Exchange ex, str code, int untouched) except -1:
        """`untouched`: what the attempt can have done at the service."""
        if ex.state == S_DONE:
            return 0
        if untouched and silent(ex, untouched):
            self.stats.add_retry(ex.service.slot)
            rewind(ex)
            return self._checkout(ex, True)
        return 0 if outlived(ex, code) or repeat(ex, code, self.reactor, self.stats) else self.fail(ex, code, None)

    cdef int fail(self, Exchange ex, str code, object detail) except -1:
        """Ends the exchange with a problem, or aborts the response when its head is out already."""
        if ex.state == S_DONE:
            return 0
        known = CODES[code]
        if ex.watched:
            failed(ex, code)
        if code in CLOSING and not ex.head_sent:
            ex.close_after = True
        return self._end_by(ex, Problem(known.status, code, detail, side=known.side))

    cdef int _end_by(self, Exchange ex, object problem) except -1:
        cancel_tasks(ex)
        if ex.state == S_POOL and ex.endpoint is not None:
            (<Endpoint>ex.endpoint).forget(ex)
        if ex.up is not None:
            ex.up.cancel(ex)
        ex.collecting = False
        ex.response_buffer = None
        if ex.head_sent:
            ex.code = problem.code
            ex.side = problem.side
            if ex.grpc and ex.http2 and not ex.response_filtered:
                # a status that its client understands, in the place of a reset
                ex.response_trailers = end_with(problem.code)
                ex.down.send_end(ex)
            else:
                ex.down.abort(ex)
            return self._finish(ex)
        if ex.pipe is not None:
            abandon(ex)
        ex.passed = ex.entered
        apply_problem(ex, problem)
        if ex.watched:
            left(ex)
        if ex.allow is not None:
            ex.response.add("Allow", ex.allow)
        self.answer(ex)
        return 0

    cdef int overdue(self, Exchange ex) except -1:
        cdef int64_t now = self.reactor.now
        if ex.total_at and now >= ex.total_at:
            return self.fail(ex, "route_timeout", None)
        if ex.hedge_at and now >= ex.hedge_at:
            hedge(ex, self.reactor, self.stats)
        if ex.retry_at and now >= ex.retry_at:
            ex.retry_at = 0
            if ex.total_at:
                self.reactor.wheel.arm(&ex.total, ex.total_at)
            return self._checkout(ex, False)
        if ex.state == S_POOL and ex.connect_at and now >= ex.connect_at:
            (<Endpoint>ex.endpoint).forget(ex)
            return self.pool_failed(ex, "upstream_connect_timeout")
        return arm_next(ex, self.reactor)

    cdef int downstream_gone(self, Exchange ex, str code) except -1:
        """The client left: nobody is to be answered, but the upstream is to be let go."""
        if ex.state == S_DONE or outlives(ex, code):
            return 0
        if ex.code is None and not ex.upgraded:
            ex.code = code
            ex.side = 1
        if not ex.head_sent:
            ex.response.status = 499
        cancel_tasks(ex)
        if ex.state == S_POOL and ex.endpoint is not None:
            (<Endpoint>ex.endpoint).forget(ex)
        if ex.up is not None:
            ex.up.cancel(ex)
        return self._finish(ex)

    # ------------------------------------------------------------------ record

    cdef int _finish(self, Exchange ex) except -1:
        cdef Downstream down = ex.down
        ex.state = S_DONE
        if ex.hedge is not None:
            call_off(ex)
        if ex.watched:
            left(ex)
        self.active -= 1
        (<Plan>ex.plan).alive -= 1
        ex.t_end = self.reactor.now
        self.reactor.wheel.cancel(&ex.total)
        if ex.watch is not None:
            (<Watch>ex.watch).ended()
        if ex.pipe is not None:
            abandon(ex)
        self._record(ex)
        if ex.arounds or ex.parked is not None:
            cancel_tasks(ex)
        if down is not None:
            down.finished(ex)
        if ex.tainted:
            ex.recycle()                          # a cancelled Task may still hold it: not used again
            ex.state = S_DONE
            return 0
        return self.give(ex)

    cdef int _record(self, Exchange ex) except -1:
        cdef Hook hook
        cdef Route route
        cdef int64_t total = ex.t_end - ex.t_start
        cdef int64_t upstream = 0
        if ex.detached:
            return 0
        if ex.t_dispatch:
            upstream = (ex.t_end_upstream or ex.t_end) - ex.t_dispatch
        self.stats.exchange_done(0 if ex.route is None else ex.route.slot, ex.response.status, total, upstream,
                                 total - upstream, ex.bytes_in, ex.bytes_out)
        if ex.code is not None:
            self.stats.count_code(INDEX.get(ex.code, -1))
        route = ex.route if ex.route is not None else <Route>(<Plan>ex.plan).strays
        if route is not None and route.phases & PHASE_RECORD:
            for hook in route.chain:
                if hook.phases & PHASE_RECORD:
                    hook.record(ex)
        if self.access_log is not None:
            try:
                self.access_log(ex)
            except Exception as error:
                logger.error("the access log failed", exc_info=error)
        return 0
