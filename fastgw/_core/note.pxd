"""A number that a native hook keeps from its request to its response, without an object.

It lies in the request's head as a dropped line that has no name: never forwarded, never seen by policies.
"""
from libc.stdint cimport int64_t
from libc.string cimport memcpy

from fastgw._core.exchange cimport Exchange
from fastgw._core.headers cimport Header

cdef enum:
    NOTE_ID = 255

ctypedef struct Note:
    void *owner
    int64_t value


cdef inline int leave_note(Exchange ex, void *owner, int64_t value) except -1:
    cdef Note note
    note.owner = owner
    note.value = value
    cdef int item = ex.request._new_item()
    cdef Header *h = &ex.request.items[item]
    h.id = NOTE_ID
    h.drop = 1
    h.name_len = 0
    h.value_len = 0
    ex.request.dropped += 1
    h.name = h.value = h.end = ex.request.store(<const char*>&note, sizeof(Note))
    return 0


cdef inline bint read_note(Exchange ex, void *owner, int64_t *value) noexcept:
    cdef Note note
    cdef int i
    for i in range(ex.request.count - 1, -1, -1):
        if ex.request.items[i].id == NOTE_ID:
            memcpy(&note, ex.request.buf + ex.request.items[i].name, sizeof(Note))
            if note.owner == owner:
                value[0] = note.value
                return True
    return False
