"""The traveller: one request and its response, whatever protocol carries them on either side.

An exchange is made once and used again (`recycle`): in a steady state a request allocates nothing here.
It keeps the plan it began with until it is recorded, whatever is reloaded meanwhile.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeLatin1

from fastgw._core.clock cimport Timer, timer_detach
from fastgw._core.headers cimport H_USER_AGENT, Head, Header, valid_value

from urllib.parse import unquote

from fastgw._core.codes import SIDES
from fastgw._core.headers import METHODS
from fastgw._core.record import CACHED

# What can follow what; `docs/life-of-a-request.md` draws this table, tests/core/test_exchange.py checks it.
TRANSITIONS = {
    "idle": ("policy", "response"),
    "policy": ("around", "response", "done"),
    "around": ("pool", "response", "done"),
    "pool": ("sent", "response", "done"),
    "sent": ("response", "around", "pool", "done"),
    "response": ("relay", "around", "done"),
    "relay": ("done",),
    "done": ("idle",),
}
STATE_NAMES = ("idle", "policy", "around", "pool", "sent", "response", "relay", "done")


class Reply:
    """A local answer: what a policy returns in the place of dispatching.

    `status` 200–599; `body` bytes or text; `headers` a mapping or pairs. Content-Length is made by the gateway.
    """

    __slots__ = ("body", "content_type", "headers", "status")

    def __init__(self, status, body=None, headers=None, content_type=None):
        if not 200 <= status <= 599:
            raise ValueError(f"a reply's status is 200 to 599, not {status}")
        self.status = status
        self.body = body.encode() if isinstance(body, str) else bytes(body or b"")
        self.headers = list(headers.items() if hasattr(headers, "items") else headers or ())
        self.content_type = content_type


class Problem:
    """A refusal with a stable code; answered as problem+json (or text/html by Accept)."""

    __slots__ = ("code", "detail", "headers", "members", "side", "status")

    def __init__(self, status, code, detail=None, headers=None, side=1, members=None):
        if not 400 <= status <= 599:
            raise ValueError(f"a problem's status is 400 to 599, not {status}")
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = list(headers.items() if hasattr(headers, "items") else headers or ())
        self.side = side
        self.members = dict(members or {})


class WholeBody:
    """What a request hook returns to be asked again when the request's body is there: `exchange.request_body`.

    `limit` bytes at most; a longer one is refused with 413. `Policy.buffer_request` is the same for every request.
    """

    __slots__ = ("limit",)

    def __init__(self, limit):
        self.limit = limit


class Refused(Exception):
    """Raised by a body filter: the Problem is the answer, or, when the answer's head is out already, it is cut off."""

    def __init__(self, problem):
        super().__init__(problem.code)
        self.problem = problem


cdef class Hook:
    """One policy in a chain. Subclasses set `phases` in __init__ and override what they named there."""

    def __cinit__(self, *args, **kwargs):
        self.buffer_request = -1
        self.buffer_response = -1

    cdef int request(self, Exchange ex) except -1:
        return CONTINUE

    cdef int around(self, Exchange ex) except -1:
        return CONTINUE

    cdef int send(self, Exchange ex) except -1:
        return 0

    cdef int around_done(self, Exchange ex) except -1:
        return CONTINUE

    cdef int response(self, Exchange ex) except -1:
        return CONTINUE

    cdef int tap(self, Exchange ex, const char *p, size_t n, bint end) except -1:
        return 0

    cdef object request_body(self, Exchange ex, bytes chunk, bint end):
        return chunk

    cdef object response_body(self, Exchange ex, bytes chunk, bint end):
        return chunk

    cdef int record(self, Exchange ex) except -1:
        return 0

    cdef int resumed(self, Exchange ex, int verdict) except -1:
        return verdict


cdef class Route:
    """What the plan knows of one route. Durations are nanoseconds, 0 = none (or the service's own)."""

    def __init__(self, str name, int index=0, int slot=0, tuple param_names=(), tuple chain=(), service=None,
                 split=None, rewrite=None, host_rewrite=None, int64_t total_ns=0, int64_t response_ns=0,
                 int64_t idle_ns=0, int64_t connect_ns=0, int64_t body_limit=-1, spec=None, websocket=None, retry=None,
                 hedge=None, tuple admissions=(), uint32_t header_limit=0xffffffff, int header_count=0x7fffffff):
        cdef Hook hook
        self.name = name
        self.name_bytes = name.encode()
        self.index = index
        self.slot = slot
        self.param_names = param_names
        self.chain = chain
        self.chain_len = len(chain)
        self.phases = 0
        self.preflights = False
        self.buffers_response = False
        self.buffer_limit = -1
        for hook in chain:
            self.phases |= hook.phases
            self.preflights = self.preflights or hook.preflight
            if hook.buffer_response >= 0:
                self.buffers_response = True
                if self.buffer_limit < 0 or hook.buffer_response < self.buffer_limit:
                    self.buffer_limit = hook.buffer_response
        self.service = service
        self.split = split
        self.rewrite = rewrite
        self.host_rewrite = host_rewrite
        self.total_ns = total_ns
        self.websocket = websocket
        self.retry = retry
        self.hedge = hedge
        self.admissions = admissions or None
        if websocket is not None:
            self.phases |= PHASE_SOCKET
        self.response_ns = response_ns
        self.idle_ns = idle_ns
        self.connect_ns = connect_ns
        self.body_limit = body_limit
        self.header_limit = header_limit
        self.header_count = header_count
        self.spec = spec

    def __repr__(self):
        return f"<Route {self.name}: {[hook.name for hook in self.chain]} → {self.service or self.split}>"


cdef class Consumer:
    """Who calls. `credential` is the id of a key or the subject of a token, never the secret itself; `scopes` is what
    it may do, None when it says nothing of that."""

    def __init__(self, str name, groups=(), metadata=None, credential=None, str plan=None, scopes=None):
        self.name = name
        self.name_bytes = name.encode()
        self.groups = tuple(groups)
        self.metadata = metadata or {}
        self.credential = credential
        self.plan = plan
        self.scopes = None if scopes is None else frozenset(scopes)

    def __repr__(self):
        return f"<Consumer {self.name}>"


cdef class Downstream(Wired):
    cdef int send_head(self, Exchange ex, bint end) except -1:
        return 0

    cdef int send_data(self, Exchange ex, const char *p, size_t n) except -1:
        return 0

    cdef int send_end(self, Exchange ex) except -1:
        return 0

    cdef int flush(self) except -1:
        return 0

    cdef int send_interim(self, Exchange ex, Head head) except -1:
        return 0

    cdef int abort(self, Exchange ex) except -1:
        return 0

    cdef bint writable(self) noexcept:
        return True

    cdef int want_body(self, Exchange ex) except -1:
        return 0

    cdef int hold_body(self, Exchange ex) except -1:
        return 0

    cdef int finished(self, Exchange ex) except -1:
        return 0

    cdef Downstream carrier(self):
        return None


cdef class UpstreamStream(Wired):
    cdef int send_head(self, Exchange ex, bint end) except -1:
        return 0

    cdef int send_data(self, Exchange ex, const char *p, size_t n) except -1:
        return 0

    cdef int send_end(self, Exchange ex) except -1:
        return 0

    cdef bint writable(self) noexcept:
        return True

    cdef int want_data(self, Exchange ex) except -1:
        return 0

    cdef int cancel(self, Exchange ex) except -1:
        return 0


cdef class Driver:
    cdef int start(self, Exchange ex) except -1:
        return 0

    cdef int resume(self, Exchange ex, int verdict) except -1:
        return 0

    cdef int request_data(self, Exchange ex, const char *p, size_t n) except -1:
        return 0

    cdef int request_end(self, Exchange ex) except -1:
        return 0

    cdef int downstream_gone(self, Exchange ex, str code) except -1:
        return 0

    cdef int downstream_writable(self, Exchange ex) except -1:
        return 0

    cdef int connected(self, Exchange ex, UpstreamStream up) except -1:
        return 0

    cdef int pool_failed(self, Exchange ex, str code) except -1:
        return 0

    cdef int interim(self, Exchange ex, Head head) except -1:
        return 0

    cdef int upgraded(self, Exchange ex) except -1:
        return 0

    cdef int response_head(self, Exchange ex) except -1:
        return 0

    cdef int response_data(self, Exchange ex, const char *p, size_t n) except -1:
        return 0

    cdef int response_end(self, Exchange ex) except -1:
        return 0

    cdef int upstream_failed(self, Exchange ex, str code, int untouched) except -1:
        return 0

    cdef int settle(self, Exchange ex) except -1:
        return 0

    cdef int overdue(self, Exchange ex) except -1:
        return 0

    cdef int upstream_writable(self, Exchange ex) except -1:
        return 0

    cdef int fail(self, Exchange ex, str code, object detail) except -1:
        return 0

    cdef int emit(self, Exchange ex, int at, const char *p, size_t n, bint end) except -1:
        return 0


cdef class Exchange(Timed):
    """One request and its response, as a policy sees it. Valid until its record hooks have run."""

    def __cinit__(self):
        self.request = Head()
        self.response = Head()
        memset(&self.total, 0, sizeof(Timer))
        self.total.owner = <void*>self
        self.trace_flags = 0xff
        self.hold = self.grpc_status = -1
        self.passed = ALL_HOOKS

    def __dealloc__(self):
        timer_detach(&self.total)

    cdef int on_timer(self, Timer *timer) except -1:
        if self.state == S_DONE or self.state == S_IDLE:
            return 0
        return self.driver.overdue(self)

    cdef void recycle(self) noexcept:
        """Forgets everything of the last request but the buffers."""
        self.request.clear()
        self.response.clear()
        self.down = None
        self.up = None
        self.plan = None
        self.route = None
        self.carries = None
        self.service = None
        self.endpoint = None
        self.request_trailers = self.response_trailers = self.client_cert = self.watch = None
        self.upgrading = self.upgraded = self.http2 = self.extended = self.grpc = self.empty = False
        self.translated = False
        self.grpc_status = -1
        self.path_len = self.query_len = self.out_target_len = self.out_target = self.authority_len = 0
        self.out_method = self.out_method_len = 0
        self.has_query = self.secure = False
        self.settings = None
        self.host_out = None
        self.response_ns = self.idle_ns = 0
        self.body_filtered = False
        self.n_captures = 0
        self.client_len = self.peer_len = 0
        self.trusted_peer = False
        self.consumer = None
        self.claims = None
        self._vars = None
        self.id_hi = self.id_lo = 0
        self._id = None
        self.trace_flags = 0xff
        self.state = S_IDLE
        self.at = self.entered = self.around_at = 0
        self.collecting = self.response_filtered = False
        self.body_limit = self.buffer_limit = self.hold = -1
        self.is_head = self.local = self.replied = self.head_sent = False
        self.request_done = self.response_done = self.upstream_done = False
        self.close_after = self.has_body = self.detached = False
        self.attempts = 0
        self.tried = None
        self.copy = None
        self.retry = self.replay = self.hedge = self.race = None
        self.ticket = self.instead = self.fallback = self.caching = None
        self.watched = False
        self.retry_at = self.t_pool = self.hedge_at = self.replay_limit = 0
        self.hedged = self.asked = self.cached = 0
        self.total_at = self.connect_at = 0
        self.allow = None
        self.whole = self.tainted = self.clogged = False
        self.pipe = None
        self.passed = ALL_HOOKS
        self.parked = self.composing = None
        self.arounds = None
        self.redispatch = self.head_arrived = False
        self.generation += 1
        self.local_body = None
        self.request_buffer = None
        self.response_buffer = None
        self.code = None
        self.side = 0
        self.bytes_in = self.bytes_out = 0
        self.t_start = self.t_dispatch = self.t_sent = self.t_head = self.t_end_upstream = self.t_end = 0

    cdef Header* header(self, const char *lower, size_t n) noexcept:
        return self.request.find(lower, n)

    cdef int set_reply(self, int status, bytes body, bytes content_type) except -1:
        """Makes `response` a local reply: no headers yet but Content-Type. The caller returns REPLIED."""
        self.response.clear()
        self.response.len = 0
        self.response.status = status
        self.response.keep_alive = True
        self.local = True
        self.local_body = body
        if content_type is not None:
            self.response.append(b"Content-Type", 12, PyBytes_AS_STRING(content_type),
                                 PyBytes_GET_SIZE(content_type))
        return 0

    cdef str id_text(self):
        """The request id: what a policy set, else 32 hex digits made on first use."""
        if self._id is None:
            self._id = f"{self.id_hi:016x}{self.id_lo:016x}"
        return <str>self._id

    def apply_reply(self, reply):
        """Turns a Reply into this exchange's response; REPLIED."""
        content_type = reply.content_type
        self.set_reply(reply.status, reply.body, None if content_type is None else content_type.encode())
        for name, value in reply.headers:
            self.response.add(name, value)
        return REPLIED

    # ------------------------------------------------------------------ the request

    @property
    def method(self):
        return METHODS[self.request.method] if self.request.method >= 0 else "-"

    @property
    def path(self):
        """The normalised path, still percent-encoded: what was routed and what goes upstream."""
        return PyUnicode_DecodeLatin1(self.request.buf + self.path, self.path_len, NULL)

    @property
    def query(self):
        """Without the question mark; "" when there is none."""
        return PyUnicode_DecodeLatin1(self.request.buf + self.query, self.query_len, NULL)

    @property
    def host(self):
        return PyUnicode_DecodeLatin1(self.request.buf + self.authority, self.authority_len, NULL)

    @property
    def scheme(self):
        return "https" if self.secure else "http"

    @property
    def protocol(self):
        if self.http2:
            return "HTTP/2"
        if self.carries is not None:
            return self.carries
        return "HTTP/1.1" if self.request.minor else "HTTP/1.0"

    @property
    def client_ip(self):
        return PyUnicode_DecodeLatin1(self.client_text, self.client_len, NULL)

    @property
    def user_agent(self):
        cdef Header *h = self.request.find_id(H_USER_AGENT)
        return "" if h == NULL else PyUnicode_DecodeLatin1(self.request.buf + h.value, h.value_len, NULL)

    @property
    def params(self):
        """The route's captures, percent-decoded, by name."""
        cdef int i
        cdef dict found = {}
        if self.route is not None:
            for i in range(min(self.n_captures, len(self.route.param_names))):
                raw = PyBytes_FromStringAndSize(
                    self.request.buf + self.path + self.captures[i].start, self.captures[i].len)
                found[self.route.param_names[i]] = unquote(raw.decode("latin-1"), errors="replace")
        return found

    @property
    def id(self):
        return self.id_text()

    @id.setter
    def id(self, str value):
        self._id = value

    @property
    def trace_id(self):
        return None if self.trace_flags == 0xff else (<bytes>self.trace_id[:16]).hex()

    @property
    def vars(self):
        """A dict for what policies want to keep for the life of this exchange."""
        if self._vars is None:
            self._vars = {}
        return self._vars

    @property
    def request_body(self):
        """The whole body, when a policy of the route asked for it (`buffer_request`), else None."""
        return None if self.request_buffer is None else bytes(self.request_buffer)

    @property
    def announces_body(self):
        """True when the request has a body, or may have one."""
        return self.has_body

    # ------------------------------------------------------------------ another protocol towards the upstream

    def speak_grpc(self, str content_type):
        """The upstream is to be spoken to by gRPC, though the client speaks something else.

        Sets Content-Type and TE for it; what the gateway itself answers stays what this client understands.
        """
        cdef Head head = self.request
        self.translated = True
        head.set("Content-Type", content_type)
        # RFC 9110 10.1.4: of this hop, so that it is no line of the head; the codec looks for it
        head.append(b"TE", 2, b"trailers", 8)
        head.items[head.count - 1].drop = 1
        head.dropped += 1

    def send_as(self, str method, str target, body=None):
        """What the upstream gets in the place of the client's method, path with query, and (unless None) body.

        The route's rewriting is not applied to it. ValueError for what cannot stand in a request line, and for a body
        while the client's is still on its way.
        """
        cdef bytes text
        if method not in METHODS:
            raise ValueError(f"{method!r} is not a method")
        if not target.startswith("/") or not target.isascii() or not target.isprintable() or " " in target:
            raise ValueError(f"{target!r} is not a target")
        if body is not None:
            if self.has_body and not self.request_done:
                raise ValueError("the client's body is not here yet")
            self.has_body = self.request_done = True
            self.request_buffer = bytearray(body)
        text = method.encode()
        self.out_method = self.request.store(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
        self.out_method_len = PyBytes_GET_SIZE(text)
        text = target.encode()
        self.out_target = self.request.store(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
        self.out_target_len = PyBytes_GET_SIZE(text)

    def hold_response(self, int64_t limit):
        """`response_head` runs when the body and the trailers are there (502 beyond `limit` bytes).

        `Policy.buffer_response` is the same for every request of a route.
        """
        self.hold = limit

    # ------------------------------------------------------------------ the response

    @property
    def status(self):
        return self.response.status

    @status.setter
    def status(self, int value):
        if not 200 <= value <= 599:
            raise ValueError(f"a status is 200 to 599, not {value}")
        if value != self.response.status:
            self.response.status = value
            self.response.reason_len = 0

    @property
    def response_body(self):
        """The whole body, when a policy of the route asked for it (`buffer_response`), or of a local reply."""
        if self.local_body is not None:
            return self.local_body
        return None if self.response_buffer is None else bytes(self.response_buffer)

    @response_body.setter
    def response_body(self, value):
        if self.local_body is not None:
            self.local_body = bytes(value)
        elif self.response_buffer is not None:
            self.response_buffer = bytearray(value)
        else:
            raise ValueError("this route's policies did not ask for the response body (buffer_response)")

    # ------------------------------------------------------------------ the outcome

    @property
    def state_name(self):
        return STATE_NAMES[self.state]

    @property
    def side_name(self):
        return SIDES[self.side]

    @property
    def is_local(self):
        """True when the gateway answered by itself."""
        return self.local

    @property
    def service_name(self):
        return None if self.service is None else self.service.name

    @property
    def endpoint_name(self):
        return None if self.endpoint is None else self.endpoint.name

    @property
    def route_name(self):
        return None if self.route is None else self.route.name

    @property
    def tries(self):
        return self.attempts

    @property
    def hedge_name(self):
        """None when no other attempt was begun beside the first; else which of them answered: "won" or "lost"."""
        return None if self.hedged == 0 else "won" if self.hedged < 0 else "lost"

    @property
    def cache_result(self):
        """What a cache had for the request, one of `record.CACHED`; None when none was asked."""
        return CACHED[self.cached - 1] if self.cached else None

    @property
    def total_ns(self):
        return self.t_end - self.t_start if self.t_end else 0

    @property
    def upstream_ns(self):
        """From the dispatch to the last byte of the upstream's answer; 0 without an upstream."""
        if not self.t_dispatch:
            return 0
        return (self.t_end_upstream or self.t_end) - self.t_dispatch

    @property
    def gateway_ns(self):
        return self.total_ns - self.upstream_ns

    def fetch(self, service, method="GET", path="/", headers=None, body=None, timeout=5.0, max_body=1048576):
        """A bounded subrequest to a service by name: awaitable, gives a `Fetched`; see subrequest.pyx."""
        return self.driver.fetch(self, service, method, path, headers, body, timeout, max_body)

    def __repr__(self):
        path = PyUnicode_DecodeLatin1(self.request.buf + self.path, self.path_len, NULL)
        return f"<Exchange {self.method} {path} {self.state_name} {self.route_name} {self.code or ''}>"
