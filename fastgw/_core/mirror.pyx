"""The hot half of `mirror`: a copy of a request goes to a second service, and nobody waits for it.

    live     around: head copied → …its body passes, and is copied… → answer → record
    shadow                 └→ launched when the live one has left → its answer is read and thrown away, or compared

The copy is an Exchange of its own, as a subrequest is: with the pool, the health and the bounds of its service. It is
made of what the policies made of the request, and launched after the handler that dispatched the live one, so that it
is never before it on any way. It is bounded in number, bytes and time; what is beyond is dropped and counted. Nothing of
it is felt by the live exchange: not its back-pressure (the body is copied, not shared), not its failure.
"""
import logging

from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free, malloc
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeLatin1

from fastgw._core.body cimport changed_behind
from fastgw._core.exchange cimport (
    CONTINUE, PHASE_AROUND, PHASE_RECORD, PHASE_TAP, Downstream, Exchange, Hook, Route,
)
from fastgw._core.forwarding cimport random64
from fastgw._core.grpc cimport final_status
from fastgw._core.headers cimport Head
from fastgw._core.likeness cimport ask_alike
from fastgw._core.plan cimport Plan
from fastgw._core.pool cimport Service
from fastgw._core.reactor cimport Handler
from fastgw._core.record cimport W_MIRROR_ANSWERED, W_MIRROR_CUT, W_MIRROR_FAILED, W_MIRROR_FULL, W_MIRROR_LARGE
from fastgw._core.respond cimport Relay
from fastgw._core.retry cimport Budget, Retry

logger = logging.getLogger("fastgw.mirror")

cdef int64_t DRAIN = 1024 * 1024          # bytes of an answer that are read so that its connection can be kept


cdef class Tally:
    pass


cdef class Answer:
    def __cinit__(self):
        self.grpc = -1
        self.body = bytearray()
        self.whole = True

    cdef int take(self, Exchange ex) except -1:
        """The head of its answer."""
        cdef Head head = ex.response
        cdef char *room = <char*>malloc(head.lines_size())
        if room == NULL:
            raise MemoryError()
        try:
            self.lines = PyBytes_FromStringAndSize(room, head.copy_lines(room) - room)
        finally:
            free(room)
        self.status = head.status
        return 0

    cdef int add(self, const char *p, size_t n, int64_t limit) except -1:
        if not self.whole:
            return 0
        if <int64_t>(len(self.body) + n) > limit:
            self.whole = False
            self.body = bytearray()
            return 0
        self.body += p[:n]
        return 0

    def told(self):
        """(status, grpc-status or -1, header lines, body or None where it is not all here)."""
        return self.status, self.grpc, self.lines, bytes(self.body) if self.whole else None


cdef class Shadow(Downstream):
    # ------------------------------------------------------------------ the body of the live request

    cdef int copied(self, Exchange ex, const char *p, size_t n) except -1:
        if <int64_t>(len(self.ex.request_buffer) + n) > self.home.max_body:
            ex.copy = None
            return self.drop(W_MIRROR_LARGE)
        self.ex.request_buffer += p[:n]
        return 0

    cdef int drop(self, int word) except -1:
        """It will not be sent."""
        cdef Exchange own = self.ex
        self.ex = None
        self.copying = False
        self.live = self.own = None
        self.home.tally.in_flight -= 1
        self.relay.stats.add_service(self.service.slot, word)
        return self.relay.give(own)

    cdef int launch(self) except -1:
        cdef Exchange own = self.ex
        cdef uint64_t hi, lo
        hi = own.id_hi
        lo = own.id_lo
        self.relay.started(own)
        own.id_hi = hi                    # the same request: logs of both services can be laid side by side
        own.id_lo = lo
        own.total_at = self.relay.reactor.now + self.home.timeout
        self.relay.reactor.wheel.arm(&own.total, own.total_at)
        return self.relay.dispatch(own)

    # ------------------------------------------------------------------ what the codecs call

    cdef int send_data(self, Exchange ex, const char *p, size_t n) except -1:
        """A piece of the live request's body, or of its own answer's."""
        if ex is not self.ex:
            return self.copied(ex, p, n) if self.copying else 0
        self.drained += n
        if self.own is not None:
            self.own.add(p, n, self.home.compare_body)
        if self.drained > DRAIN + self.home.compare_body:
            return self.relay.fail(ex, "upstream_body_too_large", None)
        return 0

    cdef int send_end(self, Exchange ex) except -1:
        if ex is self.ex or not self.copying:
            return 0
        if ex.request_buffer is not None:
            if <int64_t>len(ex.request_buffer) > self.home.max_body:
                return self.drop(W_MIRROR_LARGE)
            self.ex.request_buffer = bytearray(ex.request_buffer)
        elif not ex.body_filtered and <int64_t>len(self.ex.request_buffer) != ex.bytes_in:
            return self.drop(W_MIRROR_CUT)        # what came when the answer was under way already is not here
        self.complete = True                      # a filter may have something to add: within this call
        self.ex.request_trailers = ex.request_trailers
        self.home.ready.append(self)
        return self.relay.reactor.later(self.home.launcher)

    cdef int finished(self, Exchange ex) except -1:
        cdef bint answered = ex.code is None or ex.code == "upstream_body_too_large"
        self.ex = None
        self.home.tally.in_flight -= 1
        self.relay.stats.add_service(self.service.slot, W_MIRROR_ANSWERED if answered else W_MIRROR_FAILED)
        if self.own is None:
            return 0
        if answered:
            self.own.take(ex)
            self.own.grpc = final_status(ex)
            if ex.code is not None:
                self.own.whole = False
        return self.compare() if self.live_over else 0

    cdef int compare(self) except -1:
        """Both are over."""
        cdef Answer live = self.live, own = self.own
        self.live = self.own = None
        if live.lines is None or own.lines is None:
            self.home.compare.skipped(self.route, "live" if live.lines is None else "shadow")
        else:
            self.home.compare.submit(self.route, self.what, live.told(), own.told())
        return 0


cdef class Launch(Handler):
    """Sends copies, outside of the call that dispatched the live ones."""
    cdef int on_ready(self) except -1:
        return self.home.run_ready()


cdef class Mirror(Hook):
    """`Mirror(service, share (0 to 1), timeout in ns, max_in_flight, max_body, removed (lower case), added, tally, compare,
    compare_body)`. `compare` has `room()`, `skipped(route, why)` and `submit(route, what, live, shadow)`."""

    def __init__(self, str service, double share, int64_t timeout, int max_in_flight, int64_t max_body, removed=(),
                 added=(), Tally tally=None, compare=None, int64_t compare_body=0):
        self.name = "mirror"
        self.phases = PHASE_AROUND | PHASE_RECORD | (PHASE_TAP if compare is not None else 0)
        self.service = service
        self.share = 0xffffffffffffffffu if share >= 1 else <uint64_t>(share * 18446744073709549568.0)
        self.timeout = timeout
        self.max_in_flight = max_in_flight
        self.max_body = max_body
        self.removed = tuple(removed)
        self.added = tuple(added)
        self.tally = tally if tally is not None else Tally()
        self.compare = compare
        self.compare_body = compare_body if compare is not None else 0
        self.once = Retry(Budget(), attempts=1)
        self.routes = {}
        self.live = {}
        self.ready = []
        self.launcher = Launch()
        self.launcher.home = self

    def __repr__(self):
        return f"<Mirror to {self.service}, {self.tally.in_flight} under way>"

    cdef int around(self, Exchange ex) except -1:
        """All request hooks have run. The copy is made now: what goes upstream is edited again on its way."""
        cdef Relay relay
        cdef Service service
        cdef Shadow shadow
        if ex.detached or ex.upgrading or ex.extended or ex.attempts or ex.copy is not None \
                or self.share < random64() or not isinstance(ex.driver, Relay) or ex in self.live:
            return CONTINUE
        relay = <Relay>ex.driver
        service = (<Plan>ex.plan).services.get(self.service)
        if service is None or not self.wanted(ex, service, relay):
            return CONTINUE
        shadow = self.begin(ex, service, relay)
        if shadow.copying:
            ex.copy = shadow
        else:
            self.ready.append(shadow)
            relay.reactor.later(self.launcher)
        if shadow.copying or shadow.live is not None:
            self.live[ex] = shadow
        return CONTINUE

    cdef bint wanted(self, Exchange ex, Service service, Relay relay) except -1:
        """Is there room for it?"""
        cdef int64_t size = 0
        if self.tally.in_flight >= self.max_in_flight:
            relay.stats.add_service(service.slot, W_MIRROR_FULL)
            return False
        if ex.request_buffer is not None:
            size = len(ex.request_buffer)
        elif ex.has_body and ex.request.has_length:
            size = ex.request.content_length
        if size > self.max_body:
            relay.stats.add_service(service.slot, W_MIRROR_LARGE)
            return False
        return True

    cdef Shadow begin(self, Exchange ex, Service service, Relay relay):
        cdef Shadow shadow = Shadow()
        cdef Exchange own = relay.take()
        cdef Head head = own.request
        cdef bytes name, value
        shadow.home = self
        shadow.relay = relay
        shadow.service = service
        shadow.ex = own
        self.tally.in_flight += 1
        ask_alike(own, ex)
        head.remove_name(b"expect", 6)
        for name in self.removed:
            head.remove_name(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        for name, value in self.added:
            lower = name.lower()
            head.remove_name(PyBytes_AS_STRING(lower), PyBytes_GET_SIZE(lower))
            head.append(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name), PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
        own.down = shadow
        own.detached = own.request_done = True
        own.route = self.routes.get(ex.route.index)
        if own.route is None:
            own.route = self.routes[ex.route.index] = Route(
                f"mirror:{self.service}", service=service, rewrite=ex.route.rewrite, retry=self.once)
        own.has_body = ex.has_body
        if ex.has_body:
            shadow.copying = not ex.request_done
            own.request_buffer = bytearray() if ex.request_buffer is None else bytearray(ex.request_buffer)
        if self.compare is None:
            return shadow
        if not self.compare.room():
            self.compare.skipped(ex.route.name, "busy")
        else:
            shadow.live = Answer()
            shadow.own = Answer()
            shadow.route = ex.route.name
            path = PyUnicode_DecodeLatin1(ex.request.buf + ex.path, ex.path_len, NULL)
            shadow.what = ex.method, path, ex.id_text()
        return shadow

    cdef int run_ready(self) except -1:
        cdef Shadow shadow
        cdef list batch = self.ready
        self.ready = []
        for shadow in batch:
            if shadow.ex is None:
                continue                          # its body has become too large by the last piece
            shadow.copying = False
            try:
                shadow.launch()
            except Exception as error:
                logger.error("a copy for %s could not be sent", self.service, exc_info=error)
                if shadow.ex is not None:
                    shadow.relay.fail(shadow.ex, "internal_error", None)
        return 0

    # ------------------------------------------------------------------ the live exchange goes on

    cdef int around_done(self, Exchange ex) except -1:
        cdef Shadow shadow = self.live.get(ex)
        if shadow is None or shadow.live is None or ex.local or ex.upgraded:
            return CONTINUE
        shadow.live.take(ex)
        if ex.response_buffer is not None:
            shadow.live.add(bytes(ex.response_buffer), len(ex.response_buffer), self.compare_body)
        elif changed_behind(ex, self) and not ex.is_head:
            shadow.live.whole = False     # what passes here is not what the service said
        return CONTINUE

    cdef int tap(self, Exchange ex, const char *p, size_t n, bint end) except -1:
        cdef Shadow shadow
        if n and ex.response_buffer is None and not ex.local:
            shadow = self.live.get(ex)
            if shadow is not None and shadow.live is not None:
                shadow.live.add(p, n, self.compare_body)
        return 0

    cdef int record(self, Exchange ex) except -1:
        """Called for every exchange at its end: nothing of it may stay here."""
        cdef Shadow shadow = self.live.pop(ex, None)
        if shadow is None:
            return 0
        ex.copy = None
        if shadow.copying and not shadow.complete:
            return shadow.drop(W_MIRROR_CUT)      # its client left, or it was answered before its body was here
        if shadow.live is None:
            return 0
        shadow.live_over = True
        if ex.code is not None:
            shadow.live.lines = None              # it broke off
        else:
            shadow.live.grpc = final_status(ex)
        if shadow.ex is None:
            shadow.compare()
        return 0
