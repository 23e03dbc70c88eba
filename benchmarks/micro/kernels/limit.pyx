"""limit: what `rate_limit` does for a request, from the key in its header to the verdict, and the headers of the answer."""
from libc.stdint cimport uint64_t
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastgw._core.bucket cimport BucketTable
from fastgw._core.exchange cimport CONTINUE, Exchange, Hook
from fastgw._core.headers cimport Head, Header
from fastgw._core.probe cimport Probe
from fastgw.policies import BuildContext, resolve

from array import array
import mmap

REQUEST = (
    b"GET /api/orders/7?page=2 HTTP/1.1\r\nHost: api.example.com\r\nAccept: application/json\r\n"
    b"Accept-Encoding: gzip\r\nUser-Agent: bench\r\nX-Api-Key: client-0000000\r\n\r\n"
)
RESPONSE = (
    b"HTTP/1.1 200 OK\r\nServer: backend\r\nDate: Fri, 20 Nov 2026 12:00:00 GMT\r\n"
    b"Content-Type: application/json\r\nContent-Length: 154\r\nX-Powered-By: bench\r\n\r\n"
)
MILLION = 1_048_576
PLENTY = {"requests": 100_000_000, "per": "1s"}


cdef object million = None


def tables():
    """One table for a million keys, of all cases."""
    global million
    if million is None:
        memory = mmap.mmap(-1, BucketTable.size(MILLION))
        BucketTable.format(memory)
        million = BucketTable(memory)
    return million


def hook(**options):
    policy = resolve("rate_limit")
    context = BuildContext(policy_key="limit kernel", bucket_table=tables())
    given = {"by": "header:X-Api-Key", **(options or PLENTY)}
    return policy(policy.Options.model_validate(given), context).hook()


cdef class Asking:
    """One exchange that is asked again and again, with another key each time."""
    cdef Exchange ex
    cdef unsigned int digits, rq_len, rs_len
    cdef int rq_count, rs_count
    cdef uint64_t at

    def __init__(self):
        cdef Probe probe = Probe(REQUEST)
        cdef Header *h
        probe.respond(RESPONSE)
        self.ex = probe.exchange
        h = self.ex.request.find(b"x-api-key", 9)
        self.digits = h.value + h.value_len - 7
        self.rq_count, self.rq_len = self.ex.request.count, self.ex.request.len
        self.rs_count, self.rs_len = self.ex.response.count, self.ex.response.len
        self.at = 88172645463325252

    cdef void again(self, uint64_t keys) noexcept:
        """As it came, with one key out of so many."""
        cdef Exchange ex = self.ex
        cdef uint64_t number
        cdef int i
        ex.request.count, ex.request.len, ex.request.dropped = self.rq_count, self.rq_len, 0
        ex.response.count, ex.response.len, ex.response.dropped = self.rs_count, self.rs_len, 0
        self.at ^= self.at << 13
        self.at ^= self.at >> 7
        self.at ^= self.at << 17
        number = self.at % keys
        for i in range(6, -1, -1):
            ex.request.buf[self.digits + i] = c"0" + number % 10
            number //= 10


def run(long n, uint64_t keys, Hook hook, bint answering):
    cdef Asking asking = Asking()
    cdef long i
    for i in range(n):
        asking.again(keys)
        if hook is not None:
            if hook.request(asking.ex) != CONTINUE:
                raise AssertionError("it was refused")
            if answering:
                hook.response(asking.ex)


def fill(Hook hook, uint64_t keys):
    """Every key has its place."""
    cdef Asking asking = Asking()
    cdef uint64_t number, rest
    cdef int i
    for number in range(keys):
        asking.again(1)
        rest = number
        for i in range(6, -1, -1):
            asking.ex.request.buf[asking.digits + i] = c"0" + rest % 10
            rest //= 10
        hook.request(asking.ex)


def case(keys, answering, **options):
    found = []

    def timed(n):
        if not found:
            found.append(hook(**options))
            fill(found[0], keys)
        run(n, keys, found[0], answering)

    return timed


def the_loop(n):
    run(n, 1000, None, False)


cdef object ring = None


def one_load(long n):
    """What the machine takes for one word out of 64 MiB, each where the one before said: no decision can be faster."""
    global ring
    cdef uint64_t[::1] words
    cdef uint64_t at = 0, count = MILLION
    cdef long i
    if ring is None:
        ring = array("Q", bytes(64 * MILLION))
        words = ring
        # a full period over all lines (Hull and Dobell)
        for i in range(MILLION):
            words[8 * i] = (<uint64_t>i * 1_664_525 + 1_013_904_223) % count * 8
    words = ring
    for i in range(n):
        at = words[at]
    assert at % 8 == 0


CASES = [
    ("a request without it, its key written", the_loop),
    ("one word out of 64 MiB", one_load),
    ("decision, of a thousand keys", case(1000, False)),
    ("decision, of a million keys", case(1_000_000, False)),
    ("decision and headers, of a thousand keys", case(1000, True)),
    ("decision and headers, of a million keys", case(1_000_000, True)),
    ("two limits, of a thousand keys", case(1000, False, limits=["1000000/1s", "10000000/1m"])),
]
