"""Time for one worker: a monotonic clock and one timer wheel.

A timer costs no object and no system call. Moving a deadline later, which is what
every request does, is one store: the wheel re-links the timer when its old slot comes up.
"""
from libc.stdint cimport int64_t

# 16 ms per tick, 512 slots: one turn of the wheel is 8 s; longer deadlines go round.
cdef enum:
    TICK_SHIFT = 24
    SLOTS = 512


cdef class Timed:
    cdef int on_timer(self, Timer *timer) except -1:
        return 0


cdef class Wheel:
    def __cinit__(self):
        cdef int i
        for i in range(SLOTS):
            self.slots[i].prev = self.slots[i].next = &self.slots[i]
        self.tick = monotonic_ns() >> TICK_SHIFT

    def __dealloc__(self):
        cdef int i
        cdef Timer *timer
        cdef Timer *after
        for i in range(SLOTS):
            timer = self.slots[i].next
            while timer != &self.slots[i]:
                after = timer.next
                timer.prev = timer.next = NULL
                timer = after

    cdef void init_timer(self, Timer *timer, Timed owner) noexcept:
        timer.prev = timer.next = NULL
        timer.due = timer.slot_due = 0
        timer.owner = <void*>owner

    cdef void arm(self, Timer *timer, int64_t due) noexcept:
        timer.due = due
        cdef int64_t tick = (due >> TICK_SHIFT) + 1
        if timer.next != NULL:
            if timer.slot_due <= tick:
                return                      # its slot comes up no later than needed
            self.unlink(timer)
            timer.due = due
        if tick <= self.tick:
            tick = self.tick + 1
        timer.slot_due = tick
        if tick < self.first:
            self.first = tick
        cdef Timer *head = &self.slots[tick & (SLOTS - 1)]
        timer.prev = head.prev
        timer.next = head
        head.prev.next = timer
        head.prev = timer
        self.armed += 1

    cdef void cancel(self, Timer *timer) noexcept:
        timer.due = 0

    cdef void unlink(self, Timer *timer) noexcept:
        timer.due = 0
        if timer.next == NULL:
            return
        timer.prev.next = timer.next
        timer.next.prev = timer.prev
        timer.prev = timer.next = NULL
        self.armed -= 1

    cdef int64_t next_due(self) noexcept:
        cdef int64_t tick
        if self.first == 0:
            self.first = self.tick + SLOTS
            for tick in range(self.tick + 1, self.tick + SLOTS):
                if self.slots[tick & (SLOTS - 1)].next != &self.slots[tick & (SLOTS - 1)]:
                    self.first = tick
                    break
        return (self.first << TICK_SHIFT) + 1

    cdef int run(self, int64_t now) except -1:
        """Runs everything that is due; one failing owner does not stop the others."""
        cdef object failure = None
        cdef Timed owner
        cdef int64_t target = now >> TICK_SHIFT
        cdef Timer todo
        cdef Timer *timer
        cdef Timer *head
        if target - self.tick > SLOTS:
            self.tick = target - SLOTS
        if self.tick < target:
            self.first = 0
        while self.tick < target:
            self.tick += 1
            head = &self.slots[self.tick & (SLOTS - 1)]
            if head.next == head:
                continue
            # Take the slot's list off first: owners arm new timers while it runs.
            todo.next = head.next
            todo.prev = head.prev
            todo.next.prev = &todo
            todo.prev.next = &todo
            head.prev = head.next = head
            while todo.next != &todo:
                timer = todo.next
                timer.prev.next = timer.next
                timer.next.prev = timer.prev
                timer.prev = timer.next = NULL
                self.armed -= 1
                if timer.due == 0:
                    continue
                if timer.due > now or timer.slot_due > self.tick:
                    self.arm(timer, timer.due)
                    continue
                timer.due = 0
                owner = <Timed>timer.owner    # held: it may let go of itself
                try:
                    owner.on_timer(timer)
                except Exception as error:
                    failure = error
        if failure is not None:
            raise failure
        return 0
