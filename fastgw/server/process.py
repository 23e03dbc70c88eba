"""What every child does first: die with its parent, forget the parent's signal handling, have its own randomness;
and how its end is told."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time

from fastgw._core.forwarding import reseed

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
FIRST_PAUSE = 0.05
LONGEST_PAUSE = 10.0
STABLE = 10.0
"""A child that lived so long, in seconds, died for a new reason: the pause starts over."""


class Child:
    """One place in the process tree, and who holds it. `due` is when its next holder may be born."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pid = 0
        self.born = 0.0
        self.pause = FIRST_PAUSE
        self.due = 0.0

    def wait(self) -> None:
        """Its holder died."""
        now = time.monotonic()
        if now - self.born > STABLE:
            self.pause = FIRST_PAUSE
        self.due = now + self.pause
        self.pause = min(self.pause * 2, LONGEST_PAUSE)


def become_child(name: str, parent: int, death: signal.Signals = signal.SIGTERM) -> None:
    """In a process that was just forked from `parent`. `death` comes when that dies, whatever killed it."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)     # Ctrl-C reaches the whole group; the supervisor decides
    signal.set_wakeup_fd(-1)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, death, 0, 0, 0)
    libc.prctl(PR_SET_NAME, name.encode()[:15], 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)                                   # it died before we asked to be told
    reseed()


def leave(code: int) -> None:
    """The end of a child, which never returns into the code of its parent."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def describe(status: int) -> str:
    """How a process ended, from what waitpid says."""
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return f"exit code {os.WEXITSTATUS(status)}"
