"""Stage `upstream`: a connection to an endpoint while it is made.

An endpoint's addresses are tried one after the other, each connection from the next one on, within one connect
timeout. What is spoken over the connection is the business of the codec that derives from this.
"""
from libc.errno cimport EPROTO
from libc.string cimport memset
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastgw._core.clock cimport Timer, timer_detach
from fastgw._core.reactor cimport Channel

cdef extern from *:
    """
    #include <errno.h>
    #include <netinet/in.h>
    #include <netinet/tcp.h>
    #include <sys/socket.h>
    #include <unistd.h>
    /* A non-blocking socket on its way to an address; -1 with errno. */
    static inline int fgw_connect(int family, const void *address, unsigned n) {
      int one = 1, fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
      if (fd < 0) return -1;
      if (family != AF_UNIX) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
      if (connect(fd, (const struct sockaddr *)address, n) == 0 || errno == EINPROGRESS) return fd;
      int e = errno; close(fd); errno = e; return -1;
    }
    """
    int fgw_connect(int family, const void *address, unsigned n)


cdef class Dialed(PooledStream):
    def __cinit__(self, *_):
        memset(&self.timer, 0, sizeof(Timer))
        self.timer.owner = <void*>self

    def __dealloc__(self):
        timer_detach(&self.timer)

    cdef int dial(self) except -1:
        self.connecting = True
        self.reactor.wheel.arm(&self.timer, self.reactor.now + self.endpoint.limits.connect_ns)
        return self._next_address()

    cdef int _next_address(self) except -1:
        cdef int fd = -1
        cdef bytes address
        cdef tuple addresses = self.endpoint.addresses
        while self.tried < len(addresses):
            family, address = addresses[self.endpoint.next_address % len(addresses)]
            self.endpoint.next_address += 1
            self.tried += 1
            fd = fgw_connect(family, PyBytes_AS_STRING(address), PyBytes_GET_SIZE(address))
            if fd >= 0:
                self.channel = Channel(self.reactor) if self.endpoint.maker is None \
                    else self.endpoint.maker.make(self.reactor)
                return self.channel.connect(fd, self)
        # refused at once (a unix socket that is not there): tell the pool from the reactor, as for any other
        self.channel = None
        self.reactor.wheel.arm(&self.timer, self.reactor.now)
        return 0

    cdef int on_connected(self, int error) except -1:
        if error:
            if error == EPROTO and self.endpoint.maker is not None:
                self.tls_failed = True
                self.endpoint.maker.failed(self.channel)
            self.reactor.bury(self.channel)
            self.channel.kill(False)
            self.channel = None
            return self._next_address()
        if self.endpoint.maker is not None:
            self.endpoint.maker.succeeded(self.channel)
        self.connecting = False
        return self.established()

    cdef int dial_overdue(self) except -1:
        cdef str code = "upstream_connect_timeout"
        if self.channel is None:
            code = "upstream_tls_failed" if self.tls_failed else "upstream_connect_failed"
        self.connecting = False
        self.give_up()
        return self.endpoint.open_failed(self, code)

    cdef int established(self) except -1:
        raise NotImplementedError

    cdef int give_up(self) except -1:
        raise NotImplementedError
