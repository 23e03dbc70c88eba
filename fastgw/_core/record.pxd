"""Stage `record`: what a worker counts, in a block of memory that outlives it."""
from libc.stdint cimport int64_t, uint64_t

# Counters of the whole worker. Append, never reorder: other processes read them by position.
cdef enum:
    C_ACCEPTED               # client connections
    C_ACTIVE                 # open now (a gauge)
    C_CLOSED
    C_REFUSED                # over the limit of connections
    C_REQUESTS
    C_RATE_LIMITED
    C_COALESCED
    C_TLS_FULL               # handshakes
    C_TLS_RESUMED
    C_TLS_TIMEOUT            # and why others came to nothing
    C_TLS_CLOSED             # the client went away
    C_TLS_BUSY               # too many under way
    C_TLS_PLAIN              # it spoke HTTP
    C_TLS_VERSION            # no common version
    C_TLS_CIPHER             # no common cipher, group or signature
    C_TLS_NAME               # a name nobody has
    C_TLS_ALPN               # no common protocol
    C_TLS_CERTIFICATE        # none, or one that is no good
    C_TLS_ALERT              # the client did not like something
    C_TLS_PROTOCOL           # anything else
    C_H2_CONNECTIONS         # HTTP/2 with clients
    C_H2_STREAMS
    C_H2_RESETS              # connections ended for too many resets,
    C_H2_FRAMES              # for too many frames that are no requests,
    C_H2_HEADERS             # for too large, or too slow, blocks of headers,
    C_H2_STALLED             # streams or connections whose client does not read
    C_H2_PROTOCOL            # connections that broke the protocol
    C_H2_REFUSED             # streams beyond the number that a connection may have
    C_PROXY_V1               # connections whose client the PROXY protocol told, by version
    C_PROXY_V2
    C_PROXY_TIMEOUT          # and those closed because it was not there in time,
    C_PROXY_CLOSED           # they went away before,
    C_PROXY_MISSING          # there was something else,
    C_PROXY_MALFORMED        # or it was wrong, or too long
    C_WS_OPENED              # WebSockets
    C_WS_OPEN                # open now (a gauge)
    C_WS_FRAMES_IN           # from clients
    C_WS_FRAMES_OUT
    C_WS_MESSAGES_IN
    C_WS_MESSAGES_OUT
    C_WS_PINGS               # of the gateway
    C_WS_CLOSE               # by code, as ws.CLOSES has them: 18 counters
    C_WS_CLOSE_LAST = C_WS_CLOSE + 17
    C_FEED_STREAMS           # of services, opened for websocket_broadcast
    C_FEED_MESSAGES          # that came by them
    C_FEED_DROPPED           # for clients that were too slow
    C_IDEMPOTENCY_REPLAYED   # answers given again, by idempotency keys,
    C_IDEMPOTENCY_UNKEPT     # and those that could not be kept
    C_COMPRESSED             # bodies of responses by encoding: how many, bytes before, bytes after; see CODINGS
    C_COMPRESSED_LAST = C_COMPRESSED + 8
    C_DECOMPRESSED           # the same of bodies of requests, and of responses
    C_DECOMPRESSED_LAST = C_DECOMPRESSED + 5
    C_COUNTERS               # how many there are

cdef enum:
    CODING_WORDS = 3         # of one encoding

cdef enum:
    BUCKETS = 24             # bounds of a histogram, the last is infinite
    HISTOGRAM = 26           # its words: buckets, sum in ns, count
    ROUTE_WORDS = 96         # status classes, bytes, three histograms
    CACHE_AT = 86            # of a route's words: what a cache had for its requests, by CACHED
    CACHE_WORDS = 8
    SERVICE_WORDS = 40       # silent retries; from 8 on gRPC calls by status
    GRPC_AT = 8
    GRPC_STATUSES = 18       # 0 to 16, and none or another
    CODES_MAX = 96
    HEADER_WORDS = 16


# Words of a service's block; the first is its silent retries.
cdef enum:
    W_RETRIES = 1            # attempts beyond the first, by `retry`
    W_RETRIES_BUDGET         # that there were too many of,
    W_RETRIES_BODY           # and whose body was not kept
    W_TUNNELS = 5            # connections of `protocol: tcp`
    W_TUNNEL_IN              # bytes from their clients
    W_TUNNEL_OUT
    W_HEDGES = 26            # attempts beside the first,
    W_HEDGES_WON             # those whose answer was taken,
    W_HEDGES_DENIED          # and those there was no budget for
    W_FALLBACK_SERVICE       # requests that `fallback` took elsewhere,
    W_FALLBACK_REPLY         # and those it answered
    W_MIRROR_ANSWERED = 32   # copies of requests that went to it, by what became of them
    W_MIRROR_FAILED
    W_MIRROR_FULL            # not sent: too many under way,
    W_MIRROR_LARGE           # a body too large,
    W_MIRROR_CUT             # or one that did not come to its end


# What a cache had for a request; from 1 on, as Exchange.cached has it.
cdef enum:
    CACHED_HIT = 1           # a fresh answer
    CACHED_STALE             # an old one, while a new one is fetched
    CACHED_REVALIDATED       # an old one, of which the service says that it still holds
    CACHED_MISS              # nothing
    CACHED_COLLAPSED         # nothing, and then the answer that another request got
    CACHED_FALLBACK          # an old one, because the service failed
    CACHED_BYPASS            # it was not asked: the method, or what the client or the service said


cdef class Stats:
    cdef object memory                    # keeps the buffer alive
    cdef uint64_t *words
    cdef readonly int slots, services
    cdef uint64_t *counters
    cdef uint64_t *codes
    cdef uint64_t *routes
    cdef uint64_t *upstreams
    cdef void exchange_done(self, int slot, int status, int64_t total_ns, int64_t upstream_ns, int64_t gateway_ns,
                            int64_t bytes_in, int64_t bytes_out) noexcept
    cdef void count_code(self, int code) noexcept
    cdef void add(self, int counter, int64_t n) noexcept
    cdef void add_cached(self, int slot, int result) noexcept
    cdef void add_service(self, int slot, int word) noexcept
    cdef void count_grpc(self, int slot, int status) noexcept
    cdef void add_retry(self, int slot) noexcept
    cdef void tunnel(self, int slot, int word, int64_t n) noexcept
