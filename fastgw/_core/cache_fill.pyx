"""What comes from the service: kept, refreshed, or a reason to forget.

    response    the head, as the policies behind this one left it: may it be kept (RFC 9111 3)? 304: the old one holds
    tap         its bytes, as they leave: into the storage. The client is not held up, nor is what is kept ever half an answer
    record      the exchange is over: what was not finished is dropped, and those who waited are told

Nothing is kept of an answer that somebody else than the service gave.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from fastgw._core.body cimport changed_behind, push
from fastgw._core.cache_answer cimport COPIED, instead, shape
from fastgw._core.cache_flight cimport WAITS, Call
from fastgw._core.cache_freshness cimport KEPT, W_OWN, W_SIZE, W_VARY, Fate, plus_seconds
from fastgw._core.cache_head cimport K_PASS, K_VARIANTS, META_VERSION, Meta, freshened, unpack
from fastgw._core.cache_key cimport varying
from fastgw._core.cache_store cimport FILL_OK, FRESHEN_OK, TAGS_MOST, Fill, Found, Key, Times
from fastgw._core.clock cimport realtime_ns
from fastgw._core.exchange cimport Exchange
from fastgw._core.forwarding cimport random64
from fastgw._core.h1 cimport date_line
from fastgw._core.headers cimport H_DATE, Head, Header
from fastgw._core.record cimport CACHED_REVALIDATED

from urllib.parse import urljoin

from fastgw._core.cache_freshness import WHY

cdef int64_t NS = 1000000000


cdef class Filler(Flights):
    cdef int status(self, Head head, const char *what, bytes more) except -1:
        """One member of Cache-Status (RFC 9211), after those of caches behind us."""
        cdef bytes line
        if self.told:
            line = self.label + what + more
            head.append(b"Cache-Status", 12, PyBytes_AS_STRING(line), PyBytes_GET_SIZE(line))
        return 0

    # ------------------------------------------------------------------ an answer's head

    cdef int keep(self, Exchange ex, Call call) except -1:
        """The final head of the service's answer to `call`, which may be kept: begins to, or says why not."""
        cdef Head head = ex.response
        cdef Fate fate
        cdef int64_t now = realtime_ns()
        cdef int64_t delay = (ex.t_head - call.asked) // NS if ex.t_head > call.asked else 0
        if self.rules.judge(head, call.identified, now // NS, delay, &fate) == KEPT:
            if head.has_length and head.content_length > self.largest:
                fate.why = W_SIZE
            elif ex.fallback is not None or ex.local:
                fate.why = W_OWN
            else:
                self.begin(ex, call, &fate, now)
        why = (b"; stored" if call.fill.entry else b"; detail=" + WHY[fate.why].encode()) if fate.why or call.fill.entry \
            else b"; detail=storage"
        self.status(head, b"; fwd=", call.forward + b"; fwd-status=%d" % head.status + why)
        if call.fill.entry == 0:
            self.refuse(ex, call, now)
        return 0

    cdef int times(self, Fate *fate, int64_t now, int64_t asked, Times *into) except -1:
        into.stored = now
        into.expires = plus_seconds(now, fate.lifetime - fate.age)
        if into.expires < 1:
            into.expires = 1                      # 0 is what a soft purge makes it
        into.keep_until = plus_seconds(into.expires if into.expires > now else now, fate.keep)
        into.asked = asked
        return 0

    cdef int begin(self, Exchange ex, Call call, Fate *fate, int64_t now) except -1:
        """Opens a fill; where that cannot be, the answer goes on without."""
        cdef Head head = ex.response
        cdef Times times
        cdef bytes names = varying(head)
        cdef uint64_t tags[TAGS_MOST]
        cdef int n_tags = 0
        cdef Key key
        cdef bytes line, tag
        cdef list given = self.tags_of(head)
        cdef uint32_t n
        cdef int k
        if names is None:
            fate.why = W_VARY
            return 0
        if head.find_id(H_DATE) == NULL:
            # RFC 9110 6.6.1: who has a clock adds it to what it keeps
            line = date_line()
            head.append(b"Date", 4, PyBytes_AS_STRING(line) + 6, PyBytes_GET_SIZE(line) - 8)
        k = self.packer.pack(head, fate, self.rules)
        if k != 0 or len(given) > TAGS_MOST:
            fate.why = W_SIZE
            return 0
        if fate.lifetime <= fate.age:
            self.packer.meta.flags |= ALONE
        self.times(fate, now, call.asked, &times)
        call.until = times.keep_until
        if names:
            self.mark(ex, call, names, times.keep_until, now)
        memcpy(self.keys.buf, PyBytes_AS_STRING(call.primary), PyBytes_GET_SIZE(call.primary))
        self.keys.n = PyBytes_GET_SIZE(call.primary)
        if names and not self.keys.vary(ex.request, PyBytes_AS_STRING(names), PyBytes_GET_SIZE(names), call.nonce,
                                        PyBytes_GET_SIZE(call.primary)):
            fate.why = W_SIZE
            return 0
        n = self.keys.n
        key = self.storage.key(self.keys.buf, n)
        if self.tiers is not None:
            call.kept = PyBytes_FromStringAndSize(self.keys.buf, n)
            call.tags = given
        for tag in given:
            tags[n_tags] = self.storage.tag(PyBytes_AS_STRING(tag), PyBytes_GET_SIZE(tag))
            n_tags += 1
        self.storage.begin(&call.fill, key, self.keys.buf, n, self.packer.buf, self.packer.n,
                           <const uint8_t*>&self.packer.meta, &times, tags, n_tags,
                           head.content_length if head.has_length and not changed_behind(ex, self) else -1)
        return 0

    cdef int mark(self, Exchange ex, Call call, bytes names, int64_t keep_until, int64_t now) except -1:
        """Notes under the primary name by what its variants are told apart; it must be there as long as they are."""
        cdef Meta meta
        cdef Times times
        cdef Fill fill
        cdef Key key
        if call.nonce and call.names == names and call.names_until >= keep_until:
            return 0
        if not call.nonce or call.names != names:
            call.nonce = random64() | 1
            call.names = names
        memset(&meta, 0, sizeof(Meta))
        memset(&fill, 0, sizeof(Fill))
        meta.version = META_VERSION
        meta.kind = K_VARIANTS
        meta.nonce = call.nonce
        times.stored = now
        # some time more, so that it is not written anew for each variant
        times.keep_until = times.expires = plus_seconds(keep_until, (keep_until - now) // NS // 4 + 60)
        call.names_until = times.keep_until
        times.asked = call.asked
        key = self.storage.key(PyBytes_AS_STRING(call.primary), PyBytes_GET_SIZE(call.primary))
        if self.storage.begin(&fill, key, PyBytes_AS_STRING(call.primary), PyBytes_GET_SIZE(call.primary),
                              PyBytes_AS_STRING(names), PyBytes_GET_SIZE(names), <const uint8_t*>&meta, &times, NULL, 0,
                              0) == FILL_OK:
            self.storage.finish(&fill)
        return 0

    cdef int refuse(self, Exchange ex, Call call, int64_t now) except -1:
        """Its answer is not kept: those who wait go on by themselves, and for a while nobody waits for the like of it."""
        cdef Meta meta
        cdef Times times
        cdef Fill fill
        if call.flight is None:
            return 0
        # nor are slower levels to be asked each time; but what is not kept of one who says who asks, may be of others
        if (call.flight.waiters or (self.tiers is not None and call.flight.key == call.name)) and self.pass_ns \
                and call.found.entry == 0:
            memset(&meta, 0, sizeof(Meta))
            memset(&fill, 0, sizeof(Fill))
            meta.version = META_VERSION
            meta.kind = K_PASS
            times.stored = now
            times.expires = times.keep_until = now + self.pass_ns
            times.asked = call.asked
            if self.storage.begin(&fill, call.key, PyBytes_AS_STRING(call.name), PyBytes_GET_SIZE(call.name), b"", 0,
                                  <const uint8_t*>&meta, &times, NULL, 0, 0) == FILL_OK:
                self.storage.finish(&fill)
        return self.scatter(call.flight)

    cdef list tags_of(self, Head head):
        """Of Surrogate-Key (by spaces) and Cache-Tag (by commas), as they are configured."""
        cdef list found = []
        cdef bytes name
        cdef Header *h
        for name in self.tags:
            h = head.find(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
            if h == NULL:
                continue
            found += [tag for tag in head.value_of(h).replace(b",", b" ").split()]
            if self.strip_tags:
                head.remove_name(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        return list(dict.fromkeys(found))

    # ------------------------------------------------------------------ its bytes

    cdef int tap(self, Exchange ex, const char *p, size_t n, bint end) except -1:
        cdef Call call = <Call>ex.caching
        if call is None:
            return 0
        if call.serving and end:
            return self.tell(ex, call)
        if call.fill.entry == 0:
            return 0
        if n and ((call.fill.body_len + n) > <uint64_t>self.largest or self.storage.append(&call.fill, p, n) != FILL_OK):
            self.storage.drop(&call.fill)
            return self.refuse(ex, call, realtime_ns())
        if n and ex.response.status == 304:
            ex.bytes_out -= n                     # kept, and not sent: the client has it
        if end:
            if self.storage.finish(&call.fill) == FILL_OK and self.tiers is not None:
                self.hand_over(call)
            if call.flight is not None:
                self.land(call.flight)
        return 0

    cdef int hand_over(self, Call call) except -1:
        """Slower levels are told of what is in the memory now; they take it when they come to it."""
        self.tiers.stored(call.kept, call.fill.version, call.asked, tuple(call.tags),
                          None if call.flight is None else call.flight.key,
                          call.primary if call.kept != call.primary else None)
        return 0

    cdef int tell(self, Exchange ex, Call call) except -1:
        """The end of a 304: the body that is kept, for those before this one in the chain, and the client."""
        cdef const char *p
        cdef size_t n
        cdef uint64_t at = call.portion.parts[0].first
        cdef uint64_t left = call.portion.parts[0].length
        call.serving = False
        while left:
            p = self.storage.piece(&call.found, at, &n)
            if p == NULL or n == 0:
                raise RuntimeError("a kept answer cannot be read")
            if n > left:
                n = <size_t>left
            push(ex, call.at, p, n, False)
            if ex.caching is not call:
                return 0
            at += n
            left -= n
        return call.release()

    cdef int forget(self, Exchange ex, Call call) except -1:
        """The exchange is over."""
        ex.caching = None
        call.release()
        if call.what == WAITS:
            return self.leave(ex, call)
        if call.fill.entry:
            self.storage.drop(&call.fill)
        if call.flight is not None:
            if ex.code is not None and ex.side > 1:
                self.fail(call.flight, ex.code)
            else:
                self.hand_on(call.flight)         # its client left, or a policy refused it
        return 0

    # ------------------------------------------------------------------ an old answer, and what is said of it

    cdef int refreshed(self, Exchange ex, Call call) except -1:
        """304: the old answer holds. It gets the new fields (RFC 9111 4.3.4), is kept on, and is what the client gets."""
        cdef Head stored = Head(), news = ex.response
        cdef Fate fate
        cdef Times times
        cdef int64_t now = realtime_ns()
        cdef Found found = call.found
        if not unpack(found.head, found.head_len, &call.meta, stored):
            raise RuntimeError("a kept answer cannot be read")
        freshened(stored, news)
        stored.content_length = <int64_t>found.body_len
        stored.has_length = True
        if self.rules.judge(stored, call.identified, now // NS, (ex.t_head - call.asked) // NS, &fate) == KEPT \
                and self.packer.pack(stored, &fate, self.rules) == 0:
            if fate.lifetime <= fate.age:
                self.packer.meta.flags |= ALONE
            self.times(&fate, now, call.asked, &times)
            if self.storage.freshen(call.key, found.version, self.packer.buf, self.packer.n,
                                    <const uint8_t*>&self.packer.meta, &times) == FRESHEN_OK and self.tiers is not None:
                self.tiers.stored(call.name, found.version, call.asked, None,
                                  None if call.flight is None else call.flight.key, None)
        else:
            self.storage.purge_name(PyBytes_AS_STRING(call.name), PyBytes_GET_SIZE(call.name), False)
        ex.response = stored
        ex.empty = False
        stored.remove_name(b"age", 3)
        self.status(stored, b"; fwd=", call.forward + b"; fwd-status=304")
        ex.cached = CACHED_REVALIDATED
        if call.flight is not None:
            self.land(call.flight)
        if call.background:
            return 0
        shape(ex, &found, &call.meta, call.lines, &call.portion)
        if call.portion.count <= 1 and (call.portion.count == 0 or call.portion.parts[0].length <= COPIED):
            call.serving = call.portion.count == 1
            ex.passed = ex.entered + 1            # its body is told from here on, see `tap`
            return 0
        call.found.entry = 0                      # handed on
        ex.passed = ex.entered
        return instead(ex, self.storage, &found, &call.portion)

    cdef int head_seen(self, Exchange ex, Call call) except -1:
        """RFC 9111 4.3.5: the answer to HEAD says whether the kept one still holds."""
        cdef Head news = ex.response, stored = Head()
        cdef Header *mine
        cdef Header *theirs
        cdef Fate fate
        cdef Times times
        cdef bint same = news.status == call.meta.status and (
            not news.has_length or news.content_length == <int64_t>call.found.body_len)
        cdef int64_t now = realtime_ns()
        if news.status == 304 or not unpack(call.found.head, call.found.head_len, &call.meta, stored):
            return 0
        for name in (b"etag", b"last-modified"):
            mine = stored.find(PyBytes_AS_STRING(name), len(name))
            theirs = news.find(PyBytes_AS_STRING(name), len(name))
            if (mine == NULL) != (theirs == NULL) or (
                    mine != NULL and stored.value_of(mine) != news.value_of(theirs)):
                same = False
        if not same:
            if news.status < 400:
                self.storage.purge_name(PyBytes_AS_STRING(call.name), PyBytes_GET_SIZE(call.name), False)
            return 0
        freshened(stored, news)
        if self.rules.judge(stored, call.identified, now // NS, (ex.t_head - call.asked) // NS, &fate) == KEPT \
                and self.packer.pack(stored, &fate, self.rules) == 0:
            self.times(&fate, now, call.asked, &times)
            self.storage.freshen(call.key, call.found.version, self.packer.buf, self.packer.n,
                                 <const uint8_t*>&self.packer.meta, &times)
        return 0

    # ------------------------------------------------------------------ unsafe methods

    cdef int invalidate(self, Exchange ex) except -1:
        """RFC 9111 4.4: after a success of an unsafe method what is kept of its target is forgotten, and of what its
        Location and Content-Location name, where they are of the same origin."""
        cdef int status = ex.response.status
        if status < 200 or status > 399:
            return 0
        if self.keys.make(ex):
            self._forget()
        self._other(ex, b"location", 8)
        return self._other(ex, b"content-location", 16)

    cdef int _forget(self) except -1:
        self.storage.purge_name(self.keys.buf, self.keys.n, False)
        if self.teller is not None:
            self.teller.forget(PyBytes_FromStringAndSize(self.keys.buf, self.keys.n))
        return 0

    cdef int _other(self, Exchange ex, const char *name, size_t n) except -1:
        cdef Header *h = ex.response.find(name, n)
        cdef bytes target, origin
        if h == NULL:
            return 0
        target = ex.response.value_of(h).partition(b"#")[0]
        origin = (b"https://" if ex.secure else b"http://") \
            + ex.request.buf[ex.authority:ex.authority + ex.authority_len].lower()
        if target[:len(origin)].lower() == origin and target[len(origin):len(origin) + 1] in (b"/", b"?", b""):
            target = target[len(origin):] or b"/"
        elif b"://" in target.partition(b"?")[0] or target.startswith(b"//"):
            return 0
        elif not target.startswith(b"/"):
            # RFC 3986 5.3: relative to the path that was asked for
            path = ex.request.buf[ex.path:ex.path + ex.path_len]
            target = urljoin(path.decode("latin-1"), target.decode("latin-1")).encode("latin-1")
        return self._forget() if self.keys.for_target(ex, PyBytes_AS_STRING(target), PyBytes_GET_SIZE(target)) else 0
