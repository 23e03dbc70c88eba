"""The hot half of `compress`: bodies of responses in an encoding that the client takes.

A body that soon comes to its end is compressed by one call, which costs half of what pieces of it cost; up to a bound
where it stands, beyond by a thread (offload.pyx). One that is large, or slow, goes piece after piece, while the
upstream is read on until enough waits. Nothing is held for long: what came is flushed when the upstream has said
nothing for a moment, and at the end of the loop's turn where the answer is a stream of events.
"""
from libc.stdint cimport int64_t
from libc.string cimport memset
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from fastgw._core.body cimport stand
from fastgw._core.clock cimport Timer, timer_detach
from fastgw._core.exchange cimport CONTINUE, PHASE_FILTER, PHASE_REQUEST, PHASE_RESPONSE, Exchange, Hook
from fastgw._core.headers cimport H_AUTHORIZATION, H_COOKIE, Head, Header, equals_lower
from fastgw._core.record cimport C_COMPRESSED, CODING_WORDS
from fastgw._core.respond cimport Relay

cdef enum:
    INLINE = 32768               # bytes between two flushes that are compressed in the loop
    ENOUGH = 262144              # bytes that wait for a thread before the upstream is not read any more
    WHOLE = 262144               # bytes of a body, at most, that may be compressed by one call
    PAUSES = 4                   # times the pause that a body may take to be whole
    TYPES = 1024                 # media types whose fitness is remembered
    ETAG_WEAKEN = 0
    ETAG_SUFFIX = 1
    ETAG_REMOVE = 2
    ALWAYS = 0
    SAME_SITE = 1
    NEVER = 2

# They speak of the bytes of the body (RFC 9530 2 and 3; Content-MD5, RFC 1864), or of ranges of them.
cdef tuple OF_THE_BYTES = (b"content-md5", b"digest", b"content-digest", b"repr-digest", b"accept-ranges")
# Each of them is to be there soon, however small.
cdef frozenset EAGER = frozenset((
    b"text/event-stream", b"application/x-ndjson", b"application/jsonl", b"application/json-seq", b"application/stream+json",
))


cdef int quality(bytes text):
    """RFC 9110 12.4.2: thousandths; -1 for what is no weight."""
    cdef bytes digits
    if text in (b"1", b"1.", b"1.0", b"1.00", b"1.000"):
        return 1000
    if text in (b"0", b"0."):
        return 0
    if not text.startswith(b"0.") or len(text) > 5:
        return -1
    digits = text[2:]
    return int(digits.ljust(3, b"0")) if digits.isdigit() else -1


cdef int weigh(dict found, bytes line) except -1:
    """Adds what one Accept-Encoding line says."""
    cdef bytes item, name, text
    cdef int q
    for item in line.lower().split(b",")[:64]:
        name, _, text = item.partition(b";")
        name = name.strip()
        text = text.strip()
        q = 1000
        if text:
            q = quality(text[2:].strip()) if text.startswith(b"q=") else -1
        if name and q >= 0:
            found[b"gzip" if name == b"x-gzip" else name] = q
    return 0


cdef dict weights(Head head):
    """RFC 9110 12.5.3: coding → thousandths, of all Accept-Encoding lines as they were received. None without any."""
    cdef dict found = None
    cdef Header *h
    cdef int i
    for i in range(head.count):
        h = &head.items[i]
        # also of one that a policy took away from what goes to the service, and not one that it put there
        if h.name_len != 15 or h.name >= head.head_len or not equals_lower(head.buf + h.name, b"accept-encoding", 15):
            continue
        if found is None:
            found = {}
        weigh(found, head.value_of(h))
    return found


cdef int preferred(tuple names, dict q) except -2:
    """RFC 9110 12.5.3: the index of the encoding, -1 for none."""
    cdef int best = -1, most = 0, value, i, plain
    if not q:
        return -1
    other = q.get(b"*", 0)
    # not named, `identity` is acceptable; who names encodings prefers them
    plain = q.get(b"identity", 0)
    for i in range(len(names)):
        value = q.get(names[i], other)
        if value > most:
            best, most = i, value
    return best if most >= plain else -1


def preference(names, lines):
    cdef dict found = {}
    for line in lines:
        weigh(found, line)
    return preferred(tuple(names), found)


cdef bint lists(Head head, const char *name, size_t n, bytes token) except -1:
    """Does a header that is a list have this token, its arguments aside?"""
    cdef Header *h
    cdef bytes item
    cdef int i
    if head.find(name, n) == NULL:
        return False
    for i in range(head.count):
        h = &head.items[i]
        if not h.drop and h.name_len == n and equals_lower(head.buf + h.name, name, n):
            for item in head.value_of(h).lower().split(b","):
                if item.partition(b"=")[0].strip() == token:
                    return True
    return False


cdef bytes received(Head head, const char *name, size_t n):
    """The values of a request's header as the client sent it."""
    cdef Header *h
    cdef list found = []
    cdef int i
    for i in range(head.count):
        h = &head.items[i]
        if h.name_len == n and h.name < head.head_len and equals_lower(head.buf + h.name, name, n):
            found.append(head.value_of(h))
    return b", ".join(found)


cdef list tags_of(bytes value):
    """RFC 9110 8.8.3: the entity tags of a list, as written. None when it is no such list."""
    cdef list found = []
    cdef Py_ssize_t at = 0, begin, end, n = len(value)
    while at < n:
        if value[at:at + 1] in b" \t,":
            at += 1
            continue
        begin = at
        if value[at:at + 2] == b"W/":
            at += 2
        if value[at:at + 1] != b'"':
            return None
        end = value.find(b'"', at + 1)
        if end < 0 or len(found) >= 64:
            return None
        found.append(value[begin:end + 1])
        at = end + 1
    return found


cdef class Compress(Hook):
    """`Compress(codings, wanted, min_size, pause in ns, etags, credentials, most, strip, offload)`; `codings` are
    (name, kind, of a whole body, maker), best first."""

    def __init__(self, codings, wanted, int64_t min_size, int64_t pause, int etags, int credentials, int most,
                 bint strip, Offload offload):
        self.name = "compress"
        self.phases = PHASE_REQUEST | PHASE_RESPONSE | PHASE_FILTER
        if len(codings) > MAX_CODINGS:
            raise ValueError("too many encodings")
        self.names, self.kinds, self.wholes, self.makers = zip(*codings)
        self.wanted = wanted
        self.types = {}
        self.min_size = min_size
        self.pause_ns = pause
        self.etags = etags
        self.credentials = credentials
        self.most = most
        self.strip = strip
        self.offload = offload

    def __repr__(self):
        return f"<Compress {self.active} bodies>"

    # ------------------------------------------------------------------ the request

    cdef int request(self, Exchange ex) except -1:
        cdef Head head = ex.request
        self._unmark(head, b"if-none-match")
        self._unmark(head, b"if-match")
        if self.strip:
            head.remove_name(b"accept-encoding", 15)
        return CONTINUE

    def _unmark(self, Head head, bytes name):
        """The service knows its own entity tags: those we made of them get company of what they were made of.

        What was weakened here was strong, or else the service's own tag is weak and the other one fits nothing."""
        cdef bytes value, tag, was, suffix
        cdef list found
        if head.find(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name)) == NULL or self.etags == ETAG_REMOVE:
            return
        value = b", ".join([item.encode("latin-1") for item in head.get_all(name.decode())])
        found = tags_of(value)
        if found is None:
            return
        more = []
        for tag in found:
            if self.etags == ETAG_WEAKEN:
                if tag.startswith(b"W/"):
                    more.append(tag[2:])
            else:
                for suffix in self.names:
                    was = b"-" + suffix + b'"'
                    if tag.endswith(was):
                        more.append(tag[:-len(was)] + b'"')
        more = [tag for tag in more if tag not in found]
        if more:
            head.set(name.title().decode(), b", ".join(found + more).decode("latin-1"))

    # ------------------------------------------------------------------ the answer's head

    cdef int response(self, Exchange ex) except -1:
        cdef Head head = ex.response
        cdef Header *h
        cdef int at
        cdef bint known
        cdef bytes kind
        if ex.upgraded or head.status < 200 or not isinstance(ex.driver, Relay):
            return CONTINUE
        if head.status == 304:
            return self._not_modified(ex)
        if not self._fitting(ex):
            return CONTINUE
        # RFC 9110 12.5.5: also said of the plain answers, which are one choice of several
        if not lists(head, b"vary", 4, b"accept-encoding") and not lists(head, b"vary", 4, b"*"):
            head.append(b"Vary", 4, b"Accept-Encoding", 15)
        if ex.local_body is not None and ex.local:
            known = len(ex.local_body) < self.min_size
        elif ex.response_buffer is not None:
            known = len(ex.response_buffer) < self.min_size
        else:
            known = head.has_length and head.content_length < self.min_size
        if known or self._private(ex):
            return CONTINUE
        at = preferred(self.names, weights(ex.request))
        if at < 0:
            return CONTINUE
        h = head.find(b"content-type", 12)
        kind = head.value_of(h).partition(b";")[0].strip().lower()
        return self._start(ex, at, kind in EAGER)

    cdef bint _fitting(self, Exchange ex) except -1:
        """May this answer be encoded, and is it of a kind that is worth it?"""
        cdef Head head = ex.response
        cdef Header *h
        cdef bytes kind
        # RFC 9110 15.3.7: of a part; the whole would be another one. 204 and 205 have no body.
        if head.status == 206 or head.status == 204 or head.status == 205 \
                or head.find(b"content-encoding", 16) != NULL or head.find(b"content-range", 13) != NULL:
            return False
        h = head.find(b"content-type", 12)
        if h == NULL:
            return False
        kind = head.value_of(h).partition(b";")[0].strip().lower()
        if kind.startswith(b"application/grpc"):
            return False                          # its messages have a compression of their own
        fits = self.types.get(kind)
        if fits is None:
            fits = bool(self.wanted(kind))
            if len(self.types) < TYPES:
                self.types[kind] = fits
        # RFC 9111 5.2.2.6 and 5.2.1.6
        return fits and not lists(head, b"cache-control", 13, b"no-transform") \
            and not lists(ex.request, b"cache-control", 13, b"no-transform")

    cdef bint _private(self, Exchange ex) noexcept:
        """BREACH: can a page of another site have made the user's browser ask for what holds secrets?"""
        cdef Head head = ex.request
        cdef Header *h
        cdef int i
        cdef bint found = False
        if self.credentials == ALWAYS:
            return False
        for i in range(head.count):
            # also those that a policy has taken away: the service answers by who it is
            if head.items[i].id == H_COOKIE or head.items[i].id == H_AUTHORIZATION:
                found = True
        if not found or self.credentials == NEVER:
            return found
        h = head.find(b"sec-fetch-site", 14)
        if h == NULL:
            # no browser of today; or one that is asked over plain HTTP, and then says by Origin or Referer who asks
            return head.find(b"origin", 6) != NULL or head.find(b"referer", 7) != NULL
        return not ((h.value_len == 11 and equals_lower(head.buf + h.value, b"same-origin", 11))
                    or (h.value_len == 9 and equals_lower(head.buf + h.value, b"same-site", 9))
                    or (h.value_len == 4 and equals_lower(head.buf + h.value, b"none", 4)))

    cdef int _start(self, Exchange ex, int at, bint eager) except -1:
        cdef Relay relay = <Relay>ex.driver
        cdef Encoder stage
        if self.active >= self.most and not ex.is_head:
            return CONTINUE                       # each has some hundred KiB of its own
        stage = Encoder()
        if not ex.is_head:
            stage.maker = self.makers[at]
            if not eager and not (ex.response.has_length and ex.response.content_length > WHOLE):
                stage.whole = self.wholes[at]
            else:
                stage.compress, stage.flush, stage.finish = stage.maker()
            self.active += 1
            stage.home = self
            stage.kind = <int>self.kinds[at]
            relay.stats.add(C_COMPRESSED + CODING_WORDS * stage.kind, 1)
        stage.reactor = relay.reactor
        stage.stats = relay.stats
        stage.eager = eager
        stand(ex, stage)
        return self._mark(ex, at)

    cdef int _mark(self, Exchange ex, int at) except -1:
        """The head of what is encoded: RFC 9110 8.4, 8.6, 8.8.1."""
        cdef Head head = ex.response
        cdef bytes coding = <bytes>self.names[at]
        cdef bytes tag, name
        cdef Header *h
        head.has_length = False
        for name in OF_THE_BYTES:
            head.remove_name(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        head.append(b"Content-Encoding", 16, PyBytes_AS_STRING(coding), PyBytes_GET_SIZE(coding))
        h = head.find(b"etag", 4)
        if h == NULL:
            return CONTINUE
        tag = self._tag(head.value_of(h), coding)
        head.remove_name(b"etag", 4)
        if tag is not None:
            head.append(b"ETag", 4, PyBytes_AS_STRING(tag), PyBytes_GET_SIZE(tag))
        return CONTINUE

    def _tag(self, bytes tag, bytes coding):
        """RFC 9110 8.8.3.3: other bytes have another strong tag, or a weak one."""
        if tag.startswith(b"W/"):
            return tag
        if self.etags == ETAG_WEAKEN:
            return b"W/" + tag
        if self.etags == ETAG_SUFFIX and len(tag) > 1 and tag.endswith(b'"'):
            return tag[:-1] + b"-" + coding + b'"'
        return None

    cdef int _not_modified(self, Exchange ex) except -1:
        """RFC 9110 15.4.5: with the tag that the client has, made from the one the service knows."""
        cdef Head head = ex.response
        cdef Header *h = head.find(b"etag", 4)
        cdef bytes tag, made, coding
        if not lists(head, b"vary", 4, b"accept-encoding") and not lists(head, b"vary", 4, b"*"):
            head.append(b"Vary", 4, b"Accept-Encoding", 15)
            h = head.find(b"etag", 4)
        if h == NULL or self.etags == ETAG_REMOVE:
            return CONTINUE
        tag = head.value_of(h)
        asked = tags_of(received(ex.request, b"if-none-match", 13))
        if asked is None or tag in asked:
            return CONTINUE
        for coding in self.names:
            made = self._tag(tag, coding)
            if made is not None and made in asked:
                head.remove_name(b"etag", 4)
                head.append(b"ETag", 4, PyBytes_AS_STRING(made), PyBytes_GET_SIZE(made))
                break
        return CONTINUE


cdef bytes joined(list pieces):
    return <bytes>pieces[0] if len(pieces) == 1 else b"".join(pieces)


cdef class Encoder(Stage):
    def __cinit__(self):
        memset(&self.timer, 0, sizeof(Timer))
        self.timer.owner = <void*>self
        self.waiting = []

    def __dealloc__(self):
        timer_detach(&self.timer)

    cdef int feed(self, const char *p, size_t n, bint end) except -1:
        cdef bytes out
        self.stats.add(C_COMPRESSED + CODING_WORDS * self.kind + 1, n)
        self.fresh += n
        self.ended = end
        self.moved = self.reactor.now
        if self.whole is not None:
            return self._gather(p, n)
        if self.busy or self.fresh > INLINE:
            if n:
                self.waiting.append(PyBytes_FromStringAndSize(p, n))
                self.held += n
            if not self.busy:
                self._begin()
            return 0
        out = self.compress(PyBytes_FromStringAndSize(p, n)) if n else b""
        if end:
            out += self.finish()
        elif self.eager:
            if not self.marked:
                self.marked = True
                self.reactor.lastly(self)
        elif self.timer.due == 0:
            self.reactor.wheel.arm(&self.timer, self.reactor.now + self.home.pause_ns)
        self._count(out)
        return self.pass_on(PyBytes_AS_STRING(out), PyBytes_GET_SIZE(out), end)

    cdef int _count(self, bytes out) except -1:
        self.stats.add(C_COMPRESSED + CODING_WORDS * self.kind + 2, PyBytes_GET_SIZE(out))
        return 0

    cdef int _gather(self, const char *p, size_t n) except -1:
        cdef bytes out
        if not self.waiting:
            self.begun = self.moved
        if n:
            self.waiting.append(PyBytes_FromStringAndSize(p, n))
            self.held += n
        if self.held > WHOLE:
            return self._into_pieces()
        if not self.ended:
            if self.timer.due == 0:
                self.reactor.wheel.arm(&self.timer, self.moved + self.home.pause_ns)
            return 0
        if self.held > INLINE:
            return self._begin()
        out = bytes(self.whole(joined(self.waiting)))
        self.waiting = []
        self._count(out)
        return self.pass_on(PyBytes_AS_STRING(out), PyBytes_GET_SIZE(out), True)

    cdef int _into_pieces(self) except -1:
        """It is too large or too slow: what waits is its first piece, and flushed."""
        cdef bytes out
        self.whole = None
        self.compress, self.flush, self.finish = self.maker()
        if self.held > INLINE:
            self.flush_due = True
            return self._begin()
        out = self.compress(joined(self.waiting)) + self.flush()
        self.waiting = []
        self.held = self.fresh = 0
        return self._out(out, False)

    cdef int _out(self, bytes out, bint end) except -1:
        self._count(out)
        return self.emit(PyBytes_AS_STRING(out), PyBytes_GET_SIZE(out), end)

    cdef bint full(self) noexcept:
        return self.held > ENOUGH

    # ------------------------------------------------------------------ flushes

    cdef int on_last(self) except -1:
        self.marked = False
        return self._flush()

    cdef int on_timer(self, Timer *timer) except -1:
        cdef int64_t due
        if self.ex is None or self.ended:
            return 0
        due = self.moved + self.home.pause_ns
        if self.whole is not None:
            due = min(due, self.begun + PAUSES * self.home.pause_ns)
        if due > self.reactor.now:
            self.reactor.wheel.arm(timer, due)
            return 0
        return self._flush() if self.whole is None else self._into_pieces()

    cdef int _flush(self) except -1:
        """The upstream says nothing for now: what came of it is to be with the client."""
        if self.ex is None or self.ended or self.fresh == 0:
            return 0
        if self.busy:
            self.flush_due = True
            return 0
        self.fresh = 0
        return self._out(self.flush(), False)

    # ------------------------------------------------------------------ a thread

    cdef int _begin(self) except -1:
        cdef Piece piece = Piece()
        piece.home = self
        piece.whole = self.whole
        piece.compress, piece.finish, piece.flush = self.compress, self.finish, self.flush
        piece.pieces, self.waiting = self.waiting, []
        piece.end = self.ended
        # a stream is not held, and what the thread has is flushed by it
        piece.flushing = (self.eager or self.flush_due) and not self.ended
        self.flush_due = False
        self.busy = True
        if piece.flushing:
            self.fresh = 0
        return self.home.offload.submit(self.reactor, piece)

    cdef int finished(self, Piece piece) except -1:
        cdef bytes part
        cdef Exchange ex = self.ex
        self.busy = False
        if ex is None:
            return 0
        self.reactor.outside()
        if piece.error is not None:
            raise piece.error
        for part in piece.pieces:
            self.held -= PyBytes_GET_SIZE(part)
        self._out(piece.out, piece.end)
        if self.ex is None or piece.end or self.busy:
            return 0
        if self.waiting or self.ended:
            return self._begin()
        if self.eager or self.flush_due:
            self.flush_due = False
            return self._flush()
        if self.timer.due == 0:
            self.reactor.wheel.arm(&self.timer, self.reactor.now + self.home.pause_ns)
        return 0

    cdef int gone(self) except -1:
        self.reactor.wheel.unlink(&self.timer)
        if self.home is not None:
            self.home.active -= 1
            self.home = None
        self.waiting = []
        self.whole = self.maker = self.compress = self.flush = self.finish = None
        return 0


cdef class Piece(Job):
    cdef int work(self) except -1:
        cdef bytes out
        if self.whole is not None:
            self.out = bytes(self.whole(joined(self.pieces)))
            return 0
        out = self.compress(joined(self.pieces))
        if self.end:
            out += self.finish()
        elif self.flushing:
            out += self.flush()
        self.out = out
        return 0

    cdef int done(self) except -1:
        cdef Encoder home = self.home
        cdef Exchange ex = home.ex
        try:
            return home.finished(self)
        except Exception:
            if ex is not None and home.ex is ex:
                ex.driver.fail(ex, "internal_error", None)
            raise
