"""The body of a response on its way out, through what the policies of its route do to it.

The bytes pass the hooks of the chain in reverse, as the head does: from the service to the last policy of the file, out
through the first, to the client. A *tap* (PHASE_TAP) sees what leaves the policies behind it and has not come to those
before it. A filter changes it: one written in Python (`response_body`) for a whole chunk at once, a native one by a
`Stage`, which may hold bytes back, work outside of the loop, and say that it is full.

    service → [hook n: tap, filter] → … → [hook 0: tap, filter] → client

An answer that a policy gives begins its way at that policy: what stands behind it in the file has not seen the request,
and does not see the answer. Filters do not run for HEAD, which has no body; taps are told of its end.
"""
import logging

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from fastgw._core.exchange cimport (
    PHASE_FILTER, PHASE_REQUEST_BODY, PHASE_RESPONSE_BODY, PHASE_TAP, Exchange, Hook, Route,
)

from fastgw._core.exchange import Problem, Refused

logger = logging.getLogger("fastgw.respond")


cdef class Stage(Wired):
    cdef int feed(self, const char *p, size_t n, bint end) except -1:
        return self.pass_on(p, n, end)

    cdef int pass_on(self, const char *p, size_t n, bint end) except -1:
        if self.ex is None or (n == 0 and not end):
            return 0
        return push(self.ex, self.at, p, n, end)

    cdef int emit(self, const char *p, size_t n, bint end) except -1:
        if self.ex is None:
            return 0
        return self.ex.driver.emit(self.ex, self.at, p, n, end)

    cdef bint full(self) noexcept:
        return False

    cdef int drained(self) except -1:
        return 0

    cdef int gone(self) except -1:
        return 0


cdef class Pipe:
    def __cinit__(self):
        self.stages = []

    cdef Stage find(self, int at):
        cdef Stage stage
        for stage in self.stages:
            if stage.at == at:
                return stage
        return None


cdef int stand(Exchange ex, Stage stage) except -1:
    """The stage has its place in the way of this response's body, whose length is not known from now on."""
    cdef Pipe pipe = <Pipe>ex.pipe
    if pipe is None:
        ex.pipe = pipe = Pipe()
    stage.ex = ex
    stage.at = ex.entered
    pipe.stages.append(stage)
    ex.response_filtered = True
    return 0


cdef int abandon(Exchange ex) except -1:
    """The exchange is over, or this body is not wanted any more."""
    cdef Pipe pipe = <Pipe>ex.pipe
    cdef Stage stage
    ex.pipe = None
    ex.response_filtered = ex.clogged = False
    for stage in pipe.stages:
        stage.ex = None
        stage.gone()
    return 0


cdef int drained(Exchange ex) except -1:
    cdef Stage stage
    cdef Pipe pipe = <Pipe>ex.pipe
    for stage in pipe.stages:
        stage.drained()
        if ex.pipe is not pipe:
            return 0                              # that was the end of it
    return judge(ex)


cdef int judge(Exchange ex) except -1:
    cdef Stage stage
    ex.clogged = False
    for stage in (<Pipe>ex.pipe).stages:
        if stage.full():
            ex.clogged = True
    return 0


cdef int push(Exchange ex, int at, const char *p, size_t n, bint end) except -1:
    cdef tuple chain = ex.route.chain
    cdef Pipe pipe = <Pipe>ex.pipe
    cdef Hook hook
    cdef Stage stage
    cdef bytes chunk = None
    if at > ex.route.chain_len:
        at = ex.route.chain_len
    while at > 0:
        at -= 1
        hook = <Hook>chain[at]
        if hook.phases & PHASE_TAP:
            hook.tap(ex, p, n, end)
        if ex.is_head:
            continue
        if hook.phases & PHASE_RESPONSE_BODY:
            if chunk is None:
                chunk = PyBytes_FromStringAndSize(p, n)
            chunk = hook.response_body(ex, chunk, end)
            if chunk is None:
                chunk = b""
            p, n = PyBytes_AS_STRING(chunk), PyBytes_GET_SIZE(chunk)
            if n == 0 and not end:
                return 0
        elif hook.phases & PHASE_FILTER and pipe is not None:
            stage = pipe.find(at)
            if stage is not None:
                return stage.feed(p, n, end)
    return _arrive(ex, pipe, p, n, end)


cdef int _arrive(Exchange ex, Pipe pipe, const char *p, size_t n, bint end) except -1:
    if pipe is not None and pipe.whole is not None:
        pipe.whole += PyBytes_FromStringAndSize(p, n)
        pipe.ended = end
        return 0
    if n:
        ex.bytes_out += n
        ex.down.send_data(ex, p, n)
    if end:
        ex.response_done = True
        ex.down.send_end(ex)
    return 0


cdef bytes whole_through(Exchange ex, bytes body):
    """A body that is here whole, after all filters. None when one of them needs time: then it goes out as it comes."""
    cdef Pipe pipe
    if ex.pipe is None:
        ex.pipe = Pipe()
    pipe = <Pipe>ex.pipe
    pipe.whole = bytearray()
    push(ex, ex.passed, PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body), True)
    if not pipe.ended:
        return None
    body = bytes(pipe.whole)
    pipe.whole = None
    return body


cdef bytes early(Exchange ex):
    cdef Pipe pipe = <Pipe>ex.pipe
    cdef bytes came = bytes(pipe.whole)
    pipe.whole = None
    return came


cdef bint changed_behind(Exchange ex, object hook):
    cdef Hook other
    cdef int i
    for i in range(ex.route.chain_len - 1, -1, -1):
        other = <Hook>ex.route.chain[i]
        if other is hook:
            return False
        if other.phases & (PHASE_RESPONSE_BODY | PHASE_FILTER):
            return True
    return False


cdef bytes request_through(Exchange ex, bytes chunk, bint end):
    """A piece of the request's body after all filters, which take it in the order of the file."""
    cdef Hook hook
    for hook in ex.route.chain:
        if hook.phases & PHASE_REQUEST_BODY:
            chunk = hook.request_body(ex, chunk, end)
    return chunk


cdef object problem_of(Exchange ex, object error):
    if isinstance(error, Refused):
        return error.problem
    logger.error("a body filter failed on %s", ex, exc_info=error)
    return Problem(500, "policy_failed", "A policy failed on the body.", side=2)
