"""Circuit breakers against a model, and several processes on one."""

import mmap
import multiprocessing
from fractions import Fraction

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from fastgw._core.breaker import EVENTS, STATES, TRANSITIONS, Breaker, BreakerRules, CircuitTable

SECOND = 1_000_000_000
OPEN = 60 * SECOND
MARKS = 3 << 3


def breaker(**rules):
    table = CircuitTable(bytearray(CircuitTable.size(16)))
    found = Breaker(table, BreakerRules(open_ns=OPEN, **rules), "service", "s")
    return table, found, table.place("service", "s", "")


def state(table, place, now=0):
    return table.read(place, 10 * SECOND, now)["state"]


def test_the_table_of_moves_is_whole():
    assert {one[0] for one in TRANSITIONS} == {one[2] for one in TRANSITIONS} == set(STATES)
    assert {one[1] for one in TRANSITIONS} == set(EVENTS)
    assert len({one[:2] for one in TRANSITIONS}) == len(TRANSITIONS)


@pytest.mark.parametrize("event", ["reset", "force_open", "force_closed", "auto"])
def test_commands_follow_the_table(event):
    ways = {("closed", ()), ("forced_open", ("force_open",)), ("forced_closed", ("force_closed",))}
    for begin, commands in sorted(ways):
        table, _, place = breaker()
        for command in commands:
            assert table.command(place, command, 1)
        expected = next((to for at, by, to in TRANSITIONS if (at, by) == (begin, event)), None)
        assert table.command(place, event, 2) is (expected is not None)
        assert state(table, place) == (expected or begin)


@pytest.mark.parametrize("event", ["tripped", "waited", "probe_failed", "probes_well"])
def test_nobody_can_ask_for_what_happens_by_itself(event):
    table, _, place = breaker()
    with pytest.raises(ValueError, match="nothing that anybody can ask for"):
        table.command(place, event)


def test_slow_answers_open_it():
    table, one, place = breaker(failures=0, slow_ns=1, slow_rate=0.5, least=4)
    for slow in (False, True, False, True):
        assert state(table, place) == "closed"
        one.tell(place, one.ask(place, SECOND), SECOND, True, slow)
    assert table.read(place, 10 * SECOND, SECOND)["reason"] == "slow_calls"
    mark = one.ask(place, SECOND + OPEN)
    one.tell(place, mark, SECOND + OPEN, True, True)
    assert state(table, place) == "open"


def test_a_window_forgets():
    table, one, place = breaker(failures=0, error_rate=0.5, least=2)
    one.tell(place, one.ask(place, 0), 0, False)
    one.tell(place, one.ask(place, 10 * SECOND), 10 * SECOND, False)
    assert state(table, place) == "closed"
    assert table.read(place, 10 * SECOND, 10 * SECOND)["failed"] == 1
    one.tell(place, one.ask(place, 19 * SECOND), 19 * SECOND, False)
    assert table.read(place, 10 * SECOND, 19 * SECOND)["reason"] == "error_rate"


def test_an_answer_that_breaks_off_counts_once():
    table, one, place = breaker(failures=0, error_rate=1.0, least=3)
    mark = one.tell(place, one.ask(place, 0), 0, True)
    one.tell(place, mark, 0, False)
    seen = table.read(place, 10 * SECOND, 0)
    assert (seen["requests"], seen["failed"]) == (1, 1)


def test_probes_that_never_come_back_are_replaced():
    table, one, place = breaker(failures=1, probes=2)
    one.tell(place, one.ask(place, 0), 0, False)
    lost = [one.ask(place, OPEN), one.ask(place, OPEN)]
    assert min(lost) > 0 and one.ask(place, OPEN) == -1
    mark = one.ask(place, 2 * OPEN)
    assert mark > 0
    one.tell(place, lost[0], 2 * OPEN, False)             # of another time: it says nothing
    one.tell(place, mark, 2 * OPEN, True)
    one.tell(place, one.ask(place, 2 * OPEN), 2 * OPEN, True)
    assert state(table, place) == "closed"


def test_what_has_no_room_refuses():
    table = CircuitTable(bytearray(CircuitTable.size(1)))
    places = [table.place("service", str(i), "") for i in range(200)]
    assert sorted({place for place in places if place >= 0}) == list(range(16))
    assert places[-1] == -1
    assert table.place("service", "0", "") == places[0]
    assert Breaker(table, BreakerRules(), "service", "more").ask(-1, 0) == -1


class Model(RuleBasedStateMachine):
    """One breaker beside the plainest one there can be: lists of what happened, and no packed words."""

    tickets = Bundle("tickets")

    @initialize(
        failures=st.integers(0, 4), rate=st.sampled_from([0, 0.25, 0.5, 1.0]), least=st.integers(1, 6),
        probes=st.integers(1, 4),
    )  # fmt: skip
    def begin(self, failures, rate, least, probes):
        self.failures, self.rate, self.least, self.probes = failures, Fraction(rate), least, probes
        self.table, self.one, self.place = breaker(failures=failures, error_rate=rate, least=least, probes=probes)
        self.now = 1000 * SECOND
        self.state, self.epoch = "closed", 0
        self.until = self.row = self.taken = self.well = self.refused = 0
        self.window = []

    def enter(self, to):
        self.state, self.epoch = to, self.epoch + 1
        self.taken = self.well = 0
        if to in ("open", "half_open"):
            self.until = self.now + OPEN
        else:
            self.row, self.window = 0, []

    @rule(seconds=st.sampled_from([0, 1, 3, 9, 30, 60]))
    def wait(self, seconds):
        self.now += seconds * SECOND

    @rule(target=tickets)
    def ask(self):
        admitted = self.state in ("closed", "forced_closed")
        if (self.state == "half_open" and self.taken < self.probes) or (
            self.state in ("open", "half_open") and self.now >= self.until
        ):
            if self.state == "open" or self.taken >= self.probes:
                self.enter("half_open")
            self.taken += 1
            admitted = True
        self.refused += not admitted
        mark = self.one.ask(self.place, self.now)
        assert (mark >= 0) == admitted
        return {"mark": mark, "epoch": self.epoch, "admitted": admitted, "well": False}

    @rule(ticket=tickets, well=st.booleans())
    def tell(self, ticket, well):
        if not ticket["admitted"] or ticket["mark"] & MARKS > 1 << 3 or (well and ticket["well"]):
            return
        current = ticket["epoch"] == self.epoch
        ticket["mark"] = self.one.tell(self.place, ticket["mark"], self.now, well)
        counted, ticket["well"] = ticket["well"], ticket["well"] or well
        if not current:
            return
        part = self.now // SECOND
        if self.state == "half_open":
            self.well += well
            if not well:
                self.enter("open")
            elif self.well >= self.probes:
                self.enter("closed")
                ticket["epoch"] = self.epoch
        elif self.state == "closed":
            self.window = [one for one in self.window if part - one[0] < 10]
            if well:
                self.window.append([part, False])
            elif counted:
                self.window.append([part, None])
            else:
                self.window.append([part, True])
            if not well:
                self.row += 1
                failed = sum(one[1] is not False for one in self.window)
                total = sum(one[1] is not None for one in self.window)
                if 0 < self.failures <= self.row or (
                    self.rate and total >= self.least and failed >= self.rate * total
                ):
                    row = self.row
                    self.enter("open")
                    self.row = row

    @rule(ticket=consumes(tickets))
    def leave(self, ticket):
        if not ticket["admitted"]:
            return
        marks = ticket["mark"] & MARKS
        if marks == 1 << 3:
            self.one.over(self.place, ticket["mark"])
            if self.state in ("closed", "half_open") and ticket["epoch"] == self.epoch:
                self.row = 0
        elif not marks:
            self.one.gone(self.place, ticket["mark"])
            if self.state == "half_open" and ticket["epoch"] == self.epoch and self.taken:
                self.taken -= 1

    @rule(event=st.sampled_from(["reset", "force_open", "force_closed", "auto"]))
    def command(self, event):
        to = next((to for at, by, to in TRANSITIONS if (at, by) == (self.state, event)), None)
        assert self.table.command(self.place, event, self.now) is (to is not None)
        if to is not None:
            self.enter(to)

    @precondition(lambda self: hasattr(self, "table"))
    @invariant()
    def the_same(self):
        seen = self.table.read(self.place, 10 * SECOND, self.now)
        assert seen["state"] == self.state
        assert (seen["probes"], seen["probes_well"], seen["refused"]) == (self.taken, self.well, self.refused)
        if self.state in ("closed", "open"):
            assert seen["failures_in_a_row"] == self.row
        if self.state in ("open", "half_open"):
            assert seen["until"] == self.until


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def crowd(memory, seed, results, barrier):
    """A process of some that ask and tell at the same time: half of the probes it gets fail."""
    table = CircuitTable(memory)
    one = Breaker(table, BreakerRules(failures=1, probes=5, open_ns=SECOND), "service", "s")
    place = table.place("service", "s", "")
    barrier.wait()
    admitted = []
    for now in range(0, 2000 * SECOND, SECOND):
        mark = one.ask(place, now)
        if mark >= 0:
            admitted.append(mark)
            one.tell(place, mark, now, bool((now // SECOND + seed) % 3))
    results.put(admitted)


def test_several_processes_on_one():
    context = multiprocessing.get_context("fork")
    memory = mmap.mmap(-1, CircuitTable.size(16))
    results, barrier = context.Queue(), context.Barrier(4)
    crew = [context.Process(target=crowd, args=(memory, seed, results, barrier)) for seed in range(4)]
    for process in crew:
        process.start()
    marks = [mark for _ in crew for mark in results.get(timeout=120)]
    for process in crew:
        process.join(120)
        assert process.exitcode == 0
    table = CircuitTable(memory)
    seen = table.read(table.place("service", "s", ""), 10 * SECOND, 0)
    # each transition is one step of the epoch, and was made by exactly one of them
    assert sum(seen["transitions"].values()) >= max(mark >> 23 for mark in marks) > 10
    # a half-open time lets so many in, whoever asks; only probes that leave without a word make room for others
    probes = {}
    for mark in marks:
        if mark & 7 == 2:
            probes[mark >> 23] = probes.get(mark >> 23, 0) + 1
    assert probes and max(probes.values()) <= 5
