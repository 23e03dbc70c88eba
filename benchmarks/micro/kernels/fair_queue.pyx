"""fair_queue: one comes, one goes on, one is over, with 10,000 that wait: all of one tenant, and each of its own."""
from libc.stdint cimport int64_t

from fastgw._core.fair_queue cimport FairQueue

cdef enum:
    WAITING = 10_000


cdef dict queues = {}


cdef FairQueue full(int tenants, int levels):
    """Filled once: only the turns are timed."""
    cdef FairQueue queue = queues.get((tenants, levels))
    cdef int i
    if queue is None:
        queue = queues[tenants, levels] = FairQueue(levels, WAITING + 1)
        for i in range(WAITING):
            queue.push(i % tenants, None, i % levels, 1, 1, None)
    return queue


cdef int turns(long n, int tenants, int levels) except -1:
    cdef FairQueue queue = full(tenants, levels)
    cdef object what = object()
    cdef bint shed = False
    cdef long i
    cdef int waiter, flow, level
    cdef int64_t charged, now = 1
    for i in range(n):
        now += 1000
        queue.push(i % tenants, None, i % levels, 1, now, what)
        level = queue.first_level()
        waiter = queue.next(level, now, &shed)
        flow = queue.go(waiter)
        queue.remove(waiter)
        charged = queue.charge(flow)
        queue.over(flow, charged, 1_000_000 + i % 4096)
    return 0


def one_tenant(long n):
    turns(n, 1, 1)


def hundred_tenants(long n):
    turns(n, 100, 3)


def own_tenants(long n):
    turns(n, WAITING, 1)


CASES = [
    ("in and out, 10,000 wait, one tenant", one_tenant),
    ("in and out, 10,000 wait, 100 tenants in 3 classes", hundred_tenants),
    ("in and out, 10,000 wait, each a tenant", own_tenants),
]
