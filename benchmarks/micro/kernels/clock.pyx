"""clock: arming, moving and running deadlines on the wheel."""
from libc.stdint cimport int64_t

from fastgw._core.clock cimport Timed, Timer, Wheel, monotonic_ns


cdef class Deadline(Timed):
    cdef Timer timer
    cdef long fired

    cdef int on_timer(self, Timer *timer) except -1:
        self.fired += 1
        return 0


def read_clock(long n):
    cdef long i
    cdef int64_t last = 0
    for i in range(n):
        last = monotonic_ns()
    assert last > 0


def arm_and_cancel(long n):
    """What a request does with its timeouts: armed when it begins, cancelled when it ends."""
    cdef Wheel wheel = Wheel()
    cdef Deadline deadline = Deadline()
    cdef int64_t now = monotonic_ns()
    cdef long i
    wheel.run(now)
    wheel.init_timer(&deadline.timer, deadline)
    for i in range(n):
        wheel.arm(&deadline.timer, now + 30_000_000_000 + i)
        wheel.cancel(&deadline.timer)
    wheel.unlink(&deadline.timer)


def run_idle(long n):
    """A turn of the loop in which nothing is due."""
    cdef Wheel wheel = Wheel()
    cdef Deadline deadline = Deadline()
    cdef int64_t now = monotonic_ns()
    cdef long i
    wheel.run(now)
    wheel.init_timer(&deadline.timer, deadline)
    wheel.arm(&deadline.timer, now + 3_600_000_000_000)
    for i in range(n):
        wheel.run(now + i)
    wheel.unlink(&deadline.timer)


CASES = [
    ("read the monotonic clock", read_clock),
    ("arm and cancel a deadline", arm_and_cancel),
    ("run the wheel, nothing due", run_idle),
]
