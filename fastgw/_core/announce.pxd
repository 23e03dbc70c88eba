"""Who a client is, told to an endpoint before the first byte: a header of the PROXY protocol."""
from fastgw._core.exchange cimport Downstream

cdef bytes announcement(Downstream down, int version)     # None: there is no client behind it
