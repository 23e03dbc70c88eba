"""The service is asked: for the whole answer, for news of an old one, and, on the cache's own account, for a new one."""
import logging

from fastgw._core.cache_fill cimport Filler
from fastgw._core.cache_flight cimport Call
from fastgw._core.cache_head cimport unpack
from fastgw._core.exchange cimport Downstream, Exchange
from fastgw._core.headers cimport Head, Header
from fastgw._core.likeness cimport ask_alike
from fastgw._core.reactor cimport Handler
from fastgw._core.respond cimport Relay

logger = logging.getLogger("fastgw.policy")


cdef class Sink(Downstream):
    cdef int finished(self, Exchange ex) except -1:
        cdef Call call = self.call
        self.call = None
        return 0 if call is None else self.home.over(call, ex)


cdef class Launch(Handler):
    """Sends the requests of the cache's own, outside of the call that wanted them."""
    cdef int on_ready(self) except -1:
        return self.home.run_launching()


cdef class Refresher(Filler):
    def __cinit__(self, *args, **kwargs):
        self.launching = []
        self.launch = Launch()
        self.launch.home = self

    cdef int strip(self, Exchange ex, Call call) except -1:
        """The request as it goes to the service: for the whole answer, or for news of the old one (RFC 9111 4.3.1)."""
        cdef Head head = ex.request
        cdef const char *etag
        cdef Header *h
        cdef Head kept
        head.remove_name(b"if-none-match", 13)
        head.remove_name(b"if-modified-since", 17)
        if call.found.entry == 0:
            return 0
        kept = Head()
        if not unpack(call.found.head, call.found.head_len, &call.meta, kept):
            return call.release()
        head.remove_name(b"range", 5)
        head.remove_name(b"if-range", 8)
        if call.meta.etag_len:
            etag = call.found.head + call.meta.etag
            head.append(b"If-None-Match", 13, etag, call.meta.etag_len)
            call.conditional = True
        h = kept.find(b"last-modified", 13)
        if h != NULL:
            head.append(b"If-Modified-Since", 17, kept.buf + h.value, h.value_len)
            call.conditional = True
        return 0

    # ------------------------------------------------------------------ in the background

    cdef int refresh(self, Exchange ex, Call call) except -1:
        """RFC 5861 3: the old answer leaves, and the service is asked on the cache's own account. `call` goes with that."""
        cdef Relay relay = <Relay>ex.driver
        cdef Exchange own
        cdef Sink sink
        if call.name in self.flights or self.lead(call, call.name, False) is None:
            return call.release()
        sink = Sink()
        own = relay.take()
        ask_alike(own, ex)
        own.down = sink
        sink.home = self
        sink.call = call
        own.route = ex.route
        own.detached = own.request_done = True
        own.body_limit = ex.body_limit
        own.at = ex.at + 1
        own.caching = call
        call.ex = own
        call.background = True
        self.launching.append(own)
        return relay.reactor.later(self.launch)

    cdef int run_launching(self) except -1:
        cdef Exchange own
        cdef Relay relay
        cdef list batch = self.launching
        self.launching = []
        for own in batch:
            relay = <Relay>own.driver
            relay.started(own)
            try:
                self.strip(own, <Call>own.caching)
                if own.route.total_ns:
                    own.total_at = relay.reactor.now + own.route.total_ns
                    relay.reactor.wheel.arm(&own.total, own.total_at)
                relay.hooks(own)
            except Exception as error:
                logger.error("an answer could not be refreshed", exc_info=error)
                relay.fail(own, "internal_error", None)
        return 0

    cdef int over(self, Call call, Exchange ex) except -1:
        return self.forget(ex, call)
