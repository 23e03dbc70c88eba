"""The fields that follow a chunked body (RFC 9112 7.1.2)."""
from fastgw._core.exchange cimport Exchange
from fastgw._core.headers cimport Head


cdef class Trailers:
    cdef Head kept                        # the bytes as they came, and nothing indexed
    # once, after the empty line that ends them: those that may go on become the exchange's
    cdef int settle(self, Exchange ex, int max_count) except -1


# More bytes of the trailers of a body; the first ones make the object.
cdef Trailers collect(Trailers trailers, const char *p, size_t n)

# Those of the fields that may go on; None when there are none.
cdef Head fit(Head fields)
