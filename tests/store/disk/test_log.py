"""The cache's files: what was written is found again, bounded, after restarts too; what is torn or changed never is."""

import os
import random
import signal
import stat
import struct
from pathlib import Path

import pytest

from fastgw._core.cache_disk import RECORD_SIZE, DiskIndex
from fastgw.store.disk import log as log_module
from fastgw.store.disk import records
from fastgw.store.disk.log import DiskRefused, prepare, read_seed
from tests.store.disk.world import MIB, SEED, World


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path / "cache")
    yield made
    made.spill.log.close()


def body_of(number, size=3000):
    return random.Random(number).randbytes(size)


def files(world):
    return sorted(name for name in os.listdir(world.path) if name[0].isdigit())


def total(world):
    return sum(os.stat(os.path.join(world.path, name)).st_size for name in files(world))


def test_what_was_stored_comes_back(world):
    world.put("a/1", b"one", tags=("x", "y"), head=b"a head")
    world.put("a/2", b"")
    world.put("a/3", body_of(3, 1_500_000))
    world.turn()
    world.forget_memory()
    assert world.access.get(b"a/1") is None
    assert [world.get(name) for name in ("a/1", "a/2", "a/3", "a/4")] == [b"one", b"", body_of(3, 1_500_000), None]
    hit = world.access.get(b"a/1")
    assert hit.head == b"a head"
    assert hit.meta[:5] == b"\1\1a/1"
    assert world.fresh("a/1")
    # it came with its tags
    assert world.access.purge_tag(b"y") == 1
    assert world.access.audit() == []
    assert world.index.audit() == []


def test_restart(world):
    for number in range(50):
        world.put(f"a/{number}", body_of(number))
    world.turn()
    world.restart()
    assert world.index.counts()["entries"] == 50
    assert [world.get(f"a/{number}") for number in range(50)] == [body_of(number) for number in range(50)]
    world.put("a/7", b"newer")
    world.put("b/7", b"after the restart")
    world.turn()
    world.restart()
    assert [world.get("a/7"), world.get("b/7"), world.get("a/8")] == [b"newer", b"after the restart", body_of(8)]
    assert len(files(world)) == 2                    # the last segment is gone on with


def test_a_key_has_one_answer(world):
    for number in range(5):
        world.put("a/1", b"version %d" % number)
    world.turn()
    world.forget_memory()
    assert world.get("a/1") == b"version 4"
    assert world.index.counts()["entries"] == 1
    # a newer one that was not written takes the older one with it
    world.put("a/1", b"version 5")
    world.access.purge_all()
    world.turn()
    world.restart()
    assert world.get("a/1") is None


def test_what_is_over_soon_is_not_written(world):
    world.put("a/1", b"x")
    world.turn()
    world.access.put(b"a/1", b"y", times=(0, 1, 2))
    world.turn()
    assert world.index.counts()["entries"] == 0      # nor is what it had replaced given any more


def test_bounded(tmp_path):
    world = World(tmp_path / "cache", size=4 * MIB)
    for number in range(3000):
        world.put(f"a/{number}", body_of(number))
        if number % 100 == 0:
            world.turn()
            assert total(world) <= 4 * MIB
    world.turn()
    assert 2 * MIB < total(world) <= 4 * MIB
    assert world.index.counts()["evictions"] > 1000
    assert world.index.audit() == []
    world.forget_memory()
    assert world.get("a/0") is None
    assert world.get("a/2999") == body_of(2999)
    # a smaller bound holds from the next start
    world.size = 2 * MIB
    world.restart()
    assert total(world) <= 2 * MIB
    assert world.get("a/2999") == body_of(2999)
    world.spill.log.close()


def test_bounded_by_slots(tmp_path):
    world = World(tmp_path / "cache", slots=100)
    for number in range(1000):
        world.put(f"a/{number}", b"x", tags=("one", "two") if number % 2 else ())
        world.turn()
    assert world.index.counts()["entries"] <= 100
    assert world.index.audit() == []
    assert world.get("a/999") == b"x"
    world.restart()
    assert world.index.audit() == []
    assert world.index.counts()["entries"] > 0
    world.spill.log.close()


def test_too_large(tmp_path):
    world = World(tmp_path / "cache", size=4 * MIB)
    world.put("a/1", b"small")
    world.turn()
    world.put("a/1", body_of(1, MIB))                # an eighth is the most
    world.turn()
    assert world.index.counts()["too_large"] == 1
    assert world.index.counts()["entries"] == 0
    world.spill.log.close()


def test_what_is_used_is_written_anew(tmp_path):
    world = World(tmp_path / "cache", size=4 * MIB, memory=8 * MIB)
    world.put("hot", b"hot")
    world.turn()
    for number in range(3000):
        world.put(f"a/{number}", body_of(number))
        assert world.get("hot") == b"hot"
        world.turn()
    world.restart()
    assert world.get("hot") == b"hot"
    world.spill.log.close()


def test_one_that_came_from_the_disk_is_written_once(world):
    world.put("a/1", b"x")
    world.turn()
    world.forget_memory()
    before = world.index.counts()["writes"]
    assert world.get("a/1") == b"x"
    world.turn()
    assert world.index.counts()["writes"] == before


def test_files_are_ours_alone(world):
    world.put("a/1", b"x")
    world.turn()
    assert stat.S_IMODE(os.stat(world.path).st_mode) == 0o700
    for name in os.listdir(world.path):
        assert stat.S_IMODE(os.stat(os.path.join(world.path, name)).st_mode) == 0o600


def test_who_else_may_write_there_is_refused(tmp_path):
    path = tmp_path / "open"
    path.mkdir()
    path.chmod(0o777)
    with pytest.raises(DiskRefused, match="others may write"):
        prepare(str(path))
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskRefused, match="no directory"):
        prepare(str(tmp_path / "file"))
    with pytest.raises(FileNotFoundError):
        prepare(str(tmp_path / "no" / "parent"))


def test_one_writer(world):
    index = world.index
    other = log_module.DiskLog(world.path, MIB, index, SEED)
    assert not other.open()
    world.spill.log.close()
    assert other.open()
    other.close()


def test_another_seed_or_layout_begins_empty(world, monkeypatch):
    world.put("a/1", b"x")
    world.turn()
    assert read_seed(world.path) == SEED
    monkeypatch.setattr(records, "LAYOUT", 2)
    assert read_seed(world.path) is None
    world.restart()
    assert world.get("a/1") is None
    assert world.index.counts()["entries"] == 0
    world.put("a/1", b"y")
    world.turn()
    world.restart()
    assert world.get("a/1") == b"y"


def test_the_struct_of_both_languages():
    assert records.RECORD.size == RECORD_SIZE


def crash(world, kill_at):
    """A child writes and purges until it is killed in the middle of it, and tells by a pipe what it does: name → what
    may be found of it afterwards, -1 nothing."""
    told, tell = os.pipe()
    world.spill.log.close()
    pid = os.fork()
    if pid == 0:
        try:
            real, left = os.pwrite, [kill_at]

            def pwrite(fd, data, at):
                left[0] -= 1
                if left[0] == 0:
                    view = memoryview(data)
                    real(fd, view[: max(len(view) * 2 // 3, 1)], at)
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(fd, data, at)

            os.pwrite = pwrite
            world.born()
            rng = random.Random(kill_at)
            for step in range(10_000):
                name = f"a/{rng.randrange(40)}"
                if rng.random() < 0.2:
                    world.access.purge_name(name.encode())
                    message = (name, -1)
                else:
                    world.put(name, struct.pack("<Q", step) + body_of(step, rng.randrange(20_000)))
                    message = (name, step)
                os.write(tell, f"begin {message[0]} {message[1]}\n".encode())
                world.turn()
                os.write(tell, f"done {message[0]} {message[1]}\n".encode())
        finally:
            os._exit(1)
    os.close(tell)
    with os.fdopen(told) as lines:
        seen = [line.split() for line in lines]
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status)
    allowed = {}
    for word, name, step in seen:
        step = int(step)
        allowed[name] = {step} if word == "done" else allowed.get(name, {-1}) | {step, -1}
    return allowed


@pytest.mark.parametrize("kill_at", [1, 2, 3, 4, 7, 20, 21, 22, 50, 123])
def test_killed_in_the_midst_of_writing(world, kill_at):
    allowed = crash(world, kill_at)
    world.born()
    assert world.index.audit() == []
    for name, steps in allowed.items():
        body = world.get(name)
        step = -1 if body is None else struct.unpack("<Q", body[:8])[0]
        assert step in steps, name
        assert body is None or body[8:] == body_of(step, len(body) - 8)
    # and it goes on
    world.put("a/1", b"after")
    world.turn()
    world.restart()
    assert world.get("a/1") == b"after"


@pytest.mark.parametrize("seed", range(30))
def test_what_was_changed_is_never_given(tmp_path, seed):
    """Bits flip, bytes go, files are cut, swapped and lost: what is given is what was stored, or it is nothing."""
    rng = random.Random(seed)
    world = World(tmp_path / "cache", size=2 * MIB)
    for number in range(150):
        world.put(f"a/{number}", body_of(number, rng.randrange(9000)), tags=("t",))
        if number % 40 == 0:
            world.turn()
    world.turn()
    lengths = {number: len(world.get(f"a/{number}")) for number in range(150)}
    world.spill.log.close()
    for _ in range(rng.randrange(1, 12)):
        names = files(world)
        path = os.path.join(world.path, rng.choice(names))
        data = bytearray(Path(path).read_bytes())
        at = rng.randrange(max(len(data), 1))
        match rng.randrange(6):
            case 0:
                data[at:at + 1] = bytes([rng.randrange(256)])
            case 1:
                del data[at:]
            case 2:
                data[at:at + 1] = b""
            case 3:
                data[at:at] = rng.randbytes(rng.randrange(200))
            case 4:
                data = bytearray(Path(world.path, rng.choice(names)).read_bytes())
            case 5:
                data[at:at + 64] = bytes(64)
        with open(path, "wb") as file:
            file.write(data)
    if rng.random() < 0.3:
        os.unlink(path)
    world.born()
    assert world.index.audit() == []
    for number, length in lengths.items():
        found = world.get(f"a/{number}")
        assert found is None or found == body_of(number, length)
    assert world.access.audit() == []
    world.spill.log.close()


def test_index_of_a_hostile_size():
    for slots in (0, 1 << 31):
        with pytest.raises(ValueError, match="answers"):
            DiskIndex.size(slots)
