"""One worker's sockets: an epoll of our own, nested in the asyncio loop."""
from libc.stdint cimport int64_t, uint32_t

from fastgw._core.clock cimport Timed, Timer, Wheel


cdef class Handler(Timed):
    cdef readonly int fd
    cdef bint first                               # its events come before those of others in the same batch
    cdef int on_event(self, uint32_t events) except -1
    cdef int on_ready(self) except -1             # asked for by Reactor.later
    cdef int crash(self) except -1                # on_event raised: give everything back


cdef class Wired(Timed):
    """What sits on a Channel: bytes in, and the three ways it can go quiet."""
    cdef int on_data(self, char *p, size_t n) except -1     # p may be written to, but not kept
    cdef int on_eof(self) except -1                         # the peer will send no more
    cdef int on_broken(self) except -1                      # the connection is gone
    cdef int on_hangup(self) except -1                      # the peer is gone while reading is paused
    cdef int on_kick(self) except -1                        # kick() was asked for
    cdef int on_last(self) except -1                        # Reactor.lastly() was asked for
    cdef int on_closed(self) except -1                      # shut() is through
    cdef int on_drained(self) except -1                     # output is below the low watermark again
    cdef int on_connected(self, int error) except -1        # errno, 0 = connected


cdef class Channel(Handler):
    """A non-blocking stream socket. Writes at once what the kernel takes and keeps the rest."""
    cdef Reactor reactor
    cdef Wired owner
    cdef bint readable, paused, connecting, eof, broken, closing, queued, corked, kicked, finished
    cdef bint parting                             # the peer said that it will send nothing more
    cdef char *out
    cdef uint32_t out_at, out_len, out_cap
    cdef int64_t progress                          # when output last moved, ns
    cdef int attach(self, int fd, Wired owner) except -1
    cdef int connect(self, int fd, Wired owner) except -1
    cdef int write(self, const char *p, size_t n) except -1
    cdef int write2(self, const char *a, size_t an, const char *b, size_t bn) except -1
    cdef int write_chunk(self, const char *p, size_t n, bint last) except -1    # one chunk of a chunked body
    cdef int cork(self, const char *p, size_t n) except -1    # kept until the next write, or the end of this turn
    cdef int uncork(self) except -1
    cdef int _keep(self, const char *p, size_t n) except -1
    cdef int _fail(self) except -1
    cdef int _finish_closing(self) except -1
    cdef int _flush(self) except -1
    cdef int _read(self) except -1
    cdef int _connected(self, int error) except -1
    cdef int kick(self) except -1                  # owner.on_kick() when the handler that runs now is done
    cdef void pause(self) noexcept
    cdef int resume(self) except -1
    cdef bint full(self) noexcept                  # above the high watermark
    cdef int finish(self) except -1                # half-close: FIN when the output is out
    cdef int shut(self) except -1                  # close when the output is out
    cdef int _closed(self) except -1
    cdef int kill(self, bint reset) except -1      # close now; reset = RST instead of FIN


cdef class ChannelMaker:
    """Makes channels of another kind than plain ones, to one endpoint. `name` is for logs."""
    cdef Channel make(self, Reactor reactor)
    cdef int failed(self, Channel channel) except -1          # on_connected said EPROTO
    cdef int succeeded(self, Channel channel) except -1
    cdef str protocol(self, Channel channel)                  # agreed on in the handshake, "" when nothing was


cdef class Reactor:
    cdef readonly object loop
    cdef readonly Wheel wheel
    cdef int epfd, timerfd
    cdef public int64_t now                        # ns, monotonic, of the event that runs
    cdef char *rbuf                                # received bytes
    cdef char *dbuf                                # a message to a client while it is put together
    cdef char *ubuf                                # a message to an upstream while it is put together
    cdef list graves                               # handlers closed in this batch, kept until its end
    cdef list ready                                # handlers that asked for on_ready
    cdef list last                                 # who asked for on_last
    cdef bint in_batch, wake_asked, closed
    cdef int64_t wake_at
    cdef bint driving                              # the loop waits for us, not we for it
    cdef bint busy                                 # there were events since the loop's last turn
    cdef public bint owed                          # the loop has something to do
    cdef public int64_t due                        # when its next timer is, ns
    cdef int bounces
    cdef object report                             # callable(exception) for a handler that raised
    cdef int add(self, int fd, Handler handler, uint32_t events) except -1
    cdef int remove(self, Handler handler) except -1
    cdef int bury(self, object what) except -1    # keeps it until the batch ends: callers up the stack may use it
    cdef int outside(self) except -1
    cdef int later(self, Handler handler) except -1
    cdef int lastly(self, Wired who) except -1     # who.on_last() when the batch is done
    cdef int _run_last(self) except -1
    cdef int _guarded(self, Handler handler, uint32_t events, bint is_ready) except -1
    cdef int _run_ready(self) except -1
    cdef int _take(self, int wait_ms) except -2
    cdef int _drive(self) except -1
    cdef int _begin(self) except -1
    cdef int _settle(self) except -1
    cdef int _arm_timer(self) except -1
    cdef int turn(self) except -1


cdef enum:
    RBUF = 131072
    SCRATCH = 262144
    READS = 4                # receive buffers taken from one socket before the others have their turn
    HIGH_WATER = 131072
    LOW_WATER = 32768
