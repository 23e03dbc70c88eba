"""coalesce: the key of a request, and a flight that nobody joins."""
import asyncio

from fastgw._core.coalesce cimport Coalesce
from fastgw._core.exchange cimport CONTINUE, Exchange
from fastgw._core.probe cimport Probe
from fastgw._core.reactor cimport Reactor
from fastgw._core.record cimport Stats
from fastgw._core.respond cimport Relay

REQUEST = b"GET /api/svc0042/item-7?page=2 HTTP/1.1\r\nHost: api.example.com\r\nAccept: application/json\r\n\r\n"
PERSONAL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nSet-Cookie: a=b\r\n\r\n"


cdef Coalesce hook():
    return Coalesce((b"accept",), False, 1 << 20, 100, 1_000_000_000, False)


def key(long n):
    cdef Probe probe = Probe(REQUEST)
    cdef Coalesce one = hook()
    cdef bytes last = None
    cdef long i
    for i in range(n):
        last = one.key_of(probe.exchange)
    assert last


def flight(long n):
    """The leader goes out; its answer is for one user alone."""
    loop = asyncio.new_event_loop()
    cdef Probe probe = Probe(REQUEST)
    cdef Coalesce one = hook()
    cdef Exchange ex = probe.exchange
    cdef long i
    ex.driver = Relay(Reactor(loop, print), Stats())
    probe.respond(PERSONAL)
    for i in range(n):
        assert one.around(ex) == CONTINUE
        one.around_done(ex)
        one.record(ex)
        assert not one.flights
    loop.close()


CASES = [("the key of a request", key), ("a flight of one", flight)]
