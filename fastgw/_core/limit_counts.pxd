"""What became of requests at limits, counted by the name of the limit, for all workers of the host."""
from libc.stdint cimport uint32_t, uint64_t

cdef enum Counted:
    N_ALLOWED = 0
    N_REFUSED
    N_DELAYED                 # of those allowed
    N_WOULD_REFUSE            # `mode: log`
    N_NO_ROOM
    N_OVER                    # admitted beyond a limit that several hosts share
    N_KINDS

cdef enum:
    MAX_NAMES = 1024


cdef class LimitCounts:
    cdef object _owner
    cdef unsigned char *_rows
    cdef uint32_t pending[MAX_NAMES * 8]
    cdef bint dirty
    cdef void add(self, int slot, int kind) noexcept
    cdef void _flush_one(self, int at) noexcept
