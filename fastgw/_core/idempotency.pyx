"""The native half of `idempotency`: what is written down of an answer while it passes.

Head and body are taken where this policy stands on the way back: policies before it in the file work anew on an answer that is
given again, and those behind it, which have not seen the request, do not.
"""
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from cpython.bytes cimport PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from fastgw._core.exchange cimport (
    CONTINUE, PHASE_RECORD, PHASE_RESPONSE, PHASE_TAP, Exchange,
)
from fastgw._core.headers cimport Head
from fastgw._core.policy cimport PythonHook
from fastgw._core.record cimport C_IDEMPOTENCY_REPLAYED, C_IDEMPOTENCY_UNKEPT
from fastgw._core.respond cimport Relay


cdef class Recording:
    pass


cdef class IdempotencyHook(Enduring):
    """`IdempotencyHook(policy, base, max_answer, again)`

    The policy is told once of each claim that `begin` was given: `keep(claim, status, lines, body)` when the answer came to its
    end (body None: too large), or `ended(claim, sent)` when none did; `sent`: the service may have had the request.
    """

    def __init__(self, policy, base, int64_t max_answer, bint again):
        PythonHook.__init__(self, policy, base)
        self.phases |= PHASE_RESPONSE | PHASE_TAP | PHASE_RECORD
        self.max_answer = self.most = max_answer
        self.again = again
        self.live = {}

    def __repr__(self):
        return f"<IdempotencyHook {len(self.live)} exchanges>"

    def begin(self, Exchange ex, claim):
        """The answer to it will be kept, as far as it can be."""
        cdef Recording recording = Recording()
        recording.claim = claim
        recording.chunks = []
        self.live[ex] = recording

    def count(self, Exchange ex, bint replayed):
        if isinstance(ex.driver, Relay):
            (<Relay>ex.driver).stats.add(C_IDEMPOTENCY_REPLAYED if replayed else C_IDEMPOTENCY_UNKEPT, 1)

    cdef bint holds(self, Exchange ex) noexcept:
        return ex in self.live

    cdef bint may_repeat(self, Exchange ex) noexcept:
        return self.again

    cdef int request(self, Exchange ex) except -1:
        # of a call with trailers, or of a socket, there is nothing that could be given again
        return CONTINUE if ex.grpc or ex.upgrading else PythonHook.request(self, ex)

    cdef int response(self, Exchange ex) except -1:
        cdef Recording recording = self.live.get(ex)
        cdef Head head = ex.response
        cdef char *room
        if recording is None:
            return CONTINUE
        recording.head = True
        if ex.local and ex.code is not None:
            recording.ours = True
            return CONTINUE
        recording.status = head.status
        room = <char*>malloc(head.lines_size())
        if room == NULL:
            raise MemoryError()
        try:
            recording.lines = PyBytes_FromStringAndSize(room, head.copy_lines(room) - room)
        finally:
            free(room)
        if not ex.local and head.has_length and head.content_length > self.max_answer:
            self._over(ex, recording)
            head.add("Idempotency-Kept", "no")    # so that its client knows now, not when it asks again
        return CONTINUE

    cdef int _over(self, Exchange ex, Recording recording) except -1:
        recording.over = True
        recording.chunks = []
        self.count(ex, False)
        return 0

    cdef int _add(self, Exchange ex, Recording recording, bytes piece) except -1:
        recording.size += PyBytes_GET_SIZE(piece)
        if recording.size > self.max_answer:
            return self._over(ex, recording)
        recording.chunks.append(piece)
        return 0

    cdef int tap(self, Exchange ex, const char *p, size_t n, bint end) except -1:
        cdef Recording recording = self.live.get(ex)
        if recording is None or not recording.head or recording.ours or recording.told:
            return 0
        if n and not recording.over:
            self._add(ex, recording, PyBytes_FromStringAndSize(p, n))
        if end:
            recording.told = True
            body = None if recording.over else b"".join(recording.chunks)
            self.policy.keep(recording.claim, recording.status, recording.lines, body)
        return 0

    cdef int record(self, Exchange ex) except -1:
        cdef Recording recording = self.live.pop(ex, None)
        if recording is not None and not recording.told:
            recording.told = True
            self.policy.ended(recording.claim, ex.t_sent != 0)
        return 0
