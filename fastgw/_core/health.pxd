"""How endpoints are, in memory that all processes of a gateway share."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

ctypedef struct Slot:
    uint64_t key             # hash of service and URL; 0: free
    int64_t touched          # ns, monotonic: when somebody last said that it is used
    uint32_t checked         # CHECK_NONE, CHECK_UP, CHECK_DOWN
    uint32_t reason          # of the last time it was taken out
    int64_t since            # ns: when checks last changed their mind
    int64_t ejected_until    # ns; 0: never ejected
    uint32_t ejections       # what the next ejection's time is made of
    uint32_t total           # ejections in its life
    int64_t ejected_at
    uint32_t errors          # in a row: 5xx and failures of the gateway
    uint32_t failures        # in a row: failures of the gateway, and 502 to 504
    uint64_t requests        # since it is there, where rates are asked for
    uint64_t bad
    uint64_t latency         # ns, of `answers`
    uint64_t answers
    uint64_t spare[4]        # two lines of the cache for each

cdef enum:
    CHECK_NONE = 0
    CHECK_UP = 1
    CHECK_DOWN = 2


cdef class HealthTable:
    cdef object memory
    cdef uint64_t *versions
    cdef Slot *slots
    cdef Py_ssize_t sets
    cdef Slot* at(self, Py_ssize_t index) noexcept
    cdef uint64_t* version_of(self, str service) except NULL


cdef class Outliers:
    """When an endpoint that fails is left out for a time; durations in ns, 0 for what is not asked for."""
    cdef readonly uint32_t errors, failures
    cdef readonly bint rates              # requests and latencies are counted for the agent
    cdef readonly int64_t base, longest
    cdef readonly double share
    cdef readonly uint32_t grpc           # statuses of gRPC that are errors: a bit for each


cdef int eject(Slot *slot, int reason, int64_t now, int64_t base, int64_t longest) noexcept nogil
cdef int64_t add(uint64_t *word, uint64_t n) noexcept nogil
cdef uint64_t load(const uint64_t *word) noexcept nogil
cdef uint32_t count(uint32_t *word) noexcept nogil
