"""Who calls, by an API key."""
from libc.stdint cimport int64_t, uint32_t

from fastgw._core.exchange cimport Consumer, Exchange, Hook
from fastgw._core.headers cimport Head, Header
from fastgw._core.usage cimport UsageTable


cdef class Key:
    cdef readonly Consumer consumer
    cdef readonly int64_t until           # ns since the epoch, 0 = for ever
    cdef uint32_t slot                    # of its use; 0 = it has none yet


cdef class KeyTable:
    cdef dict managed                     # digest → (id, name of the consumer, scopes or None, until)
    cdef readonly UsageTable usage
    cdef readonly int64_t version
    cdef public bint broken               # what is managed could not be read: who is unknown may be known
    cdef dict people                      # consumers that are managed too, by name
    cdef int64_t fresh                    # ns, monotonic: what is managed holds until then; 0 = without end
    cdef bint stale(self) noexcept


cdef class KeyAuth(Hook):
    cdef dict keys                        # digest → Key, of the file
    cdef dict bound                       # likewise, of what is managed, in `version`
    cdef int64_t version
    cdef KeyTable table
    cdef dict consumers                   # by name
    cdef bytes header, query, cookie
    cdef bint forward, optional
    cdef Consumer anonymous
    cdef tuple excluded
    cdef str challenge
    cdef bytes _find(self, Exchange ex, bint *bad)
    cdef Key _known(self, bytes digest)
    cdef int _refuse(self, Exchange ex, str code, str detail) except -1
    cdef int _hide(self, Exchange ex) except -1
    cdef int _hide_cookie(self, Exchange ex) except -1
