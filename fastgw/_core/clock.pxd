"""Time for one worker: a monotonic clock and one timer wheel."""
from libc.stdint cimport int64_t, uint64_t

cdef extern from "time.h" nogil:
    ctypedef long time_t
    struct timespec:
        time_t tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *ts)
    int CLOCK_MONOTONIC
    int CLOCK_REALTIME


cdef inline int64_t monotonic_ns() noexcept nogil:
    cdef timespec ts
    clock_gettime(CLOCK_MONOTONIC, &ts)
    return <int64_t>ts.tv_sec * 1000000000 + ts.tv_nsec


cdef inline int64_t realtime_ns() noexcept nogil:
    cdef timespec ts
    clock_gettime(CLOCK_REALTIME, &ts)
    return <int64_t>ts.tv_sec * 1000000000 + ts.tv_nsec


# A deadline of one owner. It is part of its owner's struct and never allocated.
# `due` may be moved later for free: the wheel looks at it when its slot comes up.
ctypedef struct Timer:
    Timer *prev
    Timer *next
    int64_t due          # ns on the monotonic clock; 0 = nothing is due
    int64_t slot_due     # the tick under which it is linked
    void *owner          # the Timed object


cdef inline void timer_detach(Timer *timer) noexcept:
    """For __dealloc__, when the wheel may be gone already."""
    if timer.next != NULL:
        timer.prev.next = timer.next
        timer.next.prev = timer.prev
        timer.prev = timer.next = NULL


cdef class Timed:
    """Something with deadlines. `on_timer` runs with `timer.due` already cleared."""
    cdef int on_timer(self, Timer *timer) except -1


cdef class Wheel:
    cdef Timer slots[512]
    cdef int64_t tick               # the last tick that was run
    cdef readonly int armed         # timers linked
    cdef int64_t first              # no linked timer has an earlier tick than this; 0 = not known
    cdef void init_timer(self, Timer *timer, Timed owner) noexcept
    cdef void arm(self, Timer *timer, int64_t due) noexcept
    cdef void cancel(self, Timer *timer) noexcept      # lazy: stays linked until its slot comes
    cdef void unlink(self, Timer *timer) noexcept      # at once: its owner goes away
    cdef int64_t next_due(self) noexcept               # ns; of the first slot that is not empty
    cdef int run(self, int64_t now) except -1
