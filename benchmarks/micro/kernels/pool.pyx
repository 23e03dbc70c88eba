"""pool: choosing an endpoint, and taking and giving back a kept connection."""
import asyncio

from fastgw._core.exchange cimport CONTINUE, Exchange
from fastgw._core.pool cimport Endpoint, Opener, PooledStream, Service
from fastgw._core.probe cimport Probe
from fastgw._core.reactor cimport Reactor

from fastgw._core.pool import Limits


cdef class Kept(PooledStream):
    """A connection without a socket."""
    cdef int bind(self, Exchange ex) except -1:
        return 0


cdef class Nobody(Opener):
    cdef PooledStream open(self, Endpoint endpoint):
        return Kept()


cdef Endpoint endpoint(object loop, int number):
    address = (2, b"\0" * 16)
    return Endpoint(Reactor(loop, print), Nobody(), f"e{number}", f"http://e{number}", b"e", (address,), Limits())


cdef int pick(int count, bint weighted, long n) except -1:
    loop = asyncio.new_event_loop()
    cdef Probe probe = Probe(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    cdef Endpoint one = endpoint(loop, 0)
    cdef Service service = Service("s", (one,) * count, weights=[1 + i % 2 for i in range(count)] if weighted else None)
    cdef long i
    for i in range(n):
        assert service.pick(probe.exchange) is one
    loop.close()
    return 0


def round_robin(long n):
    pick(1000, False, n)


def weighted_of_three(long n):
    pick(3, True, n)


def take_and_give(long n):
    loop = asyncio.new_event_loop()
    cdef Probe probe = Probe(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    cdef Endpoint one = endpoint(loop, 0)
    cdef PooledStream kept = Kept()
    cdef long i
    kept.endpoint = one
    one.connections += 1
    one.idle.append(kept)
    for i in range(n):
        assert one.checkout(probe.exchange, False) == CONTINUE
        one.release(kept, True)
    loop.close()


CASES = [
    ("round robin of 1,000 endpoints", round_robin),
    ("weighted, of 3", weighted_of_three),
    ("take and give back a kept connection", take_and_give),
]
