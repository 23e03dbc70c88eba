"""Stage `pool`: endpoints whose connections carry many exchanges at once.

Whoever comes takes a connection that has room. Without one another is opened, unless those under way will have room for
all that wait. When ALPN says HTTP/1.1, the endpoint is one like any other from then on.
"""
from fastgw._core.dial cimport Dialed
from fastgw._core.exchange cimport Exchange
from fastgw._core.pool cimport Endpoint, PooledStream
from fastgw._core.upstream cimport H1Opener, H1Upstream


cdef class SharedConnection(Dialed):
    cdef bint room(self) noexcept:
        return False

    cdef bint quiet(self) noexcept:
        return True

    cdef int carry(self, Exchange ex) except -1:
        raise NotImplementedError

    cdef int part(self) except -1:
        raise NotImplementedError


cdef class SharedEndpoint(Endpoint):
    def __init__(self, H1Opener plain, int most, *given):
        Endpoint.__init__(self, *given)
        self.fallback = plain
        self.shared = []
        self.most = self.per_connection = most

    def retire(self):
        cdef SharedConnection connection
        Endpoint.retire(self)
        for connection in list(self.shared):
            connection.part()

    @property
    def idle_count(self):
        cdef SharedConnection connection
        quiet = 0
        for connection in self.shared:
            quiet += connection.quiet()
        return len(self.idle) + quiet

    cdef int checkout(self, Exchange ex, bint fresh) except -1:
        cdef SharedConnection connection
        for connection in self.shared:
            if connection.room():
                self.busy += 1
                self.reuses += 1
                ex.endpoint = self
                return connection.carry(ex)       # CONTINUE
        return Endpoint.checkout(self, ex, fresh)

    cdef int ready(self, SharedConnection connection) except -1:
        """A connection that was asked for speaks HTTP/2."""
        self.connecting -= 1
        self.opening.discard(connection)
        if self.per_connection == 1 and self.plain:
            self.plain = False
            self.per_connection = self.most
        self.shared.append(connection)
        return self.room_made(connection)

    cdef int plain_ready(self, SharedConnection connection) except -1:
        """ALPN said HTTP/1.1: one exchange at a time, and a connection for each of those that wait."""
        cdef H1Upstream stream = H1Upstream(self.fallback, self)
        stream.adopt(connection.channel)
        connection.channel = None
        self.opening.discard(connection)
        self.opening.add(stream)
        self.plain = True
        self.per_connection = 1
        while len(self.waiting) > self.connecting and self.connections < self.limits.max_connections:
            self._open()
        return stream.established()

    cdef int room_made(self, SharedConnection connection) except -1:
        cdef Exchange ex
        while self.waiting and connection.room():
            ex = self.waiting.popleft()
            self.busy += 1
            connection.carry(ex)
            ex.driver.connected(ex, ex.up)
        return self._arm()

    cdef int open_failed(self, PooledStream stream, str code) except -1:
        """Those that no other connection under way could carry fail with it."""
        cdef Exchange ex
        cdef list failed = []
        self.connecting -= 1
        self.opening.discard(stream)
        self.connections -= 1
        self.connect_errors += 1
        while self.waiting and len(failed) < self.per_connection \
                and (not failed or len(self.waiting) > self.connecting * self.per_connection):
            failed.append(self.waiting.popleft())
        self._arm()
        for ex in failed:
            ex.driver.pool_failed(ex, code)
        return 0

    cdef int parted(self, SharedConnection connection) except -1:
        """It takes no more; others are opened for those that wait."""
        if connection in self.shared:
            self.shared.remove(connection)
        if connection.gone and connection.counted:
            connection.counted = False
            self.connections -= 1
        if not self.retired and len(self.waiting) > self.connecting * self.per_connection \
                and self.connections < self.limits.max_connections:
            self._open()
            return self._arm()
        return 0
