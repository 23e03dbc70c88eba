"""balance, choice, maglev, ring: choosing one of 1,000 endpoints of different weights."""
import asyncio

from fastgw._core.balance cimport LoadBalancer
from fastgw._core.pool cimport Endpoint, Service
from fastgw._core.probe cimport Probe
from fastgw._core.reactor cimport Reactor

from fastgw._core.pool import Limits
from fastgw._core.template import Compiled

HEAD = b"GET /users/4711 HTTP/1.1\r\nHost: a\r\nX-User: 6f1c3d1e-0b54-4c7c\r\n\r\n"


cdef Service service(object loop, object balancer, bint weighted):
    reactor = Reactor(loop, print)
    cdef list endpoints = [
        Endpoint(reactor, None, f"10.0.0.{i}:80", f"http://10.0.0.{i}:80", b"e", (), Limits()) for i in range(1000)
    ]
    cdef Endpoint endpoint
    cdef Service made
    for i, endpoint in enumerate(endpoints):
        endpoint.in_flight = i % 7
        endpoint.latency = 1e6 + i
        endpoint.latency_at = reactor.now
    made = Service("s", tuple(endpoints), [1 + i % 3 for i in range(1000)] if weighted else None, balancer=balancer)
    while not (<LoadBalancer>made.balancer).fill():
        pass
    return made


cdef dict made = {}


cdef int pick(long n, bint weighted, str kind, parts=None, double bounded=0, bint ring=False) except -1:
    cdef Probe probe = Probe(HEAD)
    cdef Service one
    cdef long i
    if (kind, weighted, bounded, ring) not in made:
        balancer = LoadBalancer(kind, None if parts is None else Compiled(parts), bounded, ring=ring)
        made[kind, weighted, bounded, ring] = service(asyncio.new_event_loop(), balancer, weighted)
    one = made[kind, weighted, bounded, ring]
    for i in range(n):
        assert one.pick(probe.exchange) is not None
    return 0


def round_robin(long n):
    pick(n, False, "round_robin")


def weighted(long n):
    pick(n, True, "round_robin")


def by_chance(long n):
    pick(n, True, "random")


def least_requests(long n):
    pick(n, True, "least_requests")


def ewma(long n):
    pick(n, True, "ewma")


def by_address(long n):
    pick(n, True, "consistent_hash", [("client.ip", b"")])


def by_header(long n):
    pick(n, True, "consistent_hash", [("request.header", b"x-user")], 1.25)


def ring_by_address(long n):
    pick(n, True, "consistent_hash", [("client.ip", b"")], 0, True)


def ring_by_header(long n):
    pick(n, True, "consistent_hash", [("request.header", b"x-user")], 1.25, True)


CASES = [
    ("round robin", round_robin),
    ("round robin by weight", weighted),
    ("random by weight", by_chance),
    ("least requests", least_requests),
    ("ewma", ewma),
    ("consistent hash of the address", by_address),
    ("consistent hash of a header, bounded", by_header),
    ("the same on a ring, of the address", ring_by_address),
    ("the same on a ring, of a header, bounded", ring_by_header),
]
for _, operation in CASES:
    operation(1)                           # making a ring takes longer than a run that is timed
