"""The storage of the cache between processes: what they read is whole, and one that is killed in the middle of a change
leaves nothing behind."""

import mmap
import os
import random
import signal
import time
from hashlib import blake2b
from multiprocessing import get_context

from fastgw._core.cache_access import Access
from fastgw._core.cache_store import Storage

FORK = get_context("fork")
MIB = 1024 * 1024
SIZES = (0, 154, 700, 3000, 10_000, 70_000, 300_000)


def shared(memory=6 * MIB, entries=300):
    buffer = mmap.mmap(-1, Storage.size(memory, entries))
    Storage.format(buffer, memory, entries)
    return buffer


def join(buffer):
    access = Access(Storage(buffer))
    assert access.storage.attach()
    return access


def signed(data):
    return blake2b(data, digest_size=16).digest() + data


def right(hit):
    body, head = hit.read(), hit.head
    return signed(body[16:]) == body and signed(head[16:]) == head


def work(access, dice, held):
    """One thing of many; False when something that was read is wrong."""
    name, what = b"h/%d" % dice.randrange(120), dice.randrange(20)
    if what < 11:
        hit = access.get(name)
        if hit is not None and not right(hit):
            return False
        if hit is not None and dice.randrange(8) == 0:
            held.append(hit)
            if len(held) > 8:
                return right(held.pop(dice.randrange(8)))
        return True
    if what < 17:
        body = signed(dice.randbytes(dice.choice(SIZES)))
        filling = access.begin(name, head=signed(name), tags=[b"t%d" % dice.randrange(4)],
                               expected=dice.choice([-1, len(body)]))  # fmt: skip
        if not isinstance(filling, str):
            at = 0
            while at < len(body):
                some = dice.randrange(1, 50_000)
                if filling.append(body[at : at + some]) != "ok":
                    break
                at += some
            if dice.randrange(10):
                filling.finish()
        return True
    if what == 17:
        hit = access.get(name)
        if hit is not None:
            access.freshen(name, hit.version, (0, 1 << 62, 1 << 62), signed(dice.randbytes(dice.randrange(2000))))
    elif what == 18 and dice.randrange(5) == 0:
        access.purge_tag(b"t%d" % dice.randrange(4), bool(dice.randrange(2)))
    elif (claim := access.claim(name, 5)) is not None and dice.randrange(2):
        access.unclaim(claim)
    return True


def busy(buffer, seed, rounds, sender):
    """`rounds` 0 is for ever."""
    access, dice, held, done = join(buffer), random.Random(seed), [], 0
    sender.send("begun")
    while rounds == 0 or done < rounds:
        if not work(access, dice, held):
            sender.send(f"what was read is wrong (seed {seed}, round {done})")
            return
        done += 1
    held.clear()
    sender.send("done")


def start(buffer, seed, rounds):
    receiver, sender = FORK.Pipe(False)
    process = FORK.Process(target=busy, args=(buffer, seed, rounds, sender), daemon=True)
    process.start()
    sender.close()
    assert receiver.recv() == "begun"
    return process, receiver


def said(receiver):
    """What a process that is gone complained of; None: nothing."""
    try:
        return receiver.recv()
    except EOFError:
        return None


def test_four_processes_read_what_was_written():
    buffer = shared(4 * MIB, 80)              # fewer than there are names: something has to go, whatever is purged
    running = [start(buffer, seed, 500) for seed in range(4)]
    assert [receiver.recv() for _, receiver in running] == ["done"] * 4
    for process, _ in running:
        process.join()
    access = join(buffer)
    assert access.audit() == []
    stats = access.stats()
    assert (stats["retired"], stats["filling"]) == (0, 0)
    assert stats["hits"] > 100
    assert stats["evictions"] > 5


def test_killed_in_the_middle_of_anything():
    buffer, dice = shared(), random.Random(7)
    access = join(buffer)
    steady = start(buffer, 100, 0)
    for number in range(6):
        process, receiver = start(buffer, number, 0)
        # by what the others did meanwhile: no two machines kill at the same place
        wanted = access.stats()["fills"] + dice.randrange(1, 40)
        deadline = time.monotonic() + 60
        while access.stats()["fills"] < wanted and time.monotonic() < deadline:
            pass
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert said(receiver) is None
    assert steady[0].is_alive(), said(steady[1])
    os.kill(steady[0].pid, signal.SIGKILL)
    steady[0].join()
    newest = join(buffer)                                # who comes clears up after those that are gone
    assert newest.audit() == []
    stats = newest.stats()
    assert (stats["retired"], stats["filling"]) == (0, 0)
    for name, *_ in newest.entries(b"", 1000):
        assert right(newest.get(name))


def change(buffer, seed, sender):
    """Nothing but changes, one after the other: where it is killed, it most likely holds the lock."""
    access, dice = join(buffer), random.Random(seed)
    bodies = [signed(dice.randbytes(size)) for size in SIZES]
    head = signed(b"head")
    sender.send("begun")
    while True:
        name, what = b"h/%d" % dice.randrange(90), dice.randrange(10)
        if what < 7:
            access.put(name, dice.choice(bodies), head=head, tags=[b"t%d" % dice.randrange(4)])
        elif what == 7 and (hit := access.get(name)) is not None:
            access.freshen(name, hit.version, (0, 1 << 62, 1 << 62), head)
        elif what == 8:
            access.purge_name(name)
        elif dice.randrange(3) == 0:
            access.purge_tag(b"t1")


def test_killed_while_it_holds_the_lock():
    buffer, dice = shared(4 * MIB, 80), random.Random(9)
    access, deadline = join(buffer), time.monotonic() + 60
    for number in range(400):
        receiver, sender = FORK.Pipe(False)
        process = FORK.Process(target=change, args=(buffer, number, sender), daemon=True)
        process.start()
        assert receiver.recv() == "begun"
        wanted = access.stats()["fills"] + dice.randrange(1, 200)
        while access.stats()["fills"] < wanted:
            pass
        end(process)
        newest = join(buffer)
        assert newest.audit() == []
        assert (newest.stats()["retired"], newest.stats()["filling"]) == (0, 0)
        for name, *_ in newest.entries(b"", 1000):
            assert right(newest.get(name))
        newest.storage.detach()
        if newest.stats()["recoveries"] >= 2 or time.monotonic() > deadline:
            break
    assert access.stats()["recoveries"] >= 1


def test_nobody_waits_long_for_one_that_is_stopped_while_it_holds_the_lock():
    buffer, deadline = shared(4 * MIB, 80), time.monotonic() + 60
    access = join(buffer)
    receiver, sender = FORK.Pipe(False)
    process = FORK.Process(target=change, args=(buffer, 1, sender), daemon=True)
    process.start()
    assert receiver.recv() == "begun"
    while access.stats()["busy"] == 0 and time.monotonic() < deadline:
        os.kill(process.pid, signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        stored = access.put(b"k", b"x")
        os.kill(process.pid, signal.SIGCONT)
    assert stored == "no_room"
    assert access.stats()["waited_us"] >= 20_000
    end(process)
    assert access.audit() == []


def stop_at_once(buffer, sender, what):
    access = join(buffer)
    if what == "reads":
        kept = access.get(b"k")
    elif what == "fills":
        kept = access.begin(b"new", expected=100_000)
        kept.append(bytes(50_000))
    else:
        kept = access.claim(b"k", 3600)
    sender.send(kept is not None)
    signal.pause()


def left_by(buffer, what):
    receiver, sender = FORK.Pipe(False)
    process = FORK.Process(target=stop_at_once, args=(buffer, sender, what), daemon=True)
    process.start()
    assert receiver.recv()
    return process


def end(process):
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def test_pins_of_one_that_was_killed_are_given_back_when_the_next_one_comes():
    buffer = shared()
    access = join(buffer)
    access.put(b"k", bytes(5000))
    process = left_by(buffer, "reads")
    access.purge_all()
    assert access.audit() == []
    assert access.stats()["retired"] == 1
    end(process)
    assert join(buffer).audit() == []
    assert (access.stats()["retired"], access.stats()["bytes"]) == (0, 0)


def test_what_one_that_was_killed_had_begun_is_gone():
    buffer = shared()
    access = join(buffer)
    process = left_by(buffer, "fills")
    assert access.stats()["filling"] == 1
    end(process)
    assert join(buffer).audit() == []
    assert (access.stats()["filling"], access.stats()["bytes"]) == (0, 0)


def test_the_claim_of_one_that_was_killed_is_none():
    buffer = shared()
    access = join(buffer)
    process = left_by(buffer, "claims")
    assert access.claim(b"k", 1) is None
    end(process)
    assert not access.claimed(b"k")
    assert access.claim(b"k", 1) is not None


def test_places_are_used_again():
    buffer = shared(4 * MIB, 64)
    places = set()
    for _ in range(20):
        process = left_by(buffer, "claims")
        end(process)
        access = join(buffer)
        places.add(access.storage.process)
        access.storage.detach()
    assert places == {0}
