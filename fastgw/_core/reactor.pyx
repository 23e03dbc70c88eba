"""One worker's sockets: an epoll of our own, nested in the asyncio loop, or the loop nested in it.

In somebody else's loop that loop watches one descriptor (`loop.add_reader` on our epoll). In a worker, whose loop is
ours, it is the other way round: our epoll watches the loop's own, we wait, and the loop has its turn when it has
something to do (`drive`). Sockets are registered once, edge-triggered, and never again. A request costs no call into
asyncio, no Future, no transport object.
All sockets share one receive buffer: what a handler does not use up at once it keeps for itself, so an idle
connection holds no buffer. For the same reason no handler may read while another one's bytes are in it:
`resume()` only notes that there is something to read, and the reactor comes back to it.
"""
from libc.errno cimport EAGAIN, EINPROGRESS, EINTR, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove, memset
from cpython.ref cimport Py_DECREF, Py_INCREF

from fastgw._core.clock cimport Timer, Wheel, monotonic_ns

import errno as _errno
import os

cdef extern from *:
    """
    #include <sys/epoll.h>
    #include <sys/socket.h>
    #include <sys/timerfd.h>
    #include <sys/uio.h>
    #include <unistd.h>
    #include <string.h>
    static inline int fgw_epoll_add(int ep, int fd, unsigned events, void *p) {
      struct epoll_event ev; memset(&ev, 0, sizeof ev); ev.events = events; ev.data.ptr = p;
      return epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev);
    }
    static inline int fgw_epoll_del(int ep, int fd) { return epoll_ctl(ep, EPOLL_CTL_DEL, fd, NULL); }
    static inline void *fgw_event_ptr(struct epoll_event *e) { return e->data.ptr; }
    static inline ssize_t fgw_send2(int fd, const void *a, size_t an, const void *b, size_t bn) {
      struct iovec iov[2] = {{(void *)a, an}, {(void *)b, bn}};
      struct msghdr m; memset(&m, 0, sizeof m); m.msg_iov = iov; m.msg_iovlen = 2;
      return sendmsg(fd, &m, MSG_NOSIGNAL);
    }
    static inline ssize_t fgw_send3(int fd, const void *a, size_t an, const void *b, size_t bn,
                                    const void *c, size_t cn) {
      struct iovec iov[3] = {{(void *)a, an}, {(void *)b, bn}, {(void *)c, cn}};
      struct msghdr m; memset(&m, 0, sizeof m); m.msg_iov = iov; m.msg_iovlen = 3;
      return sendmsg(fd, &m, MSG_NOSIGNAL);
    }
    static inline int fgw_timer_set(int fd, int64_t after_ns) {
      struct itimerspec t; memset(&t, 0, sizeof t);
      t.it_value.tv_sec = after_ns / 1000000000; t.it_value.tv_nsec = after_ns % 1000000000;
      return timerfd_settime(fd, 0, &t, NULL);
    }
    static inline int fgw_so_error(int fd) {
      int e = 0; socklen_t n = sizeof e;
      return getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &n) < 0 ? EBADF : e;
    }
    static inline void fgw_linger0(int fd) {
      struct linger l = {1, 0}; setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
    }
    """
    struct epoll_event:
        uint32_t events
    int epoll_create1(int flags)
    int epoll_wait(int ep, epoll_event *events, int n, int timeout) nogil
    int fgw_epoll_add(int ep, int fd, unsigned events, void *p)
    int fgw_epoll_del(int ep, int fd)
    void *fgw_event_ptr(epoll_event *e)
    ssize_t recv(int fd, void *p, size_t n, int flags) nogil
    ssize_t send(int fd, const void *p, size_t n, int flags) nogil
    ssize_t fgw_send2(int fd, const void *a, size_t an, const void *b, size_t bn) nogil
    ssize_t fgw_send3(int fd, const void *a, size_t an, const void *b, size_t bn, const void *c,
                      size_t cn) nogil
    ssize_t read(int fd, void *p, size_t n) nogil
    int close(int fd)
    int shutdown(int fd, int how)
    int timerfd_create(int clock, int flags)
    int fgw_timer_set(int fd, int64_t after_ns)
    int fgw_so_error(int fd)
    void fgw_linger0(int fd)
    int EPOLL_CLOEXEC, TFD_CLOEXEC, TFD_NONBLOCK, MSG_NOSIGNAL, SHUT_WR
    uint32_t EPOLLIN, EPOLLOUT, EPOLLRDHUP, EPOLLHUP, EPOLLERR, EPOLLET

cdef enum:
    BATCH = 128
    ROUNDS = 4               # batches taken in one turn of the asyncio loop
    BOUNCES = 2              # turns of the asyncio loop after it had something to do

cdef int64_t STAY_NS = 50_000_000          # the asyncio loop has a turn at least so often,
cdef int64_t IDLE_NS = 1_000_000_000       # and so often when nothing happens
cdef int64_t NEVER = 1 << 62


cdef class Handler(Timed):
    def __cinit__(self):
        self.fd = -1

    cdef int on_event(self, uint32_t events) except -1:
        return 0

    cdef int on_ready(self) except -1:
        return 0

    cdef int crash(self) except -1:
        return 0


cdef class Wired(Timed):
    cdef int on_data(self, char *p, size_t n) except -1:
        return 0

    cdef int on_eof(self) except -1:
        return 0

    cdef int on_broken(self) except -1:
        return 0

    cdef int on_hangup(self) except -1:
        return 0

    cdef int on_kick(self) except -1:
        return 0

    cdef int on_last(self) except -1:
        return 0

    cdef int on_closed(self) except -1:
        return 0

    cdef int on_drained(self) except -1:
        return 0

    cdef int on_connected(self, int error) except -1:
        return 0


cdef class Channel(Handler):
    def __cinit__(self, Reactor reactor):
        self.reactor = reactor
        self.out = NULL

    def __dealloc__(self):
        free(self.out)
        if self.fd >= 0:
            close(self.fd)

    cdef int attach(self, int fd, Wired owner) except -1:
        """Takes over a connected non-blocking socket."""
        self.fd = fd
        self.owner = owner
        return self.reactor.add(fd, self, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET)

    cdef int connect(self, int fd, Wired owner) except -1:
        """Takes over a socket whose connect() is under way; owner.on_connected follows."""
        self.connecting = True
        return self.attach(fd, owner)

    cdef int on_event(self, uint32_t events) except -1:
        cdef int error
        if self.connecting:
            if not events & (EPOLLOUT | EPOLLERR | EPOLLHUP):
                return 0
            self.connecting = False
            error = fgw_so_error(self.fd)
            self._connected(error)
            if self.fd < 0 or error:
                return 0
        if events & EPOLLOUT and self.out_len:
            self._flush()
            if self.fd < 0:
                return 0
        if events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR):
            self.readable = True
            if events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR):
                self.eof = True                  # a short read does not mean "no more": go on to the end
            if not self.paused:
                return self._read()
            if events & (EPOLLHUP | EPOLLERR):
                return self.owner.on_hangup()
        return 0

    cdef int _connected(self, int error) except -1:
        return self.owner.on_connected(error)

    cdef int on_ready(self) except -1:
        self.queued = False
        if self.fd < 0:
            return 0
        if self.broken:
            return self._closed() if self.closing else self.owner.on_broken()
        if self.corked:
            self.uncork()
            if self.fd < 0:
                return 0
        if self.kicked:
            self.kicked = False
            self.owner.on_kick()
            if self.fd < 0:
                return 0
        if self.readable and not self.paused:
            return self._read()
        return 0

    cdef int crash(self) except -1:
        cdef Wired owner = self.owner
        if owner is not None:
            owner.on_broken()
        if self.fd >= 0:
            self.kill(True)
        return 0

    cdef int _read(self) except -1:
        cdef ssize_t n
        cdef int i
        cdef Reactor reactor = self.reactor
        for i in range(READS):
            if self.fd < 0 or self.paused or not self.readable:
                return 0
            n = recv(self.fd, reactor.rbuf, RBUF, 0)
            if n > 0:
                if n < RBUF and not self.eof:
                    self.readable = False
                if self.closing:
                    continue                      # we only wait for our output to leave
                self.owner.on_data(reactor.rbuf, n)
                if not self.readable:
                    return 0
            elif n == 0:
                self.readable = False
                self.eof = True
                if self.closing:
                    return self._closed() if self.out_len == 0 else 0
                return self.owner.on_eof()
            elif errno == EAGAIN:
                self.readable = False
                return 0
            elif errno != EINTR:
                self.readable = False
                self.broken = True
                if self.closing:
                    return self._closed()
                return self.owner.on_broken()
        if self.fd >= 0 and not self.paused:
            reactor.later(self)
        return 0

    cdef int kick(self) except -1:
        self.kicked = True
        return self.reactor.later(self)

    cdef void pause(self) noexcept:
        self.paused = True

    cdef int resume(self) except -1:
        self.paused = False
        if self.readable and self.fd >= 0:
            self.reactor.later(self)
        return 0

    cdef bint full(self) noexcept:
        return self.out_len > HIGH_WATER

    cdef int _fail(self) except -1:
        """A write failed. The owner hears of it from the reactor, not from inside its own write."""
        self.broken = True
        self.out_len = self.out_at = 0
        self.reactor.later(self)
        return 0

    cdef int _keep(self, const char *p, size_t n) except -1:
        cdef uint32_t need = self.out_len + n, cap
        cdef char *grown
        if self.out_len == 0:
            self.progress = self.reactor.now
        if self.out_at and self.out_at + need > self.out_cap:
            memmove(self.out, self.out + self.out_at, self.out_len)
            self.out_at = 0
        if need > self.out_cap:
            cap = 4096 if self.out_cap == 0 else self.out_cap
            while cap < need:
                cap *= 2
            grown = <char*>realloc(self.out, cap)
            if grown == NULL:
                raise MemoryError()
            self.out = grown
            self.out_cap = cap
        memcpy(self.out + self.out_at + self.out_len, p, n)
        self.out_len = need
        return 0

    cdef int write(self, const char *p, size_t n) except -1:
        cdef ssize_t sent
        if self.broken or self.fd < 0 or n == 0:
            return 0
        if self.out_len or self.connecting:
            self._keep(p, n)
            return self.uncork()
        sent = send(self.fd, p, n, MSG_NOSIGNAL)
        if sent == <ssize_t>n:
            return 0
        if sent < 0:
            if errno != EAGAIN and errno != EINTR:
                return self._fail()
            sent = 0
        return self._keep(p + sent, n - sent)

    cdef int write2(self, const char *a, size_t an, const char *b, size_t bn) except -1:
        cdef ssize_t sent
        if self.broken or self.fd < 0:
            return 0
        if self.out_len or self.connecting:
            self._keep(a, an)
            self._keep(b, bn)
            return self.uncork()
        sent = fgw_send2(self.fd, a, an, b, bn)
        if sent == <ssize_t>(an + bn):
            return 0
        if sent < 0:
            if errno != EAGAIN and errno != EINTR:
                return self._fail()
            sent = 0
        if <size_t>sent < an:
            self._keep(a + sent, an - sent)
            return self._keep(b, bn)
        return self._keep(b + (sent - an), bn - (sent - an))

    cdef int cork(self, const char *p, size_t n) except -1:
        """A head whose body is about to follow: both leave in one segment when it does."""
        if self.broken or self.fd < 0:
            return 0
        self._keep(p, n)
        self.corked = True
        return self.reactor.later(self)

    cdef int uncork(self) except -1:
        if self.corked:
            self.corked = False
            if self.out_len and not self.connecting:
                return self._flush()
        return 0

    cdef int write_chunk(self, const char *p, size_t n, bint last) except -1:
        """RFC 9112 7.1: size in hex, data, CRLF; `last` adds the chunk that ends the body."""
        cdef char head[20]
        cdef int i = 18
        cdef size_t rest = n
        cdef ssize_t sent
        cdef size_t total
        cdef const char *tail = b"\r\n0\r\n\r\n"
        cdef size_t tail_n = 7 if last else 2
        if self.broken or self.fd < 0:
            return 0
        head[18] = c"\r"
        head[19] = c"\n"
        while rest:
            i -= 1
            head[i] = b"0123456789abcdef"[rest & 15]
            rest >>= 4
        total = (20 - i) + n + tail_n
        sent = 0
        if self.out_len == 0 and not self.connecting:
            sent = fgw_send3(self.fd, head + i, 20 - i, p, n, tail, tail_n)
            if sent == <ssize_t>total:
                return 0
            if sent < 0:
                if errno != EAGAIN and errno != EINTR:
                    return self._fail()
                sent = 0
        if <size_t>sent < <size_t>(20 - i):
            self._keep(head + i + sent, 20 - i - sent)
            sent = 0
        else:
            sent -= 20 - i
        if <size_t>sent < n:
            self._keep(p + sent, n - sent)
            sent = 0
        else:
            sent -= n
        self._keep(tail + sent, tail_n - sent)
        return self.uncork()

    cdef int _flush(self) except -1:
        cdef ssize_t sent
        cdef bint was_full = self.out_len > LOW_WATER
        while self.out_len:
            sent = send(self.fd, self.out + self.out_at, self.out_len, MSG_NOSIGNAL)
            if sent < 0:
                if errno == EINTR:
                    continue
                if errno != EAGAIN:
                    return self._fail()
                break
            self.progress = self.reactor.now
            self.out_at += sent
            self.out_len -= sent
        if self.out_len == 0:
            self.out_at = 0
            free(self.out)
            self.out = NULL
            self.out_cap = 0
            if self.closing:
                return self._finish_closing()
            if self.finished:
                shutdown(self.fd, SHUT_WR)
        if self.out_len <= LOW_WATER and not self.closing:
            return self.owner.on_drained()
        return 0

    cdef int _finish_closing(self) except -1:
        # RFC 9112 9.6: close the write side and let the peer's bytes drain, or an RST may eat our answer
        if self.eof or (self.parting and not self.readable):
            return self._closed()
        shutdown(self.fd, SHUT_WR)
        self.paused = False
        if self.readable:
            self.reactor.later(self)
        return 0

    cdef int finish(self) except -1:
        """Nothing more will be written; what comes is still read. Not while connecting."""
        if self.fd >= 0 and not self.finished and not self.broken and not self.closing:
            self.finished = True
            if self.out_len == 0:
                shutdown(self.fd, SHUT_WR)
        return 0

    cdef int shut(self) except -1:
        """Closes when the output is out and the peer has closed; its owner limits how long that may take."""
        if self.fd < 0 or self.closing:
            return 0
        if self.broken:
            return self._closed()
        self.closing = True
        self.paused = False
        if self.out_len == 0:
            return self._finish_closing()
        return 0

    cdef int _closed(self) except -1:
        """The output of a shut() channel is out and the peer has closed, or broken off."""
        cdef Wired owner = self.owner
        self.kill(False)
        return owner.on_closed() if owner is not None else 0

    cdef int kill(self, bint reset) except -1:
        cdef int fd = self.fd
        if fd < 0:
            return 0
        if reset:
            fgw_linger0(fd)
        self.reactor.remove(self)
        self.fd = -1
        close(fd)
        free(self.out)
        self.out = NULL
        self.out_len = self.out_cap = self.out_at = 0
        self.owner = None
        return 0


cdef class ChannelMaker:
    cdef Channel make(self, Reactor reactor):
        return Channel(reactor)

    cdef int failed(self, Channel channel) except -1:
        return 0

    cdef int succeeded(self, Channel channel) except -1:
        return 0

    cdef str protocol(self, Channel channel):
        return ""


cdef class Reactor:
    """`Reactor(loop, report)`; `report(exception)` hears of a handler that raised."""

    def __cinit__(self, loop, report):
        self.loop = loop
        self.report = report
        self.wheel = Wheel()
        self.graves = []
        self.ready = []
        self.last = []
        self.timerfd = -1
        self.epfd = epoll_create1(EPOLL_CLOEXEC)
        if self.epfd < 0:
            raise OSError(errno, os.strerror(errno))
        self.timerfd = timerfd_create(1, TFD_CLOEXEC | TFD_NONBLOCK)      # CLOCK_MONOTONIC
        self.rbuf = <char*>malloc(RBUF)
        self.dbuf = <char*>malloc(SCRATCH)
        self.ubuf = <char*>malloc(SCRATCH)
        if self.timerfd < 0 or self.rbuf == NULL or self.dbuf == NULL or self.ubuf == NULL:
            raise MemoryError()
        # data.ptr NULL is the timer
        if fgw_epoll_add(self.epfd, self.timerfd, EPOLLIN, NULL) < 0:
            raise OSError(errno, os.strerror(errno))
        self.now = monotonic_ns()

    def start(self):
        self.loop.add_reader(self.epfd, self._on_readable)

    def start_driving(self, int backend):
        """For a `WorkerLoop`, whose own epoll is `backend`: we wait for its events too, so that one of ours costs
        nothing of asyncio's."""
        if fgw_epoll_add(self.epfd, backend, EPOLLIN, <void*>self) < 0:
            raise OSError(errno, os.strerror(errno))
        self.driving = True
        self.bounces = BOUNCES
        self.due = NEVER
        self.loop.again(self.drive)

    def close(self):
        if not self.closed:
            self.closed = True
            if not self.driving:
                self.loop.remove_reader(self.epfd)

    def __dealloc__(self):
        if self.epfd >= 0:
            close(self.epfd)
        if self.timerfd >= 0:
            close(self.timerfd)
        free(self.rbuf)
        free(self.dbuf)
        free(self.ubuf)

    cdef int add(self, int fd, Handler handler, uint32_t events) except -1:
        if fgw_epoll_add(self.epfd, fd, events, <void*>handler) < 0:
            raise OSError(errno, os.strerror(errno))
        Py_INCREF(handler)                        # the epoll's own reference
        handler.fd = fd
        return 0

    cdef int remove(self, Handler handler) except -1:
        """Before its descriptor is closed. The object lives until the batch ends: events may name it."""
        fgw_epoll_del(self.epfd, handler.fd)
        self.bury(handler)
        Py_DECREF(handler)
        return 0

    cdef int bury(self, object what) except -1:
        self.graves.append(what)
        if not self.in_batch:
            self._wake()
        return 0

    cdef int later(self, Handler handler) except -1:
        """Calls handler.on_ready() when the handler that runs now is done."""
        if isinstance(handler, Channel):
            if (<Channel>handler).queued:
                return 0
            (<Channel>handler).queued = True
        self.ready.append(handler)
        if not self.in_batch:
            self._wake()
        return 0

    cdef int lastly(self, Wired who) except -1:
        """Calls who.on_last() when all events of this batch are done: what several of them cause leaves together."""
        self.last.append(who)
        if not self.in_batch:
            self._wake()
        return 0

    cdef int _run_last(self) except -1:
        cdef int rounds = 0
        cdef list batch
        cdef Wired who
        while self.last and rounds < 8:
            rounds += 1
            batch = self.last
            self.last = []
            for who in batch:
                try:
                    who.on_last()
                except Exception as error:
                    self.report(error)
                    try:
                        who.on_broken()
                    except Exception as second:
                        self.report(second)
            if self.ready:
                self._run_ready()
        return 0

    cdef int outside(self) except -1:
        """Called by whoever enters the data plane from outside a turn (a Task, a control message)."""
        if not self.in_batch:
            self.now = monotonic_ns()
            self._wake()
        return 0

    def _wake(self):
        if not self.wake_asked and not self.closed and not self.driving:
            self.wake_asked = True
            self.loop.call_soon(self._on_readable)

    cdef int _guarded(self, Handler handler, uint32_t events, bint is_ready) except -1:
        try:
            if is_ready:
                handler.on_ready()
            else:
                handler.on_event(events)
        except Exception as error:
            self.report(error)
            try:
                handler.crash()
            except Exception as second:
                self.report(second)
        return 0

    cdef int _run_ready(self) except -1:
        cdef int rounds = 0
        cdef list batch
        cdef Handler handler
        while self.ready and rounds < 8:
            rounds += 1
            batch = self.ready
            self.ready = []
            for handler in batch:
                self._guarded(handler, 0, True)
        return 0

    cdef int _take(self, int wait_ms) except -2:
        """Waits for events and handles one batch; how many there were."""
        cdef epoll_event events[BATCH]
        cdef int i, n
        cdef void *p
        cdef Handler handler
        cdef uint64_t expirations
        if wait_ms == 0:
            n = epoll_wait(self.epfd, events, BATCH, 0)
        else:
            with nogil:
                n = epoll_wait(self.epfd, events, BATCH, wait_ms)
        self.now = monotonic_ns()
        if n <= 0:
            return 0
        # Idle upstream connections first: one that has something to say, or has closed, must not be given to a
        # request that is in the same batch.
        for i in range(n):
            p = fgw_event_ptr(&events[i])
            if p == NULL or p == <void*>self:
                continue
            if (<Handler>p).first:
                handler = <Handler>p
                if handler.fd >= 0:
                    self._guarded(handler, events[i].events, False)
                events[i].events = 0
        for i in range(n):
            if events[i].events == 0:
                continue
            p = fgw_event_ptr(&events[i])
            if p == NULL:
                read(self.timerfd, &expirations, 8)
                self.wake_at = 0
                continue
            if p == <void*>self:
                self.owed = True                  # asyncio's own descriptors have events
                continue
            handler = <Handler>p
            if handler.fd < 0:
                continue                          # closed earlier in this batch
            self._guarded(handler, events[i].events, False)
            self.now = monotonic_ns()
            if self.ready:
                self._run_ready()
        return n

    cdef int _begin(self) except -1:
        self.in_batch = True
        self.wake_asked = False
        self.now = monotonic_ns()
        if self.ready:
            self._run_ready()
        return 0

    cdef int _settle(self) except -1:
        """After a batch: timers, and what was closed."""
        try:
            self.wheel.run(self.now)
        except Exception as error:
            self.report(error)
        if self.ready:
            self._run_ready()
        if self.last:
            self._run_last()
        if self.graves:
            self.graves.clear()
        return self._arm_timer()

    cdef int turn(self) except -1:
        """One turn of the loop that watches us."""
        cdef int rounds
        self._begin()
        for rounds in range(ROUNDS):
            if self._take(0) < BATCH:
                break
        self._settle()
        self.in_batch = False
        if self.ready or self.last:
            self._wake()
        return 0

    def drive(self):
        """Waits for events in the place of the loop, until the loop has something to do: an event of its own, a
        callback or a timer, or nothing was asked of it for a while."""
        if self.closed:
            return
        try:
            self._drive()
        finally:
            self.in_batch = False
            self.loop.again(self.drive)

    cdef int _drive(self) except -1:
        cdef int n
        cdef int64_t until, left
        self._begin()
        until = self.now + (STAY_NS if self.busy else IDLE_NS)
        self.busy = False
        if self.bounces:
            # callbacks that only the loop knows of may stand behind this one
            self.bounces -= 1
            self.busy = self._take(0) > 0
            self._settle()
        else:
            while True:
                left = min(self.due, until) - self.now
                if left < 0 or self.owed or self.ready or self.last:
                    left = 0
                n = self._take((left + 999999) // 1000000)
                self._settle()
                if n and not self.busy:
                    self.busy = True
                    until = min(until, self.now + STAY_NS)
                if self.owed or self.now >= until or self.now >= self.due:
                    break
        if self.owed or self.now >= self.due:
            self.bounces = BOUNCES
            self.owed = False
            if self.now >= self.due:
                self.due = NEVER
                self.loop.passed()
        return 0

    cdef int _arm_timer(self) except -1:
        """One timerfd for the whole wheel, set for the first slot that has something."""
        cdef Wheel wheel = self.wheel
        cdef int64_t at
        if wheel.armed == 0:
            return 0
        at = wheel.next_due()
        if self.wake_at and self.wake_at <= at:
            return 0
        self.wake_at = at
        fgw_timer_set(self.timerfd, max(at - self.now, 1000000))
        return 0

    def _on_readable(self):
        if not self.closed:
            self.turn()
