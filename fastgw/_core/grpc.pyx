"""gRPC as it passes: deadlines, the size of messages, the status at the end.

To the gateway a gRPC call is a request like any other, over HTTP/2 with trailers. What is particular is here: a hook
that stands last in the chain of every route whose service speaks HTTP/2, and nowhere else.
https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcpy

from fastgw._core.exchange cimport (
    CONTINUE, PHASE_RECORD, PHASE_REQUEST, PHASE_SEND, REPLIED, Exchange, Hook,
)
from fastgw._core.headers cimport Head, Header, equals_lower
from fastgw._core.policy cimport apply_problem
from fastgw._core.pool cimport Service
from fastgw._core.reactor cimport Reactor
from fastgw._core.record cimport Stats

from fastgw._core.exchange import Problem
from fastgw._core.grpc_status import status_of_failure

cdef int64_t MICROSECOND = 1_000
cdef int64_t SECOND = 1_000_000_000


cdef bint is_grpc(Head head) noexcept:
    """`application/grpc`, with a `+codec` or parameters or not. gRPC-Web is another protocol."""
    cdef Header *h = head.find(b"content-type", 12)
    cdef char after
    if h == NULL or h.value_len < 16 or not equals_lower(head.buf + h.value, b"application/grpc", 16):
        return False
    if h.value_len == 16:
        return True
    after = head.buf[h.value + 16]
    return after == c"+" or after == c";" or after == c" "


cdef int64_t parse_timeout(const char *p, size_t n) noexcept:
    """TimeoutValue TimeoutUnit: at most 8 digits, and one of H M S m u n. Nanoseconds, -1 for anything else."""
    cdef int64_t value = 0
    cdef size_t i
    cdef char unit
    if n < 2 or n > 9:
        return -1
    for i in range(n - 1):
        if not c"0" <= p[i] <= c"9":
            return -1
        value = value * 10 + (p[i] - c"0")
    unit = p[n - 1]
    if unit == c"H":
        # 11,000 years do not fit; a year is as good as none
        return (value if value < 8760 else 8760) * 3600 * SECOND
    if unit == c"M":
        return value * 60 * SECOND
    if unit == c"S":
        return value * SECOND
    if unit == c"m":
        return value * (SECOND // 1000)
    if unit == c"u":
        return value * MICROSECOND
    if unit == c"n":
        return value
    return -1


cdef int put_timeout(char *o, int64_t ns) noexcept:
    """The same the other way round, rounded down, in the finest unit that has room for it; bytes written."""
    cdef char digits[12]
    cdef int n = 0, i
    cdef int64_t value = ns // MICROSECOND
    cdef char unit = c"u"
    if value > 99_999_999:
        value = ns // (SECOND // 1000)
        unit = c"m"
    if value > 99_999_999:
        value = ns // SECOND
        unit = c"S"
    if value < 1:
        value = 1
    while value:
        digits[n] = c"0" + value % 10
        value //= 10
        n += 1
    for i in range(n):
        o[i] = digits[n - 1 - i]
    o[n] = unit
    return n + 1


cdef bint messages_fit(Messages *messages, const char *p, size_t n, int64_t limit) noexcept:
    cdef size_t take
    cdef uint32_t length
    while n:
        if messages.rest:
            take = messages.rest if messages.rest < n else n
            messages.rest -= <uint32_t>take
            p += take
            n -= take
            continue
        take = 5 - messages.have
        if take > n:
            take = n
        memcpy(messages.prefix + messages.have, p, take)
        messages.have += <uint32_t>take
        p += take
        n -= take
        if messages.have == 5:
            messages.have = 0
            length = (<uint32_t>messages.prefix[1] << 24 | <uint32_t>messages.prefix[2] << 16
                      | <uint32_t>messages.prefix[3] << 8 | messages.prefix[4])
            if limit >= 0 and length > limit:
                return False
            messages.rest = length
    return True


cdef Head end_with(str code):
    cdef Head head = Head()
    head.set("grpc-status", str(status_of_failure(code)))
    head.set("grpc-message", code)
    return head


cdef class GrpcHook(Hook):
    """`GrpcHook(reactor, stats)`: last in the chain, so that it sees what the policies made of the request."""

    def __init__(self, Reactor reactor, Stats stats):
        self.name = "grpc"
        self.reactor = reactor
        self.stats = stats
        self.phases = PHASE_REQUEST | PHASE_SEND | PHASE_RECORD

    cdef int request(self, Exchange ex) except -1:
        """The client's deadline is the gateway's too: what nobody waits for any more is not worked on."""
        cdef Head head = ex.request
        cdef Header *h
        cdef int64_t timeout
        if not is_grpc(head):
            return CONTINUE
        ex.grpc = not ex.translated               # of the client's side
        h = head.find(b"grpc-timeout", 12)
        if h == NULL:
            return CONTINUE
        timeout = parse_timeout(head.buf + h.value, h.value_len)
        if timeout < 0 or head.count_of(b"grpc-timeout", 12) != 1:
            apply_problem(ex, Problem(400, "bad_request", "grpc-timeout is not as gRPC has it."))
            return REPLIED
        if ex.total_at == 0 or ex.t_start + timeout < ex.total_at:
            ex.total_at = ex.t_start + timeout
            self.reactor.wheel.arm(&ex.total, ex.total_at)
        return CONTINUE

    cdef int send(self, Exchange ex) except -1:
        """The service is told what is left: of the client's deadline, or of the route's time if that is less."""
        cdef char text[16]
        cdef int n
        if (ex.grpc or ex.translated) and ex.total_at:
            n = put_timeout(text, ex.total_at - self.reactor.now)
            ex.request.remove_name(b"grpc-timeout", 12)
            ex.request.append(b"grpc-timeout", 12, text, n)
        return 0

    cdef int record(self, Exchange ex) except -1:
        if (ex.grpc or ex.translated) and ex.service is not None:
            self.stats.count_grpc((<Service>ex.service).slot, final_status(ex))
        return 0


cdef int final_status(Exchange ex) noexcept:
    """`grpc-status` of the trailers, or of an answer of trailers alone; -1 when there was none."""
    cdef Head head
    cdef Header *h = NULL
    cdef int status = 0
    cdef uint32_t i
    if ex.grpc_status >= 0:
        return ex.grpc_status                     # a policy made something else of it
    head = <Head>ex.response_trailers
    if head is not None:
        h = head.find(b"grpc-status", 11)
    if h == NULL:
        head = ex.response
        h = head.find(b"grpc-status", 11)
    if h == NULL or h.value_len == 0 or h.value_len > 2:
        return -1
    for i in range(h.value_len):
        if not c"0" <= head.buf[h.value + i] <= c"9":
            return -1
        status = status * 10 + (head.buf[h.value + i] - c"0")
    return status
