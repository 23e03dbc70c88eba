"""A new configuration is compiled in a process of its own that takes only the time nobody else wants.

Seconds of work on a large file would otherwise compete with the workers for the cores, and its garbage would stay
with the agent. The result comes back in memory files; most of it is passed on unread.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from fastgw.config import ConfigError
from fastgw.plan import TlsSpec
from fastgw.server import control
from fastgw.server.compiled import Release, compile_config
from fastgw.server.process import become_child, describe
from fastgw.server.shared import Slots

logger = logging.getLogger("fastgw.agent")

NAME = "fastgw:compile"
LONGEST_SECONDS = 300.0
LOOK_SECONDS = 2.0
STARVED = 0.05
"""Less than this part of a core, and it is tried again with more right to one: where all cores are busy, SCHED_IDLE
has next to none."""
MODEST = 10
"""The nice value of the second attempt."""


class CompileError(Exception):
    """The compiling process came to no end, or to a bad one."""


class Starved(Exception):
    """It had no time to run."""


async def compile_aside(
    source: Any,
    generation: int,
    route_slots: Slots,
    service_slots: Slots,
    tls_before: Mapping[str, TlsSpec] | None = None,
) -> Release:
    """Raises ConfigError with every problem, CompileError when the process died or took too long."""
    arguments = (source, generation, route_slots, service_slots, tls_before)
    try:
        return await attempt(True, *arguments)
    except Starved:
        logger.info("the cores are busy: the new configuration is compiled with a higher priority")
        return await attempt(False, *arguments)


async def attempt(idle: bool, *arguments: Any) -> Release:
    with control.memory_files(3) as fds:
        await finish(fork(fds, idle, *arguments), idle)
        found = control.loads(fds[0])
        if not isinstance(found, Release):
            raise ConfigError(found)
        return found.with_files(os.dup(fds[1]), os.dup(fds[2]))


def fork(fds: Sequence[int], idle: bool, *arguments: Any) -> int:
    """The compiling process' id."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        gc.freeze()                                  # no destructor of the agent's may close a descriptor of ours
        become_child(NAME, parent, signal.SIGKILL)
        # a connection of the admin listener must end when the agent ends it
        for low, high in pairwise([2, *sorted(fds), os.sysconf("SC_OPEN_MAX")]):
            os.closerange(low + 1, high)
        if idle:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        else:
            os.nice(MODEST)
        write(fds, *arguments)
        code = 0
    except BaseException:
        logger.exception("the new configuration cannot be compiled")
    finally:
        os._exit(code)


def write(
    fds: Sequence[int],
    source: Any,
    generation: int,
    route_slots: Slots,
    service_slots: Slots,
    tls_before: Mapping[str, TlsSpec] | None,
) -> None:
    """The life of the compiling process: the summary of a Release and its two files; or a list of problems."""
    try:
        compiled = compile_config(source, generation, route_slots, service_slots, tls_before)
    except ConfigError as error:
        control.write_file(fds[0], control.dumps(error.problems))
        return
    release = Release.of(compiled)
    control.write_file(fds[0], control.dumps(release.summary()))
    control.write_file(fds[1], control.read_file(release.plan))
    control.write_file(fds[2], control.dumps(release.routes))


async def finish(pid: int, idle: bool) -> None:
    """Waits for the process; when this ends otherwise, it is killed. CompileError: it failed. Starved: if `idle`."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()
    fd = os.pidfd_open(pid)

    def reap() -> None:
        loop.remove_reader(fd)
        os.close(fd)
        _, status = os.waitpid(pid, 0)
        if not ended.done():
            ended.set_result(status)

    loop.add_reader(fd, reap)
    deadline = time.monotonic() + LONGEST_SECONDS
    used = 0.0
    try:
        while not (await asyncio.wait([ended], timeout=LOOK_SECONDS))[0]:
            before, used = used, cpu_seconds(pid)
            if time.monotonic() > deadline:
                raise CompileError(f"the new configuration was not compiled in {LONGEST_SECONDS:g} s")
            if idle and used - before < LOOK_SECONDS * STARVED:
                raise Starved
    finally:
        if not ended.done():
            os.kill(pid, signal.SIGKILL)             # it is reaped when it is gone, which may take a starved one long
            ended.cancel()
    if status := ended.result():
        raise CompileError(f"the process that compiles the new configuration ended with {describe(status)}")


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
