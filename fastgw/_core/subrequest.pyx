"""Requests the gateway itself makes to a service, on behalf of a policy.

A subrequest is an Exchange like any other, with a codec towards "the client" that collects the answer. It has a
bound in bytes and in time, uses the service's pool, and is cancelled with the awaitable that was given out.
"""
from libc.stdint cimport int64_t
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastgw._core.exchange cimport S_DONE, Downstream, Exchange, Route
from fastgw._core.headers cimport Head
from fastgw._core.respond cimport Relay
from fastgw._core.settings cimport Settings

import re

_PATH = re.compile(r"/[!$&'()*+,\-./0-9:;=@A-Z_a-z~%?]*\Z")


class FetchError(Exception):
    """A subrequest failed; `code` is one of the words of codes.py (or `unknown_service`)."""

    def __init__(self, code, detail=None):
        super().__init__(detail or code)
        self.code = code


class Fetched:
    """The answer to a subrequest: `status`, `headers` (a Head: `get`, `pairs`), `body` (bytes)."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers
        self.body = body

    def __repr__(self):
        return f"<Fetched {self.status}, {len(self.body)} bytes>"


cdef class Collector(Downstream):
    cdef int send_data(self, Exchange ex, const char *p, size_t n) except -1:
        if <int64_t>(len(self.body) + n) > self.limit:
            self.problem = "upstream_body_too_large"
            return self.relay.fail(ex, "upstream_body_too_large", None)
        self.body += p[:n]
        return 0

    cdef int abort(self, Exchange ex) except -1:
        if self.problem is None:
            self.problem = ex.code or "upstream_truncated"
        return 0

    cdef int finished(self, Exchange ex) except -1:
        cdef Head head
        self.ex = None
        if self.future.done():
            return 0
        if self.problem is None and ex.code is not None:
            self.problem = ex.code
        if self.problem is not None:
            self.future.set_exception(FetchError(self.problem))
            return 0
        head = ex.response
        ex.response = Head()                  # the exchange is used again, the answer is kept
        self.future.set_result(Fetched(head.status, head, bytes(self.body)))
        return 0

    def _cancelled(self, future):
        if future.cancelled() and self.ex is not None:
            self.relay.reactor.outside()
            self.relay.downstream_gone(self.ex, "client_closed")


def fetch(Relay relay, Exchange parent, str service, str method, str path, headers, body, double timeout,
          int64_t max_body):
    """Starts a subrequest; an awaitable of `Fetched`. FetchError says what went wrong, ValueError what was asked
    wrongly. `parent` may be None: then there is no client behind it."""
    cdef Exchange ex
    cdef Head head
    cdef Collector down
    cdef bytes raw, payload = bytes(body or b"")
    plan = relay.plan if parent is None else parent.plan
    found = plan.services.get(service)
    if found is None:
        raise FetchError("unknown_service", f"there is no service {service!r}")
    if not method.isalpha() or not method.isupper():
        raise ValueError(f"not a method: {method!r}")
    if not _PATH.match(path):
        raise ValueError(f"not a path: {path!r}")
    relay.reactor.outside()
    ex = relay.take()
    head = ex.request
    raw = f"{method} {path} HTTP/1.1\r\nContent-Length: {len(payload)}\r\n\r\n".encode()
    # without a Host: the endpoint's own goes out
    if head.scan_fetch(PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw)) <= 0:
        relay.give(ex)
        raise ValueError(f"not a request: {method} {path}")
    head.take(PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw))
    for name, value in (headers or {}).items():
        head.add(name, value)
    down = Collector()
    down.relay = relay
    down.future = relay.reactor.loop.create_future()
    down.body = bytearray()
    down.limit = max_body
    down.ex = ex
    ex.down = down
    ex.plan = plan
    ex.settings = plan.settings
    ex.detached = True
    ex.is_head = method == "HEAD"
    ex.request_done = True
    ex.has_body = len(payload) > 0
    if ex.has_body:
        ex.request_buffer = bytearray(payload)
    ex.path = head.target
    query = path.find("?")
    ex.path_len = head.target_len if query < 0 else query
    if query >= 0:
        ex.has_query = True
        ex.query = head.target + query + 1
        ex.query_len = head.target_len - query - 1
    if parent is not None and parent.trace_flags != 0xff:
        ex.trace_flags = parent.trace_flags
        ex.trace_id = parent.trace_id
        ex.span_id = parent.span_id
    ex.route = Route(f"fetch:{service}", service=found)
    relay.started(ex)
    ex.total_at = ex.t_start + <int64_t>(timeout * 1e9)
    relay.reactor.wheel.arm(&ex.total, ex.total_at)
    down.future.add_done_callback(down._cancelled)
    relay.dispatch(ex)
    return down.future
