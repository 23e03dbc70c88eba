"""The hot half of `decompress`: bodies without their encodings, for policies that read them.

A request's body is taken whole, decoded within bounds (a large one by a thread, while the exchange waits), and stands
there for the policies that follow and for the service; or only for them, and the service gets what the client sent. A
response's body is decoded as it passes, a little at a time, as fast as the client takes it.
"""
from libc.stdint cimport int64_t, uint32_t
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

import logging

from fastgw._core.body cimport stand
from fastgw._core.exchange cimport (
    COLLECT, CONTINUE, PHASE_AROUND, PHASE_FILTER, PHASE_REQUEST, PHASE_RESPONSE, S_POLICY, WAIT, Exchange, Hook,
)
from fastgw._core.headers cimport Head, Header, equals_lower
from fastgw._core.policy cimport apply_problem
from fastgw._core.record cimport C_DECOMPRESSED, CODING_WORDS, Stats
from fastgw._core.respond cimport Relay

from fastgw._core.exchange import Problem, Refused

logger = logging.getLogger("fastgw.policy")

cdef enum:
    INLINE = 4096                # bytes of a request's body that are decoded in the loop
    STEP = 4096                  # of a response's, between two looks at the client

# They speak of the bytes of the body: Content-MD5 (RFC 1864), RFC 9530 2 and 3.
cdef tuple OF_THE_BYTES = (b"content-md5", b"digest", b"content-digest", b"repr-digest")
cdef object ORIGINAL = object()


cdef class Decompress(Hook):
    """`Decompress(codings, layers, limit, decode, stream, failed, requests, responses, original, strip, offload)`."""

    def __init__(self, codings, int layers, int64_t limit, decode, stream, failed, bint requests, bint responses,
                 bint original, bint strip, Offload offload):
        self.name = "decompress"
        self.phases = (PHASE_REQUEST if requests or strip else 0) | (PHASE_RESPONSE | PHASE_FILTER if responses else 0) \
            | (PHASE_AROUND if requests and original else 0)
        self.codings = frozenset(codings)
        self.accepted = ", ".join(coding.decode() for coding in codings)
        self.layers = layers
        self.limit = limit
        self.decode = decode
        self.stream = stream
        self.failed = failed
        self.requests = requests
        self.responses = responses
        self.original = original
        self.strip = strip
        self.offload = offload

    cdef tuple named(self, Head head):
        """RFC 9110 8.4: the encodings of a body in the order they were applied; empty without any."""
        cdef list found = []
        cdef Header *h
        cdef bytes item
        cdef int i
        if head.find(b"content-encoding", 16) == NULL:
            return ()
        for i in range(head.count):
            h = &head.items[i]
            if h.drop or h.name_len != 16 or not equals_lower(head.buf + h.name, b"content-encoding", 16):
                continue
            for item in head.value_of(h).lower().split(b","):
                item = item.strip()
                if item == b"x-gzip":
                    item = b"gzip"                # RFC 9110 8.4.1.3
                if item and item != b"identity":
                    found.append(item.decode("latin-1"))
        return tuple(found)

    # ------------------------------------------------------------------ requests

    cdef int request(self, Exchange ex) except -1:
        cdef Head head = ex.request
        cdef tuple codings
        cdef bytes body
        cdef Work work
        if self.strip:
            head.remove_name(b"accept-encoding", 15)
        if not self.requests or not ex.has_body or ex.upgrading or ex.grpc or not isinstance(ex.driver, Relay):
            return CONTINUE
        codings = self.named(head)
        if not codings:
            return CONTINUE
        if len(codings) > self.layers or not self.codings.issuperset([coding.encode("latin-1") for coding in codings]):
            # RFC 9110 15.5.16, RFC 7694 3
            return apply_problem(ex, Problem(
                415, "unsupported_content_encoding", f"Known here: {self.accepted}; {self.layers} at most.",
                headers=(("Accept-Encoding", self.accepted),)))
        if ex.request_buffer is None:
            ex.buffer_limit = self.limit
            return COLLECT
        body = bytes(ex.request_buffer)
        if len(body) <= INLINE:
            try:
                return self._took(ex, body, self.decode(body, codings))
            except Exception as error:
                return self._refuse(ex, error)
        work = Work()
        work.home = self
        work.ex = ex
        work.generation = ex.generation
        work.body = body
        work.codings = codings
        self.offload.submit((<Relay>ex.driver).reactor, work)
        return WAIT

    def _refuse(self, Exchange ex, error):
        return apply_problem(ex, self.failed(error, False))

    def _took(self, Exchange ex, bytes body, bytes out):
        cdef Head head = ex.request
        cdef Stats stats = (<Relay>ex.driver).stats
        cdef bytes name
        stats.add(C_DECOMPRESSED, 1)
        stats.add(C_DECOMPRESSED + 1, PyBytes_GET_SIZE(body))
        stats.add(C_DECOMPRESSED + 2, PyBytes_GET_SIZE(out))
        if self.original:
            kept = head.get_all("content-encoding")
            ex.vars[ORIGINAL] = (body, kept, [(name.decode(), head.get_all(name.decode())) for name in OF_THE_BYTES])
        head.remove_name(b"content-encoding", 16)
        for name in OF_THE_BYTES:
            head.remove_name(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        ex.request_buffer = bytearray(out)
        if self.original:
            ex.vars[ORIGINAL] += (ex.request_buffer,)
        return CONTINUE

    cdef int around(self, Exchange ex) except -1:
        """The policies have seen what it says; the service gets what the client sent."""
        found = None if ex._vars is None else ex._vars.pop(ORIGINAL, None)
        if found is None:
            return CONTINUE
        body, codings, others, decoded = found
        if ex.request_buffer is not decoded:
            return CONTINUE                       # a policy gave it another body
        ex.request_buffer = bytearray(body)
        for value in codings:
            ex.request.add("Content-Encoding", value)
        for name, values in others:
            for value in values:
                ex.request.add(name.title(), value)
        return CONTINUE

    # ------------------------------------------------------------------ responses

    cdef int response(self, Exchange ex) except -1:
        cdef Head head = ex.response
        cdef Decoder stage
        cdef tuple codings
        cdef bytes body, name
        # RFC 9110 15.3.7: a part of an encoded body cannot be decoded
        if ex.local or ex.upgraded or head.status == 204 or head.status == 206 or head.status == 304 or ex.grpc \
                or not isinstance(ex.driver, Relay):
            return CONTINUE
        codings = self.named(head)
        if not codings or len(codings) > self.layers \
                or not self.codings.issuperset([coding.encode("latin-1") for coding in codings]):
            return CONTINUE
        if ex.response_buffer is not None:
            body = bytes(ex.response_buffer)
            try:
                ex.response_buffer = bytearray(self.decode(body, codings))
            except Exception as error:
                return apply_problem(ex, self.failed(error, True))
            self.count((<Relay>ex.driver).stats, PyBytes_GET_SIZE(body), len(ex.response_buffer))
        else:
            stage = Decoder()
            stage.home = self
            stage.stats = (<Relay>ex.driver).stats
            stage.stream = None if ex.is_head else self.stream(codings)
            stage.rest = b""
            stand(ex, stage)
            self.count(stage.stats, 0, 0)
        head.remove_name(b"content-encoding", 16)
        for name in OF_THE_BYTES:
            head.remove_name(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        head.remove_name(b"accept-ranges", 13)
        head.has_length = False
        tag = head.get("etag")
        if tag is not None and not tag.startswith("W/"):
            # RFC 9110 8.8.1: other bytes
            head.set("ETag", "W/" + tag)
        return CONTINUE

    def count(self, Stats stats, int64_t taken, int64_t given):
        stats.add(C_DECOMPRESSED + CODING_WORDS, 1)
        stats.add(C_DECOMPRESSED + CODING_WORDS + 1, taken)
        stats.add(C_DECOMPRESSED + CODING_WORDS + 2, given)


cdef class Work(Job):
    cdef int work(self) except -1:
        self.out = self.home.decode(self.body, self.codings)
        return 0

    cdef int done(self) except -1:
        cdef Exchange ex = self.ex
        cdef int verdict
        if ex.generation != self.generation or ex.state != S_POLICY:
            return 0                              # its client has left, or its time was over
        try:
            if self.error is not None:
                verdict = self.home._refuse(ex, self.error)
            else:
                verdict = self.home._took(ex, self.body, self.out)
            return ex.driver.resume(ex, verdict)
        except Exception as error:
            logger.error("resuming %s failed", ex, exc_info=error)
            if ex.generation == self.generation:
                return ex.driver.fail(ex, "internal_error", None)
        return 0


cdef class Decoder(Stage):
    cdef int feed(self, const char *p, size_t n, bint end) except -1:
        self.ended = end
        if n:
            self.rest += PyBytes_FromStringAndSize(p, n)
        return self._go_on(True)

    cdef bint full(self) noexcept:
        return PyBytes_GET_SIZE(self.rest) != 0

    cdef int drained(self) except -1:
        return 0 if self.working else self._go_on(False)

    cdef int _go_on(self, bint within) except -1:
        """A step after the other while the client takes what comes of it."""
        cdef bytes piece, out
        cdef bint end = False
        self.working = True
        try:
            while self.ex is not None and not self.over:
                if PyBytes_GET_SIZE(self.rest) and not self.ex.down.writable() and self.ex.head_sent:
                    return 0
                piece, self.rest = self.rest[:STEP], self.rest[STEP:]
                end = self.ended and not self.rest
                if not piece and not end:
                    return 0
                self.over = end
                try:
                    out = self.stream.feed(piece)
                    if end:
                        self.stream.end()
                except Exception as error:
                    if within:
                        raise Refused(self.home.failed(error, True)) from None
                    logger.warning("%s: %s", self.ex, error)
                    return self.ex.driver.fail(self.ex, "upstream_bad_encoding", None)
                self.stats.add(C_DECOMPRESSED + CODING_WORDS + 1, PyBytes_GET_SIZE(piece))
                self.stats.add(C_DECOMPRESSED + CODING_WORDS + 2, PyBytes_GET_SIZE(out))
                if within:
                    self.pass_on(PyBytes_AS_STRING(out), PyBytes_GET_SIZE(out), end)
                else:
                    self.emit(PyBytes_AS_STRING(out), PyBytes_GET_SIZE(out), end)
        finally:
            self.working = False
        return 0
