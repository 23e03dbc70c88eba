"""Stage `record`: what a worker counts, in a block of memory that outlives it.

One worker writes, other processes read; a word is eight bytes and aligned, so a reader sees whole numbers. The
layout is fixed by `slots` and `services`:

    header | counters | failure codes | a block per route slot | a block per service slot

Slot 0 is "other": routes and services beyond the configured number of label values count there.
"""
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer

from fastgw._core.codes import NAMES

# Upper bounds of the histograms, seconds: fine below a millisecond, where a gateway's own time is.
BOUNDS = (0.00005, 0.0001, 0.00025, 0.0005, 0.00075, 0.001, 0.0015, 0.0025, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.075,
          0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 60.0)
HISTOGRAMS = ("total", "upstream", "gateway")
# How a WebSocket ended: the code of the first close frame; 1006 without one.
WS_CLOSES = tuple(str(code) for code in range(1000, 1015)) + ("3xxx", "4xxx", "other")
CODINGS = ("gzip", "br", "zstd")
CODING_COUNTS = ("bodies", "in", "out")
COUNTERS = ("accepted", "active", "closed", "refused", "requests", "rate_limited", "coalesced",
            "tls_full", "tls_resumed", "tls_timeout", "tls_closed", "tls_busy", "tls_plain", "tls_version", "tls_cipher",
            "tls_name", "tls_alpn", "tls_certificate", "tls_alert", "tls_protocol", "h2_connections", "h2_streams",
            "h2_resets", "h2_frames", "h2_headers", "h2_stalled", "h2_protocol", "h2_refused",
            "proxy_v1", "proxy_v2",
            "proxy_timeout", "proxy_closed", "proxy_missing", "proxy_malformed",
            "ws_opened", "ws_open", "ws_frames_in", "ws_frames_out", "ws_messages_in", "ws_messages_out", "ws_pings",
            *("ws_close_" + code for code in WS_CLOSES), "feed_streams", "feed_messages", "feed_dropped",
            "idempotency_replayed", "idempotency_unkept",
            *(f"compressed_{coding}_{word}" for coding in CODINGS for word in CODING_COUNTS),
            *(f"decompressed_{what}_{word}" for what in ("requests", "responses") for word in CODING_COUNTS))
# Of copies for a service, by what became of them.
MIRROR_RESULTS = ("answered", "failed", "too_many", "too_large", "cut")
# What a cache had for a request, see record.pxd.
CACHED = ("hit", "stale", "revalidated", "miss", "collapsed", "fallback", "bypass")
STATUS_CLASSES = ("other", "1xx", "2xx", "3xx", "4xx", "5xx")
MAGIC = 0x66617374677732

assert len(NAMES) <= CODES_MAX and len(BOUNDS) == BUCKETS - 1 and len(COUNTERS) == C_COUNTERS

cdef int64_t _bounds[BUCKETS]
for _i, _bound in enumerate(BOUNDS):
    _bounds[_i] = <int64_t>(_bound * 1e9)
_bounds[BUCKETS - 1] = 0x7fffffffffffffff


cdef inline void _observe(uint64_t *histogram, int64_t ns) noexcept nogil:
    """A binary search over 24 bounds: five comparisons."""
    cdef int low = 0, high = BUCKETS - 1, middle
    while low < high:
        middle = (low + high) >> 1
        if ns <= _bounds[middle]:
            high = middle
        else:
            low = middle + 1
    histogram[low] += 1
    histogram[BUCKETS] += ns
    histogram[BUCKETS + 1] += 1


cdef class Stats:
    """`Stats(buffer, slots, services)` over a writable buffer of at least `Stats.size(slots, services)` bytes.

    A buffer that was laid out the same way before goes on counting where it was; another one begins at zero.
    """

    def __init__(self, buffer=None, int slots=1, int services=1):
        cdef Py_buffer view
        cdef Py_ssize_t need = self.size(slots, services)
        if slots < 1 or services < 1:
            raise ValueError("slot 0 is always there")
        if buffer is None:
            buffer = bytearray(need)
        PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        try:
            if view.len < need:
                raise ValueError(f"the buffer has {view.len} bytes, {need} are needed")
            self.words = <uint64_t*>view.buf
        finally:
            PyBuffer_Release(&view)
        self.memory = buffer
        self.slots = slots
        self.services = services
        if self.words[0] != <uint64_t>MAGIC or self.words[1] != <uint64_t>slots \
                or self.words[2] != <uint64_t>services:
            memset(self.words, 0, need)
            self.words[0] = MAGIC
            self.words[1] = slots
            self.words[2] = services
        self.counters = self.words + HEADER_WORDS
        self.codes = self.counters + C_COUNTERS
        self.routes = self.codes + CODES_MAX
        self.upstreams = self.routes + <Py_ssize_t>slots * ROUTE_WORDS

    @staticmethod
    def size(int slots, int services):
        """Bytes needed for so many route and service slots."""
        return 8 * (HEADER_WORDS + C_COUNTERS + CODES_MAX + <Py_ssize_t>slots * ROUTE_WORDS
                    + <Py_ssize_t>services * SERVICE_WORDS)

    cdef void exchange_done(self, int slot, int status, int64_t total_ns, int64_t upstream_ns, int64_t gateway_ns,
                            int64_t bytes_in, int64_t bytes_out) noexcept:
        cdef uint64_t *block
        if slot < 0 or slot >= self.slots:
            slot = 0
        block = self.routes + <Py_ssize_t>slot * ROUTE_WORDS
        self.counters[C_REQUESTS] += 1
        block[status // 100 if 100 <= status < 600 else 0] += 1
        block[6] += bytes_in
        block[7] += bytes_out
        _observe(block + 8, total_ns)
        if upstream_ns:
            _observe(block + 8 + HISTOGRAM, upstream_ns)
        _observe(block + 8 + 2 * HISTOGRAM, gateway_ns)

    cdef void count_code(self, int code) noexcept:
        """-1 counts as "other", the last of the table."""
        self.codes[code if 0 <= code < CODES_MAX - 1 else CODES_MAX - 1] += 1

    cdef void add(self, int counter, int64_t n) noexcept:
        self.counters[counter] += n

    cdef void add_retry(self, int slot) noexcept:
        self.upstreams[<Py_ssize_t>(slot if 0 <= slot < self.services else 0) * SERVICE_WORDS] += 1

    cdef void add_cached(self, int slot, int result) noexcept:
        """One more of a route's requests that a cache had this for."""
        self.routes[<Py_ssize_t>(slot if 0 <= slot < self.slots else 0) * ROUTE_WORDS + CACHE_AT + result - 1] += 1

    cdef void add_service(self, int slot, int word) noexcept:
        self.upstreams[<Py_ssize_t>(slot if 0 <= slot < self.services else 0) * SERVICE_WORDS + word] += 1

    cdef void count_grpc(self, int slot, int status) noexcept:
        """A gRPC call of a service; a status that is none of gRPC's counts as "none"."""
        cdef uint64_t *block = self.upstreams + <Py_ssize_t>(slot if 0 <= slot < self.services else 0) * SERVICE_WORDS
        block[GRPC_AT + (status if 0 <= status < GRPC_STATUSES - 1 else GRPC_STATUSES - 1)] += 1

    cdef void tunnel(self, int slot, int word, int64_t n) noexcept:
        self.upstreams[<Py_ssize_t>(slot if 0 <= slot < self.services else 0) * SERVICE_WORDS + word] += n

    def count(self, int counter, int64_t n=1):
        """For the cold half: adds to one of the counters."""
        if not 0 <= counter < C_COUNTERS:
            raise IndexError(counter)
        self.add(counter, n)

    def reset_gauges(self):
        """Called for a worker that took over the segment of a dead one: nothing is open yet."""
        self.counters[C_ACTIVE] = self.counters[C_WS_OPEN] = 0

    def reset_route(self, int slot):
        """For a slot that gets another name: nothing counts there while this is called."""
        if not 0 <= slot < self.slots:
            raise IndexError(slot)
        memset(self.routes + <Py_ssize_t>slot * ROUTE_WORDS, 0, ROUTE_WORDS * sizeof(uint64_t))

    def reset_service(self, int slot):
        if not 0 <= slot < self.services:
            raise IndexError(slot)
        memset(self.upstreams + <Py_ssize_t>slot * SERVICE_WORDS, 0, SERVICE_WORDS * sizeof(uint64_t))

    # ------------------------------------------------------------------ reading, in any process

    def read_counters(self):
        """Counters by name."""
        return {name: <int64_t>self.counters[i] for i, name in enumerate(COUNTERS)}

    def read_codes(self):
        """Failures by code, those that happened; "other" for words of policies."""
        found = {name: self.codes[i] for i, name in enumerate(NAMES) if self.codes[i]}
        if self.codes[CODES_MAX - 1]:
            found["other"] = self.codes[CODES_MAX - 1]
        return found

    def read_route(self, int slot):
        """None when nothing was counted, else (status counts, bytes in, bytes out, histograms).

        Status counts follow STATUS_CLASSES; histograms are (bucket counts, sum in ns, count), in the order of
        HISTOGRAMS.
        """
        cdef uint64_t *block
        cdef int h, i
        if not 0 <= slot < self.slots:
            raise IndexError(slot)
        block = self.routes + <Py_ssize_t>slot * ROUTE_WORDS
        statuses = tuple([block[i] for i in range(6)])
        if not any(statuses):
            return None
        histograms = []
        for h in range(3):
            at = 8 + h * HISTOGRAM
            histograms.append((tuple([block[at + i] for i in range(BUCKETS)]), block[at + BUCKETS],
                               block[at + BUCKETS + 1]))
        return statuses, block[6], block[7], tuple(histograms)

    def read_cached(self, int slot):
        """Requests of a route by what a cache had for them, in the order of CACHED."""
        cdef int i
        if not 0 <= slot < self.slots:
            raise IndexError(slot)
        block = self.routes + <Py_ssize_t>slot * ROUTE_WORDS + CACHE_AT
        return tuple([block[i] for i in range(CACHE_WORDS - 1)])

    def read_service(self, int slot):
        """Silent retries of a service."""
        if not 0 <= slot < self.services:
            raise IndexError(slot)
        return self.upstreams[<Py_ssize_t>slot * SERVICE_WORDS]

    def read_retries(self, int slot):
        """Attempts of a service beyond the first, those there was no budget for, those whose body was not kept."""
        if not 0 <= slot < self.services:
            raise IndexError(slot)
        block = self.upstreams + <Py_ssize_t>slot * SERVICE_WORDS
        return block[W_RETRIES], block[W_RETRIES_BUDGET], block[W_RETRIES_BODY]

    def read_hedges(self, int slot):
        """Attempts of a service beside the first, those that won, those there was no budget for."""
        if not 0 <= slot < self.services:
            raise IndexError(slot)
        block = self.upstreams + <Py_ssize_t>slot * SERVICE_WORDS
        return block[W_HEDGES], block[W_HEDGES_WON], block[W_HEDGES_DENIED]

    def read_fallbacks(self, int slot):
        """Requests of a service that another one was asked for, and those that got a static answer."""
        if not 0 <= slot < self.services:
            raise IndexError(slot)
        block = self.upstreams + <Py_ssize_t>slot * SERVICE_WORDS
        return block[W_FALLBACK_SERVICE], block[W_FALLBACK_REPLY]

    def read_mirror(self, int slot):
        """Copies of requests meant for a service, in the order of MIRROR_RESULTS."""
        cdef int i
        if not 0 <= slot < self.services:
            raise IndexError(slot)
        block = self.upstreams + <Py_ssize_t>slot * SERVICE_WORDS
        return tuple([block[W_MIRROR_ANSWERED + i] for i in range(5)])

    def read_grpc(self, int slot):
        """gRPC calls of a service by status, 0 to 16, and those that ended without one."""
        cdef int i
        if not 0 <= slot < self.services:
            raise IndexError(slot)
        return tuple([self.upstreams[<Py_ssize_t>slot * SERVICE_WORDS + GRPC_AT + i] for i in range(GRPC_STATUSES)])

    def read_tunnels(self, int slot):
        """Connections of `protocol: tcp` that went to a service: (how many, bytes from clients, bytes to them)."""
        cdef uint64_t *block
        if not 0 <= slot < self.services:
            raise IndexError(slot)
        block = self.upstreams + <Py_ssize_t>slot * SERVICE_WORDS
        return block[W_TUNNELS], block[W_TUNNEL_IN], block[W_TUNNEL_OUT]
