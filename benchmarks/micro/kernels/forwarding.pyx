"""forwarding: who the client is, what the upstream is told of it, trace context and identifiers."""
from libc.stdint cimport uint8_t
from libc.string cimport memcmp, memcpy

from fastgw._core.forwarding cimport begin_trace, find_client, make_id, put_forwarding, random64
from fastgw._core.headers cimport Head
from fastgw._core.probe cimport Probe
from fastgw._core.settings cimport Settings

DIRECT = b"GET / HTTP/1.1\r\nHost: api.example.com\r\nAccept: */*\r\n\r\n"
BEHIND = (
    b"GET / HTTP/1.1\r\nHost: api.example.com\r\nX-Forwarded-For: 203.0.113.7, 10.0.0.2, 10.0.0.3\r\n"
    b"X-Forwarded-Proto: https\r\n\r\n"
)
TRACED = b"GET / HTTP/1.1\r\nHost: a\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n"


cdef Settings SETTINGS = Settings(trusted_proxies=("10.0.0.0/8", "127.0.0.0/8"))


cdef int whole_again(Head head) except -1:
    """Every line is there, as it came."""
    cdef int k
    for k in range(head.count):
        head.items[k].drop = 0
    head.dropped = 0
    return 0


def client_behind_proxies(long n):
    cdef Probe probe = Probe(BEHIND, "10.0.0.9", settings=SETTINGS)
    cdef uint8_t peer[16]
    cdef long i
    memcpy(peer, probe.exchange.client_addr, 16)
    for i in range(n):
        memcpy(probe.exchange.client_addr, peer, 16)
        whole_again(probe.exchange.request)
        find_client(probe.exchange, SETTINGS)
    assert n == 0 or memcmp(probe.exchange.client_addr + 12, b"\xcb\x00\x71\x07", 4) == 0


def forwarding_lines(long n):
    cdef Probe probe = Probe(DIRECT, "203.0.113.7", settings=SETTINGS)
    cdef char out[4096]
    cdef char *end = out
    cdef long i
    for i in range(n):
        end = put_forwarding(out, probe.exchange, SETTINGS)
    assert n == 0 or end - out > 40


def trace_continued(long n):
    cdef Probe probe = Probe(TRACED, settings=SETTINGS)
    cdef long i
    for i in range(n):
        whole_again(probe.exchange.request)
        begin_trace(probe.exchange, SETTINGS)
    assert n == 0 or probe.exchange.trace_flags == 1


def trace_begun(long n):
    cdef Probe probe = Probe(DIRECT, settings=SETTINGS)
    cdef long i
    for i in range(n):
        begin_trace(probe.exchange, SETTINGS)


def identifier(long n):
    cdef Probe probe = Probe(DIRECT, settings=SETTINGS)
    cdef unsigned long long last = 0
    cdef long i
    for i in range(n):
        make_id(probe.exchange)
        last ^= random64()
    assert n < 2 or last


CASES = [
    ("the client behind two trusted proxies", client_behind_proxies),
    ("X-Forwarded-*, Forwarded, traceparent", forwarding_lines),
    ("a trace that goes on", trace_continued),
    ("a trace that begins", trace_begun),
    ("a request's id, and 64 random bits", identifier),
]
