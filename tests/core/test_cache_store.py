"""The storage of the cache, by itself: against a model, at its bounds, and what is purged while it is filled."""

import mmap
import random
import time

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fastgw._core.cache_access import Access
from fastgw._core.cache_store import Storage

MIB = 1024 * 1024
FOREVER = (0, 1 << 62, 1 << 62)


def cache(memory=4 * MIB, entries=None):
    return Access(Storage.private(memory, entries))


def text(n, seed=0):
    return random.Random(seed).randbytes(n)


def test_siphash_is_the_reference_one():
    # the vectors of the reference implementation with 128 bits: key 00 01 … 0f, messages of 0, 15 and 63 bytes
    memory = mmap.mmap(-1, Storage.size(4 * MIB))
    Storage.format(memory, 4 * MIB, None, bytes(range(16)))
    access = Access(Storage(memory))
    assert access.siphash(b"").hex() == "a3817f04ba25a8e66df67214c7550293"
    assert access.siphash(bytes(range(63))).hex() == "5150d1772f50834a503e069a973fbd7c"
    assert access.siphash(bytes(range(15))).hex() == "5493e99933b0a8117e08ec0f97cfc3d9"


@pytest.mark.parametrize("size", [0, 1, 100, 154, 511, 512, 513, 10_000, 262_143, 262_144, 300_001, 900_000])
def test_what_was_put_is_read(size):
    access, body = cache(8 * MIB), text(size)
    assert access.put(b"a.example/x", body, head=b"HEAD", meta=b"meta", times=(1, 2, 3)) == "ok"
    hit = access.get(b"a.example/x")
    assert (hit.head, hit.read(), hit.size, hit.times) == (b"HEAD", body, size, (1, 2, 3))
    assert hit.meta == b"meta".ljust(64, b"\0")
    assert [hit.read(at) for at in (size // 3, size)] == [body[size // 3 :], b""]
    assert access.get(b"a.example/y") is None
    hit.release()
    with pytest.raises(ValueError, match="released"):
        hit.read()
    assert access.audit() == []


def test_in_pieces_of_unknown_length():
    access, dice = cache(16 * MIB), random.Random(2)
    for number in range(12):
        whole = b""
        filling = access.begin(b"n%d" % number, head=b"H")
        for _ in range(dice.randrange(60)):
            some = dice.randbytes(dice.randrange(1, 9000))
            whole += some
            assert filling.append(some) == "ok"
            assert access.get(b"n%d" % number) is None, "nobody reads what is not whole"
        assert filling.finish() == "ok"
        assert access.get(b"n%d" % number).read() == whole
    assert access.audit() == []
    # what the last runs had too much was given back
    stats = access.stats()
    assert stats["bytes"] - stats["body_bytes"] <= 12 * 2 * 512


def test_what_is_replaced_or_purged_stays_readable_for_who_reads_it():
    access, old = cache(), text(5000)
    access.put(b"k", old, tags=[b"t"])
    reader = access.get(b"k")
    access.put(b"k", b"new")
    assert access.get(b"k").read() == b"new"
    assert access.purge_all() == 1
    for number in range(4000):                       # the memory is used several times over
        access.put(b"f%d" % number, text(2000, number))
    assert reader.read() == old
    assert access.stats()["retired"] == 1
    reader.release()
    assert access.audit() == []
    assert access.stats()["retired"] == 0


def test_what_is_too_large_is_not_begun_and_not_kept():
    access = cache()
    most = access.storage.largest
    assert access.begin(b"k", expected=most + 1) == "too_large"
    assert access.begin(b"k" * 40_000, head=b"h" * 30_000) == "too_large"
    assert access.begin(b"k", tags=[b"%d" % n for n in range(200)]) == "too_large"
    assert access.begin(b"") == "too_large"
    filling = access.begin(b"k")
    assert filling.append(bytes(most)) == "ok"
    assert filling.append(b"1") == "too_large"
    assert filling.finish() == "no_room"
    short = access.begin(b"k", expected=10)
    short.append(b"123")
    assert short.finish() == "cut"
    assert access.audit() == []
    stats = access.stats()
    assert (stats["entries"], stats["bytes"], stats["filling"], stats["refused"]) == (0, 0, 0, 6)


def test_a_fill_that_nobody_ends_gives_its_memory_back():
    access = cache()
    filling = access.begin(b"k", expected=100_000)
    assert access.stats()["filling"] == 1
    del filling
    assert access.audit() == []
    assert (access.stats()["filling"], access.stats()["bytes"]) == (0, 0)


def test_both_bounds_hold():
    access = cache(4 * MIB, 500)
    for number in range(3000):
        assert access.put(b"%d" % number, b"x") == "ok"
        assert access.stats()["entries"] <= 500
    assert access.stats()["evictions"] >= 2500
    few = cache(4 * MIB, 64)
    for number in range(300):
        assert few.put(b"%d" % number, text(100_000, number)) == "ok"
        assert few.stats()["bytes"] <= few.stats()["bytes_max"] <= 4 * MIB
    assert few.audit() == []
    assert access.audit() == []


def test_fills_alone_cannot_take_more_than_there_is():
    access, fillings = cache(), []
    while not isinstance(filling := access.begin(b"%d" % len(fillings), expected=200_000), str):
        fillings.append(filling)
    assert filling == "no_room"
    assert len(fillings) > 5
    results = [one.append(bytes(200_000)) for one in fillings]
    assert 5 < results.count("ok") <= access.stats()["bytes_max"] // 200_000
    assert set(results) <= {"ok", "no_room"}
    fillings.clear()
    assert access.put(b"k", b"body") == "ok"
    assert access.audit() == []


def test_what_is_read_is_not_evicted_in_vain():
    access = cache()
    for number in range(8):
        access.put(b"%d" % number, text(150_000, number))
    held = [access.get(b"%d" % number) for number in range(8)]
    for number in range(200):
        access.put(b"more %d" % number, text(50_000, number))
    assert [access.get(b"%d" % number).read() for number in range(8)] == [one.read() for one in held]


def test_what_is_useless_goes_first():
    access = cache(4 * MIB, 100)
    past = time.time_ns() - 1
    for number in range(50):
        access.put(b"old %d" % number, b"x", times=(0, 0, past))
        for _ in range(3):
            access.get(b"old %d" % number).release()     # often used, which does not help it
    for number in range(100):
        access.put(b"new %d" % number, b"x")
    assert access.stats()["expirations"] == 50
    assert all(access.get(b"new %d" % number) for number in range(100))


def test_room_is_made_when_everything_is_in_use():
    access = cache(4 * MIB, 2000)
    for number in range(2000):
        access.put(b"%d" % number, b"x")
        for _ in range(4):
            access.get(b"%d" % number).release()
    for number in range(50):
        assert access.put(b"new %d" % number, b"x") == "ok"
        assert access.get(b"new %d" % number) is not None


def test_a_scan_leaves_what_is_used():
    access = cache(4 * MIB, 200)
    for _ in range(4):
        for number in range(50):
            if access.get(b"hot %d" % number) is None:
                access.put(b"hot %d" % number, b"x")
    for number in range(5000):
        access.put(b"scan %d" % number, b"x")
    assert sum(access.get(b"hot %d" % number) is not None for number in range(50)) == 50


# ---------------------------------------------------------------------- purging


def test_purge_of_a_key_takes_its_variants():
    access = cache()
    for name in (b"h/a", b"h/a\0gzip", b"h/a\0br", b"h/ab", b"h/b"):
        access.put(name, name)
    assert access.purge_name(b"h/a") == 3
    assert {name for name, *_ in access.entries()} == {b"h/ab", b"h/b"}
    assert access.purge_name(b"h/a") == 0


def test_purge_by_tag_and_prefix():
    access = cache(16 * MIB)
    for number in range(3000):
        access.put(b"h/%d" % number, b"x", tags=[b"even" if number % 2 == 0 else b"odd", b"all", b"all"])
    assert access.purge_tag(b"odd") == 1500
    assert access.purge_tag(b"odd") == 0
    assert access.purge_prefix(b"h/2") == len([n for n in range(0, 3000, 2) if str(n).startswith("2")])
    assert access.stats()["entries"] == access.purge_tag(b"all")
    assert access.audit() == []
    assert access.stats()["tags"] == 0


def test_a_soft_purge_makes_stale_and_keeps():
    access = cache()
    access.put(b"h/a", b"a", tags=[b"t"], times=(5, 6, 7))
    access.put(b"h/b", b"b", times=(5, 6, 7))
    assert access.purge_tag(b"t", True) == 1
    assert (access.get(b"h/a").times, access.get(b"h/b").times) == ((5, 0, 7), (5, 6, 7))
    assert access.purge_all(True) == 2
    assert access.get(b"h/b").times == (5, 0, 7)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(
    "purge",
    [
        lambda access, soft: access.purge_name(b"h/a", soft),
        lambda access, soft: access.purge_prefix(b"h/", soft),
        lambda access, soft: access.purge_tag(b"t", soft),
        lambda access, soft: access.purge_all(soft),
    ],
)
def test_what_was_asked_for_before_a_purge_does_not_come_back(purge, soft):
    access = cache()
    asked = time.monotonic_ns()
    running = access.begin(b"h/a\0v", tags=[b"t"], expected=1, asked=asked)
    running.append(b"x")
    other = access.begin(b"i/a", expected=1, asked=asked)
    other.append(b"x")
    purge(access, soft)
    late = access.begin(b"h/a", tags=[b"t"], expected=1, asked=asked)       # its head came after the purge
    late.append(b"x")
    assert [running.finish(), late.finish()] == (["ok"] * 2 if soft else ["purged"] * 2)
    assert access.put(b"h/a\0new", b"x", tags=[b"t"]) == "ok"
    assert access.get(b"h/a\0new").times == FOREVER
    if soft:
        assert access.get(b"h/a").times[1] == access.get(b"h/a\0v").times[1] == 0
    assert access.audit() == []


def test_when_more_was_purged_than_is_remembered_the_answer_is_not_kept():
    access = cache()
    filling = access.begin(b"h/a", expected=0)
    for number in range(8193):
        access.purge_name(b"%d" % number)
    assert filling.finish() == "purged"


# ---------------------------------------------------------------------- revalidation


def test_a_revalidated_answer_has_a_new_head_and_the_old_body():
    access, body = cache(), text(3000)
    access.put(b"k", body, head=b"old", times=(1, 2, 3), meta=b"m1")
    reader = access.get(b"k")
    assert access.freshen(b"k", reader.version, (4, 5, 6), b"new head " * 200, b"m2") == "ok"
    assert (reader.head, reader.times, reader.read()) == (b"old", (1, 2, 3), body)
    second = access.get(b"k")
    assert (second.head, second.times, second.read()) == (b"new head " * 200, (4, 5, 6), body)
    assert second.meta[:2] == b"m2"
    assert access.freshen(b"k", reader.version, (7, 8, 9), b"third") == "ok"
    assert second.head == b"new head " * 200, "who reads it still has it"
    assert access.freshen(b"k", reader.version, (7, 8, 9)) == "ok"
    assert access.get(b"k").head == b"third"
    assert access.audit() == []
    del reader, second
    assert access.freshen(b"k", access.get(b"k").version + 1, (7, 8, 9)) == "gone"
    access.purge_all()
    assert access.audit() == []
    assert access.stats()["bytes"] == 0


def test_heads_that_are_still_read_are_bounded():
    access = cache()
    access.put(b"k", b"body")
    version, held, results = access.get(b"k").version, [], []
    for number in range(40):
        held.append(access.get(b"k"))
        results.append(access.freshen(b"k", version, (number, 1, 1), b"head %d" % number))
    assert results[0] == "ok"
    assert results[-1] == "times"
    assert access.get(b"k").times[0] == 39
    assert [one.head for one in held[1:10]] == [b"head %d" % number for number in range(9)]
    assert access.audit() == []


def test_a_soft_purge_while_it_is_revalidated_holds():
    access = cache()
    access.put(b"k", b"body")
    asked = time.monotonic_ns()
    access.purge_name(b"k", True)
    assert access.freshen(b"k", access.get(b"k").version, (1, 2, 3), asked=asked) == "ok"
    assert access.get(b"k").times == (1, 0, 3)


# ---------------------------------------------------------------------- claims


def test_one_claims_and_the_others_wait():
    access = cache()
    mine = access.claim(b"k", 3600)
    assert mine is not None
    assert access.claim(b"k", 3600) is None
    assert access.claimed(b"k")
    assert access.claim(b"other", 3600) is not None
    access.unclaim(mine)
    assert not access.claimed(b"k")
    again = access.claim(b"k", 3600)
    access.unclaim(mine)                             # an old one ends nothing
    assert access.claimed(b"k")
    access.unclaim(again)


def test_a_lease_ends():
    access = cache()
    assert access.claim(b"k", 0.0)
    assert access.claim(b"k", 3600)


def test_more_claims_than_can_be_noted():
    access = cache(4 * MIB, 100)
    claims = [access.claim(b"%d" % number, 3600) for number in range(2000)]
    assert None not in claims
    assert sum(cell == -1 for cell, _ in claims) > 1000


# ---------------------------------------------------------------------- the memory


def test_memory_that_is_none_is_refused():
    with pytest.raises(ValueError, match="not a cache"):
        Storage(mmap.mmap(-1, 8192))
    with pytest.raises(ValueError, match="too few"):
        Storage.size(4 * MIB, 1_000_000)
    with pytest.raises(ValueError, match="too little"):
        Storage.size(MIB, 1000)
    memory = mmap.mmap(-1, Storage.size(4 * MIB))
    Storage.format(memory, 4 * MIB)
    cut = mmap.mmap(-1, len(memory) // 2)
    cut[:] = memory[: len(cut)]
    with pytest.raises(ValueError, match="cut"):
        Storage(cut)


def test_one_that_is_not_attached_misses():
    memory = mmap.mmap(-1, Storage.size(4 * MIB))
    Storage.format(memory, 4 * MIB)
    access = Access(Storage(memory))
    assert access.put(b"k", b"x") == "no_room"
    assert access.get(b"k") is None
    assert access.storage.attach()
    assert access.put(b"k", b"x") == "ok"
    access.storage.detach()
    assert access.get(b"k") is None


NAMES = st.sampled_from([b"h/%d" % number for number in range(12)] + [b"h/1\0a", b"h/1\0b", b"i/1"])
TAGS = st.lists(st.sampled_from([b"t1", b"t2", b"t3"]), max_size=3)
SIZES = st.sampled_from([0, 1, 100, 600, 5000, 70_000, 290_000])


class AgainstAModel(RuleBasedStateMachine):
    """Everything is found as the model has it, until something is evicted; then it is not found."""

    def __init__(self):
        super().__init__()
        self.access = cache(4 * MIB, 64)
        self.model = {}
        self.held = []
        self.fills = []
        self.number = 0

    def forget_evicted(self):
        """What is gone is gone; what is there must be right, which `get` looks at."""
        there = {name for name, *_ in self.access.entries(b"", 1000)}
        assert there <= set(self.model)
        if not self.access.stats()["evictions"]:
            assert there == set(self.model)
        self.model = {name: value for name, value in self.model.items() if name in there}

    @rule(name=NAMES, size=SIZES, tags=TAGS, head=SIZES.filter(lambda n: n < 10_000))
    def put(self, name, size, tags, head):
        self.number += 1
        body, head = text(size, self.number), text(head, -self.number)
        if self.access.put(name, body, head=head, tags=tags) == "ok":
            self.model[name] = (head, body, {*tags})

    @rule(name=NAMES)
    def get(self, name):
        self.forget_evicted()
        hit = self.access.get(name)
        assert (hit is not None) == (name in self.model)
        if hit is not None:
            assert (hit.head, hit.read()) == self.model[name][:2]
            self.held.append((hit, *self.model[name][:2]))

    @precondition(lambda self: self.held)
    @rule()
    def let_go(self):
        self.held.pop(0)

    @rule(name=NAMES, head=SIZES.filter(lambda n: n < 10_000))
    def freshen(self, name, head):
        self.forget_evicted()
        if name in self.model:
            new = text(head, self.number)
            if self.access.freshen(name, self.access.get(name).version, FOREVER, new) == "ok":
                self.model[name] = (new, *self.model[name][1:])

    @rule(name=NAMES, size=SIZES, tags=TAGS)
    def begin(self, name, size, tags):
        self.number += 1
        filling = self.access.begin(name, tags=tags)
        body = text(size, self.number)
        if not isinstance(filling, str) and filling.append(body) == "ok":
            self.fills.append((filling, name, body, {*tags}))

    @precondition(lambda self: self.fills)
    @rule(keep=st.booleans())
    def end(self, keep):
        filling, name, body, tags = self.fills.pop(0)
        if not keep:
            filling.drop()
        elif filling.finish() == "ok":
            self.model[name] = (b"", body, tags)

    @rule(tag=st.sampled_from([b"t1", b"t2", b"t3"]))
    def purge_tag(self, tag):
        self.forget_evicted()
        gone = [name for name, (_, _, tags) in self.model.items() if tag in tags]
        assert self.access.purge_tag(tag) == len(gone)
        self.purged(gone, lambda fill: tag in fill[3])

    @rule(name=NAMES)
    def purge_name(self, name):
        self.forget_evicted()
        gone = [one for one in self.model if one.partition(b"\0")[0] == name]
        assert self.access.purge_name(name) == (len(gone) if b"\0" not in name else self.access_count(name))
        self.purged([one for one in self.model if one.partition(b"\0")[0] == name.partition(b"\0")[0]],
                    lambda fill: fill[1].partition(b"\0")[0] == name.partition(b"\0")[0])  # fmt: skip

    def access_count(self, name):
        return len([one for one in self.model if one.partition(b"\0")[0] == name.partition(b"\0")[0]])

    @rule(prefix=st.sampled_from([b"h/", b"h/1", b"i", b"none", b""]))
    def purge_prefix(self, prefix):
        self.forget_evicted()
        gone = [name for name in self.model if name.startswith(prefix)]
        assert self.access.purge_prefix(prefix) == len(gone)
        self.purged(gone, lambda fill: fill[1].startswith(prefix))

    def purged(self, gone, doomed):
        for name in gone:
            del self.model[name]
        for fill in [one for one in self.fills if doomed(one)]:
            self.fills.remove(fill)
            assert fill[0].finish() == "purged"

    @invariant()
    def what_is_held_stays_as_it_was(self):
        for hit, head, body in self.held[:3]:
            assert (hit.head, hit.read()) == (head, body)

    @invariant()
    def the_memory_is_in_order(self):
        assert self.access.audit() == []


TestAgainstAModel = AgainstAModel.TestCase
TestAgainstAModel.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
