"""The file of API keys: what is in it, what is not, and what happens when it cannot be used."""

import hashlib
import json
import os
from datetime import timedelta
from pathlib import Path

import pytest

from fastgw._core.usage import UsageTable
from fastgw.config import Config
from fastgw.config.schema.consumers import ApiKeys, Consumer, parse_moment
from fastgw.server.key_desk import KeyDesk
from fastgw.server.keys import KeyFile, KeyProblem, now, read, usable, written


@pytest.fixture
def desk(tmp_path):
    config = Config(
        consumers=(Consumer(name="ada", keys=["sha256:" + "ab" * 32]), Consumer(name="bob")),
        api_keys=ApiKeys(file=str(tmp_path / "keys.json"), prefix="acme", lifetime=3600, max_keys=3),
    )
    changes = []
    desk = KeyDesk(lambda: config, UsageTable.private(64), None)
    desk.file.changed = lambda put, drop: changes.append((dict(put), list(drop)))
    desk.changes = changes
    return desk


def test_a_key_is_told_once_and_kept_hashed(desk):
    made = desk.create({"consumer": "bob", "scopes": ["a"], "note": "for the phone"})
    key = made["key"]
    assert (key.startswith(f"acme_{made['id']}_") and len(key.rpartition("_")[2]) >= 40) or "_" in key[-43:]
    digest = hashlib.sha256(key.encode()).digest()
    (put, drop), = desk.changes
    assert put[digest][:3] == (made["id"], "bob", ("a",)) and drop == []
    path = desk.file.path
    assert os.stat(path).st_mode & 0o777 == 0o600
    secret = key.split("_", 2)[2]
    assert secret not in Path(path).read_text() and secret not in json.dumps(list(desk.rows()))
    assert digest.hex() not in json.dumps(list(desk.rows()))
    records, _ = read(path)
    assert usable(records) == put
    assert abs(parse_moment(made["expires"]) - now() - timedelta(hours=1)) < timedelta(minutes=5)
    assert [one["id"] for one in desk.rows()] == ["ada/0", made["id"]]
    assert os.listdir(os.path.dirname(path)) == ["keys.json"]


def test_rotation_leaves_the_old_one_for_a_while(desk):
    old = desk.create({"consumer": "bob", "scopes": ["a"]})
    new = desk.rotate(old["id"], 60)
    assert new["replaces"] == old["id"] and new["scopes"] == ["a"] and new["key"] != old["key"]
    states = {row["id"]: row["state"] for row in desk.rows() if row["source"] == "managed"}
    assert states == {old["id"]: "replaced", new["id"]: "active"}
    ends = parse_moment(desk.file.records[old["id"]].expires)
    assert now() < ends + timedelta(seconds=1) and ends - now() <= timedelta(seconds=60)
    put, _ = desk.changes[-1]
    assert len(put) == 2
    with pytest.raises(KeyProblem, match="replaced"):
        desk.rotate(old["id"], None)
    assert desk.rotate(new["id"], 10**6)["replaces"] == new["id"]
    assert parse_moment(desk.file.records[new["id"]].expires) - now() <= timedelta(hours=1)


def test_revoked_is_revoked(desk):
    made = desk.create({"consumer": "bob"})
    row = desk.revoke(made["id"])
    assert row["state"] == "revoked" and desk.revoke(made["id"])["revoked"] == row["revoked"]
    assert desk.changes[-1] == ({}, [hashlib.sha256(made["key"].encode()).digest()])
    assert usable(read(desk.file.path)[0]) == {}


def test_what_ended_long_ago_is_forgotten(desk):
    made = desk.create({"consumer": "bob"})
    records = dict(desk.file.records)
    records[made["id"]].revoked = written(now() - timedelta(days=31))
    desk.file.write(records)
    other = desk.create({"consumer": "bob"})
    assert list(desk.file.records) == [other["id"]]


@pytest.mark.parametrize(
    "what, code",
    [
        (lambda desk: desk.create({"consumer": "eve"}), "unknown_consumer"),
        (lambda desk: desk.revoke("nope"), "unknown_key"),
        (lambda desk: desk.revoke("ada/0"), "unknown_key"),
        (lambda desk: desk.rotate("nope", None), "unknown_key"),
        (lambda desk: [desk.create({"consumer": "bob"}) for _ in range(4)], "too_many_keys"),
    ],
)
def test_what_cannot_be_done(desk, what, code):
    with pytest.raises(KeyProblem) as refused:
        what(desk)
    assert refused.value.code == code


@pytest.mark.parametrize(
    "text", ["", "nonsense secret-text", "[]", '{"version": 2, "keys": []}', '{"version": 1, "keys": [{"id": "a"}]}',
             '{"version": 1, "keys": 7}'],
)  # fmt: skip
def test_a_file_that_is_none(desk, text):
    Path(desk.file.path).write_text(text)
    with pytest.raises(KeyProblem) as refused:
        desk.create({"consumer": "bob"})
    assert refused.value.code == "keys_unreadable" and "secret-text" not in str(refused.value)
    assert Path(desk.file.path).read_text() == text                   # what we do not understand we do not replace
    assert desk.uses(10) == []


def test_a_change_by_somebody_else_is_seen(desk):
    made = desk.create({"consumer": "bob"})
    other = KeyFile(desk.file.settings, lambda put, drop: None)
    second, _ = other.create("ada", None, None, "")
    desk.revoke(made["id"])
    assert set(desk.file.records) == {made["id"], second.id}
    assert second.digest in {digest for put, _ in desk.changes for digest in put}
    os.unlink(desk.file.path)
    assert [row["source"] for row in desk.rows()] == ["configuration"]
    assert desk.changes[-1] == ({}, [second.digest])


def test_a_folder_that_cannot_be_written(desk, tmp_path):
    desk.file.path = str(tmp_path / "none" / "keys.json")
    with pytest.raises(KeyProblem) as refused:
        desk.create({"consumer": "bob"})
    assert refused.value.code == "keys_unwritable" and desk.file.records == {} and desk.changes == []


def test_uses_are_bounded(desk):
    keys = [desk.create({"consumer": "bob"})["key"] for _ in range(3)]
    for count, key in enumerate(keys, 1):
        for _ in range(count):
            desk.usage.note(hashlib.sha256(key.encode()).digest())
    found = desk.uses(2)
    assert [count for *_, count in found] == [3, 2, 1] and found[-1][:2] == ("other", "other")
    assert [row["uses"] for row in desk.consumers()] == [0, 6]


def test_a_table_of_uses_that_is_full():
    table = UsageTable.private(16)
    digests = [bytes([number]) * 32 for number in range(1, 200)]
    for digest in digests:
        table.note(digest)
    counted = sum(table.read(digest)[0] for digest in digests)
    assert counted + table.other[0] == len(digests) and table.other[0] > 0
    with pytest.raises(ValueError):
        UsageTable(bytearray(8))
