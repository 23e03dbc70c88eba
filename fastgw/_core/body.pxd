"""The body of a response on its way out, through what the policies of its route do to it."""
from fastgw._core.exchange cimport Exchange
from fastgw._core.reactor cimport Wired


cdef class Stage(Wired):
    """What one native filter does to the body of one response. Its hook makes it in `response`, with `stand`."""
    cdef Exchange ex              # None once the exchange is over: nobody is to be given anything any more
    cdef int at                   # index of its hook in the chain
    cdef int feed(self, const char *p, size_t n, bint end) except -1    # bytes to be kept must be copied
    cdef int pass_on(self, const char *p, size_t n, bint end) except -1    # within `feed`: to what stands before it
    cdef int emit(self, const char *p, size_t n, bint end) except -1    # the same at another time; ex may be over after it
    cdef bint full(self) noexcept         # holds so much that the upstream is not to be read for now
    cdef int drained(self) except -1      # the client takes more again
    cdef int gone(self) except -1         # the exchange is over, or another answer took the place of this one


cdef class Pipe:
    cdef list stages              # of Stage, from the source to the client
    cdef bytearray whole          # what came through while the body is wanted in one piece, else None
    cdef bint ended
    cdef Stage find(self, int at)


cdef int stand(Exchange ex, Stage stage) except -1        # in the `response` of its hook
cdef int push(Exchange ex, int at, const char *p, size_t n, bint end) except -1   # from the hook `at` outwards; may raise
cdef int abandon(Exchange ex) except -1
cdef int drained(Exchange ex) except -1
cdef int judge(Exchange ex) except -1                     # sets ex.clogged
cdef bytes whole_through(Exchange ex, bytes body)         # None: a stage is not through with it yet
cdef bytes early(Exchange ex)                             # what did come through, when whole_through said None
cdef bint changed_behind(Exchange ex, object hook)        # is the body not what the service sent, where this hook taps it?
cdef bytes request_through(Exchange ex, bytes chunk, bint end)
cdef object problem_of(Exchange ex, object error)         # what a filter raised, as a Problem
