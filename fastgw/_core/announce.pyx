"""Who a client is, told to an endpoint before the first byte: a header of the PROXY protocol."""
from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memcpy
from cpython.bytes cimport PyBytes_FromStringAndSize

from fastgw._core.accept cimport Connection
from fastgw._core.exchange cimport Downstream
from fastgw._core.proxy_protocol cimport PROXY_WRITTEN, proxy_write

cdef extern from *:
    """
    #include <netinet/in.h>
    #include <string.h>
    #include <sys/socket.h>
    /* Where the other side of a socket connected to, as IPv6 or IPv4-mapped; -1 where that is no IP address. */
    static inline int fgw_local(int fd, unsigned char *address, unsigned short *port) {
      struct sockaddr_storage ss; socklen_t n = sizeof ss;
      if (getsockname(fd, (struct sockaddr *)&ss, &n) < 0) return -1;
      memset(address, 0, 16);
      if (ss.ss_family == AF_INET) {
        struct sockaddr_in *a = (struct sockaddr_in *)&ss;
        address[10] = address[11] = 0xff; memcpy(address + 12, &a->sin_addr, 4); *port = ntohs(a->sin_port);
        return 0;
      }
      if (ss.ss_family != AF_INET6) return -1;
      struct sockaddr_in6 *a = (struct sockaddr_in6 *)&ss;
      memcpy(address, &a->sin6_addr, 16); *port = ntohs(a->sin6_port);
      return 0;
    }
    """
    int fgw_local(int fd, unsigned char *address, unsigned short *port)


cdef bytes announcement(Downstream down, int version):
    """Of the connection it comes by: its source and where it connected to, or what a proxy before us said of these."""
    cdef uint8_t header[PROXY_WRITTEN + 1]
    cdef uint8_t target[16]
    cdef uint16_t target_port = 0
    cdef Connection client = None if down is None else <Connection>down.carrier()
    cdef bint known = client is not None and client.channel is not None and client.peer.text_len != 0
    cdef int n
    if known and client.peer.told:
        memcpy(target, client.peer.target, 16)
        target_port = client.peer.target_port
    elif known and fgw_local(client.channel.fd, target, &target_port) < 0:
        known = False
    if known:
        n = proxy_write(header, version, client.peer.address, client.peer.port, target, target_port)
    else:
        n = proxy_write(header, version, NULL, 0, NULL, 0)
    return PyBytes_FromStringAndSize(<const char*>header, n)
