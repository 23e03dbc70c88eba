"""How endpoints are, in memory that all processes of a gateway share: what checks say, and who is ejected.

Checks are made once per host, by the agent. What requests show is counted here by all workers together, and the worker
that sees one failure too many ejects; rates and latencies are compared by the agent. Both change a slot and then the
version of its service; a balancer looks at that word before each pick, and at the slots when it has changed.

Layout: a page of versions (one word for a hash of the service's name, so two services may share one: then both look
once too often), then sets of 16 slots. A slot is found by the hash of service and URL, in one set; one that nobody has
used for STALE may be taken over. Words are written whole; of two that eject at the same time one wins. When a process
dies in the middle of anything, what it counted is counted.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastgw._core.clock cimport monotonic_ns
from fastgw._core.hashing cimport hash_of

cdef extern from *:
    """
    #define FGW_ADD(p, n) __atomic_add_fetch((p), (n), __ATOMIC_RELAXED)
    #define FGW_LOAD(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define FGW_STORE(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    static inline int fgw_swap64(void *p, int64_t have, int64_t want) {
      return __atomic_compare_exchange_n((int64_t *)p, &have, want, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
    }
    """
    uint64_t FGW_ADD64 "FGW_ADD"(uint64_t *p, uint64_t n) noexcept nogil
    uint32_t FGW_ADD32 "FGW_ADD"(uint32_t *p, uint32_t n) noexcept nogil
    uint64_t FGW_LOAD64 "FGW_LOAD"(const uint64_t *p) noexcept nogil
    uint32_t FGW_LOAD32 "FGW_LOAD"(const uint32_t *p) noexcept nogil
    int64_t FGW_LOADI "FGW_LOAD"(const int64_t *p) noexcept nogil
    void FGW_STORE32 "FGW_STORE"(uint32_t *p, uint32_t v) noexcept nogil
    void FGW_STORE64 "FGW_STORE"(uint64_t *p, uint64_t v) noexcept nogil
    void FGW_STOREI "FGW_STORE"(int64_t *p, int64_t v) noexcept nogil
    int fgw_swap64(void *p, int64_t have, int64_t want) noexcept nogil

cdef enum:
    VERSIONS = 1024
    WAYS = 16
    ROUNDS = 100

cdef int64_t STALE = 600_000_000_000

REASONS = ("", "check", "errors", "failures", "success_rate", "latency")
CHECKS = ("unchecked", "up", "down")
R_CHECK, R_ERRORS, R_FAILURES, R_SUCCESS_RATE, R_LATENCY = range(1, 6)

assert sizeof(Slot) == 128


cdef int64_t add(uint64_t *word, uint64_t n) noexcept nogil:
    return FGW_ADD64(word, n)


cdef uint64_t load(const uint64_t *word) noexcept nogil:
    return FGW_LOAD64(word)


cdef uint32_t count(uint32_t *word) noexcept nogil:
    return FGW_ADD32(word, 1)


cdef int eject(Slot *slot, int reason, int64_t now, int64_t base, int64_t longest) noexcept nogil:
    """1 when it is ejected from now on, 0 when somebody else did it already.

    Each ejection is `base` longer than the one before, up to `longest`; a quiet time of `longest` takes one back.
    """
    cdef int64_t until = FGW_LOADI(&slot.ejected_until)
    cdef int64_t times, quiet
    if until > now:
        return 0
    times = slot.ejections
    if until and longest > 0:
        quiet = (now - until) // longest
        times = times - quiet if quiet < times else 0
    times += 1
    if not fgw_swap64(&slot.ejected_until, until, now + (base * times if base * times < longest else longest)):
        return 0
    slot.ejections = <uint32_t>times
    slot.ejected_at = now
    FGW_STORE32(&slot.reason, reason)
    count(&slot.total)
    FGW_STORE32(&slot.errors, 0)
    FGW_STORE32(&slot.failures, 0)
    return 1


cdef class HealthTable:
    """`HealthTable(buffer)` over a writable buffer of `HealthTable.size(endpoints)` bytes; zeros are an empty table."""

    def __init__(self, buffer):
        cdef Py_buffer view
        PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        try:
            self.sets = (view.len - VERSIONS * 8) // <Py_ssize_t>(WAYS * sizeof(Slot))
            if self.sets < 1:
                raise ValueError(f"a table has {VERSIONS * 8 + WAYS * sizeof(Slot)} bytes at least, not {view.len}")
            self.versions = <uint64_t*>view.buf
            self.slots = <Slot*>(<char*>view.buf + VERSIONS * 8)
        finally:
            PyBuffer_Release(&view)
        self.memory = buffer

    @staticmethod
    def size(Py_ssize_t endpoints):
        """Bytes for so many endpoints, with room for an uneven hash."""
        return VERSIONS * 8 + (endpoints * 2 // WAYS + 1) * WAYS * sizeof(Slot)

    cdef Slot* at(self, Py_ssize_t index) noexcept:
        return &self.slots[index]

    cdef uint64_t* version_of(self, str service) except NULL:
        cdef bytes name = service.encode()
        return &self.versions[hash_of(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name)) % VERSIONS]

    def changed(self, str service):
        """Balancers of the service look at their endpoints again."""
        FGW_ADD64(self.version_of(service), 1)

    def slot(self, str service, str url):
        """The number of an endpoint's slot, a new one when it has none; -1 when there is no room."""
        cdef bytes name = f"{service}\0{url}".encode()
        cdef uint64_t key = hash_of(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name)) | 1
        cdef Py_ssize_t first = <Py_ssize_t>((key >> 8) % <uint64_t>self.sets) * WAYS, i, free
        cdef int64_t now = monotonic_ns(), oldest
        cdef uint64_t have
        cdef int rounds
        for rounds in range(ROUNDS):
            free = -1
            oldest = now - STALE
            for i in range(first, first + WAYS):
                have = FGW_LOAD64(&self.slots[i].key)
                if have == key:
                    self.slots[i].touched = now
                    return i
                if have == 0:
                    if free < 0 or FGW_LOAD64(&self.slots[free].key) != 0:
                        free = i
                elif self.slots[i].touched < oldest and (free < 0 or FGW_LOAD64(&self.slots[free].key) != 0):
                    oldest = self.slots[i].touched
                    free = i
            if free < 0:
                return -1
            have = FGW_LOAD64(&self.slots[free].key)
            if have == key:
                return free
            if fgw_swap64(&self.slots[free].key, <int64_t>have, <int64_t>key):
                memset(<char*>&self.slots[free] + 16, 0, sizeof(Slot) - 16)
                self.slots[free].touched = now
                return free
        return -1

    def set_check(self, Py_ssize_t slot, str service, int state):
        """What checks say from now on: 0 nothing, 1 up, 2 down."""
        cdef Slot *one = self.at(slot)
        if one.checked == <uint32_t>state:
            return
        one.since = monotonic_ns()
        if state == CHECK_DOWN:
            FGW_STORE32(&one.reason, R_CHECK)
        FGW_STORE32(&one.checked, state)
        self.changed(service)

    def eject(self, Py_ssize_t slot, str service, int reason, int64_t base_ns, int64_t longest_ns):
        """Leaves it out for a time. False when it is left out already."""
        if not eject(self.at(slot), reason, monotonic_ns(), base_ns, longest_ns):
            return False
        self.changed(service)
        return True

    def read(self, Py_ssize_t slot):
        """What is known of one endpoint. Times are nanoseconds of the monotonic clock."""
        cdef Slot *one = self.at(slot)
        return {
            "check": CHECKS[FGW_LOAD32(&one.checked)], "since": one.since,
            "ejected_until": FGW_LOADI(&one.ejected_until), "ejected_at": one.ejected_at,
            "reason": REASONS[FGW_LOAD32(&one.reason)], "ejections": one.total,
            "requests": FGW_LOAD64(&one.requests), "bad": FGW_LOAD64(&one.bad),
            "latency": FGW_LOAD64(&one.latency), "answers": FGW_LOAD64(&one.answers),
        }


cdef class Outliers:
    """`grpc`: the numbers of the statuses that count as errors."""

    def __init__(self, int errors=0, int failures=0, bint rates=False, int64_t base_ns=10_000_000_000,
                 int64_t longest_ns=300_000_000_000, double share=0.5, grpc=()):
        self.errors = errors
        self.failures = failures
        self.rates = rates
        self.base = base_ns
        self.longest = longest_ns
        self.share = share
        for status in grpc:
            self.grpc |= <uint32_t>1 << <int>status
