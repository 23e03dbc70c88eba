"""How far behind a worker is, and who is turned away for it.

A timer tells how late the worker is with what it has to do: the time by which it goes off too late is the time that
everything else waits too, whether the worker is busy itself or does not get the processor. One late look means
nothing (a collection of garbage, a configuration that is taken in); the less of the last two counts.

The least important class is turned away from a pressure of 1 on, the most important one from 2 on, the others evenly between.
"""
from libc.stdint cimport int64_t
from libc.string cimport memset

from fastgw._core.clock cimport Timed, Timer, monotonic_ns, timer_detach
from fastgw._core.exchange cimport CONTINUE, PHASE_REQUEST, Exchange, Hook
from fastgw._core.plan cimport Plan
from fastgw._core.policy cimport apply_problem
from fastgw._core.priorities cimport Priorities
from fastgw._core.reactor cimport Reactor
from fastgw._core.respond cimport Relay

from fastgw._core.exchange import Problem

cdef enum:
    TICK_SHIFT = 24                       # of clock.Wheel: timers go off at the end of a tick
    EVERY = 20_000_000                    # ns between two looks
    STALE = 1_000_000_000                 # ns after which a look says nothing any more


cdef class Pressure(Timed):
    def __cinit__(self):
        memset(&self.timer, 0, sizeof(Timer))
        self.timer.owner = <void*>self
        self.sheds = {}

    def __dealloc__(self):
        timer_detach(&self.timer)

    cdef int look(self, Reactor reactor, int64_t now) except -1:
        if not self.armed:
            self.armed = True
            if now - self.looked > STALE:
                self.before = self.behind = 0
            # the wheel runs a timer with the first tick that begins after it is due
            self.due = ((now + EVERY) >> TICK_SHIFT) + 1 << TICK_SHIFT
            reactor.wheel.arm(&self.timer, now + EVERY)
        return 0

    cdef int on_timer(self, Timer *timer) except -1:
        self.looked = monotonic_ns()
        self.saw(self.looked - self.due)
        self.armed = False
        return 0

    def saw(self, int64_t late):
        """A look found that the timer was so many ns late."""
        late = max(late, 0)
        self.behind = min(late, self.before)
        self.before = late

    def view(self):
        """`lag` in seconds; `sheds` by class."""
        return {"lag": self.behind / 1e9, "in_flight": self.active, "sheds": dict(self.sheds)}


cdef class OverloadHook(Hook):
    """`OverloadHook(pressure, lag in ns, most requests under way, retry_after in s, report)`; 0 for what does not matter."""

    def __init__(self, Pressure pressure not None, int64_t lag, int most, int retry_after, report):
        if not lag and not most:
            raise ValueError("a lag or a number of requests")
        self.name = "overload"
        self.phases = PHASE_REQUEST
        self.pressure = pressure
        self.lag = lag
        self.most = most
        self.retry_after = str(retry_after)
        self.report = report

    cdef double pressed(self, int active) noexcept:
        cdef double found = 0
        if self.lag:
            found = <double>self.pressure.behind / self.lag
        if self.most and <double>active / self.most > found:
            found = <double>active / self.most
        return found

    cdef int request(self, Exchange ex) except -1:
        cdef Relay relay
        cdef double pressed
        if not isinstance(ex.driver, Relay):
            return CONTINUE
        relay = <Relay>ex.driver
        self.pressure.active = relay.active
        if self.lag:
            self.pressure.look(relay.reactor, relay.reactor.now)
        pressed = self.pressed(relay.active - 1)          # the others
        return CONTINUE if pressed < 1 else self._shed(ex, pressed)

    cdef int _shed(self, Exchange ex, double pressed) except -1:
        cdef Plan plan = <Plan>ex.plan
        cdef Priorities priorities = None if plan is None else <Priorities>plan.priorities
        cdef int level = 0, last = 0
        name = "default"
        if priorities is not None:
            level = priorities.level_of(ex)
            last = len(priorities.names) - 1
            name = priorities.names[level]
        if last and pressed < 1 + <double>(last - level) / last:
            return CONTINUE
        self.pressure.sheds[name] = self.pressure.sheds.get(name, 0) + 1
        self.report(ex)
        return apply_problem(ex, Problem(
            503, "worker_overloaded", None, side=2, headers=(("Retry-After", self.retry_after),),
            members=None if priorities is None else {"priority": name},
        ))
