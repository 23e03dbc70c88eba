"""The hot half of `compress`: bodies of responses in an encoding that the client takes."""
from libc.stdint cimport int64_t

from fastgw._core.body cimport Stage
from fastgw._core.clock cimport Timer
from fastgw._core.exchange cimport Exchange, Hook
from fastgw._core.headers cimport Head
from fastgw._core.offload cimport Job, Offload
from fastgw._core.reactor cimport Reactor
from fastgw._core.record cimport Stats

cdef enum:
    MAX_CODINGS = 8


cdef class Piece


cdef class Compress(Hook):
    cdef tuple names                  # of the encodings, best first, bytes
    cdef tuple wholes                 # callables: a body → encoded
    cdef tuple makers                 # callables: a new (compress, flush, finish), for a body that comes in pieces
    cdef tuple kinds                  # index into the counters
    cdef object wanted                # callable: is this media type (bytes) to be compressed?
    cdef dict types                   # what it said
    cdef int64_t min_size, pause_ns
    cdef int etags, credentials, most
    cdef bint strip
    cdef Offload offload
    cdef readonly int active          # bodies under way
    cdef bint _fitting(self, Exchange ex) except -1
    cdef bint _private(self, Exchange ex) noexcept
    cdef int _start(self, Exchange ex, int at, bint eager) except -1
    cdef int _mark(self, Exchange ex, int at) except -1
    cdef int _not_modified(self, Exchange ex) except -1


cdef class Encoder(Stage):
    cdef Compress home
    cdef Reactor reactor
    cdef Stats stats
    cdef object whole                         # not None: all that came waits, to be encoded by this when it has ended
    cdef object maker                         # of those:
    cdef object compress, flush, finish       # of the library, for a body that is encoded in pieces
    cdef list waiting                         # bytes that came, for `whole`, or while a thread works
    cdef int64_t held                         # bytes with the thread and waiting
    cdef int64_t begun                        # when the first of those that wait for `whole` came
    cdef int64_t fresh                        # bytes since the last flush
    cdef int kind
    cdef bint ended, busy, eager, marked, flush_due
    cdef Timer timer
    cdef int64_t moved                        # when bytes came last
    cdef int _out(self, bytes out, bint end) except -1
    cdef int _count(self, bytes out) except -1
    cdef int _gather(self, const char *p, size_t n) except -1
    cdef int _into_pieces(self) except -1
    cdef int _begin(self) except -1
    cdef int _flush(self) except -1
    cdef int finished(self, Piece piece) except -1


cdef class Piece(Job):
    cdef Encoder home
    cdef object whole, compress, finish, flush
    cdef list pieces
    cdef bytes out
    cdef bint end, flushing
