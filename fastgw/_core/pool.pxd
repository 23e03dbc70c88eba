"""Stage `pool`: services, their endpoints and the connections kept to them. One set per worker."""
from libc.stdint cimport int64_t, uint64_t

from fastgw._core.clock cimport Timed, Timer
from fastgw._core.exchange cimport Exchange, UpstreamStream
from fastgw._core.reactor cimport ChannelMaker, Reactor


cdef class PooledStream(UpstreamStream):
    cdef Endpoint endpoint
    cdef bint connecting, reused
    cdef int64_t idle_since
    cdef bint usable(self) noexcept               # still open, nothing unread
    cdef int bind(self, Exchange ex) except -1    # carries this exchange from now on
    cdef int drop(self) except -1                 # close it, it is not in use


cdef class Opener:
    """Makes connections; the codec's half of a pool."""
    cdef PooledStream open(self, Endpoint endpoint)
    cdef Endpoint endpoint(self, Reactor reactor, str name, str url, bytes host, tuple addresses, Limits limits,
                           ChannelMaker maker)


cdef class Limits:
    """The pool settings of a service. Durations in ns."""
    cdef readonly int max_connections, max_idle, queue_size
    cdef readonly int64_t queue_ns, idle_ns, connect_ns
    cdef readonly bint response_trailers # fields after a chunked answer go to clients that can have them
    cdef readonly int proxy_protocol     # the version that connections begin with; 0: none


cdef class Endpoint(Timed):
    cdef readonly str name                # host:port or unix:path, for logs and metrics
    cdef readonly str url
    cdef readonly ChannelMaker maker      # None: plain channels
    cdef readonly bytes host              # for a Host header when the client sent none
    cdef readonly tuple addresses         # (family, sockaddr bytes)…, replaced by name resolution
    cdef int next_address
    cdef public Limits limits
    cdef Reactor reactor
    cdef Opener opener
    cdef int per_connection               # exchanges that one connection carries at once
    cdef list idle                        # PooledStream, last used last
    cdef object waiting                   # deque of Exchange
    cdef set opening                      # streams on their way: nobody else holds them
    cdef readonly int connections, connecting
    cdef readonly int busy                # exchanges under way
    cdef readonly uint64_t connects, connect_errors, reuses
    cdef readonly bint retired
    cdef Timer timer                      # the first waiter's time in the queue
    cdef object service_stats             # (record.Stats, slot) of the service, or None
    cdef public str zone                  # where it stands, "" when nobody said
    cdef public int priority              # of its group: the lowest is asked first
    cdef public bint down                 # not to be picked while there are others
    cdef public bint open                 # not to be picked at all: its circuit breaker is open
    cdef public Py_ssize_t breaker        # its slot in the table of circuit breakers, -1: none
    cdef public int64_t since             # ns: when it was made, or came back
    cdef public Py_ssize_t health         # its slot in the table of health, -1: none
    cdef public int64_t in_flight         # exchanges it was picked for that go on, where a balancer counts them
    cdef public double latency            # ns to the head of an answer, moving; 0: not known, or nobody asks
    cdef public int64_t latency_at
    cdef public object labels             # mapping of text to text, from its source
    cdef int checkout(self, Exchange ex, bint fresh) except -1      # Verdict; REPLIED = refused
    cdef int release(self, PooledStream stream, bint reusable) except -1
    cdef int opened(self, PooledStream stream) except -1
    cdef int open_failed(self, PooledStream stream, str code) except -1
    cdef int lost_idle(self, PooledStream stream) except -1
    cdef int forget(self, Exchange ex) except -1                    # a waiter's client left
    cdef int _open(self) except -1
    cdef int _available(self, PooledStream stream) except -1
    cdef int _serve(self, PooledStream stream) except -1
    cdef int _arm(self) except -1


cdef class Picker:
    """Chooses one of some endpoints; `choice.pyx` and `maglev.pyx` have the ways to."""
    cdef Endpoint pick(self, Exchange ex)               # None: there is none


cdef class Balancer(Picker):
    """What a service chooses its endpoints by; balance.LoadBalancer is the one of a plan.

    Where it is `watched` it hears of each attempt: begun, then answered or failed or neither, then left.
    """
    cdef readonly bint watched
    cdef Picker arrange(self, tuple endpoints, list weights)        # who picks from now on
    cdef Endpoint spare(self, list tried)                           # any other one that is up, or None
    cdef int begun(self, Exchange ex, Endpoint endpoint) except -1  # CONTINUE; REPLIED: not this one, after all
    cdef object refusal(self)                                       # where it picked none: a Problem, or None
    cdef int answered(self, Exchange ex) except -1                  # ex.response has the head of the answer
    cdef int failed(self, Exchange ex, str code) except -1          # a code of codes.py instead of an answer
    cdef int left(self, Exchange ex) except -1


cdef class Service:
    cdef readonly str name
    cdef readonly int slot
    cdef readonly tuple endpoints
    cdef readonly bytes host_header       # sent as Host instead of the client's; None = the client's
    cdef readonly int64_t response_ns, idle_ns
    cdef readonly object retry            # retry.Retry, or None
    cdef readonly object admissions       # tuple of admission.Admission: asked before each attempt; None
    cdef readonly Balancer balancer
    cdef Picker picker
    cdef object __weakref__
    cdef Endpoint pick(self, Exchange ex)
    cdef Endpoint begin(self, Exchange ex)                          # picks, for an attempt that begins now
    cdef Endpoint _another(self, Exchange ex)
