"""Connections of `protocol: tcp`: a client's and one to an endpoint, joined.

    client ── Channel ── Tunnel ═══ Far ── Channel ── endpoint

What one side sends is written to the other; who is slow stops the other from being read. The end of one direction is
passed on as such (a half-close), and the connection is over when both have ended. A connection that breaks off on one
side is reset on the other, so that it does not look complete. The client is not read until an endpoint has answered:
nothing is lost when another one has to be tried.

With TLS that passes through, the first message is kept until it is whole; the name in it says which service it is for.
"""
import logging

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastgw._core.accept cimport Codec, Connection, Listener
from fastgw._core.announce cimport announcement
from fastgw._core.clock cimport Timer
from fastgw._core.dial cimport Dialed
from fastgw._core.exchange cimport Exchange
from fastgw._core.forwarding cimport make_id
from fastgw._core.pool cimport Endpoint, Service
from fastgw._core.reactor cimport Channel
from fastgw._core.record cimport C_REFUSED, W_TUNNEL_IN, W_TUNNEL_OUT, W_TUNNELS
from fastgw._core.sni cimport HELLO_MORE, HELLO_NONE, Hello, hello_read

from fastgw._core.codes import CODES, INDEX

logger = logging.getLogger("fastgw.tunnel")

cdef enum:
    ATTEMPTS = 3                  # endpoints that are tried for one connection
    NO_ALERT = 0                  # RFC 8446 6: of alerts that begin a handshake's end, none has this number
    DECODE_ERROR = 50
    UNRECOGNIZED_NAME = 112

cdef int64_t LINGER_NS = 2_000_000_000


cdef class Tunnels:
    pass


cdef class TunnelCodec(Codec):
    """`TunnelCodec(service, count, …)`: the connections of one listener, as one plan sees them. Times in ns, 0 is none;
    `most` connections at a time, 0 is no limit of its own. `names` (DNS name or wildcard → service) is for TLS that
    passes through; `service` is then for the other names, or None."""

    def __init__(self, Service service, Tunnels count, *, int64_t idle_ns=600_000_000_000, int64_t total_ns=0,
                 int most=0, names=None, int64_t hello_ns=5_000_000_000):
        self.speaks_http = False
        self.service = service
        self.count = count
        self.hello_ns = hello_ns
        if names is not None:
            self.names = {name: given for name, given in names.items() if not name.startswith(b"*.")}
            self.wildcards = {name[2:]: given for name, given in names.items() if name.startswith(b"*.")}
        self.idle_ns = idle_ns
        self.total_ns = total_ns
        self.most = most

    cdef Service find(self, bytes name):
        """As hosts of routes are: the exact name, then the longest wildcard, then the service for the others."""
        cdef object found = self.names.get(name)
        cdef bytes rest = name
        while found is None and rest and self.wildcards:
            rest = rest.partition(b".")[2]
            found = self.wildcards.get(rest) if rest else None
        return self.service if found is None else <Service>found

    cdef Connection open(self, Listener listener):
        return Tunnel(listener, self)


cdef class Tunnel(Connection):
    def __cinit__(self, Listener listener, Codec codec):
        self.codec = <TunnelCodec>codec
        self.phase = T_CONNECTING

    def __dealloc__(self):
        free(self.stash)

    cdef int begin(self) except -1:
        cdef TunnelCodec codec = self.codec
        self.ex = self.relay.take()
        self.introduce(self.ex)
        self.ex.carries = "tcp"
        make_id(self.ex)
        self.active_at = self.reactor.now
        if codec.most and codec.count.open >= codec.most:
            self.relay.stats.add(C_REFUSED, 1)
            return self._over("overloaded", False)
        self.counted_in = True
        codec.count.open += 1
        if codec.total_ns:
            self.total_at = self.reactor.now + codec.total_ns
        if codec.names is None:
            return self._dispatch(codec.service)
        self.phase = T_HELLO
        self.ex.carries = "tls"
        self.reactor.wheel.arm(&self.timer, self.reactor.now + codec.hello_ns)
        return 0

    cdef int drain(self) except -1:
        """What is open is given until the end of the drain; then `on_broken`."""
        return self._over("draining", False) if self.phase == T_HELLO else 0

    # ------------------------------------------------------------------ TLS that passes through

    cdef int _hello(self) except -1:
        """What is there of the ClientHello stands in the stash."""
        cdef Hello hello
        cdef Service service
        cdef Exchange ex = self.ex
        cdef int found
        if self.stash_len < self.needed:
            return 0
        found = hello_read(<const uint8_t*>self.stash, self.stash_len, &hello)
        if found == HELLO_MORE:
            self.needed = <uint32_t>hello.need
            return 0
        if found < 0:
            return self._refuse("bad_client_hello", NO_ALERT if found == HELLO_NONE else DECODE_ERROR)
        if hello.name_len:
            ex.request.take(hello.name, hello.name_len)
            ex.authority, ex.authority_len = 0, hello.name_len
        service = self.codec.find(hello.name[:hello.name_len])
        if service is None:
            return self._refuse("unknown_server_name", UNRECOGNIZED_NAME)
        self.reactor.wheel.cancel(&self.timer)
        return self._dispatch(service)

    cdef int _refuse(self, str code, uint8_t alert) except -1:
        """RFC 8446 6.2: a fatal alert says why, to who speaks TLS."""
        cdef uint8_t record[7]
        record[:] = [21, 3, 3, 0, 2, 2, alert]
        if alert != NO_ALERT:
            self.channel.write(<const char*>record, 7)
        return self._settle(code)

    # ------------------------------------------------------------------ finding an endpoint

    cdef int _dispatch(self, Service service) except -1:
        self.channel.pause()
        self.phase = T_CONNECTING
        self.ex.service = service
        self.ex.t_dispatch = self.ex.t_pool = self.reactor.now
        return self._attempt()

    cdef int _attempt(self) except -1:
        """One endpoint after the other, until one takes the connection: nothing was sent to those before."""
        cdef Exchange ex = self.ex
        cdef Service service = <Service>ex.service
        cdef Endpoint endpoint
        cdef str code = "no_endpoint"
        cdef int most = min(ATTEMPTS, len(service.endpoints))
        while ex.attempts < most:
            endpoint = service.pick(ex)
            if endpoint is None:
                break
            ex.attempts += 1
            ex.endpoint = endpoint
            if not endpoint.addresses:
                continue
            if endpoint.connections >= endpoint.limits.max_connections:
                code = "pool_exhausted"
                continue
            if service.balancer.watched:
                service.balancer.begun(ex, endpoint)
            self.far = Far(self, endpoint)
            return self.far.begin()
        return self._over(code, True)

    cdef int attempt_failed(self, str code) except -1:
        cdef Exchange ex = self.ex
        self.far = None
        if ex.picked is not None:
            (<Service>ex.service).balancer.failed(ex, code)
            (<Service>ex.service).balancer.left(ex)
        if ex.attempts < min(ATTEMPTS, len((<Service>ex.service).endpoints)):
            return self._attempt()
        return self._over(code, True)

    cdef int opened(self) except -1:
        """The endpoint took it."""
        cdef Channel there = self.far.channel
        cdef bytes header
        self.phase = T_OPEN
        self.active_at = self.reactor.now
        if self.ex.picked is not None:
            (<Service>self.ex.service).balancer.answered(self.ex)
        self.relay.stats.tunnel((<Service>self.ex.service).slot, W_TUNNELS, 1)
        self._arm()
        if self.far.endpoint.limits.proxy_protocol:
            header = announcement(self, self.far.endpoint.limits.proxy_protocol)
            there.write(PyBytes_AS_STRING(header), PyBytes_GET_SIZE(header))
        if self.stash_len:
            self.relay.stats.tunnel((<Service>self.ex.service).slot, W_TUNNEL_IN, self.stash_len)
            there.write(self.stash, self.stash_len)
            free(self.stash)
            self.stash = NULL
            self.stash_len = self.stash_cap = 0
        if self.eof:
            there.finish()
        if not there.full():
            self.channel.resume()
        return 0

    # ------------------------------------------------------------------ bytes

    cdef int _keep(self, const char *p, size_t n) except -1:
        cdef uint32_t cap
        cdef char *grown
        if self.stash_len + n > self.stash_cap:
            cap = (self.stash_len + <uint32_t>n + 1023) & ~<uint32_t>1023
            grown = <char*>realloc(self.stash, cap)
            if grown == NULL:
                raise MemoryError()
            self.stash = grown
            self.stash_cap = cap
        memcpy(self.stash + self.stash_len, p, n)
        self.stash_len += n
        return 0

    cdef int on_data(self, char *p, size_t n) except -1:
        cdef Channel there
        if self.phase >= T_CLOSING:
            return 0
        self.active_at = self.reactor.now
        self.ex.bytes_in += n
        if self.phase <= T_CONNECTING:
            self._keep(p, n)                      # while connecting: decrypted together with the end of a handshake
            return self._hello() if self.phase == T_HELLO else 0
        self.relay.stats.tunnel((<Service>self.ex.service).slot, W_TUNNEL_IN, n)
        there = self.far.channel
        there.write(p, n)
        if there.full():
            self.channel.pause()
        return 0

    cdef int on_drained(self) except -1:
        """The client took what waited: the endpoint may go on."""
        if self.phase == T_OPEN:
            self.far.channel.resume()
            return self.ended()
        return 0

    cdef int moved(self) except -1:
        """The endpoint took what waited."""
        self.channel.resume()
        return self.ended()

    # ------------------------------------------------------------------ ends

    cdef int on_eof(self) except -1:
        if self.eof:
            return 0
        self.eof = True
        if self.phase == T_OPEN:
            self.far.channel.finish()
            return self.ended()
        if self.phase == T_HELLO:
            return self._over("bad_client_hello" if self.stash_len else "client_closed", False)
        return 0

    cdef int ended(self) except -1:
        """Over when both have said all they had to say, and heard it."""
        if self.phase == T_OPEN and self.eof and self.far.eof and self.channel.out_len == 0 \
                and self.far.channel.out_len == 0:
            return self._over(None, False)
        return 0

    cdef int on_broken(self) except -1:
        if self.phase == T_CLOSING:
            return self._gone(True)
        if self.phase == T_CLOSED:
            return 0
        return self._over("draining" if self.relay.draining else "client_closed", True)

    cdef int on_hangup(self) except -1:
        """Not read because the other side is slow, or not there yet: in the first case it is heard of in its turn."""
        return self.on_broken() if self.phase <= T_CONNECTING else 0

    cdef int far_gone(self) except -1:
        """The endpoint's side broke. When it had said all, the client still gets that."""
        if self.far.eof:
            return self._settle(None)
        return self._over("upstream_reset", True)

    cdef int on_closed(self) except -1:
        return self._gone(False)

    cdef int on_timer(self, Timer *timer) except -1:
        cdef int64_t now = self.reactor.now
        if self.phase == T_CLOSING:
            if self.channel.out_len and now < self.channel.progress + self.codec.idle_ns:
                self.reactor.wheel.arm(&self.timer, now + LINGER_NS)      # it still takes it
                return 0
            return self._gone(True)
        if self.phase == T_HELLO:
            return self._over("client_hello_timeout", False)
        if self.phase != T_OPEN:
            return 0
        self.active_at = max(self.active_at, self.channel.progress, self.far.channel.progress)
        if self.total_at and now >= self.total_at:
            return self._over("tunnel_timeout", True)
        if now >= self.active_at + self.codec.idle_ns:
            return self._over("tunnel_idle_timeout", True)
        return self._arm()

    cdef int _arm(self) except -1:
        cdef int64_t due = self.active_at + self.codec.idle_ns
        if self.total_at and self.total_at < due:
            due = self.total_at
        self.reactor.wheel.arm(&self.timer, due)
        return 0

    cdef int _settle(self, str code) except -1:
        """It is over, but the client has still to be sent what is on its way."""
        cdef Channel channel = self.channel
        if channel.broken or channel.fd < 0:
            return self._over(code, False)
        self.phase = T_CLOSING
        self._record(code)
        self.reactor.wheel.arm(&self.timer, self.reactor.now + LINGER_NS)
        return channel.shut()

    cdef int _over(self, str code, bint reset) except -1:
        self._record(code)
        return self._gone(reset)

    cdef int _gone(self, bint reset) except -1:
        cdef Channel channel = self.channel
        if self.phase == T_CLOSED:
            return 0
        self.phase = T_CLOSED
        self.reactor.wheel.unlink(&self.timer)
        self.reactor.bury(self)
        self.channel = None
        if channel is not None:
            channel.kill(reset)
        return self.leave()

    cdef int _record(self, str code) except -1:
        """The endpoint is let go, and what there was is told. Once."""
        cdef Exchange ex = self.ex
        cdef Far far = self.far
        if ex is None:
            return 0
        self.ex = None
        self.far = None
        if ex.picked is not None:
            (<Service>ex.service).balancer.left(ex)
        if far is not None:
            far.let_go(code is not None)
        if self.counted_in:
            self.codec.count.open -= 1
        ex.t_end = ex.t_end_upstream = self.reactor.now
        ex.response.status = 200
        if code is not None:
            known = CODES[code]
            ex.code, ex.side, ex.response.status = code, known.side, known.status
            self.relay.stats.count_code(INDEX.get(code, -1))
        if self.relay.access_log is not None:
            try:
                self.relay.access_log(ex)
            except Exception as error:
                logger.error("the access log failed", exc_info=error)
        return self.relay.give(ex)

    def __repr__(self):
        return f"<Tunnel of {self.listener.name} phase {self.phase}>"


cdef class Far(Dialed):
    def __cinit__(self, Tunnel tunnel, Endpoint endpoint):
        self.tunnel = tunnel
        self.reactor = tunnel.reactor
        self.endpoint = endpoint

    cdef int begin(self) except -1:
        """It counts for the endpoint as one of a pool does, but nobody else ever gets it."""
        self.endpoint.connections += 1
        self.endpoint.connecting += 1
        self.endpoint.connects += 1
        return self.dial()

    cdef int established(self) except -1:
        self.endpoint.connecting -= 1
        self.endpoint.busy += 1
        self.reactor.wheel.cancel(&self.timer)
        return self.tunnel.opened()

    cdef int on_timer(self, Timer *timer) except -1:
        """No address is left, or no time."""
        cdef Tunnel tunnel = self.tunnel
        cdef str code = "upstream_connect_failed" if self.channel is None else "upstream_connect_timeout"
        if not self.connecting or tunnel is None:
            return 0
        self.endpoint.connect_errors += 1
        self.let_go(False)
        return tunnel.attempt_failed(code)

    cdef int let_go(self, bint reset) except -1:
        cdef Channel channel = self.channel
        cdef Tunnel tunnel = self.tunnel
        if tunnel is None:
            return 0
        self.tunnel = None
        self.channel = None
        self.reactor.wheel.unlink(&self.timer)
        self.reactor.bury(self)
        if self.connecting:
            self.connecting = False
            self.endpoint.connecting -= 1
        else:
            self.endpoint.busy -= 1
        self.endpoint.connections -= 1
        return channel.kill(reset) if channel is not None else 0

    cdef int on_data(self, char *p, size_t n) except -1:
        cdef Tunnel tunnel = self.tunnel
        if tunnel is None:
            return 0
        tunnel.active_at = tunnel.reactor.now
        tunnel.ex.bytes_out += n
        tunnel.relay.stats.tunnel((<Service>tunnel.ex.service).slot, W_TUNNEL_OUT, n)
        tunnel.channel.write(p, n)
        if tunnel.channel.full():
            self.channel.pause()
        return 0

    cdef int on_drained(self) except -1:
        return self.tunnel.moved() if self.tunnel is not None and not self.connecting else 0

    cdef int on_eof(self) except -1:
        if self.tunnel is None or self.eof:
            return 0
        self.eof = True
        self.tunnel.channel.finish()
        return self.tunnel.ended()

    cdef int on_broken(self) except -1:
        return self.tunnel.far_gone() if self.tunnel is not None else 0

    def __repr__(self):
        return f"<Far {self.endpoint.name}{' connecting' if self.connecting else ''}>"
