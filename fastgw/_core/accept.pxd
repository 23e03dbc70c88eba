"""Stage `accept`: listening sockets, and what every connection of a client has, whatever it speaks."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from fastgw._core.clock cimport Timer
from fastgw._core.exchange cimport Downstream, Exchange
from fastgw._core.reactor cimport Channel, Handler, Reactor
from fastgw._core.respond cimport Relay
from fastgw._core.settings cimport Settings


ctypedef struct Peer:
    uint8_t address[16]                   # IPv6, or IPv4 mapped
    char text[48]                         # the same, printed
    int text_len                          # 0: it has no address (a unix socket)
    uint16_t port
    bint told                             # by the PROXY protocol: `target` is known
    uint8_t target[16]                    # where it connected to
    uint16_t target_port


cdef class Codec:
    """Makes the connections of one protocol."""
    cdef bint speaks_http                                 # who is refused is told so in HTTP
    cdef Connection open(self, Listener listener)
    cdef Channel channel(self, Reactor reactor)           # what its connections sit on


cdef class Gate:
    """Looks at an accepted socket before it is a connection. What it takes it gives back by `Listener.enter`."""
    cdef bint take(self, Listener listener, Codec codec, int fd, const Peer *peer) except -1


cdef class Listener(Handler):
    cdef Reactor reactor
    cdef Relay relay
    cdef Codec codec                      # where the plan has none for this listener
    cdef readonly str name
    cdef bint is_unix
    cdef int listen_fd                    # kept while it rests
    cdef Timer pause                      # out of descriptors: a short rest
    cdef set connections                  # shared by the engine's listeners
    cdef set preludes                     # sockets that a gate has; shared likewise
    cdef dict per_address
    cdef int start(self, int fd) except -1
    cdef int stop(self) except -1
    cdef int _accepted(self, int fd, const Peer *peer) except -1
    cdef int _refuse(self, Codec codec, int fd) except -1
    cdef int failed(self, const Peer *peer) except -1
    cdef int enter(self, Codec codec, int fd, const Peer *peer) except -1
    cdef int admit(self, Codec codec, int fd, const Peer *peer, bint counted) except -1


cdef class Connection(Downstream):
    """One connection of a client. Its owner is the listener's set; it leaves that with `leave`."""
    cdef Listener listener
    cdef Reactor reactor
    cdef Relay relay
    cdef Settings settings
    cdef Channel channel                  # None when it is gone
    cdef Peer peer
    cdef bint counted                     # in listener.per_address
    cdef bint secure                      # TLS
    cdef bytes hsts                       # Strict-Transport-Security for every answer, or None
    cdef object client_cert               # client_certificate.ClientCertificate, or None
    cdef Timer timer
    cdef int begin(self) except -1        # the channel is there: bytes may come
    cdef int drain(self) except -1        # no new requests; close when idle
    cdef int leave(self) except -1        # it is gone: counted no more
    cdef int follow(self, Connection before) except -1    # takes the place, and the channel, of another one
    cdef int introduce(self, Exchange ex) except -1       # tells an exchange who its client is
