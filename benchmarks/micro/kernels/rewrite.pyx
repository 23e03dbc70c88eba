"""rewrite: the target for the upstream, by a stripped prefix and by a template with captures."""
from fastgw._core.probe cimport Probe
from fastgw._core.rewrite cimport Rewrite


cdef int apply(Rewrite rewrite, long n) except -1:
    cdef Probe probe = Probe(
        b"GET /api/products/1299/reviews?page=2 HTTP/1.1\r\nHost: a\r\n\r\n", captures={"id": "1299"}
    )
    cdef unsigned int size = probe.exchange.request.len
    cdef long i
    for i in range(n):
        rewrite.apply(probe.exchange)
        assert probe.exchange.out_target_len > 0
        probe.exchange.request.len = size         # what was stored behind the head is taken off again
    return 0


def strip_prefix(long n):
    apply(Rewrite(b"/api"), n)


def template(long n):
    apply(Rewrite(path=(b"/catalog/product",), query=(b"id=", 0)), n)


CASES = [("strip a prefix", strip_prefix), ("a template with a capture", template)]
