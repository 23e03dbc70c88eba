"""The table of banned addresses: who is in it, who gives way, what a dead process leaves behind."""

import mmap
import struct
import threading
import time

import pytest

from fastgw._core.bans import BanTable
from fastgw._core.bucket import BucketTable

HASHING = BucketTable.private(64)


def test_addresses_come_and_go():
    table = BanTable.private(64)
    for address in ("192.0.2.1", "2001:db8:1:2::1"):
        assert table.seconds_left(HASHING, address) == 0
        assert table.add(HASHING, address, 60, 403)
        assert 50 < table.seconds_left(HASHING, address) <= 60
    assert table.seconds_left(HASHING, "192.0.2.2") == 0
    assert table.seconds_left(HASHING, "2001:db8:1:2:ffff::9") > 50, "the same /64"
    assert table.seconds_left(HASHING, "2001:db8:1:3::1") == 0
    entries = sorted((address, status) for address, _, status in table.entries())
    assert entries == [("192.0.2.1", 403), ("2001:db8:1:2::/64", 403)]
    assert table.lift(HASHING, "192.0.2.1") and not table.lift(HASHING, "192.0.2.1")
    assert [address for address, *_ in table.entries()] == ["2001:db8:1:2::/64"]


def test_a_ban_ends():
    table = BanTable.private(64)
    table.add(HASHING, "192.0.2.1", 0.05)
    deadline = time.monotonic() + 30
    while table.seconds_left(HASHING, "192.0.2.1"):
        assert time.monotonic() < deadline
    assert table.entries() == []


def test_banned_again_it_is_the_same_entry():
    table = BanTable.private(64)
    table.add(HASHING, "192.0.2.1", 10)
    table.add(HASHING, "192.0.2.1", 100)
    table.add(HASHING, "192.0.2.1", 10)
    assert len(table.entries()) == 1
    assert table.seconds_left(HASHING, "192.0.2.1") > 90, "the longest holds"


def test_a_ban_holds_while_it_is_made_longer():
    memory = mmap.mmap(-1, 8 * 32)
    table = BanTable(memory)
    table.add(HASHING, "192.0.2.1", 3600)
    missed, ended = [], threading.Event()

    def look() -> None:
        while not ended.is_set():
            if not table.seconds_left(HASHING, "192.0.2.1"):
                missed.append(1)

    thread = threading.Thread(target=look)
    thread.start()
    for more in range(2000):
        table.add(HASHING, "192.0.2.1", 3600 + more)
    ended.set()
    thread.join(60)
    assert not missed and table.seconds_left(HASHING, "192.0.2.1") > 3600


def test_a_full_set_gives_up_the_ban_that_ends_first():
    table = BanTable(mmap.mmap(-1, 8 * 32))
    for number in range(8):
        table.add(HASHING, f"192.0.2.{number}", 100 + number)
    table.add(HASHING, "198.51.100.1", 50)
    left = {address for address, *_ in table.entries()}
    assert left == {"198.51.100.1", *(f"192.0.2.{number}" for number in range(1, 8))}


def test_tables_over_the_same_memory_are_one():
    memory = mmap.mmap(-1, BanTable.size(100))
    first, second = BanTable(memory), BanTable(memory)
    first.add(HASHING, "192.0.2.1", 60)
    assert second.seconds_left(HASHING, "192.0.2.1") > 50
    assert second.lift(HASHING, "192.0.2.1")
    assert first.seconds_left(HASHING, "192.0.2.1") == 0


def test_a_slot_that_somebody_died_in_is_used_again():
    memory = mmap.mmap(-1, 8 * 32)
    table = BanTable(memory)
    for slot in range(8):
        memory[slot * 32 : slot * 32 + 8] = struct.pack("q", -1)      # claimed long ago
    assert table.entries() == []
    assert table.add(HASHING, "192.0.2.1", 60)
    now = time.monotonic_ns()
    for slot in range(8):
        memory[slot * 32 : slot * 32 + 8] = struct.pack("q", -now)    # claimed just now, by others
    assert not table.add(HASHING, "192.0.2.1", 60)


@pytest.mark.parametrize("address", ["", "x", "1.2.3", "1.2.3.4/32"])
def test_what_is_no_address(address):
    table = BanTable.private(8)
    for call in (table.seconds_left, table.lift):
        with pytest.raises(ValueError):
            call(HASHING, address)
    with pytest.raises(ValueError):
        BanTable(bytearray(10))
