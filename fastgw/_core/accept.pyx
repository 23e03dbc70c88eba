"""Stage `accept`: listening sockets, and what every connection of a client has, whatever it speaks.

What is spoken is the codec's: `h1` for HTTP/1.1.
"""
import logging

from libc.errno cimport ECONNABORTED, EINTR, EMFILE, ENFILE, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcpy, memset
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from fastgw._core.arrivals cimport Arrival, Arrivals, KEPT_OUT, TOO_FAST
from fastgw._core.clock cimport Timer, timer_detach
from fastgw._core.exchange cimport Exchange
from fastgw._core.reactor cimport Channel, Handler, Reactor
from fastgw._core.record cimport C_ACCEPTED, C_ACTIVE, C_CLOSED, C_REFUSED, Stats
from fastgw._core.respond cimport Relay
from fastgw._core.settings cimport Settings

logger = logging.getLogger("fastgw.accept")

cdef extern from *:
    """
    #define _GNU_SOURCE
    #include <arpa/inet.h>
    #include <errno.h>
    #include <netinet/in.h>
    #include <string.h>
    #include <sys/socket.h>
    #include <sys/epoll.h>
    #include <sys/un.h>
    #include <unistd.h>
    extern int accept4(int, struct sockaddr *, socklen_t *, int);
    /* One connection with its peer as 16 bytes and as text, which are left alone where it has none; -1 with errno. */
    static inline int fgw_accept(int lfd, unsigned char *address, char *text, int *text_len, unsigned short *port) {
      struct sockaddr_storage ss; socklen_t n = sizeof ss;
      int fd = accept4(lfd, (struct sockaddr *)&ss, &n, SOCK_NONBLOCK | SOCK_CLOEXEC);
      if (fd < 0) return -1;
      if (ss.ss_family == AF_INET) {
        struct sockaddr_in *a = (struct sockaddr_in *)&ss;
        address[10] = address[11] = 0xff; memcpy(address + 12, &a->sin_addr, 4);
        inet_ntop(AF_INET, &a->sin_addr, text, 48); *text_len = (int)strlen(text); *port = ntohs(a->sin_port);
      } else if (ss.ss_family == AF_INET6) {
        struct sockaddr_in6 *a = (struct sockaddr_in6 *)&ss;
        memcpy(address, &a->sin6_addr, 16);
        if (IN6_IS_ADDR_V4MAPPED(&a->sin6_addr)) inet_ntop(AF_INET, address + 12, text, 48);
        else inet_ntop(AF_INET6, &a->sin6_addr, text, 48);
        *text_len = (int)strlen(text); *port = ntohs(a->sin6_port);
      }
      return fd;
    }
    """
    int fgw_accept(int lfd, unsigned char *address, char *text, int *text_len, unsigned short *port)
    int close(int fd)
    ssize_t send(int fd, const void *p, size_t n, int flags)
    int MSG_NOSIGNAL, MSG_DONTWAIT
    uint32_t EPOLLIN

cdef enum:
    ACCEPTS = 64                 # connections taken from one listener before the others have their turn

cdef int64_t REST_NS = 100_000_000

cdef bytes OVERLOADED = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nContent-Length: 105\r\n"
    b"Retry-After: 1\r\nConnection: close\r\n\r\n"
    b'{"type":"about:blank","title":"Too many connections","status":503,"code":"overloaded","side":"gateway"}\r\n')

cdef class Listener(Handler):
    """Accepts on one listening socket until it is stopped. `name` is its address, for logs."""

    def __init__(self, Reactor reactor, Relay relay, Codec codec, str name, bint is_unix, set connections,
                 set preludes, dict per_address):
        self.reactor = reactor
        self.relay = relay
        self.codec = codec
        self.name = name
        self.is_unix = is_unix
        self.connections = connections
        self.preludes = preludes
        self.per_address = per_address
        memset(&self.pause, 0, sizeof(Timer))
        self.pause.owner = <void*>self

    def __dealloc__(self):
        timer_detach(&self.pause)

    cdef int start(self, int fd) except -1:
        return self.reactor.add(fd, self, EPOLLIN)

    cdef int stop(self) except -1:
        self.reactor.wheel.unlink(&self.pause)
        if self.fd >= 0:
            self.reactor.remove(self)
            self.fd = -1
        return 0

    cdef int on_timer(self, Timer *timer) except -1:
        if self.listen_fd >= 0 and self.fd < 0:
            self.start(self.listen_fd)
        return 0

    cdef int on_event(self, uint32_t events) except -1:
        cdef Peer peer
        cdef int i, fd
        for i in range(ACCEPTS):
            memset(&peer, 0, sizeof(Peer))
            fd = fgw_accept(self.fd, peer.address, peer.text, &peer.text_len, &peer.port)
            if fd < 0:
                if errno == EMFILE or errno == ENFILE:
                    logger.error("%s: out of file descriptors; not accepting for a moment", self.name)
                    self.listen_fd = self.fd
                    self.reactor.remove(self)
                    self.fd = -1
                    self.reactor.wheel.arm(&self.pause, self.reactor.now + REST_NS)
                elif errno == EINTR or errno == ECONNABORTED:
                    continue
                return 0
            self._accepted(fd, &peer)
            if self.fd < 0:
                return 0
        return 0

    cdef int _accepted(self, int fd, const Peer *peer) except -1:
        cdef Settings settings = self.relay.plan.settings
        cdef Stats stats = self.relay.stats
        cdef Codec codec = <Codec>self.relay.plan.codecs.get(self.name, self.codec)
        cdef Gate gate
        stats.add(C_ACCEPTED, 1)
        if len(self.connections) + len(self.preludes) >= settings.max_connections:
            return self._refuse(codec, fd)
        if self.relay.plan.gates is not None:
            gate = <Gate>self.relay.plan.gates.get(self.name)
            if gate is not None and gate.take(self, codec, fd, peer):
                return 0
        return self.enter(codec, fd, peer)

    cdef int _refuse(self, Codec codec, int fd) except -1:
        self.relay.stats.add(C_REFUSED, 1)
        if codec.speaks_http:
            send(fd, PyBytes_AS_STRING(OVERLOADED), PyBytes_GET_SIZE(OVERLOADED), MSG_NOSIGNAL | MSG_DONTWAIT)
        close(fd)
        return 0

    cdef int enter(self, Codec codec, int fd, const Peer *peer) except -1:
        """The client is known."""
        cdef Settings settings = self.relay.plan.settings
        cdef bytes key
        cdef bint counted = settings.max_per_address != 0 and peer.text_len != 0
        cdef Arrival arrival
        if settings.arrivals is not None and peer.text_len and not settings.is_trusted(peer.address):
            arrival = (<Arrivals>settings.arrivals).judge(peer.address)
            if arrival == KEPT_OUT:
                self.relay.stats.add(C_REFUSED, 1)
                close(fd)
                return 0
            if arrival == TOO_FAST:
                return self._refuse(codec, fd)
        if counted:
            key = PyBytes_FromStringAndSize(<const char*>peer.address, 16)
            count = self.per_address.get(key, 0)
            if count >= settings.max_per_address:
                self.failed(peer)
                return self._refuse(codec, fd)
            self.per_address[key] = count + 1
        self.relay.stats.add(C_ACTIVE, 1)
        return self.admit(codec, fd, peer, counted)

    cdef int failed(self, const Peer *peer) except -1:
        """A connection of this address came to nothing."""
        cdef Settings settings = self.relay.plan.settings
        if settings.arrivals is not None and peer.text_len and not settings.is_trusted(peer.address):
            (<Arrivals>settings.arrivals).failed(peer.address)
        return 0

    cdef int admit(self, Codec codec, int fd, const Peer *peer, bint counted) except -1:
        """From here on the socket is a connection's."""
        cdef Connection connection = codec.open(self)
        connection.peer = peer[0]
        connection.counted = counted
        self.connections.add(connection)
        connection.channel = codec.channel(self.reactor)
        connection.channel.attach(fd, connection)
        return connection.begin()


cdef class Gate:
    cdef bint take(self, Listener listener, Codec codec, int fd, const Peer *peer) except -1:
        return False


cdef class Codec:
    def __cinit__(self):
        self.speaks_http = True

    cdef Connection open(self, Listener listener):
        raise NotImplementedError

    cdef Channel channel(self, Reactor reactor):
        return Channel(reactor)


cdef class Connection(Downstream):
    def __cinit__(self, Listener listener, Codec codec):
        self.listener = listener
        self.reactor = listener.reactor
        self.relay = listener.relay
        self.settings = listener.relay.plan.settings
        memset(&self.timer, 0, sizeof(Timer))
        self.timer.owner = <void*>self

    def __dealloc__(self):
        timer_detach(&self.timer)

    cdef int begin(self) except -1:
        return 0

    cdef int drain(self) except -1:
        return 0

    cdef int leave(self) except -1:
        self.listener.connections.discard(self)
        if self.counted:
            key = PyBytes_FromStringAndSize(<const char*>self.peer.address, 16)
            count = self.listener.per_address.get(key, 1) - 1
            if count > 0:
                self.listener.per_address[key] = count
            else:
                self.listener.per_address.pop(key, None)
        self.relay.stats.add(C_ACTIVE, -1)
        self.relay.stats.add(C_CLOSED, 1)
        return 0

    cdef int follow(self, Connection before) except -1:
        """The protocol was found out, or changed: the same client, the same channel. `begin` follows, then the
        bytes that `before` still had."""
        self.reactor.bury(before)                 # it may run just now, and we take what held it
        self.peer = before.peer
        self.counted = before.counted
        self.secure = before.secure
        self.hsts = before.hsts
        self.client_cert = before.client_cert
        self.listener.connections.discard(before)
        self.listener.connections.add(self)
        self.channel = before.channel
        self.channel.owner = self
        before.channel = None
        self.reactor.wheel.unlink(&before.timer)
        return 0

    cdef Downstream carrier(self):
        return self

    cdef int introduce(self, Exchange ex) except -1:
        ex.plan = self.relay.plan
        ex.settings = self.settings
        ex.secure = self.secure
        ex.client_cert = self.client_cert
        memcpy(ex.client_addr, self.peer.address, 16)
        memcpy(ex.client_text, self.peer.text, 48)
        memcpy(ex.peer_text, self.peer.text, 48)
        ex.client_len = ex.peer_len = self.peer.text_len
        return 0
