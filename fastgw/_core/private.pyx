"""Stage `pool`: HTTP/1.1 connections that carry the requests of one client, because they began by telling who it is.

A connection is nobody's until its first request. From then on it is kept for the client of its PROXY header alone: it goes
to no other one that waits, and the one that was idle longest gives way when there is no room for another client.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastgw._core.announce cimport announcement
from fastgw._core.exchange cimport CONTINUE, Exchange
from fastgw._core.pool cimport Endpoint, Limits, PooledStream
from fastgw._core.reactor cimport ChannelMaker, Reactor
from fastgw._core.upstream cimport H1Opener, H1Upstream


cdef class PrivateOpener(H1Opener):
    """Of endpoints whose limits have a version of the PROXY protocol."""

    cdef PooledStream open(self, Endpoint endpoint):
        cdef PrivateConnection stream = PrivateConnection(self, endpoint)
        stream.dial()
        return stream

    cdef Endpoint endpoint(self, Reactor reactor, str name, str url, bytes host, tuple addresses, Limits limits,
                           ChannelMaker maker):
        return PrivateEndpoint(reactor, self, name, url, host, addresses, limits, maker)


cdef class PrivateConnection(H1Upstream):
    cdef int bind(self, Exchange ex) except -1:
        H1Upstream.bind(self, ex)
        if self.told is None:
            self.told = announcement(ex.down, self.endpoint.limits.proxy_protocol)
            self.channel.cork(PyBytes_AS_STRING(self.told), PyBytes_GET_SIZE(self.told))
        return 0


cdef class PrivateEndpoint(Endpoint):
    cdef PrivateConnection _own(self, Exchange ex):
        """The idle connection of this client that was used last, else one that is nobody's yet; out of the idle ones."""
        cdef bytes header
        cdef PrivateConnection stream, found = None
        if not self.idle:
            return None
        header = announcement(ex.down, self.limits.proxy_protocol)
        for stream in reversed(self.idle):
            if stream.told is None and found is None:
                found = stream
            elif stream.told == header:
                found = stream
                break
        if found is not None:
            self.idle.remove(found)
        return found

    cdef int checkout(self, Exchange ex, bint fresh) except -1:
        cdef PrivateConnection stream = None if fresh else self._own(ex)
        while stream is not None:
            if stream.usable():
                self.busy += 1
                self.reuses += stream.told is not None
                stream.reused = True
                ex.endpoint = self
                stream.bind(ex)
                return CONTINUE
            self.connections -= 1
            stream.drop()
            stream = self._own(ex)
        if self.idle and self.addresses and self.connections >= self.limits.max_connections:
            self.connections -= 1
            stream = self.idle.pop(0)
            stream.drop()
        return Endpoint.checkout(self, ex, True)

    cdef int _available(self, PooledStream stream) except -1:
        if self.waiting and (<PrivateConnection>stream).told is not None:
            self.connections -= 1
            stream.drop()
            if len(self.waiting) > self.connecting and self.connections < self.limits.max_connections:
                self._open()
                self._arm()
            return 0
        return Endpoint._available(self, stream)
