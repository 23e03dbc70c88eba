"""Work that would hold the loop for too long: done by a few threads, its end told to the loop."""
from fastgw._core.reactor cimport Handler, Reactor


cdef class Job:
    """`work` runs in a thread, with the GIL until it calls something that lets go of it; `done` in the loop."""
    cdef object error                     # what `work` raised, or None
    cdef int work(self) except -1
    cdef int done(self) except -1


cdef class Offload(Handler):
    cdef Reactor reactor                  # None until the first job
    cdef object waiting, finished         # SimpleQueue of Job, deque of Job
    cdef int most, threads
    cdef readonly int under_way
    cdef int submit(self, Reactor reactor, Job job) except -1
