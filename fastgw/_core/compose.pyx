"""`any_of` and `all_of`: policies that find out who calls, as one.

Members are asked in their order. A member may answer WAIT, and later resume the exchange: the relay hands what it
resumes with to `resumed`, by `ex.composing`, a tuple of

    (this composition, which member waits, what was in ex.composing before: a composition within, refusals so far,
     who called and his claims before the first member was asked)

so that compositions may stand within each other. Nothing is kept while nobody waits or refuses.
"""
from cpython.tuple cimport PyTuple_GET_SIZE

from fastgw._core.exchange cimport (
    COLLECT, CONTINUE, PHASE_RECORD, PHASE_REQUEST, PHASE_RESPONSE, REPLIED, S_POLICY, WAIT, Consumer, Exchange, Hook,
)
from fastgw._core.identity cimport is_excluded

cdef enum:
    ASK = -2                   # the member was not asked yet


class Refusal:
    """The answer of a member that refused, taken off the exchange."""

    __slots__ = ("body", "code", "headers", "side", "status")

    @property
    def rank(self):
        """Of several refusals the one with the highest rank is given: what tells the client most."""
        if self.code is None:
            return 5                                  # an answer of its own, such as the way to a login
        if self.status >= 500:
            return 4                                  # it could not find out
        if self.status != 401:
            return 3                                  # known, and not enough
        return 1 if self.code == "unauthorized" else 2


cdef object _take(Exchange ex):
    """Takes a member's answer off the exchange, as if it had not been asked."""
    refusal = Refusal()
    refusal.status, refusal.code, refusal.side = ex.response.status, ex.code, ex.side
    refusal.body, refusal.headers = ex.local_body, ex.response.pairs()
    ex.response.clear()
    ex.response.len = 0
    ex.code = ex.local_body = None
    ex.side = 0
    ex.local = False
    return refusal


cdef int _give(Exchange ex, object refusal, list headers) except -1:
    ex.set_reply(refusal.status, refusal.body, None)
    ex.code, ex.side = refusal.code, refusal.side
    for name, value in headers:
        ex.response.add(name, value)
    return REPLIED


cdef class Composition(Hook):
    """What both have in common. ValueError for members that do more than look at requests and answers' heads."""

    def _compose(self, str name, members, excluded):
        cdef Hook hook
        self.name = name
        self.members = tuple(members)
        self.excluded = tuple(excluded)
        self.phases = PHASE_REQUEST
        if not self.members:
            raise ValueError("a composition has members")
        for hook in self.members:
            if hook.phases & ~(PHASE_REQUEST | PHASE_RESPONSE | PHASE_RECORD) or hook.buffer_response >= 0:
                raise ValueError(f"{hook.name} does not only look at heads")
            self.phases |= hook.phases
            if hook.buffer_request >= 0 and (self.buffer_request < 0 or hook.buffer_request < self.buffer_request):
                self.buffer_request = hook.buffer_request

    def __repr__(self):
        return f"<{type(self).__name__} {[hook.name for hook in self.members]}>"

    cdef int request(self, Exchange ex) except -1:
        if self.excluded and is_excluded(self.excluded, ex):
            return CONTINUE
        return self._go(ex, 0, None, ASK, ex.consumer, ex.claims)

    cdef int resumed(self, Exchange ex, int verdict) except -1:
        _, i, within, refusals, consumer, claims = ex.composing
        ex.composing = within
        if within is not None:
            verdict = (<Hook>(<tuple>within)[0]).resumed(ex, verdict)
        return self._go(ex, i, refusals, verdict, consumer, claims)

    cdef int _go(self, Exchange ex, int i, list refusals, int verdict, Consumer consumer, object claims) except -1:
        raise NotImplementedError

    cdef int _wait(self, Exchange ex, int i, list refusals, Consumer consumer, object claims) except -1:
        if ex.state == S_POLICY:                      # else it has ended the exchange
            ex.composing = (self, i, ex.composing, refusals, consumer, claims)
        return WAIT

    cdef int response(self, Exchange ex) except -1:
        cdef int i, verdict
        for i in range(PyTuple_GET_SIZE(self.members) - 1, -1, -1):
            if (<Hook>self.members[i]).phases & PHASE_RESPONSE:
                verdict = (<Hook>self.members[i]).response(ex)
                if verdict == WAIT:
                    raise RuntimeError(f"{(<Hook>self.members[i]).name} may not wait in an answer's head within "
                                       f"{self.name}")
                if verdict != CONTINUE:
                    return verdict
        return CONTINUE

    cdef int record(self, Exchange ex) except -1:
        cdef Hook hook
        for hook in self.members:
            if hook.phases & PHASE_RECORD:
                hook.record(ex)
        return 0


cdef class AllOf(Composition):
    """`AllOf(name, members, excluded)`: the first refusal is the answer."""

    def __init__(self, str name, members, excluded):
        self._compose(name, members, excluded)

    cdef int _go(self, Exchange ex, int i, list refusals, int verdict, Consumer consumer, object claims) except -1:
        while True:
            if verdict == ASK:
                verdict = (<Hook>self.members[i]).request(ex)
            if verdict == WAIT:
                return self._wait(ex, i, None, consumer, claims)
            if verdict != CONTINUE:
                return verdict                        # COLLECT: asked again, from the first, when the body is there
            i += 1
            if i == PyTuple_GET_SIZE(self.members):
                return CONTINUE
            verdict = ASK


cdef class AnyOf(Composition):
    """`AnyOf(name, members, excluded, optional, anonymous, apart)`: the first that does not refuse is enough.

    `optional`: who shows no credential at all passes, as the consumer `anonymous` (or None); a bad one is refused all
    the same. `apart`: for each member whether it looks elsewhere than in Authorization.
    """

    def __init__(self, str name, members, excluded, bint optional, Consumer anonymous, apart):
        self._compose(name, members, excluded)
        self.optional = optional
        self.anonymous = anonymous
        self.apart = tuple(apart)
        if len(self.apart) != len(self.members):
            raise ValueError("`apart` is for each member")

    cdef int _go(self, Exchange ex, int i, list refusals, int verdict, Consumer consumer, object claims) except -1:
        while True:
            if verdict == ASK:
                verdict = (<Hook>self.members[i]).request(ex)
            if verdict == WAIT:
                return self._wait(ex, i, refusals, consumer, claims)
            if verdict == CONTINUE:
                return self._passed(ex, i, refusals)
            if verdict == COLLECT:
                return COLLECT
            if refusals is None:
                refusals = []
            refusals.append(_take(ex))
            # what it had found out before it refused: half of an identity is none
            ex.consumer = consumer
            ex.claims = claims
            i += 1
            if i == PyTuple_GET_SIZE(self.members):
                return self._refused(ex, refusals)
            verdict = ASK

    cdef int _passed(self, Exchange ex, int i, list refusals) except -1:
        """A token that was found bad does not go on beside a good key: the service might believe it."""
        if refusals is not None and self.apart[i]:
            for refusal in refusals:
                if refusal.rank != 1:
                    ex.request.remove_name(b"authorization", 13)
        return CONTINUE

    cdef int _refused(self, Exchange ex, list refusals) except -1:
        cdef list headers, seen
        best = max(refusals, key=lambda refusal: refusal.rank)
        if best.rank == 1 and self.optional:
            if self.anonymous is not None:
                ex.consumer = self.anonymous
            return CONTINUE
        headers = best.headers
        if best.status == 401:
            # RFC 9110 11.6.1: a 401 names every challenge that would do
            headers = [pair for pair in headers if pair[0].lower() != "www-authenticate"]
            seen = []
            for refusal in refusals:
                for name, value in refusal.headers:
                    if name.lower() == "www-authenticate" and value not in seen:
                        seen.append(value)
            headers += [("WWW-Authenticate", value) for value in seen]
        return _give(ex, best, headers)
