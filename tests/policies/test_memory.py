"""`memory`: limits of cgroups and of the machine, and requests while memory is short."""

import pytest
from pydantic import ValidationError

from fastgw.policies._memory import Memory
from fastgw.policies.memory import Gauge, MemoryOptions
from fastgw.testing.policy import Trial

MEMINFO = "MemTotal:       1000 kB\nMemFree:  100 kB\nMemAvailable:    600 kB\n"


@pytest.fixture
def machine(tmp_path):
    """A machine: set(path, text) writes one of its files."""

    def put(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    put("proc/self/cgroup", "0::/a/b\n")
    put("proc/self/statm", "100 50 10 1 0 20 0\n")
    put("proc/meminfo", MEMINFO)
    put("cg/a/b/memory.max", "max\n")
    return put


def memory(tmp_path):
    return Memory(tmp_path / "proc", tmp_path / "cg")


def test_without_a_limit_it_is_the_machine(machine, tmp_path):
    assert memory(tmp_path).used() == pytest.approx(0.4)


def test_the_closest_limit_counts_and_caches_do_not(machine, tmp_path):
    machine("cg/a/memory.max", "1000\n")
    machine("cg/a/memory.current", "950\n")
    machine("cg/a/memory.stat", "anon 500\nfile 400\ninactive_file 300\n")
    assert memory(tmp_path).used() == pytest.approx(0.65)
    machine("cg/a/b/memory.max", "400\n")
    machine("cg/a/b/memory.current", "300\n")
    machine("cg/a/b/memory.stat", "anon 300\n")
    assert memory(tmp_path).used() == pytest.approx(0.75)


@pytest.mark.parametrize("text", ["1:memory:/x\n", "", "0::/../../etc\n"])
def test_other_cgroups_are_none(machine, tmp_path, text):
    machine("proc/self/cgroup", text)
    assert memory(tmp_path).used() == pytest.approx(0.4)


def test_what_cannot_be_read_is_enough(tmp_path):
    assert memory(tmp_path).used() == 0


def test_this_machine_can_be_read():
    assert 0 < Memory().used() < 1
    assert Memory().resident() > 1 << 20


class Told:
    def __init__(self):
        self.share, self.bytes = 0.0, 0

    def used(self):
        return self.share

    def resident(self):
        return self.bytes


def test_it_does_not_go_to_and_fro():
    told = Told()
    gauge = Gauge(told, 0.9, 1000)
    steps = [(0.89, False), (0.9, True), (0.88, True), (0.85, False), (0.88, False)]
    for share, expected in steps:
        told.share = share
        assert gauge() is expected
    told.share = 0
    for size, expected in [(999, False), (1000, True), (960, True), (900, False)]:
        told.bytes = size
        assert gauge() is expected


def test_requests_are_refused_while_it_is_short():
    assert Trial("memory", {"limit": 1.0}).ask().passed
    outcome = Trial("memory", {"limit": 0.000001, "retry_after": "3s"}).ask()
    assert (outcome.status, outcome.code, outcome.header("Retry-After")) == (503, "short_of_memory", "3")
    assert Trial("memory", {"limit": 1.0, "worker": "1MiB"}).ask().code == "short_of_memory"


@pytest.mark.parametrize("options", [{"limit": 2}, {"worker": 1}, {"retry_after": 0}])
def test_wrong_options(options):
    with pytest.raises(ValidationError):
        MemoryOptions.model_validate(options)
