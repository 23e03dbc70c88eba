"""The id of an exchange: kept when it came from somebody who is believed, else made; told to both sides."""
from libc.stdint cimport uint8_t
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeLatin1

from fastgw._core.exchange cimport CONTINUE, PHASE_REQUEST, PHASE_RESPONSE, Exchange, Hook
from fastgw._core.headers cimport Head, Header
from fastgw._core.settings cimport Settings

cdef const char *HEX = b"0123456789abcdef"


cdef bint _acceptable(const char *p, size_t n, size_t limit) noexcept nogil:
    """It will stand in logs and headers: a bound, and no character that means something there."""
    cdef size_t i
    cdef uint8_t c
    if n == 0 or n > limit:
        return False
    for i in range(n):
        c = <uint8_t>p[i]
        if not (c"a" <= c <= c"z" or c"A" <= c <= c"Z" or c"0" <= c <= c"9" or c == c"." or c == c"_" or c == c"-"
                or c == c":" or c == c"+" or c == c"/" or c == c"=" or c == c"@"):
            return False
    return True


cdef class RequestId(Hook):
    """`RequestId(header, accept, response, max_length)`"""

    def __init__(self, bytes header, bint accept, bint response, size_t limit):
        self.name = "request_id"
        self.header = header
        self.lower = header.lower()
        self.accept = accept
        self.tell = response
        self.limit = limit
        self.phases = PHASE_REQUEST | (PHASE_RESPONSE if response else 0)

    cdef int request(self, Exchange ex) except -1:
        cdef Head head = ex.request
        cdef Header *h = head.find(PyBytes_AS_STRING(self.lower), PyBytes_GET_SIZE(self.lower))
        if h != NULL:
            if (self.accept or self._from_proxy(ex)) and _acceptable(head.buf + h.value, h.value_len, self.limit):
                ex._id = PyUnicode_DecodeLatin1(head.buf + h.value, h.value_len, NULL)
                if head.count_of(PyBytes_AS_STRING(self.lower), PyBytes_GET_SIZE(self.lower)) == 1:
                    return CONTINUE
            head.remove_name(PyBytes_AS_STRING(self.lower), PyBytes_GET_SIZE(self.lower))
        return self._write(ex, head)

    cdef bint _from_proxy(self, Exchange ex) except -1:
        cdef Settings settings
        if ex.trusted_peer:
            return True
        if ex.settings is None:
            return False
        settings = <Settings>ex.settings
        return settings.trusted_count != 0 and settings.is_trusted(ex.client_addr)

    cdef int _write(self, Exchange ex, Head head) except -1:
        cdef char text[32]
        cdef int i
        cdef bytes given
        if ex._id is not None:
            given = (<str>ex._id).encode("latin-1")
            return head.append(PyBytes_AS_STRING(self.header), PyBytes_GET_SIZE(self.header),
                               PyBytes_AS_STRING(given), PyBytes_GET_SIZE(given))
        for i in range(16):
            text[i] = HEX[(ex.id_hi >> (60 - 4 * i)) & 15]
            text[16 + i] = HEX[(ex.id_lo >> (60 - 4 * i)) & 15]
        return head.append(PyBytes_AS_STRING(self.header), PyBytes_GET_SIZE(self.header), text, 32)

    cdef int response(self, Exchange ex) except -1:
        ex.response.remove_name(PyBytes_AS_STRING(self.lower), PyBytes_GET_SIZE(self.lower))
        self._write(ex, ex.response)
        return CONTINUE
