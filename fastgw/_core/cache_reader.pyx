"""The body of a kept answer, on its way to a client: towards the exchange it is an upstream like any other.

It gives piece by piece what lies in the storage, without a copy of the whole, and stops where the client is slower.
"""
from libc.stdint cimport uint64_t
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastgw._core.exchange cimport S_DONE, S_RELAY, Exchange, UpstreamStream

cdef enum:
    PIECE = 65536
    TURN = 524288            # bytes; then the others have theirs


cdef class Reader(UpstreamStream):
    def __dealloc__(self):
        if self.storage is not None:
            self.storage.release(&self.found)

    cdef int begin(self, Exchange ex) except -1:
        """Becomes the exchange's upstream; goes on by itself when the head is out."""
        self.ex = ex
        ex.up = self
        return self.relay.reactor.lastly(self)

    cdef int on_last(self) except -1:
        return self.pump()

    cdef int want_data(self, Exchange ex) except -1:
        return self.pump() if self.ex is ex else 0

    cdef int cancel(self, Exchange ex) except -1:
        if self.ex is ex:
            self.ex = None
            ex.up = None
            self.storage.release(&self.found)
        return 0

    cdef int on_broken(self) except -1:
        if self.ex is not None:
            self.relay.fail(self.ex, "internal_error", None)
        return 0

    cdef int pump(self) except -1:
        cdef Exchange ex = self.ex
        cdef const char *p
        cdef size_t n
        cdef size_t turn = 0
        cdef bytes words
        if self.pumping or ex is None or ex.state != S_RELAY:
            return 0
        self.pumping = True
        try:
            while self.ex is ex and self.now_at < self.count:
                if self.sent == 0 and self.between is not None:
                    words = self.between[self.now_at]
                    self.relay.response_data(ex, PyBytes_AS_STRING(words), PyBytes_GET_SIZE(words))
                    if self.ex is not ex:
                        return 0
                while self.sent < self.ranges[self.now_at].length:
                    if ex.clogged or not ex.down.writable():
                        ex.down.flush()
                        return 0                          # goes on when it has drained
                    if turn >= TURN:
                        ex.down.flush()
                        return self.relay.reactor.lastly(self)
                    p = self.storage.piece(&self.found, self.ranges[self.now_at].first + self.sent, &n)
                    if p == NULL or n == 0:
                        return self.relay.fail(ex, "internal_error", None)
                    if n > PIECE:
                        n = PIECE
                    if n > self.ranges[self.now_at].length - self.sent:
                        n = <size_t>(self.ranges[self.now_at].length - self.sent)
                    self.sent += n
                    turn += n
                    self.relay.response_data(ex, p, n)
                    if self.ex is not ex:
                        return 0
                self.now_at += 1
                self.sent = 0
            if self.ex is ex:
                return self._over()
        finally:
            self.pumping = False
        return 0

    cdef int _over(self) except -1:
        cdef Exchange ex = self.ex
        cdef bytes words
        if self.between is not None:
            words = self.between[self.count]
            self.relay.response_data(ex, PyBytes_AS_STRING(words), PyBytes_GET_SIZE(words))
            if self.ex is not ex:
                return 0
        self.ex = None
        ex.up = None
        self.storage.release(&self.found)
        self.relay.response_end(ex)
        return self.relay.settle(ex)
