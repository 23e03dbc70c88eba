"""Two plans at once: a share of the clients is served by the one that is tried, and both are counted.

While a trial goes on, the plan in force names it (`Plan.trial`), and the relay asks it once for each request, before the
route is looked for. Who a client is, is a hash of its address, or of a header or a cookie: the same one is served by the
same plan in every worker. What becomes of the exchanges is heard in the place of the access log, and counted in memory
that the agent reads. Without a trial, nothing of this is there.
"""
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastgw._core.clock cimport monotonic_ns
from fastgw._core.exchange cimport SIDE_GATEWAY, Exchange
from fastgw._core.headers cimport Header
from fastgw._core.plan cimport Plan
from fastgw._core.template cimport find_cookie

cdef extern from *:
    int __builtin_clzll(unsigned long long x) nogil

cdef enum:
    STEPS = 32               # buckets for each power of two: a time is known to 3 %
    STEP_BITS = 5


cdef inline int _bucket(int64_t ns) noexcept nogil:
    """Times in units of 1.024 us: exact below 32, then 32 buckets for each power of two, up to about two minutes."""
    cdef uint64_t t = <uint64_t>ns >> 10 if ns > 0 else 0
    cdef int octave, bucket
    if t < STEPS:
        return <int>t
    octave = 63 - __builtin_clzll(t) - STEP_BITS
    bucket = STEPS * octave + <int>(t >> octave)
    return bucket if bucket < T_BUCKETS else T_BUCKETS - 1


def _bounds():
    for bucket in range(T_BUCKETS):
        octave = max(0, bucket // STEPS - 1)
        yield ((bucket - STEPS * octave + 1) << octave) * 1024e-9


# Upper bounds of the buckets, seconds.
BOUNDS = tuple(_bounds())


cdef class TrialCounts:
    """`TrialCounts(buffer)` over `TrialCounts.size()` writable bytes: what one worker saw of both plans.

    The worker writes, the agent reads and resets, before a trial begins.
    """

    def __init__(self, buffer=None):
        cdef Py_buffer view
        if buffer is None:
            buffer = bytearray(self.size())
        PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        try:
            if view.len < self.size():
                raise ValueError(f"the buffer has {view.len} bytes, {self.size()} are needed")
            self.words = <uint64_t*>view.buf
        finally:
            PyBuffer_Release(&view)
        self.memory = buffer

    @staticmethod
    def size():
        return 2 * T_WORDS * 8

    cdef int add(self, int side, Exchange ex) except -1:
        cdef uint64_t *block = self.words + side * T_WORDS
        cdef int status = ex.response.status
        block[T_REQUESTS] += 1
        if status == 499:
            block[T_LEFT] += 1
        elif status >= 500 or (ex.code is not None and ex.side >= SIDE_GATEWAY):
            block[T_ERRORS] += 1
        elif status >= 400:
            block[T_REFUSED] += 1
        if not ex.upgraded:                       # how long a WebSocket was open says nothing
            block[T_TIMES + _bucket(ex.t_end - ex.t_start)] += 1
        return 0

    def reset(self):
        memset(self.words, 0, self.size())

    def read(self):
        """Of the old plan and of the new one: ((requests, errors, refused, left), requests by BOUNDS)."""
        cdef int side, i
        cdef uint64_t *block
        found = []
        for side in range(2):
            block = self.words + side * T_WORDS
            found.append((
                (block[T_REQUESTS], block[T_ERRORS], block[T_REFUSED], block[T_LEFT]),
                [block[T_TIMES + i] for i in range(T_BUCKETS)],
            ))
        return tuple(found)


cdef class Trial:
    """`Trial(old, new, counts, share, by, seed)`: `share` of the clients, 0 to 1, are served by `new`.

    by    "header:NAME", "cookie:NAME", or None: who the client is. Without the header or cookie its address is.
    seed  other clients are chosen with another one; all workers need the same
    """

    def __init__(self, Plan old, Plan new, TrialCounts counts, double share, by=None, uint64_t seed=0):
        if not 0 < share < 1:
            raise ValueError("a share is between 0 and 1")
        self.old = old
        self.new = new
        self.counts = counts
        self.below = <uint64_t>(share * 18446744073709549568.0)
        self.kind, _, name = (by or "").partition(":")
        if self.kind not in ("", "header", "cookie") or (self.kind and not name):
            raise ValueError(f"{by!r} is neither header:NAME nor cookie:NAME")
        self.name = name.lower().encode() if self.kind == "header" else name.encode()
        self.seed = seed
        self.since = monotonic_ns()

    cdef Plan choose(self, Exchange ex):
        """The plan of an exchange that began on the old one."""
        if self._place(ex) >= self.below:
            return self.old
        self.old.alive -= 1
        self.new.alive += 1
        ex.plan = self.new
        return self.new

    cdef uint64_t _place(self, Exchange ex) noexcept:
        cdef const char *p = <const char*>ex.client_addr
        cdef size_t n = 16, i
        cdef Header *header
        cdef uint64_t h = 0xcbf29ce484222325u ^ self.seed
        if self.kind == "header":
            header = ex.request.find(PyBytes_AS_STRING(self.name), PyBytes_GET_SIZE(self.name))
            if header != NULL:
                p = ex.request.buf + header.value
                n = header.value_len
        elif self.kind == "cookie":
            find_cookie(ex, PyBytes_AS_STRING(self.name), PyBytes_GET_SIZE(self.name), &p, &n)
        for i in range(n):
            h = (h ^ <unsigned char>p[i]) * 0x100000001b3u
        # FNV-1a leaves the upper bits of short texts alike: mixed as splitmix64 does
        h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9u
        h = (h ^ (h >> 27)) * 0x94d049bb133111ebu
        return h ^ (h >> 31)

    def __call__(self, Exchange ex):
        """An exchange is over."""
        if ex.t_start >= self.since:
            if ex.plan is self.new:
                self.counts.add(1, ex)
            elif ex.plan is self.old:
                self.counts.add(0, ex)
        if self.sink is not None:
            self.sink(ex)
