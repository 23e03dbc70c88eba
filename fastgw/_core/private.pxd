"""Stage `pool`: HTTP/1.1 connections that carry the requests of one client, because they began by telling who it is."""
from fastgw._core.exchange cimport Exchange
from fastgw._core.pool cimport Endpoint
from fastgw._core.upstream cimport H1Opener, H1Upstream


cdef class PrivateOpener(H1Opener):
    pass


cdef class PrivateConnection(H1Upstream):
    cdef bytes told                       # the header it began with; None: nothing was sent yet


cdef class PrivateEndpoint(Endpoint):
    cdef PrivateConnection _own(self, Exchange ex)
