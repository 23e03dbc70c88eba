"""Work that would hold the loop for too long: done by a few threads, its end told to the loop.

The threads are begun with the first job, so that a process that forks before has none. A job belongs to whoever
submitted it: one that is not wanted any more runs to its end, and its `done` finds out by itself. Who submits jobs
bounds their number and their size.
"""
import logging
import os

from libc.stdint cimport uint32_t

import threading
from collections import deque
from queue import SimpleQueue

logger = logging.getLogger("fastgw.offload")

cdef enum:
    EPOLLIN = 1


cdef class Job:
    cdef int work(self) except -1:
        return 0

    cdef int done(self) except -1:
        return 0


cdef class Offload(Handler):
    """`Offload(threads)`: of one worker, kept over reloads."""

    def __init__(self, int threads=2):
        self.fd = -1
        self.most = threads
        self.waiting = SimpleQueue()
        self.finished = deque()

    cdef int submit(self, Reactor reactor, Job job) except -1:
        if self.reactor is None:
            reactor.add(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC), self, EPOLLIN)
            self.reactor = reactor
        self.under_way += 1
        if self.threads < self.most and self.under_way > self.threads:
            self.threads += 1
            threading.Thread(target=run, args=(self.waiting, self.finished, self.fd), daemon=True,
                             name="fastgw-offload").start()
        self.waiting.put(job)
        return 0

    cdef int on_event(self, uint32_t events) except -1:
        cdef Job job
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            pass
        while self.finished:
            job = self.finished.popleft()
            self.under_way -= 1
            try:
                job.done()
            except Exception as error:
                # one that fails must not keep the others waiting
                logger.error("the end of a job failed", exc_info=error)
        return 0


def run(waiting, finished, int fd):
    """A thread's life. It does not know its Offload, so that it keeps none alive."""
    cdef Job job
    while True:
        job = waiting.get()
        if job is None:
            return
        try:
            job.work()
        except Exception as error:
            job.error = error
        finished.append(job)
        job = None
        os.eventfd_write(fd, 1)
