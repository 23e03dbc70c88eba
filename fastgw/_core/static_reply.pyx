"""Answers the gateway gives by itself: a static reply, a redirect."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from fastgw._core.exchange cimport PHASE_REQUEST, REPLIED, Exchange, Hook
from fastgw._core.template cimport ESCAPE_HEADER, ESCAPE_URL, Compiled


cdef class StaticReply(Hook):
    """`StaticReply(status, body, content_type, headers)`; headers are (name, parts) pairs."""

    def __init__(self, int status, bytes body, bytes content_type, headers):
        cdef Compiled value
        self.name = "respond"
        self.phases = PHASE_REQUEST
        self.status = status
        self.body = body
        self.content_type = content_type
        self.lines = b""
        filled = []
        for name, parts in headers:
            value = Compiled(parts)
            if name.lower() == b"content-type":
                if value.constant is None:
                    self.content_type = None
                else:
                    self.content_type = value.constant
                    continue
            if value.constant is not None:
                self.lines += name + b": " + value.constant + b"\r\n"
                self.count += 1
            else:
                filled.append((name, value))
        self.filled = tuple(filled)

    cdef int request(self, Exchange ex) except -1:
        cdef Compiled value
        cdef bytes name
        ex.set_reply(self.status, self.body, self.content_type)
        if self.count:
            ex.response.append_lines(PyBytes_AS_STRING(self.lines), PyBytes_GET_SIZE(self.lines), self.count)
        for name, value in self.filled:
            value.write(ex, ESCAPE_HEADER)
            ex.response.append(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name), value.out, value.len)
        return REPLIED


cdef class Redirect(Hook):
    """`Redirect(status, location, keep_path, keep_query)`; location is a template's parts."""

    def __init__(self, int status, location, bint keep_path, bint keep_query):
        self.name = "redirect"
        self.phases = PHASE_REQUEST
        self.status = status
        self.location = Compiled(location)
        self.keep_path = keep_path
        self.keep_query = keep_query

    cdef int request(self, Exchange ex) except -1:
        cdef bytes location, query, fragment, hash_mark
        self.location.write(ex, ESCAPE_URL)
        location = PyBytes_FromStringAndSize(self.location.out, self.location.len)
        location, hash_mark, fragment = location.partition(b"#")
        location, mark, query = location.partition(b"?")
        if self.keep_path:
            location = location.rstrip(b"/") + PyBytes_FromStringAndSize(ex.request.buf + ex.path, ex.path_len)
        if self.keep_query and ex.has_query:
            given = PyBytes_FromStringAndSize(ex.request.buf + ex.query, ex.query_len)
            query = query + b"&" + given if query else given
        if location[:1] in (b"/", b"\\"):
            # RFC 3986 4.2: "//" begins an authority, and browsers read "\" as "/"
            location = b"/" + location.lstrip(b"/\\")
        if query:
            location += b"?" + query
        location += hash_mark + fragment
        ex.set_reply(self.status, b"", None)
        ex.response.append(b"Location", 8, PyBytes_AS_STRING(location), PyBytes_GET_SIZE(location))
        return REPLIED
