"""`POST /config/apply`: another file is put in force, at once or after it has served a share of the clients.

While it is tried, every worker has both plans (`_core/trial.pyx`) and counts what becomes of the requests of each; here
it is looked at, judged (`server/canary.py`), and the new plan is put in force the way a reload does it, or dropped. The
configuration in force stays the one in force until then: a worker or an agent that dies begins with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from fastgw.admin.link import Link
from fastgw.config import Config
from fastgw.server import control
from fastgw.server.canary import Rules, Side, Verdict, Wish, at_promotion, both_sides, judge, obstacles, together
from fastgw.server.compiled import Release
from fastgw.server.differences import Change, differences

if TYPE_CHECKING:
    from fastgw.admin.agent import Agent

logger = logging.getLogger("fastgw.agent")

LOOK_SECONDS = 0.25
PREPARE_SECONDS = 30.0
OVERDUE_SECONDS = 120.0
"""So long after its time a worker ends a trial by itself: nobody told it to."""
MOST_CHANGES = 500
"""Differences told in an answer; the others are counted."""


class Refused(Exception):
    """Nothing was changed; `code` is a stable word."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(slots=True)
class Trial:
    """What is tried now. `begun` is the loop's time."""

    release: Release
    file: str
    rules: Rules
    seed: int
    changes: list[str]
    later: list[str]
    begun: float = 0.0
    told: Verdict | None = None


class Rollout:
    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.running: Trial | None = None
        self.ended: asyncio.Task[dict[str, Any]] | None = None
        self.wake = asyncio.Event()
        self.last: dict[str, Any] = {"state": "none"}
        self.ends = {"promoted": 0, "returned": 0, "aborted": 0}

    def nothing_is_tried(self) -> None:
        if self.running is not None:
            raise Refused(
                "canary_running", "a configuration is being tried: promote or abort it first (`fastgw apply --abort`)"
            )

    # ------------------------------------------------------------------ begin

    async def apply(self, wish: Wish) -> tuple[bool, dict[str, Any]]:
        async with self.agent.lock:
            return await self.agent.attempt(lambda: self.begin(wish))

    async def begin(self, wish: Wish) -> dict[str, Any]:
        self.nothing_is_tried()
        if self.agent.draining:
            raise Refused("draining", "the gateway goes")
        file = beside(self.agent.source, wish.file)
        new = await self.agent.compiled(file)
        changes, texts = await self.compare(new)
        if wish.canary is None:
            return {**await self.at_once(new, file), "changes": texts}
        if reasons := obstacles(self.agent.current.head, new.head, changes):
            new.close()
            raise Refused("cannot_be_tried", "; ".join(reasons))
        trial = Trial(new, file, wish.canary, secrets.randbits(64), texts, at_promotion(changes))
        await self.start(trial)
        self.running = trial
        self.wake.clear()
        self.ended = self.agent.spawn(self.watch(trial))
        logger.info("%s is tried by %g of the clients for %g s", file, trial.rules.share, trial.rules.watch)
        return self.report()

    async def compare(self, new: Release) -> tuple[list[Change], list[str]]:
        def work() -> list[Change]:
            return differences(self.agent.current.config(), new.config())

        changes = await asyncio.get_running_loop().run_in_executor(None, work)
        return changes, texts_of(changes)

    async def at_once(self, new: Release, file: str) -> dict[str, Any]:
        """A reload reads this file from now on."""
        before, self.agent.source = self.agent.source, file
        try:
            facts = await self.agent.put_in_force(new)
        except BaseException:
            self.agent.source = before
            raise
        return {**facts, "file": file, "start_reads": os.path.realpath(self.agent.started_from)}

    async def start(self, trial: Trial) -> None:
        """Every worker serves with both plans, or none does."""
        agent = self.agent
        slots = agent.memory.route_slots, agent.memory.service_slots
        links = [link for link in agent.links.values() if link.serves]
        try:
            old, new = agent.current, trial.release
            both = replace(
                old,
                head=together(old.head, new.head),
                keys=old.keys | new.keys,
                circuits=old.circuits + tuple(one for one in new.circuits if one not in old.circuits),
            )
            await self.look_after(both)
            for counts in agent.memory.trials:
                counts.reset()
            agent.memory.adopt(trial.release.route_slots, trial.release.service_slots)
            await agent.all(links, lambda link: self.prepare(link, trial))
            trial.begun = agent.loop.time()
            await agent.all(links, lambda link: self.share(link, trial))
        except BaseException:
            await self.give_back(trial, slots)
            raise

    async def look_after(self, release: Release) -> None:
        await self.agent.follow(release)
        self.agent.health.follow(release.head, release.circuits)

    async def prepare(self, link: Link, trial: Trial) -> None:
        await link.ask({"op": "try"}, [trial.release.plan], PREPARE_SECONDS)
        control.send(link.sock, {"op": "addresses", "addresses": self.agent.names.known})

    async def share(self, link: Link, trial: Trial) -> None:
        rules = trial.rules
        left = trial.begun + rules.watch - self.agent.loop.time()
        await link.ask(
            {
                "op": "share",
                "share": rules.share,
                "by": None if rules.by == "address" else rules.by,
                "seed": trial.seed,
                "seconds": max(0.0, left) + OVERDUE_SECONDS,
            }
        )

    async def join(self, link: Link) -> None:
        """A worker that was born meanwhile serves with both plans too."""
        if self.running is not None:
            try:
                await self.prepare(link, self.running)
                await self.share(link, self.running)
            except RuntimeError as error:            # the others go on with it; this one serves as before
                logger.error("%s: it serves without the configuration that is tried", error)

    # ------------------------------------------------------------------ while it goes on

    def seen(self) -> tuple[Side, Side] | None:
        return both_sides(self.agent.memory.trials) if self.running is not None else None

    def report(self) -> dict[str, Any]:
        trial = self.running
        return self.last if trial is None else self.told(trial, "watching", "")

    def told(self, trial: Trial, state: str, reason: str) -> dict[str, Any]:
        old, new = both_sides(self.agent.memory.trials)
        rules = trial.rules
        return {
            "state": state,
            "reason": reason,
            "file": trial.file,
            "share": f"{rules.share * 100:.4g}%",
            "by": rules.by,
            "watch": rules.watch,
            "seconds": round(self.agent.loop.time() - trial.begun, 1),
            "max_error_rate": rules.max_error_rate.text,
            "max_p99": None if rules.max_p99 is None else rules.max_p99.text,
            "min_requests": rules.min_requests,
            "old": {"generation": self.agent.current.generation, **old.view()},
            "new": {"generation": trial.release.generation, **new.view()},
            "changes": trial.changes,
            "at_promotion": trial.later,
        }

    async def watch(self, trial: Trial) -> dict[str, Any]:
        """Until it is decided, and done; the report."""
        verdict: Verdict | None = None
        while verdict is None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.wake.wait(), LOOK_SECONDS)
            over = self.agent.loop.time() - trial.begun >= trial.rules.watch
            verdict = trial.told or judge(trial.rules, *both_sides(self.agent.memory.trials), over)
        async with self.agent.lock:
            return await self.finish(trial, verdict)

    async def end(self, result: Literal["promoted", "aborted"]) -> dict[str, Any] | None:
        """What an operator wishes. None: nothing is tried."""
        ended = self.ended
        if not self.decide(result, "an operator wished it") or ended is None:
            return None
        return await asyncio.shield(ended)

    def decide(self, result: Literal["promoted", "aborted"], reason: str) -> bool:
        """Ends what is tried, soon. False: nothing is."""
        if self.running is None:
            return False
        self.running.told = self.running.told or Verdict(result, reason)
        self.wake.set()
        return True

    # ------------------------------------------------------------------ the end

    async def finish(self, trial: Trial, verdict: Verdict) -> dict[str, Any]:
        report = self.told(trial, *verdict)
        current = self.agent.current
        before = current.route_slots, current.service_slots
        if verdict.result == "promoted":
            try:
                report |= await self.at_once(trial.release, trial.file)
            except Exception as failure:             # it is closed already, and what was before is in force
                logger.error("the configuration that was tried could not be put in force: %s", failure)
                report |= {"state": "returned", "reason": f"it was to be promoted, but: {failure}"}
                await self.call_back(before)
        else:
            await self.give_back(trial, before)
        self.running = None
        self.ends[report["state"]] += 1
        self.last = report
        logger.info("%s: %s, %s", trial.file, report["state"], report["reason"])
        return report

    async def give_back(self, trial: Trial, slots: Any) -> None:
        await self.call_back(slots)
        trial.release.close()

    async def call_back(self, slots: Any) -> None:
        """Every worker serves with the plan in force alone. One that does not answer is replaced."""
        agent = self.agent
        links = [link for link in agent.links.values() if link.serves]
        answers = await asyncio.gather(*(link.ask({"op": "return"}) for link in links), return_exceptions=True)
        for link, answer in zip(links, answers, strict=True):
            if isinstance(answer, BaseException):
                logger.error("%s; it is replaced", answer)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(link.pid, signal.SIGKILL)
        agent.memory.route_slots, agent.memory.service_slots = slots
        await self.look_after(agent.current)


class AtOnce:
    """The same for a gateway of one process: there is nobody who could try a configuration meanwhile."""

    def __init__(
        self, source: Any, config: Callable[[], Config], reload: Callable[[Any], Awaitable[tuple[bool, dict[str, Any]]]]
    ) -> None:
        self.source = source
        self.config = config
        self.reload = reload

    async def apply(self, wish: Wish) -> tuple[bool, dict[str, Any]]:
        try:
            file = beside(self.source, wish.file)
            if wish.canary is not None:
                raise Refused("cannot_be_tried", "a canary needs worker processes: this is a gateway of one process")
        except Refused as refused:
            return False, {"problems": [{"severity": "error", "code": refused.code, "message": str(refused)}]}
        before = self.config()
        done, facts = await self.reload(file)
        if done:
            facts |= {"changes": texts_of(differences(before, self.config())), "file": file}
            facts["start_reads"] = os.path.realpath(self.source)
        return done, facts

    def report(self) -> dict[str, Any]:
        return {"state": "none"}

    async def end(self, result: Literal["promoted", "aborted"]) -> dict[str, Any] | None:
        return None


def texts_of(changes: Sequence[Change]) -> list[str]:
    texts = [change.text() for change in changes[:MOST_CHANGES]]
    if len(changes) > MOST_CHANGES:
        texts.append(f"… and {len(changes) - MOST_CHANGES} more")
    return texts


def beside(source: Any, file: str) -> str:
    """The real path of a file that may be applied: only those in the folder of the one in force, so that who may ask
    the admin listener cannot have any file of the host read."""
    if not isinstance(source, str) or not os.path.isfile(source):
        raise Refused("cannot_apply", "the gateway was not started from a file")
    folder, found = os.path.dirname(os.path.realpath(source)), os.path.realpath(file)
    if os.path.dirname(found) != folder:
        raise Refused("not_beside", f"{file} is not in {folder}: put it beside the file in force")
    if not os.path.isfile(found):
        raise Refused("no_such_file", f"there is no file {file}")
    return found
