"""Binary upgrade: a new supervisor takes the sockets over, and the one that runs goes when the new one serves.

    the one that runs (`Successor`)               the new one (`Predecessor`)
    executes its own command line again     →
    hands over an estate                    →     reads the file anew, starts agent and workers, which do not accept yet
                                            ←     failed, why                    … or it ends: nothing has changed
                                            ←     serving: all workers accept
    tells the service manager who it is now
    go on                                   →     tells the service manager that it is ready
    drains, ends

The messages are JSON: the two may be of different versions. Until `serving` every connection is accepted by the old
workers, from then on by both for a moment, from the same queues.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import MutableMapping, Sequence
from typing import Any

import orjson

from fastgw.server import estate
from fastgw.server.estate import Estate, EstateError
from fastgw.server.process import describe
from fastgw.server.shared import SharedMemory

logger = logging.getLogger("fastgw.supervisor")

VARIABLE = "FASTGW_UPGRADE_FD"
SECONDS = 120.0
"""After which a new supervisor that does not serve is given up."""
STOP_SECONDS = 5.0
"""It then has so long to end by itself."""
ANSWER_SECONDS = 10.0
LONGEST = 4096
"""Bytes of a message."""


def command_line() -> list[str]:
    """What this process was started with, to be executed again: what a path or a link in it leads to by then, counts.

    A script by its own name and not by the interpreter that ran it: its first line may name another one by now."""
    arguments = sys.orig_argv[1:]
    if arguments == sys.argv and os.access(sys.argv[0], os.X_OK):
        return list(sys.argv)
    return [sys.executable, *arguments]


class Successor:
    """The new supervisor, as the one that runs sees it. OSError when it cannot be started."""

    def __init__(self, command: Sequence[str], left: Estate) -> None:
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.setblocking(False)
        self.channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self.serving = False
        self.why = ""
        self.late = ""
        self.deadline = time.monotonic() + SECONDS
        environment = {name: value for name, value in os.environ.items() if name != "WATCHDOG_PID"}
        environment[VARIABLE] = str(theirs.fileno())
        try:
            self.process = subprocess.Popen(
                command, env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
            )
            estate.send(self.channel, left)
        except OSError:
            self.channel.close()
            raise
        finally:
            theirs.close()
        self.pid = self.process.pid

    def fileno(self) -> int:
        return self.channel.fileno()

    def listen(self) -> bool:
        """What it says. False when it will say nothing more."""
        try:
            data = self.channel.recv(LONGEST)
        except (BlockingIOError, ConnectionResetError):
            return True                              # the reset by one that did not read comes before its words
        except OSError:
            data = b""
        try:
            message = orjson.loads(data) if data else {}
        except ValueError:
            message = {}
        if not isinstance(message, dict):
            message = {}
        if message.get("op") == "serving":
            self.serving = True
        elif message.get("op") == "failed":
            self.why = str(message.get("why", ""))[:LONGEST]
        return bool(data)

    def go_on(self) -> None:
        """The service manager knows it: it may speak."""
        try:
            self.channel.send(b'{"op":"go on"}')
        except OSError as error:
            logger.warning("the new supervisor was not told to go on: %s", error)

    def failure(self) -> str:
        """Why it will not serve; empty as long as it may. To be asked again and again."""
        status = self.process.poll()
        if status is not None:
            ended = describe(-status if status < 0 else status << 8)
            return self.late or self.why or f"the new supervisor ended with {ended}, see the log"
        now = time.monotonic()
        if now >= self.deadline:
            if self.late:
                self.process.kill()
            else:
                self.late = f"the new supervisor did not serve in {SECONDS:g} s"
                self.process.terminate()
            self.deadline = now + STOP_SECONDS
        return ""

    def abort(self, why: str) -> None:
        if not self.late and self.process.poll() is None:
            self.late = why
            self.process.terminate()
            self.deadline = time.monotonic() + STOP_SECONDS

    def signal(self, number: signal.Signals) -> None:
        """Once it serves. It is not reaped while it lives, so the number is its own."""
        if self.process.poll() is None:
            self.process.send_signal(number)


class Predecessor:
    """The supervisor that runs, as the new one sees it, and what it leaves."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.estate = estate.receive(channel)
        channel.settimeout(ANSWER_SECONDS)

    def tell(self, **message: Any) -> None:
        try:
            self.channel.send(orjson.dumps(message))
        except OSError as error:
            logger.warning("the old supervisor is gone: %s", error)

    def report(self, memory: SharedMemory) -> None:
        """What of its memory does not go on, in the log."""
        left = self.estate
        logger.info("taking over from process %d, version %s", left.pid, left.version)
        if memory.empty:
            logger.warning(
                "shared memory that has another layout in this version begins empty: %s (there was %s)",
                ", ".join(memory.empty), ", ".join(memory.unknown) or "nothing",
            )  # fmt: skip

    def failed(self, why: str) -> None:
        self.tell(op="failed", why=why[: LONGEST // 8])

    def serving(self) -> None:
        """Returns when the old one drains, or is gone: then all of it is ours just as well."""
        self.tell(op="serving")
        try:
            if not self.channel.recv(LONGEST):
                logger.warning("the old supervisor ended before it had handed over")
        except OSError as error:
            logger.warning("the old supervisor does not answer: %s", error)
        self.channel.close()


def predecessor(environment: MutableMapping[str, str] | None = None) -> Predecessor | None:
    """None where nobody hands over. EstateError."""
    environment = os.environ if environment is None else environment
    text = environment.pop(VARIABLE, "")
    if not text:
        return None
    try:
        channel = socket.socket(fileno=int(text))
    except (OSError, ValueError) as error:
        raise EstateError(f"{VARIABLE}={text[:20]} is no socket: {error}") from None
    channel.set_inheritable(False)
    return Predecessor(channel)
