"""What goes on without its client, and may be sent again: requests whose answer a policy keeps.

A client that lost its connection asks again, and is to get the answer to what it asked first. So that there is one, the request
that went out comes to its end although nobody listens any more.
"""
from libc.stdint cimport int64_t

from fastgw._core.exchange cimport Downstream, Exchange


cdef class Enduring(PythonHook):
    cdef bint holds(self, Exchange ex) noexcept:
        return False

    cdef bint may_repeat(self, Exchange ex) noexcept:
        return False


cdef class Nobody(Downstream):
    cdef int send_data(self, Exchange ex, const char *p, size_t n) except -1:
        self.left -= n
        if self.left < 0:                         # nothing of it will be kept, and nobody reads it
            return ex.driver.fail(ex, "client_closed", None)
        return 0


cdef Enduring holder(Exchange ex):
    if ex.route is not None:
        for hook in ex.route.chain:
            if isinstance(hook, Enduring) and (<Enduring>hook).holds(ex):
                return <Enduring>hook
    return None


cdef bint keyed(Exchange ex) noexcept:
    cdef Enduring hook = holder(ex)
    return hook is not None and hook.may_repeat(ex)


cdef bint outlives(Exchange ex, str code) except -1:
    cdef Enduring hook
    cdef Downstream down = ex.down
    cdef Nobody nobody
    if not ex.t_sent or not ex.request_done or ex.upgraded or isinstance(down, Nobody):
        return False
    hook = holder(ex)
    if hook is None:
        return False
    nobody = Nobody()
    nobody.left = hook.most
    ex.down = nobody
    ex.code = code                                # the log tells that nobody got it
    ex.side = 1
    down.finished(ex)
    return True
