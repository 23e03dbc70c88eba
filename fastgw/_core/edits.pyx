"""Header edits: lines that are the same for every request are made ready once, templates are filled in."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastgw._core.exchange cimport CONTINUE, PHASE_REQUEST, PHASE_RESPONSE, Exchange, Hook
from fastgw._core.headers cimport Head
from fastgw._core.template cimport ESCAPE_HEADER, Compiled


cdef class Edit:
    """Drops every header `lower` (when it is not None), then appends `name: value`, or ready `lines`."""
    cdef int apply(self, Head head, Exchange ex) except -1:
        if self.lower is not None:
            head.remove_name(PyBytes_AS_STRING(self.lower), PyBytes_GET_SIZE(self.lower))
        if self.lines is not None:
            head.append_lines(PyBytes_AS_STRING(self.lines), PyBytes_GET_SIZE(self.lines), self.count)
        elif self.value is not None:
            self.value.write(ex, ESCAPE_HEADER)
            head.append(PyBytes_AS_STRING(self.name), PyBytes_GET_SIZE(self.name), self.value.out, self.value.len)
        return 0


cdef tuple compiled(operations):
    """("remove" | "set" | "add", name, parts) → Edits; constant lines that follow each other become one block."""
    cdef list edits = []
    cdef Edit edit, last = None
    for operation, name, parts in operations:
        edit = Edit()
        if operation != "add":
            edit.lower = name.lower()
        if operation != "remove":
            edit.value = Compiled(parts)
            edit.name = name
            if edit.value.constant is not None:
                edit.lines = name + b": " + edit.value.constant + b"\r\n"
                edit.count = 1
                edit.value = None
                if operation == "add" and last is not None and last.lines is not None:
                    last.lines += edit.lines
                    last.count += 1
                    continue
        edits.append(edit)
        last = edit
    return tuple(edits)


cdef class HeaderEdits(Hook):
    """`HeaderEdits(request, response)`: lists of ("remove" | "set" | "add", name, parts)."""

    def __init__(self, request, response):
        self.name = "headers"
        self.on_request = compiled(request)
        self.on_response = compiled(response)
        self.phases = (PHASE_REQUEST if request else 0) | (PHASE_RESPONSE if response else 0)

    cdef int request(self, Exchange ex) except -1:
        cdef Edit edit
        for edit in self.on_request:
            edit.apply(ex.request, ex)
        return CONTINUE

    cdef int response(self, Exchange ex) except -1:
        cdef Edit edit
        for edit in self.on_response:
            edit.apply(ex.response, ex)
        return CONTINUE
