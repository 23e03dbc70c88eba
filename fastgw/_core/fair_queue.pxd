"""Who waits for a place at a limit, and who is next."""
from libc.stdint cimport int64_t, uint64_t

cdef enum:
    LEVELS = 16              # classes at most, those of retries and copies among them
    KEPT = 1024              # idle flows that are remembered while they are ahead of the others

ctypedef struct Waiter:
    int flow
    int prev, next           # in its flow; next also links those that are free
    int older, newer         # among all
    int64_t at               # ns: since when

ctypedef struct Flow:
    uint64_t key
    int level, weight
    int head, tail, length   # its waiters
    int running              # of them were let go on and are not over yet
    int place                # in the heap of its level; -1: nobody waits
    int bucket               # the list of its level it is in: rounds of its weight that wait
    int before, after        # in that list, or among those that are idle
    int chain                # the next with the same hash
    double start             # virtual time: what it has had, by its weight
    int64_t least, until     # CoDel: the least delay since, and the end of the interval
    bint late                # and whether all of the last interval was above the target

ctypedef struct Turn:
    double start
    uint64_t order           # of equals the one that came first
    int flow

ctypedef struct Level:
    Turn *heap               # flows with waiters, the one that had least first
    int active, room
    int *lengths             # heads of the lists of flows that are as long
    int longest, lengths_room
    int waiting
    double now               # virtual time: of the flow that went on last
    int known                # flows of this level, idle ones among them


cdef class FairQueue:
    cdef readonly int levels, count, room, flows_used
    cdef readonly int64_t target, interval            # ns, of CoDel; 0: none
    cdef readonly int64_t typical                     # ns that one who goes on takes, moving
    cdef Level level[LEVELS]
    cdef Waiter *waiters
    cdef Flow *flows
    cdef int *table
    cdef int waiters_made, waiters_room, waiters_free
    cdef int flows_made, flows_room, flows_free, table_mask
    cdef int idle_first, idle_last, idle
    cdef int oldest_one, newest_one
    cdef uint64_t orders
    cdef list held                                    # what waits, by its waiter
    cdef list names                                   # of flows, bytes or None
    cdef int push(self, uint64_t key, bytes name, int level, int weight, int64_t now, object what) except -1
    cdef int victim(self, uint64_t key, int level, int weight) noexcept   # who goes when one more comes; -1: that one
    cdef int next(self, int level, int64_t now, bint *shed) noexcept      # the waiter whose turn it is; it still waits
    cdef int go(self, int waiter) except -1           # it goes on; its flow, for `over`
    cdef int64_t charge(self, int flow) except -1     # what is charged for it beforehand, ns
    cdef int over(self, int flow, int64_t charged, int64_t took) except -1
    cdef object remove(self, int waiter)              # it does not wait any more; what it was
    cdef inline int first_level(self) noexcept        # the most important one that somebody waits in, or `levels`
    cdef int oldest(self) noexcept                    # of all, or -1
    cdef int _find(self, uint64_t key, int level) noexcept
    cdef int _make(self, uint64_t key, bytes name, int level, int weight) except -1
    cdef int _grow_flows(self) except -1
    cdef int _free(self, int flow) except -1
    cdef int _settle(self, int flow) except -1
    cdef int _sweep(self) except -1
    cdef void _unidle(self, int flow) noexcept
    cdef int _list(self, int flow) except -1
    cdef void _unlist(self, int flow) noexcept
    cdef int _enheap(self, int flow) except -1
    cdef void _unheap(self, int flow) noexcept
    cdef void _up(self, Level *level, int at, Turn moved) noexcept
    cdef void _down(self, Level *level, int at, Turn moved) noexcept
    cdef bint _delayed(self, Flow *flow, int64_t delay, int64_t now) noexcept
