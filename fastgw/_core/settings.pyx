"""What the server section of the configuration says, in the form the hot path reads. One per plan."""
import ipaddress

from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcmp

PATH_MODES = ("normalize", "strict", "raw")


cdef class Settings:
    """Keyword arguments by the names of settings.pxd; `trusted_proxies` is a list of CIDR texts."""

    def __init__(self, *, int max_head=32768, int max_headers=100, int max_target=8192, int pipelined=16,
                 int max_connections=10000, int max_per_address=0, int64_t body_limit=10485760,
                 int64_t requests_per_connection=0, int64_t header_ns=10_000_000_000,
                 int64_t body_ns=30_000_000_000, int64_t idle_ns=75_000_000_000, int64_t total_ns=0,
                 path_mode="normalize", bint merge_slashes=True, bint x_forwarded=True, bint forwarded=False,
                 bint trace=True, double sample_rate=0.1, bytes via=b"fastgw",
                 bytes server_header=None, trusted_proxies=(), bint client_certs=False, arrivals=None):
        self.max_head = max_head
        self.max_headers = max_headers
        self.max_target = max_target
        self.pipelined = pipelined
        self.max_connections = max_connections
        self.max_per_address = max_per_address
        self.body_limit = body_limit
        self.requests_per_connection = requests_per_connection
        self.header_ns = header_ns
        self.body_ns = body_ns
        self.idle_ns = idle_ns
        self.total_ns = total_ns
        self.path_mode = PATH_MODES.index(path_mode)
        self.merge_slashes = merge_slashes
        self.x_forwarded = x_forwarded
        self.forwarded = forwarded
        self.trace = trace
        self.client_certs = client_certs
        self.arrivals = arrivals
        self.sample_below = <int64_t>(sample_rate * 4294967296.0)
        self.via = via
        self.server_header = server_header
        blocks = []
        for text in trusted_proxies:
            network = ipaddress.ip_network(str(text), strict=False)
            packed, length = network.network_address.packed, network.prefixlen
            if network.version == 4:
                packed, length = bytes(10) + b"\xff\xff" + packed, length + 96
            blocks.append(packed + bytes([length]))
        self.trusted = b"".join(blocks)
        self.trusted_count = len(blocks)

    cdef bint is_trusted(self, const uint8_t *address) noexcept:
        cdef int i, whole, rest
        cdef const uint8_t *net
        cdef const uint8_t *all = <const uint8_t*><const char*>self.trusted
        for i in range(self.trusted_count):
            net = all + 17 * i
            whole = net[16] >> 3
            rest = net[16] & 7
            if memcmp(net, address, whole) == 0 and (
                    rest == 0 or (net[whole] ^ address[whole]) >> (8 - rest) == 0):
                return True
        return False

    def trusts(self, address):
        """For tests: whether an address (text) is one of the trusted proxies."""
        cdef bytes packed = ipaddress.ip_address(address).packed
        if len(packed) == 4:
            packed = b"\0" * 10 + b"\xff\xff" + packed
        return self.is_trusted(<const uint8_t*><const char*>packed)
