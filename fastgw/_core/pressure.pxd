"""How far behind a worker is, and who is turned away for it."""
from libc.stdint cimport int64_t

from fastgw._core.clock cimport Timed, Timer
from fastgw._core.exchange cimport Exchange, Hook
from fastgw._core.reactor cimport Reactor


cdef class Pressure(Timed):
    """Of one worker. Nothing is looked at while no request comes."""
    cdef Timer timer
    cdef bint armed
    cdef int64_t due                      # ns: when the timer goes off in a worker that keeps up
    cdef int64_t before                   # ns: the look before the last
    cdef int64_t looked                   # ns: when the last look was
    cdef readonly int64_t behind          # ns: the less of the last two looks
    cdef readonly int active              # requests under way, as of the last that was asked about
    cdef readonly dict sheds              # by name of the class
    cdef int look(self, Reactor reactor, int64_t now) except -1


cdef class OverloadHook(Hook):
    cdef readonly Pressure pressure
    cdef int64_t lag                      # ns; 0: it does not matter
    cdef int most                         # requests under way; 0: they do not matter
    cdef str retry_after
    cdef object report
    cdef double pressed(self, int active) noexcept
    cdef int _shed(self, Exchange ex, double pressed) except -1
