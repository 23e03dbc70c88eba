"""headers: indexing a head, looking names up in it, editing it, writing its lines out."""
from libc.stdlib cimport free, malloc

from fastgw._core.headers cimport H_AUTHORIZATION, Head

cdef bytes REQUEST = (
    b"GET /api/svc0042/item-7?page=2 HTTP/1.1\r\n"
    b"Host: api.example.com\r\n"
    b"Accept: application/json, text/plain, */*\r\n"
    b"Accept-Language: en-GB,en;q=0.9,de;q=0.7\r\n"
    b"Accept-Encoding: gzip, deflate, br\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\n"
    b"Origin: https://app.example.com\r\n"
    b"Referer: https://app.example.com/orders\r\n"
    b"X-Api-Key: client-0001\r\n"
    b"Authorization: Bearer " + b"t" * 330 + b"\r\n\r\n"
)
cdef bytes RESPONSE = (
    b"HTTP/1.1 200 OK\r\nServer: backend\r\nDate: Fri, 20 Nov 2026 12:00:00 GMT\r\n"
    b"Content-Type: application/json\r\nContent-Length: 154\r\nX-Powered-By: bench\r\n\r\n"
)


def scan_request(long n):
    cdef Head head = Head()
    cdef const char *p = REQUEST
    cdef size_t length = len(REQUEST)
    cdef long i
    cdef int got = 0
    for i in range(n):
        got = head.scan_request(p, length, 100)
    assert got == <int>length, got


def scan_response(long n):
    cdef Head head = Head()
    cdef const char *p = RESPONSE
    cdef size_t length = len(RESPONSE)
    cdef long i
    cdef int got = 0
    for i in range(n):
        got = head.scan_response(p, length, 100)
    assert got == <int>length, got


def find_by_id(long n):
    cdef Head head = Head.request(REQUEST)
    cdef long i
    cdef int found = 0
    for i in range(n):
        found += head.find_id(H_AUTHORIZATION) != NULL
    assert found == n


def find_by_name(long n):
    cdef Head head = Head.request(REQUEST)
    cdef long i
    cdef int found = 0
    for i in range(n):
        found += head.find(b"x-api-key", 9) != NULL
    assert found == n


def take_edit_copy(long n):
    """What one proxied request does with its head: index, own, edit, serialise."""
    cdef Head head = Head()
    cdef const char *p = REQUEST
    cdef size_t length = len(REQUEST)
    cdef char *out = <char*>malloc(4096)
    cdef char *end = out
    cdef long i
    for i in range(n):
        head.scan_request(p, length, 100)
        head.take(p, length)
        head.remove_name(b"authorization", 13)
        head.append(b"X-User-Id", 9, b"user-0001", 9)
        end = head.copy_lines(out)
    assert end - out > 300
    free(out)


def policy_get(long n):
    head = Head.request(REQUEST)
    cdef long i
    for i in range(n):
        head.get("X-Api-Key")


def policy_set(long n):
    head = Head.request(REQUEST)
    cdef long i
    for i in range(n):
        if not i % 64:
            head = Head.request(REQUEST)
        head.set("X-User-Id", "user-0001")


CASES = [
    (f"scan a request head ({len(REQUEST)} bytes, 9 lines)", scan_request),
    (f"scan a response head ({len(RESPONSE)} bytes, 5 lines)", scan_response),
    ("find a header by id", find_by_id),
    ("find a header by name", find_by_name),
    ("scan, take, remove one, append one, copy the lines", take_edit_copy),
    ("Head.get from Python", policy_get),
    ("Head.set from Python", policy_set),
]
