"""What an answer looks like in the files.

    NNNNNNNN.data     record, head, body; record, head, body; …
    NNNNNNNN.names    the same records alone, so that a start reads little

A record says what is found where, with name and tags; `_core/cache_disk.pyx` has it as a struct. Its seal covers all
of it but the state, which changes in place in the file with the names, when an answer is purged. Head and body have a
sum of their own in it. So nothing torn, cut, or moved to another place is ever taken for an answer.
"""

from __future__ import annotations

import hashlib
import struct
import sys
from dataclasses import dataclass

from fastgw._core.cache_disk import seal
from fastgw._core.headers import HeaderId

RECORD = struct.Struct("<IIQII16sIIQQqqqII64s")
MARK = 0x6D776766
STATE_AT = 4
LIVE, STALE, DEAD = 0, 1, 2
MOST = RECORD.size + 65536 + 8 + 8 * 129
"""Bytes of a record: a name is shorter than 64 KiB, and has 128 tags and itself."""
HEAD_MOST = 65536
LAYOUT = 1


def layout() -> str:
    """Whoever writes the same word can read it: heads are kept with an index that has the numbers of known headers."""
    text = f"{LAYOUT} {sys.byteorder} {[(each.name, each.value) for each in HeaderId]}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(slots=True, frozen=True)
class Record:
    """`key`: 16 bytes; `times`: stored, fresh until, kept until, ns since 1970; `tags`: hashes, 8 bytes each, of
    which the first is that of its own primary key; `body_check`: CRC-32 of head and body."""

    key: bytes
    name: bytes
    tags: bytes
    meta: bytes
    times: tuple[int, int, int]
    head_len: int
    body_len: int
    body_check: int

    def pack(self, segment: int, offset: int, seed: bytes) -> bytes:
        """As it stands at this place, sealed."""
        length = length_of(len(self.name), len(self.tags))
        made = RECORD.pack(
            MARK, LIVE, 0, length, self.body_check, self.key, segment, self.head_len, offset, self.body_len,
            *self.times, len(self.name), len(self.tags) // 8, self.meta,
        )  # fmt: skip
        made = (made + self.name).ljust(length - len(self.tags), b"\0") + self.tags
        return made[:8] + seal(made, seed).to_bytes(8, "little") + made[16:]


def length_of(name: int, tags: int) -> int:
    return ((RECORD.size + name + 7) & ~7) + tags


def unpack(data: bytes, segment: int, offset: int, seed: bytes) -> tuple[Record, int] | None:
    """The record that `data` begins with, and its bytes; None when it is none, or not of this place."""
    if len(data) < RECORD.size:
        return None
    (mark, _, check, length, body_check, key, own_segment, head_len, own_offset, body_len, stored, expires, keep_until,
     name_len, n_tags, meta) = RECORD.unpack_from(data)  # fmt: skip
    if mark != MARK or (own_segment, own_offset) != (segment, offset) or name_len > 65536 or n_tags > 129:
        return None
    if head_len > HEAD_MOST or length != length_of(name_len, 8 * n_tags) or length > len(data):
        return None
    if seal(data[:length], seed) != check:
        return None
    name = data[RECORD.size : RECORD.size + name_len]
    tags = data[length - 8 * n_tags : length]
    return Record(key, name, tags, meta, (stored, expires, keep_until), head_len, body_len, body_check), length
