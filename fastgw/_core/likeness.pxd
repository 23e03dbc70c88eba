"""An exchange that asks for the same as another one."""
from fastgw._core.exchange cimport Exchange


cdef int ask_alike(Exchange own, Exchange ex) except -1
