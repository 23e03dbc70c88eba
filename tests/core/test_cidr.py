"""Sets of ranges: against a model that looks at each range in turn, and on what is no range."""

import ipaddress
import random

import pytest

from fastgw._core.cidr import CidrTable, Listed


def expected(ranges, address):
    """The longest range that holds the address; of the same range, the larger word."""
    holding = [(one.prefixlen, word) for word, one in ranges if one.version == address.version and address in one]
    return max(holding)[1] if holding else Listed.NOWHERE


def some_range(rng):
    if rng.random() < 0.5:
        length = rng.choice([0, 1, 4, 8, 24, 30, 31, 32])
        number = rng.choice([0, 0x0A000000, 0xFFFFFFFF, rng.getrandbits(32)])
        return ipaddress.IPv4Network((number >> (32 - length) << (32 - length), length))
    length = rng.choice([0, 1, 64, 90, 95, 96, 120, 127, 128])
    number = rng.choice([0, 1 << 127, (1 << 128) - 1, rng.getrandbits(128)])
    return ipaddress.IPv6Network((number >> (128 - length) << (128 - length), length))


@pytest.mark.parametrize("seed", range(40))
def test_it_agrees_with_the_model(seed):
    rng = random.Random(seed)
    ranges = [(rng.choice([Listed.ALLOWED, Listed.DENIED]), some_range(rng)) for _ in range(rng.randint(0, 40))]
    table = CidrTable([(word, "test", str(one).encode()) for word, one in ranges])
    asked = [ipaddress.IPv4Address(rng.getrandbits(32)) for _ in range(20)]
    for _, one in ranges:
        kind, most = type(one.network_address), one.max_prefixlen
        for number in (int(one.network_address), int(one.broadcast_address)):
            asked += [kind(n) for n in (number - 1, number, number + 1) if 0 <= n < 1 << most]
    for address in asked:
        assert table.look_up(str(address)) == expected(ranges, address), (address, ranges)


def test_a_text_of_ranges():
    text = b"# list\n\n 10.0.0.0/8 ; office\r\n2001:db8::/32\n::ffff:192.0.2.0/120\n192.0.2.7"
    table = CidrTable([(Listed.DENIED, "list", text)])
    assert table.entries == 4
    denied = ["10.1.2.3", "2001:db8::1", "192.0.2.9", "192.0.2.7", "::ffff:10.0.0.1"]
    assert [table.look_up(address) for address in denied] == [Listed.DENIED] * 5
    assert [table.look_up(address) for address in ("11.0.0.0", "::1", "192.0.3.0")] == [Listed.NOWHERE] * 3


def test_every_ipv6_address_is_no_ipv4_address():
    table = CidrTable([(Listed.DENIED, "list", b"::/0")])
    assert (table.look_up("::1"), table.look_up("192.0.2.1")) == (Listed.DENIED, Listed.NOWHERE)


@pytest.mark.parametrize(
    "line, words",
    [
        (b"10.0.0.1/8", "bits set beyond the prefix"),
        (b"1.2.3.4/33", "prefix that is too long"),
        (b"::/129", "prefix that is too long"),
        (b"host.example.com", "is not an address or range"),
        (b"1.2.3.4/", "is not an address or range"),
        (b"1.2.3.4/0x8", "is not an address or range"),
        (b"1.2.3.4/0008", "is not an address or range"),
        (b"010.2.3.4", "is not an address or range"),
        (b"10.0.0.0/8\x00", "is not an address or range"),
        (b"1" * 300, "too long for a range"),
    ],
)
def test_what_is_no_range_is_told_with_its_line(line, words):
    with pytest.raises(ValueError, match=f"block.txt:3: .*{words}"):
        CidrTable([(Listed.DENIED, "block.txt", b"# a comment\n10.0.0.0/8\n" + line + b"\n")])


def test_there_is_a_bound():
    with pytest.raises(ValueError, match="one range too many"):
        CidrTable([(Listed.DENIED, "huge", b"10.0.0.1\n" * 2_100_000)])
