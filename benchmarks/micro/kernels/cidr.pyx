"""cidr: finding addresses in sets of 100,000 ranges, IPv4 and IPv6."""
from libc.stdint cimport uint8_t

from cpython.bytes cimport PyBytes_AS_STRING

from fastgw._core.cidr cimport DENIED, CidrTable

import ipaddress
import random

cdef enum:
    ENTRIES = 100_000
    ASKED = 4096


def table(version):
    """Ranges of all sizes that are in use, and addresses of which half are in one of them."""
    rng = random.Random(17)
    bits = 32 if version == 4 else 128
    ranges, asked = [], []
    for i in range(ENTRIES):
        length = rng.choice((20, 22, 24, 24, 28, 32) if version == 4 else (32, 40, 48, 48, 64, 128))
        start = rng.getrandbits(bits) >> (bits - length) << (bits - length)
        ranges.append(f"{ipaddress.ip_address(start) if version == 4 else ipaddress.IPv6Address(start)}/{length}")
        if i < ASKED:
            number = start if i % 2 else rng.getrandbits(bits)
            asked.append((b"\0" * 10 + b"\xff\xff" if version == 4 else b"") + number.to_bytes(bits // 8, "big"))
    rng.shuffle(asked)
    return CidrTable([(DENIED, "benchmark", "\n".join(ranges).encode())]), b"".join(asked)


def case(version):
    cdef CidrTable ranges
    cdef bytes asked
    ranges, asked = table(version)

    def run(long n):
        cdef CidrTable given = ranges
        cdef const uint8_t *addresses = <const uint8_t*>PyBytes_AS_STRING(asked)
        cdef long i
        cdef long denied = 0
        for i in range(n):
            denied += given.find(addresses + 16 * (i % ASKED)) == DENIED
        assert n < ASKED or denied >= n // 3, (denied, n)

    return run


CASES = [
    ("find an IPv4 address among 100,000 ranges", case(4)),
    ("find an IPv6 address among 100,000 ranges", case(6)),
]
