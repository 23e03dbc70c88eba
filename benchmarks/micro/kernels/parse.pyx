"""parse: what httptools costs a head that the scanner has indexed, and the framing of chunks."""
from libc.string cimport memcpy

from fastgw._core.parse cimport Authorities, Chunked, chunked_begin, chunked_feed

REQUEST = (
    b"GET /api/svc0042/item-7?page=2 HTTP/1.1\r\nHost: api.example.com\r\nAccept: application/json, text/plain, */*\r\n"
    b"Accept-Language: en-GB,en;q=0.9,de;q=0.7\r\nAccept-Encoding: gzip, deflate, br\r\nUser-Agent: bench\r\n"
    b"Referer: https://app.example.com/orders\r\nX-Api-Key: client-0001\r\nX-Trace: 1\r\n\r\n"
)
RESPONSE = (
    b"HTTP/1.1 200 OK\r\nServer: backend\r\nDate: Fri, 20 Nov 2026 12:00:00 GMT\r\n"
    b"Content-Type: application/json\r\nContent-Length: 4\r\nX-Powered-By: bench\r\n\r\nbody"
)
CHUNKS = b"".join(b"400\r\n" + b"x" * 1024 + b"\r\n" for _ in range(15)) + b"0\r\n\r\n"


cdef int agree(bint requests, bytes message, long n) except -1:
    cdef Authorities parsers = Authorities(requests)
    cdef const char *p = message
    cdef Py_ssize_t size = len(message)
    cdef long i
    cdef int refused = 0
    for i in range(n):
        refused += parsers.whole.check(p, size, True, True)
    assert refused == 0, refused
    return 0


def request(long n):
    agree(True, REQUEST, n)


def response(long n):
    agree(False, RESPONSE, n)


def chunks(long n):
    """15 KiB in 15 chunks, moved together."""
    cdef Chunked state
    cdef char buffer[16384]
    cdef bytes body = CHUNKS
    cdef const char *p = body
    cdef size_t size = len(body), used, data = 0
    cdef long i
    cdef int done = 0
    assert size <= sizeof(buffer)
    for i in range(n):
        memcpy(buffer, p, size)
        chunked_begin(&state)
        done += chunked_feed(&state, buffer, size, &used, &data, True)
    assert done == n and data == 15 * 1024, (done, data)


CASES = [("agree on a request's head", request), ("agree on an answer", response), ("15 chunks of 1 KiB", chunks)]
