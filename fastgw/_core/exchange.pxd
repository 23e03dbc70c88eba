"""The traveller: one request and its response, whatever protocol carries them on either side."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastgw._core.clock cimport Timed, Timer
from fastgw._core.headers cimport Head, Header
from fastgw._core.reactor cimport Wired


# What a hook answers.
cpdef enum Verdict:
    CONTINUE = 0
    REPLIED = 1          # a local reply stands in exchange.response
    WAIT = 2             # the hook will call exchange.driver.resume(exchange)
    COLLECT = 3          # request hooks: asked again when the body is there whole, of exchange.buffer_limit bytes

# Which hooks a policy has; bits of Hook.phases.
cpdef enum Phase:
    PHASE_REQUEST = 1
    PHASE_AROUND = 2
    PHASE_RESPONSE = 4
    PHASE_REQUEST_BODY = 8
    PHASE_RESPONSE_BODY = 16
    PHASE_RECORD = 32
    PHASE_TAP = 64       # sees response bytes as they pass, may not change them (native hooks only)
    PHASE_SOCKET = 128   # of a route: it has WebSockets
    PHASE_SEND = 256     # each attempt, just before its head leaves (native hooks only)
    PHASE_FILTER = 512   # may put a body.Stage into the way of the response's body (native hooks only)

# Where an exchange is; the table of moves is in exchange.pyx and drawn in docs/life-of-a-request.md.
cpdef enum State:
    S_IDLE = 0
    S_POLICY             # request hooks run
    S_AROUND             # around hooks run
    S_POOL               # waits for a connection
    S_SENT               # request head is out, no response head yet
    S_RESPONSE           # response hooks run
    S_RELAY              # response body flows
    S_DONE

cpdef enum Side:
    SIDE_NONE = 0
    SIDE_DOWNSTREAM = 1
    SIDE_GATEWAY = 2
    SIDE_UPSTREAM = 3

cdef enum:
    ALL_HOOKS = 0x7fffffff       # of Exchange.passed

cpdef enum:
    MAX_CAPTURES = 16            # of one route's path, its `*` among them; `check` refuses more

# What a failed attempt can have done at the service.
cpdef enum Untouched:
    TOUCHED = 0
    UNTOUCHED = 1        # nothing came back, over a connection that was used before: nothing, most likely
    REFUSED = 2          # it says itself that it did nothing

ctypedef struct Capture:
    uint32_t start, len          # within the normalised path


cdef class Hook:
    """One policy in a chain. Native policies subclass it; Python ones are wrapped by policy.PythonHook."""
    cdef readonly str name
    cdef readonly int phases
    cdef readonly bint preflight          # runs its request hook on CORS pre-flights, before all others
    cdef readonly int64_t buffer_request  # bytes of request body wanted whole before `request`; -1 no
    cdef readonly int64_t buffer_response # bytes of response body wanted whole before `response`; -1 no
    cdef int request(self, Exchange ex) except -1
    cdef int around(self, Exchange ex) except -1
    cdef int send(self, Exchange ex) except -1            # ex.up is the attempt's; the head may still be changed
    cdef int around_done(self, Exchange ex) except -1     # the response head (or failure) of the dispatch is here
    cdef int response(self, Exchange ex) except -1
    cdef int tap(self, Exchange ex, const char *p, size_t n, bint end) except -1
    cdef object request_body(self, Exchange ex, bytes chunk, bint end)
    cdef object response_body(self, Exchange ex, bytes chunk, bint end)
    cdef int record(self, Exchange ex) except -1
    cdef int resumed(self, Exchange ex, int verdict) except -1     # a member of this composition has waited


cdef class Route:
    """What the plan knows of one route. Made at plan time, never changed."""
    cdef readonly str name
    cdef readonly bytes name_bytes
    cdef readonly int index               # in the plan
    cdef readonly int slot                # of its metrics, stable over plans; 0 = "other"
    cdef readonly tuple param_names       # of the captures, in their order
    cdef readonly tuple chain             # of Hook, as written: global, then the route's
    cdef readonly int chain_len
    cdef readonly int phases              # the union of the chain's
    cdef readonly object service          # pool.Service or None
    cdef readonly object split            # split.Split or None
    cdef readonly object rewrite          # route.Rewrite or None
    cdef readonly bytes host_rewrite
    cdef readonly int64_t total_ns, response_ns, idle_ns, connect_ns     # 0 = none / the service's
    cdef readonly object websocket        # ws.Rules; None: there are no WebSockets here
    cdef readonly int64_t body_limit      # bytes, -1 = none
    cdef readonly uint32_t header_limit   # bytes of a head; the largest there is: its listener's alone
    cdef readonly int header_count        # likewise
    cdef readonly bint preflights         # a hook of the chain answers CORS pre-flights
    cdef readonly bint buffers_response   # a hook wants the response body whole
    cdef readonly int64_t buffer_limit    # the least of their bounds
    cdef readonly object retry            # its own retry.Retry, or None
    cdef readonly object hedge            # hedge.Hedge, or None
    cdef readonly object admissions       # tuple of admission.Admission: asked before each attempt; None
    cdef readonly object spec             # checked configuration, for admin and explain


cdef class Consumer:
    """Who calls, as key_auth, jwt and others found out."""
    cdef readonly str name
    cdef readonly bytes name_bytes
    cdef readonly tuple groups
    cdef readonly object metadata
    cdef readonly object credential       # id of the key or token subject; never the secret
    cdef readonly str plan                # name of its plan, or None
    cdef readonly object scopes           # frozenset of what this credential may do; None: scopes were not spoken of


cdef class Downstream(Wired):
    """The codec towards the client. One exchange at a time per object (a connection or a stream)."""
    cdef int send_head(self, Exchange ex, bint end) except -1
    cdef int send_data(self, Exchange ex, const char *p, size_t n) except -1
    cdef int send_end(self, Exchange ex) except -1
    cdef int flush(self) except -1
    cdef int send_interim(self, Exchange ex, Head head) except -1
    cdef int abort(self, Exchange ex) except -1       # the response cannot be completed: make that visible
    cdef bint writable(self) noexcept                  # below the high watermark
    cdef int want_body(self, Exchange ex) except -1   # the other side can take request body (again)
    cdef int hold_body(self, Exchange ex) except -1   # it cannot, for the time being
    cdef int finished(self, Exchange ex) except -1    # the exchange is over; ready for the next
    cdef Downstream carrier(self)                      # the accept.Connection it comes by; None: there is no client


cdef class UpstreamStream(Wired):
    """The codec towards the upstream, for one attempt."""
    cdef int send_head(self, Exchange ex, bint end) except -1
    cdef int send_data(self, Exchange ex, const char *p, size_t n) except -1
    cdef int send_end(self, Exchange ex) except -1
    cdef bint writable(self) noexcept
    cdef int want_data(self, Exchange ex) except -1   # the client can take response bytes (again)
    cdef int cancel(self, Exchange ex) except -1


cdef class Driver:
    """Moves exchanges through the stages; respond.Relay is the one of a worker."""
    cdef int start(self, Exchange ex) except -1                       # parsed: route it
    cdef int resume(self, Exchange ex, int verdict) except -1         # a hook that said WAIT is done
    cdef int request_data(self, Exchange ex, const char *p, size_t n) except -1
    cdef int request_end(self, Exchange ex) except -1
    cdef int downstream_gone(self, Exchange ex, str code) except -1
    cdef int downstream_writable(self, Exchange ex) except -1
    cdef int connected(self, Exchange ex, UpstreamStream up) except -1
    cdef int pool_failed(self, Exchange ex, str code) except -1
    cdef int interim(self, Exchange ex, Head head) except -1
    cdef int upgraded(self, Exchange ex) except -1                    # before response_head of a 101
    cdef int response_head(self, Exchange ex) except -1               # Verdict
    cdef int response_data(self, Exchange ex, const char *p, size_t n) except -1
    cdef int response_end(self, Exchange ex) except -1
    cdef int upstream_failed(self, Exchange ex, str code, int untouched) except -1    # Untouched
    cdef int settle(self, Exchange ex) except -1                      # the upstream let go of it
    cdef int overdue(self, Exchange ex) except -1                     # its timer went off
    cdef int upstream_writable(self, Exchange ex) except -1
    cdef int fail(self, Exchange ex, str code, object detail) except -1    # ends it with a problem
    cdef int emit(self, Exchange ex, int at, const char *p, size_t n, bint end) except -1   # body.Stage: later than it came


cdef class Exchange(Timed):
    # -- what travels
    cdef readonly Head request
    cdef readonly Head response
    cdef Downstream down
    cdef UpstreamStream up
    cdef Driver driver
    cdef readonly object plan
    cdef readonly Route route
    cdef readonly object request_trailers     # Head of trailer fields, or None; set before request_end
    cdef public object response_trailers      # the same, set before response_end; a policy may take them away
    cdef readonly object client_cert      # what the client's certificate says, or None
    cdef bint http2                       # the client speaks HTTP/2
    cdef bint grpc                        # a gRPC call
    cdef public int grpc_status           # how a translated call ended at the service; -1 unknown
    cdef bint empty                       # the head of the answer was all of it
    cdef bint extended                    # an extended CONNECT (RFC 8441): its client wants a WebSocket and nothing else
    cdef str carries                      # instead of HTTP: "tcp" or "tls"; None is HTTP
    cdef readonly bint translated         # a policy speaks another protocol to the upstream than the client does
    cdef bint upgrading                   # asks for a WebSocket, where the route has them
    cdef bint upgraded                    # both ways are open without end: a tunnel inside a protocol
    cdef object watch                     # ws.Watch of an open WebSocket, or None
    cdef readonly object service          # pool.Service it went to
    cdef readonly object endpoint         # pool.Endpoint of the last attempt
    # -- the target: offsets into request.buf, as policies and upstream see it (normalised once)
    cdef uint32_t path, path_len
    cdef uint32_t query, query_len        # without "?"; query_len 0 and has_query False when none
    cdef bint has_query
    cdef uint32_t out_target, out_target_len   # rewritten target for the upstream; len 0 = path and query
    cdef uint32_t out_method, out_method_len   # the method for the upstream; len 0 = the client's
    cdef uint32_t authority, authority_len     # Host as the client means it, offsets into request.buf
    cdef bint secure                      # the client's side is TLS (or a trusted proxy says so)
    cdef int n_captures
    cdef Capture captures[MAX_CAPTURES]
    # -- the client
    cdef uint8_t client_addr[16]          # IPv6, or IPv4 mapped
    cdef char client_text[48]
    cdef int client_len
    cdef char peer_text[48]               # who connected to us: the client, or a proxy before us
    cdef int peer_len
    cdef bint trusted_peer                # and sent forwarding headers that are believed
    # -- how it goes upstream
    cdef object settings                  # settings.Settings of its plan
    cdef bytes host_out                   # Host for the upstream instead of the client's, or None
    cdef int64_t response_ns, idle_ns     # first byte, and between bytes
    cdef bint body_filtered               # a policy changes the request body: its length is not known
    # -- identity
    cdef public Consumer consumer
    cdef public object claims             # dict of a verified token, or None
    cdef dict _vars                       # what policies keep for one exchange
    # -- ids
    cdef uint64_t id_hi, id_lo
    cdef object _id                       # text, when a policy set it or somebody asked
    cdef uint8_t trace_id[16]
    cdef uint8_t span_id[8]
    cdef uint8_t trace_flags              # 0xff: no trace context on this exchange
    # -- where it is
    cdef int state
    cdef int at                           # index of the hook that runs, or ran last
    cdef int entered                      # hooks whose request phase was passed; counts down in the response
    cdef int around_at                    # hooks whose around phase was passed; counts down likewise
    cdef bint collecting                  # the response body is held for a policy that wants it whole
    cdef bint response_filtered           # a policy changes the response body: its length is not known
    cdef int64_t body_limit, buffer_limit # bytes; -1 none
    cdef int64_t hold                     # bytes of response body that a policy wants whole, this time; -1 no
    cdef bint is_head, local, replied, head_sent, request_done, response_done, upstream_done
    cdef bint close_after                 # the downstream connection ends with this exchange
    cdef bint has_body                    # the request announces a body
    cdef bint detached                    # a subrequest: no client behind it
    cdef int attempts
    cdef object retry                     # retry.Retry that holds for it, or None
    cdef object replay                    # bytearray: the body so far, to be sent again; None: it cannot be
    cdef int64_t replay_limit             # bytes of it at most; 0: none is kept
    cdef int64_t retry_at                 # ns: another attempt begins then; 0 = none is due
    cdef object hedge                     # hedge.Hedge while another attempt may still be begun beside the first, or None
    cdef object race                      # hedge.Race once one was, or None
    cdef int64_t hedge_at                 # ns: the next one begins then; 0 = none is due
    cdef int hedged                       # how many were; below 0: and one of them gave the answer
    cdef int64_t t_pool                   # ns: when the attempt under way asked for a connection
    cdef Downstream copy                  # gets the request's body too as it passes (mirror.Shadow), or None
    cdef list tried                       # pool.Endpoint of attempts before this one, or None
    cdef object picked                    # pool.Endpoint of this attempt while a balancer counts it, else None
    cdef int64_t t_picked                 # ns; then the balancer's mark of what it counted
    cdef bint watched                     # somebody hears of this attempt: a balancer, or who was asked before it
    cdef object ticket                    # admission.Ticket of who was asked last, or None
    cdef int asked                        # how many were, of those of the route and the service
    cdef bint fresh                       # the attempt wants a connection that was not used before
    cdef object instead                   # pool.Service in the place of the route's: a fallback
    cdef readonly object fallback         # what answered in the service's place, or None
    cdef object caching                   # cache.Call while it asks the service on behalf of a cache, or waits; or None
    cdef int cached                       # what a cache had for it, see record.CACHED; 0 = none was asked
    cdef object parked                    # the Task of a suspended hook
    cdef object composing                 # (Hook, …): the composition whose member waits, see compose.pyx; or None
    cdef dict arounds                     # coroutines parked in `await dispatch()`, by hook
    cdef public bint redispatch           # a parked coroutine asked for another attempt
    cdef readonly bint head_arrived       # the current attempt has an answer (or a failure)
    cdef readonly uint32_t generation     # grows with each use of this object
    cdef object local_body                # bytes of a local reply
    cdef object request_buffer            # bytearray while a hook wants the body whole
    cdef object response_buffer
    # -- outcome
    cdef readonly object code             # stable word of a failure, or None
    cdef readonly int side
    cdef readonly int64_t bytes_in, bytes_out     # body bytes from and to the client
    cdef int64_t t_start, t_dispatch, t_sent, t_head, t_end_upstream, t_end     # ns, monotonic; 0 = not reached
    cdef Timer total                      # the route's total timeout, or its connect timeout while it waits
    cdef int64_t total_at, connect_at     # ns; 0 = none
    cdef bytes allow                      # of a 405
    cdef bint whole                       # the response goes out from local_body
    cdef bint tainted                     # a cancelled Task may still hold this object
    cdef object pipe                      # body.Pipe: what native filters do to the response's body, or None
    cdef int passed                       # hooks the response's body comes through, counted from the outermost
    cdef bint clogged                     # a filter holds so much that the upstream is not to be read

    cdef void recycle(self) noexcept
    cdef Header* header(self, const char *lower, size_t n) noexcept
    cdef int set_reply(self, int status, bytes body, bytes content_type) except -1
    cdef str id_text(self)
