"""Hooks without sockets: gives an exchange to one policy, for tests and micro-benchmarks (see fastgw.testing.policy)."""
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memchr, memcpy, memset
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastgw._core.admission cimport Admission, Ticket
from fastgw._core.clock cimport monotonic_ns
from fastgw._core.exchange cimport CONTINUE, Exchange, Hook, Route
from fastgw._core.headers cimport H_HOST, Head, Header
from fastgw._core.pool cimport Balancer, Endpoint, Service

import ipaddress

from fastgw._core.exchange import Problem


cdef class Probe:
    """One exchange, as the relay would hand it to a hook."""

    def __init__(self, bytes raw, str client_ip="127.0.0.1", bint secure=False, str route="probe", captures=None,
                 settings=None, bint trusted=False):
        """`raw`: a request head. `captures`: name → text that stands in the path."""
        self.exchange = Exchange()
        self.load(raw, client_ip, secure, route, captures or {}, settings, trusted)

    cdef int load(self, bytes raw, str client_ip, bint secure, str route, dict captures, settings,
                  bint trusted) except -1:
        cdef Exchange ex = self.exchange
        cdef Head head = ex.request
        cdef const char *mark
        cdef Header *host
        cdef int i = 0
        cdef bytes text = client_ip.encode()
        cdef int n = head.scan_request(PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw), 1000)
        if n <= 0:
            raise ValueError(f"not a complete request head (scan said {n})")
        head.take(PyBytes_AS_STRING(raw), n)
        ex.path = head.target
        ex.path_len = head.target_len
        mark = <const char*>memchr(head.buf + head.target, c"?", head.target_len)
        if mark != NULL:
            ex.has_query = True
            ex.path_len = mark - (head.buf + head.target)
            ex.query = ex.path + ex.path_len + 1
            ex.query_len = head.target_len - ex.path_len - 1
        host = head.find_id(H_HOST)
        if host != NULL:
            ex.authority = host.value
            ex.authority_len = host.value_len
        address = ipaddress.ip_address(client_ip)
        packed = (b"\0" * 10 + b"\xff\xff" if address.version == 4 else b"") + address.packed
        memcpy(ex.client_addr, PyBytes_AS_STRING(packed), 16)
        memcpy(ex.client_text, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
        ex.client_len = PyBytes_GET_SIZE(text)
        ex.secure = secure
        ex.trusted_peer = trusted
        ex.settings = settings
        ex.id_hi = 0x0123456789abcdef
        ex.id_lo = 0xfedcba9876543210
        ex.route = Route(route, param_names=tuple(captures))
        path = raw[ex.path:ex.path + ex.path_len]
        for value in captures.values():
            ex.captures[i].start = path.index(value.encode())
            ex.captures[i].len = len(value)
            i += 1
        ex.n_captures = i
        return 0

    def request(self, Hook hook):
        """The verdict of its request hook."""
        return hook.request(self.exchange)

    def respond(self, bytes raw):
        """The upstream's answer is here."""
        cdef Head head = self.exchange.response
        cdef int n = head.scan_response(PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw), 1000)
        if n <= 0:
            raise ValueError(f"not a complete response head (scan said {n})")
        head.take(PyBytes_AS_STRING(raw), n)

    def response(self, Hook hook):
        """The verdict of its response hook."""
        return hook.response(self.exchange)

    def pick(self, Service service, int attempts=0):
        """The endpoint it would go to after so many attempts; None: there is none."""
        cdef Endpoint endpoint
        self.exchange.attempts = attempts
        if attempts == 0:
            self.exchange.tried = None
        endpoint = service.pick(self.exchange)
        self.exchange.endpoint = endpoint
        self.exchange.service = service
        return endpoint

    def begin(self, Service service, Endpoint endpoint):
        """It is sent there."""
        service.balancer.begun(self.exchange, endpoint)

    def end(self, Service service, status=0, code=None, grpc=None):
        """It was answered with that status, failed with that code (or one after the other, or neither), and is over.
        `grpc`: it was a call of gRPC, and that stands in its trailers as `grpc-status`."""
        cdef Head trailers
        if grpc is not None:
            self.exchange.grpc = True
            trailers = Head()
            trailers.set("grpc-status", grpc)
            self.exchange.response_trailers = trailers
        if status:
            self.exchange.response.status = status
            service.balancer.answered(self.exchange)
        if code is not None:
            service.balancer.failed(self.exchange, code)
            self.exchange.code = code
        service.balancer.left(self.exchange)


cdef class ScriptedAdmission(Admission):
    """Does what `ask(exchange)` says (None: CONTINUE), and calls `hear(what, exchange, detail)` for all that it hears."""

    cdef object ask, hear

    def __init__(self, ask, hear):
        self.ask = ask
        self.hear = hear

    cdef int admit(self, Exchange ex, Ticket ticket, int64_t now) except -1:
        self.hear("asked", ex, None)
        return self.ask(ex) or CONTINUE

    cdef object refusal(self, Exchange ex, Ticket ticket):
        self.hear("refused", ex, None)
        return Problem(503, "overloaded", "Not now.", {"Retry-After": "7"}, side=2)

    cdef int answered(self, Exchange ex, Ticket ticket, int64_t now) except -1:
        self.hear("answered", ex, ex.response.status)
        return 0

    cdef int failed(self, Exchange ex, Ticket ticket, str code) except -1:
        self.hear("failed", ex, code)
        return 0

    cdef int left(self, Exchange ex, Ticket ticket) except -1:
        self.hear("gave up" if ticket.waiting else "left", ex, None)
        return 0

    def resume(self, Exchange ex, int verdict):
        """An exchange that it made wait goes on, or is refused (CONTINUE, REPLIED)."""
        ex.driver.resume(ex, verdict)


def count_picks(Service service, Probe probe, long n):
    """How often each endpoint is picked, by its name."""
    cdef dict found = {}
    cdef Endpoint endpoint
    cdef long i
    for i in range(n):
        endpoint = service.pick(probe.exchange)
        found[endpoint.name] = found.get(endpoint.name, 0) + 1
    return found

def measure(hooks, bytes request, bytes response, int rounds, client_ip="127.0.0.1", captures=None):
    """ns per exchange for the request hooks and the response hooks together, without scanning and copying.

    The same exchange is put back to how it arrived before each round; that work is measured and subtracted.
    """
    cdef Probe probe = Probe(request, client_ip, captures=captures)
    cdef Exchange ex = probe.exchange
    cdef int i, k, verdict, count = len(hooks)
    cdef tuple chain = tuple(hooks)
    cdef int64_t start, empty, full
    probe.respond(response)
    cdef int rq_count = ex.request.count, rs_count = ex.response.count
    cdef unsigned int rq_len = ex.request.len, rs_len = ex.response.len
    cdef int pass_
    for pass_ in range(2):
        start = monotonic_ns()
        for i in range(rounds):
            for k in range(rq_count):
                ex.request.items[k].drop = 0
            for k in range(rs_count):
                ex.response.items[k].drop = 0
            ex.request.count = rq_count
            ex.request.len = rq_len
            ex.request.dropped = 0
            ex.response.count = rs_count
            ex.response.len = rs_len
            ex.response.dropped = 0
            ex.consumer = None
            ex.claims = None
            if pass_ == 0:
                continue
            for k in range(count):
                verdict = (<Hook>chain[k]).request(ex)
                if verdict != 0:
                    raise ValueError(f"{(<Hook>chain[k]).name} answered {verdict} {ex.code}")
            for k in range(count - 1, -1, -1):
                (<Hook>chain[k]).response(ex)
        if pass_ == 0:
            empty = monotonic_ns() - start
        else:
            full = monotonic_ns() - start
    return (full - empty) / rounds
