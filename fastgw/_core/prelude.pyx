"""Before a connection exists: the PROXY protocol, read from connections of those who may send it.

The bytes are looked at where they are (MSG_PEEK) until the header is whole; then exactly that is taken, and the
listener goes on with the client's address as if it had accepted from there. So TLS, HTTP/2 and HTTP/1.1 come after it
in the same way.
"""
import logging

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcpy, memset

from fastgw._core.accept cimport Codec, Gate, Listener, Peer
from fastgw._core.clock cimport Timer, timer_detach
from fastgw._core.proxy_protocol cimport PROXY_MALFORMED, PROXY_MAX, PROXY_MORE, PROXY_NONE, ProxyHead, proxy_read
from fastgw._core.reactor cimport Handler
from fastgw._core.record cimport (
    C_CLOSED, C_PROXY_CLOSED, C_PROXY_MALFORMED, C_PROXY_MISSING, C_PROXY_TIMEOUT, C_PROXY_V1, C_PROXY_V2,
)
from fastgw._core.settings cimport Settings

logger = logging.getLogger("fastgw.accept")

cdef extern from "<sys/socket.h>" nogil:
    ssize_t recv(int fd, void *p, size_t n, int flags)
    int MSG_PEEK, MSG_DONTWAIT

cdef extern from "<unistd.h>" nogil:
    int close(int fd)

cdef extern from "<sys/epoll.h>" nogil:
    uint32_t EPOLLIN, EPOLLRDHUP, EPOLLHUP, EPOLLERR, EPOLLET


cdef class ProxyGate(Gate):
    """`ProxyGate(trusted, required, timeout_ns)`; `trusted` are address ranges as text. One per listener and plan."""

    def __init__(self, *, trusted, bint required=True, int64_t timeout_ns=3_000_000_000):
        self.trusted = Settings(trusted_proxies=trusted)
        self.required = required
        self.timeout_ns = timeout_ns
        self.told = set()

    cdef bint take(self, Listener listener, Codec codec, int fd, const Peer *peer) except -1:
        """A unix socket has no address: who may open it may speak."""
        if peer.text_len and not self.trusted.is_trusted(peer.address):
            return False
        Prelude(self, listener, codec).begin(fd, peer)
        return True

    cdef int tell(self, Listener listener, str peer, str reason) except -1:
        """Once per reason: a balancer that is set up wrong sends many."""
        if reason not in self.told:
            self.told.add(reason)
            logger.warning("%s: a connection from %s was closed: its PROXY protocol header is %s (said once; "
                           "fastgw_proxy_protocol_failures_total counts)", listener.name, peer, reason)
        return 0


cdef class Prelude(Handler):
    def __cinit__(self, ProxyGate gate, Listener listener, Codec codec):
        self.gate = gate
        self.listener = listener
        self.codec = codec
        memset(&self.timer, 0, sizeof(Timer))
        self.timer.owner = <void*>self

    def __dealloc__(self):
        timer_detach(&self.timer)
        if self.fd >= 0:
            close(self.fd)

    cdef int begin(self, int fd, const Peer *peer) except -1:
        self.peer = peer[0]
        self.fd = fd                              # closed with us when it cannot be watched
        self.listener.reactor.add(fd, self, EPOLLIN | EPOLLRDHUP | EPOLLET)
        self.listener.preludes.add(self)
        self.listener.reactor.wheel.arm(&self.timer, self.listener.reactor.now + self.gate.timeout_ns)
        return 0

    cdef int on_event(self, uint32_t events) except -1:
        cdef uint8_t bytes_[PROXY_MAX]
        cdef ProxyHead head
        cdef ssize_t n
        cdef int used
        while True:
            n = recv(self.fd, bytes_, PROXY_MAX, MSG_PEEK | MSG_DONTWAIT)
            if n >= 0 or errno != EINTR:
                break
        if n < 0:
            return 0 if errno == EAGAIN else self._fail(C_PROXY_CLOSED, None)
        used = proxy_read(bytes_, n, &head)
        if used == PROXY_MORE:
            if n == 0 or events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR):
                return self._fail(C_PROXY_CLOSED, None)
            return 0
        if used == PROXY_NONE:
            return self._fail(C_PROXY_MISSING, "missing") if self.gate.required else self._pass()
        if used < 0:
            return self._fail(C_PROXY_MALFORMED, "malformed" if used == PROXY_MALFORMED else "too long")
        if recv(self.fd, bytes_, used, MSG_DONTWAIT) != used:
            return self._fail(C_PROXY_CLOSED, None)
        self.listener.relay.stats.add(C_PROXY_V1 if head.version == 1 else C_PROXY_V2, 1)
        if head.told:
            memcpy(self.peer.address, head.source, 16)
            memcpy(self.peer.text, head.text, 48)
            memcpy(self.peer.target, head.target, 16)
            self.peer.text_len, self.peer.port = head.text_len, head.port
            self.peer.target_port, self.peer.told = head.target_port, True
        return self._pass()

    cdef int on_timer(self, Timer *timer) except -1:
        """Who waits for us to speak first, or says nothing yet, may do so where the header is not required."""
        cdef uint8_t first
        if self.fd < 0:
            return 0
        if not self.gate.required and recv(self.fd, &first, 1, MSG_PEEK | MSG_DONTWAIT) < 0 and errno == EAGAIN:
            return self._pass()
        return self._fail(C_PROXY_TIMEOUT, "not there in time")

    cdef int crash(self) except -1:
        return self.cut()

    cdef int _release(self) except -1:
        """The descriptor, no longer ours."""
        cdef int fd = self.fd
        self.listener.preludes.discard(self)
        self.listener.reactor.wheel.unlink(&self.timer)
        self.listener.reactor.remove(self)
        self.fd = -1
        return fd

    cdef int _pass(self) except -1:
        return self.listener.enter(self.codec, self._release(), &self.peer)

    cdef int _fail(self, int counter, str reason) except -1:
        self.listener.relay.stats.add(counter, 1)
        if reason is not None:
            sender = self.peer.text[:self.peer.text_len].decode() if self.peer.text_len else "a unix socket"
            self.gate.tell(self.listener, sender, reason)
        return self.cut()

    cdef int cut(self) except -1:
        if self.fd >= 0:
            self.listener.relay.stats.add(C_CLOSED, 1)
            close(self._release())
        return 0
