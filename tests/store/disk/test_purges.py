"""Purges reach the disk, whatever is on its way there or back, and stay so over a restart."""

import random
import threading

import pytest

from fastgw._core.cache_access import Access
from fastgw._core.cache_store import Storage
from fastgw.config.schema.cache import Disk
from fastgw.store.disk.log import read_mark
from fastgw.store.disk.shared import SharedDisk
from tests.store.disk.world import World


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path / "cache")
    yield made
    made.spill.log.close()


NAMES = {
    "shop/p/1\0pr": ("a", "b"),
    "shop/p/1\0pr\0vone": ("a",),
    "shop/p/1\0pr\0vtwo": ("c",),
    "shop/p/11\0pr": ("b",),
    "shop/q\0pr": (),
    "other/p/1\0pr": ("a",),
}
WAYS = {
    "name": (lambda access, soft: access.purge_name(b"shop/p/1", soft), list(NAMES)[:3]),
    "tag": (lambda access, soft: access.purge_tag(b"b", soft), ["shop/p/1\0pr", "shop/p/11\0pr"]),
    "prefix": (lambda access, soft: access.purge_prefix(b"shop/p/", soft), list(NAMES)[:4]),
    "all": (lambda access, soft: access.purge_all(soft), list(NAMES)),
}  # fmt: skip


def fill(world):
    for name, tags in NAMES.items():
        world.put(name, name.encode(), tags)
    world.turn()


def check(world, way, soft):
    gone = WAYS[way][1]
    for name in NAMES:
        body = world.get(name)
        if name in gone and not soft:
            assert body is None, name
        else:
            assert body == name.encode()
            assert world.fresh(name) == (name not in gone), name
    assert world.index.audit() == []
    assert world.access.audit() == []


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_what_is_on_disk(world, way, soft):
    fill(world)
    world.forget_memory()
    WAYS[way][0](world.access, soft)
    before = world.spill.purged
    world.turn()
    assert world.spill.purged - before == len(WAYS[way][1])
    check(world, way, soft)
    world.restart()
    check(world, way, soft)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_before_the_writer_heard_of_it(world, way, soft):
    fill(world)
    world.forget_memory()
    WAYS[way][0](world.access, soft)
    check(world, way, soft)                          # the memory's list says so
    world.turn()
    world.forget_memory()
    check(world, way, soft)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_between_looking_and_bringing(world, way, soft):
    fill(world)
    world.forget_memory()
    found = {}
    for name in NAMES:
        key = world.reader.recall.key(name.encode())
        found[name] = key, world.index.look(key)
    WAYS[way][0](world.access, soft)
    for name, (key, place) in found.items():
        world.reader.bring(name.encode(), key, place, None)
    check(world, way, soft)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_before_it_was_written(world, way, soft):
    for name, tags in NAMES.items():
        world.put(name, name.encode(), tags)
    WAYS[way][0](world.access, soft)
    world.turn()
    world.restart()
    check(world, way, soft)


def test_noted_but_not_yet_done_in_the_memory(world):
    """A purge is noted first, and comes to the answers bit by bit: meanwhile one of them may be copied."""
    world.put("shop/p/1", b"x", ("t",))
    items, _ = world.feed.news()
    [(_, version, entry, _, purges)] = items
    world.access.purge_tag(b"unrelated")
    assert world.feed.copy(entry, version, purges).times[1] > 0
    world.access.purge_prefix(b"sho", True)
    # what is alive is stale by its record then; told that it had been spared by all, the copy would be too
    assert world.feed.copy(entry, version, purges + 2).times[1] == 0
    copy = world.feed.copy(entry, version, purges)
    assert copy.times[1] == 0
    assert world.feed.copy(entry, version + 1, purges) is None


def test_it_was_stored_anew_after_the_purge(world):
    fill(world)
    world.access.purge_name(b"shop/q")
    world.put("shop/q\0pr", b"new")
    world.turn()
    world.forget_memory()
    assert world.get("shop/q\0pr") == b"new"
    world.restart()
    assert world.get("shop/q\0pr") == b"new"


def test_a_newer_one_stays(world):
    fill(world)
    world.forget_memory()
    key = world.reader.recall.key(b"shop/q\0pr")
    place = world.index.look(key)
    world.put("shop/q\0pr", b"from the service")
    assert world.reader.bring(b"shop/q\0pr", key, place, None)
    assert world.get("shop/q\0pr") == b"from the service"


def test_more_purges_than_are_remembered(world):
    fill(world)
    for number in range(8300):
        world.access.purge_tag(b"%d" % number)
    world.turn()
    world.forget_memory()
    assert world.get("shop/q\0pr") is None           # nobody knows what else was purged
    fill(world)
    world.forget_memory()
    assert world.get("shop/q\0pr") == b"shop/q\0pr"


def test_more_answers_than_are_remembered(world):
    fill(world)
    for number in range(16_500):
        world.put("again", b"%d" % number)
    world.turn()
    world.forget_memory()
    assert world.get("shop/q\0pr") == b"shop/q\0pr"
    assert not world.fresh("shop/q\0pr")             # it may have been replaced unheard
    assert world.get("again") == b"16499"


def test_how_far_the_purges_of_other_hosts_hold(world):
    """A new memory knows nothing of them: a host that was away goes on where its disk stands."""
    fill(world)
    world.access.mark = (7, 1)
    world.turn()
    assert read_mark(world.path) == (7, 1)
    disk = SharedDisk.behind(Storage.private(8 * 1024 * 1024), Disk(path=world.path))
    assert disk.view()["entries"] == 0
    new = Storage.private(8 * 1024 * 1024)
    assert Access(new).mark == (0, 0)                # the seeds differ: what is on disk is not found either
    world.restart()
    SharedDisk.behind(world.storage, Disk(path=world.path))
    assert world.access.mark == (7, 1)


def test_personal_answers(world):
    """Those of one caller lie in the memory alone, unless it is said otherwise."""
    own = "shop/me\0pr\0i" + "0123456789abcdef" * 2
    for name in (own, own + "\0vx", "shop/you\0pr\0i0"):
        world.put(name, b"x")
    world.turn()
    assert world.index.counts()["entries"] == 1
    world.spill.personal = True
    world.put(own, b"x")
    world.turn()
    assert world.index.counts()["entries"] == 2


@pytest.mark.parametrize("seed", range(5))
def test_never_an_old_answer(tmp_path, seed):
    """Stores, purges, evictions, turns and restarts in any order, with readers in threads: what is given is the newest
    answer that was not purged, or nothing."""
    rng = random.Random(seed)
    world = World(tmp_path / "cache", size=2 * 1024 * 1024)
    truth: dict[str, bytes] = {}
    tags = {f"a/{number}": (f"t{number % 3}",) for number in range(12)}
    for step in range(400):
        name = rng.choice(list(tags))
        match rng.randrange(8):
            case 0 | 1 | 2:
                truth[name] = b"%d " % step + rng.randbytes(rng.randrange(3000))
                world.put(name, truth[name], tags[name])
            case 3:
                world.access.purge_name(name.encode())
                truth.pop(name, None)
            case 4:
                tag = f"t{rng.randrange(3)}"
                world.access.purge_tag(tag.encode())
                truth = {name: body for name, body in truth.items() if tag not in tags[name]}
            case 5:
                world.turn()
            case 6:
                world.turn()
                world.forget_memory() if rng.random() < 0.5 else world.restart()
            case 7:
                threads = [threading.Thread(target=world.get, args=(each,)) for each in rng.sample(list(tags), 4)]
                for thread in threads:
                    thread.start()
                if rng.random() < 0.5:
                    world.turn()
                for thread in threads:
                    thread.join()
        found = world.get(name)
        assert found is None or found == truth.get(name), (step, name)
    assert world.index.audit() == []
    assert world.access.audit() == []
    world.spill.log.close()
