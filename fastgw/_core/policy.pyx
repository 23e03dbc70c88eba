"""The chain of policies of a route: how hooks written in Python take part in it.

A Python hook that answers at once costs one call. One that returns an awaitable is driven by hand with
`send(None)`; only when that does not finish it, a Task is made, and the exchange waits (WAIT).

`around_dispatch` is a coroutine that calls `await dispatch()`. While the upstream works it is parked: no Task, no
Future; the relay sends the result into it when the response head is there.
"""
import asyncio
import logging

from fastgw._core.exchange cimport (
    COLLECT, CONTINUE, PHASE_AROUND, PHASE_RECORD, PHASE_REQUEST, PHASE_REQUEST_BODY, PHASE_RESPONSE,
    PHASE_RESPONSE_BODY, PHASE_SEND, REPLIED, S_POLICY, WAIT, Exchange, Hook,
)

from fastgw._core.exchange import Problem, Reply, WholeBody
from fastgw._core.grpc_status import expected as grpc_expected
from fastgw._core.problem import reason, render

logger = logging.getLogger("fastgw.policy")

cdef object PARKED = object()


class _Attempt:
    """What `dispatch()` gives: awaiting it parks the coroutine until the response head (or a failure) is there."""

    __slots__ = ()

    def __await__(self):
        result = yield PARKED
        return result


cdef object _attempt = _Attempt()


def dispatch():
    return _attempt


class _Resumed:
    """A coroutine that was already begun, in the form a Task takes: first gives what it yielded last."""

    __slots__ = ("coroutine", "first", "on_park", "parked")

    def __init__(self, coroutine, first, on_park):
        self.coroutine = coroutine
        self.first = first
        self.on_park = on_park
        self.parked = None

    def send(self, value):
        if self.first is not None:
            first, self.first = self.first, None
            return first
        if self.parked is not None:
            value, self.parked = self.parked.result(), None
        return self._passed(self.coroutine.send(value))

    def throw(self, *args):
        self.first = self.parked = None
        return self._passed(self.coroutine.throw(*args))

    def _passed(self, result):
        if result is PARKED:
            result = self.parked = self.on_park()
        return result

    def close(self):
        self.coroutine.close()

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)


from collections.abc import Coroutine

Coroutine.register(_Resumed)


cdef int apply_problem(Exchange ex, object problem) except -1:
    """Turns a Problem into this exchange's response; REPLIED."""
    cdef str content_type
    cdef bytes body
    ex.code = problem.code
    ex.side = problem.side
    if ex.http2 and not ex.translated and grpc_expected(ex):
        # the reason alone: respond makes trailers of it when the response hooks have run
        content_type, body = "text/plain; charset=utf-8", reason(problem).encode("utf-8", "replace")
    else:
        content_type, body = render(problem, ex)
    ex.set_reply(problem.status, body, content_type.encode())
    for name, value in problem.headers:
        ex.response.add(name, value)
    return REPLIED


cdef int cancel_tasks(Exchange ex) except -1:
    """Of hooks that wait: the exchange goes no further. It is not used again, they may still hold it."""
    task = ex.parked
    if task is not None:
        ex.parked = None
        ex.tainted = True
        task.cancel()
    if ex.arounds:
        parked = ex.arounds
        ex.arounds = None
        ex.tainted = True
        for coroutine in parked.values():
            if isinstance(coroutine, tuple):
                coroutine[1].cancel()
            else:
                coroutine.close()
    return 0


cdef int sending(Exchange ex) except -1:
    """An attempt is about to leave."""
    cdef Hook hook
    for hook in ex.route.chain:
        if hook.phases & PHASE_SEND:
            hook.send(ex)
    return 0


cdef class Later:
    """What a request hook returns that answers afterwards, by a call and without a Task: `later(answer)`, once, from the
    loop, with what it would have returned. Whoever calls looks at `waited` first: an exchange that is over is not touched.
    """

    cdef int bind(self, Exchange ex, PythonHook hook) except -1:
        self.ex = ex
        self.hook = hook
        self.generation = ex.generation
        return WAIT

    @property
    def waited(self):
        """Does the exchange still wait for it?"""
        return self.ex is not None and self.ex.generation == self.generation and self.ex.state == S_POLICY

    def __call__(self, answer=None):
        cdef Exchange ex = self.ex
        cdef int verdict
        if not self.waited:
            return
        self.ex = None
        try:
            verdict = self.hook._verdict(ex, answer)
        except Exception as error:
            verdict = self.hook._failed(ex, error)
        ex.driver.resume_from_task(ex, self.generation, verdict)


cdef class PythonHook(Hook):
    """`PythonHook(policy)`: the methods its class defines beyond the base class are its phases."""

    def __init__(self, policy, base):
        self.policy = policy
        self.name = policy.name
        self.preflight = bool(policy.preflight)
        if policy.buffer_request is not None:
            self.buffer_request = policy.buffer_request
        if policy.buffer_response is not None:
            self.buffer_response = policy.buffer_response
        self.phases = 0
        for method, phase in (("request", PHASE_REQUEST), ("around_dispatch", PHASE_AROUND),
                              ("response_head", PHASE_RESPONSE), ("request_body", PHASE_REQUEST_BODY),
                              ("response_body", PHASE_RESPONSE_BODY), ("record", PHASE_RECORD)):
            if getattr(type(policy), method) is not getattr(base, method):
                self.phases |= phase
        self._request = policy.request
        self._around = policy.around_dispatch
        self._response = policy.response_head
        self._request_body = policy.request_body
        self._response_body = policy.response_body
        self._record = policy.record

    cdef int _failed(self, Exchange ex, object error) except -1:
        """A policy that raises never lets the request pass."""
        logger.error("policy %s failed on %s", self.name, ex, exc_info=error)
        return apply_problem(ex, Problem(500, "policy_failed", f"The policy {self.name} failed.", side=2))

    cdef int _verdict(self, Exchange ex, object result) except -1:
        if result is None:
            return CONTINUE
        if isinstance(result, Reply):
            return ex.apply_reply(result)
        if isinstance(result, Problem):
            return apply_problem(ex, result)
        if isinstance(result, WholeBody) and ex.state == S_POLICY:
            ex.buffer_limit = result.limit
            return COLLECT
        raise TypeError(f"the policy {self.name} returned {type(result).__name__}; "
                        "a hook returns None, a Reply, a Problem or an awaitable of these")

    cdef int request(self, Exchange ex) except -1:
        try:
            result = self._request(ex)
            if result is None:
                return CONTINUE
            if isinstance(result, Later):
                return (<Later>result).bind(ex, self)
            if hasattr(result, "__await__"):
                return self._drive(ex, result.__await__() if not hasattr(result, "send") else result, None,
                                   DRIVE_REQUEST)
            return self._verdict(ex, result)
        except Exception as error:
            return self._failed(ex, error)

    cdef int response(self, Exchange ex) except -1:
        try:
            result = self._response(ex)
            if result is None:
                return CONTINUE
            if hasattr(result, "__await__"):
                return self._drive(ex, result.__await__() if not hasattr(result, "send") else result, None,
                                   DRIVE_RESPONSE)
            return self._verdict(ex, result)
        except Exception as error:
            return self._failed(ex, error)

    cdef int around(self, Exchange ex) except -1:
        try:
            return self._drive(ex, self._around(ex, dispatch), None, DRIVE_AROUND)
        except Exception as error:
            return self._failed(ex, error)

    cdef int around_done(self, Exchange ex) except -1:
        """The response head (or the failure) is here: hand it to the parked coroutine."""
        parked = ex.arounds.pop(self, None) if ex.arounds is not None else None
        if parked is None:
            return CONTINUE
        if isinstance(parked, tuple):
            future, ex.parked = parked
            if not future.done():
                future.set_result(ex)             # it runs on in its Task; the relay waits
            return WAIT
        try:
            return self._drive(ex, parked, ex, DRIVE_AROUND)
        except Exception as error:
            return self._failed(ex, error)

    cdef int _drive(self, Exchange ex, object coroutine, object value, int what) except -1:
        """One step by hand. A Task only when the step did not finish it and did not park it."""
        try:
            yielded = coroutine.send(value)
        except StopIteration as stop:
            return self._verdict(ex, stop.value)
        if yielded is PARKED:
            if what != DRIVE_AROUND:
                raise TypeError("dispatch() can be awaited in around_dispatch only")
            if ex.arounds is None:
                ex.arounds = {}
            ex.arounds[self] = coroutine
            # awaiting dispatch() a second time means: once more, from here inwards
            if value is not None:
                ex.redispatch = True
            return CONTINUE
        return self._suspend(ex, coroutine, yielded)

    def _suspend(self, Exchange ex, coroutine, yielded):
        """The step needs the event loop: a Task goes on from here, the exchange waits."""
        loop = asyncio.get_running_loop()
        generation = ex.generation

        def on_park():
            future = loop.create_future()
            future._asyncio_future_blocking = True
            if ex.arounds is None:
                ex.arounds = {}
            if ex.head_arrived:
                ex.redispatch = True
            ex.arounds[self] = (future, task)
            loop.call_soon(ex.driver.resume_from_task, ex, generation, CONTINUE)
            return future

        def on_done(done):
            if done.cancelled() or ex.generation != generation:
                return
            try:
                verdict = self._verdict(ex, done.result())
            except Exception as error:
                verdict = self._failed(ex, error)
            ex.driver.resume_from_task(ex, generation, verdict)

        task = loop.create_task(_Resumed(coroutine, yielded, on_park))
        task.add_done_callback(on_done)
        ex.parked = task
        return WAIT

    cdef object request_body(self, Exchange ex, bytes chunk, bint end):
        return self._request_body(ex, chunk, end)

    cdef object response_body(self, Exchange ex, bytes chunk, bint end):
        return self._response_body(ex, chunk, end)

    cdef int record(self, Exchange ex) except -1:
        try:
            self._record(ex)
        except Exception as error:
            logger.error("policy %s failed while recording", self.name, exc_info=error)
        return 0
