"""What a service manager is told: sd_notify(3), one datagram of `NAME=value` lines to $NOTIFY_SOCKET.

    READY=1                    all workers accept
    RELOADING=1                a SIGHUP is being done; READY=1 comes when it is over, however it ended
    MONOTONIC_USEC=n           goes with it: `Type=notify-reload` tells this reload from an older one by it
    STOPPING=1                 it drains
    STATUS=text                one line for `systemctl status`
    MAINPID=n                  after a binary upgrade: who is the service now
    WATCHDOG=1                 the supervisor goes round its loop, each half of $WATCHDOG_USEC

Nothing here fails or waits: a manager that does not read loses a message, and the gateway serves.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping

logger = logging.getLogger("fastgw.supervisor")

LONGEST_STATUS = 200


class Notifier:
    """Of this process; silent where no manager asked for it. `environment` is read once."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        environment = os.environ if environment is None else environment
        self.address: str | bytes = b""
        self.sock: socket.socket | None = None
        self.failing = False
        self.interval = watchdog_seconds(environment)
        """Seconds between two WATCHDOG=1, 0.0 when nobody waits for them."""
        self.due = time.monotonic()
        self.muted = False
        """Somebody else is the service, as far as the manager knows: what we said would be refused."""
        path = environment.get("NOTIFY_SOCKET", "")
        if not path:
            self.interval = 0.0
            return
        if path[0] not in "/@":
            logger.warning("NOTIFY_SOCKET=%s is no unix socket: the service manager is told nothing", path)
            self.interval = 0.0
            return
        # "@" stands for the zero byte of an abstract address, unix(7)
        self.address = b"\0" + os.fsencode(path[1:]) if path[0] == "@" else path
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self.sock.setblocking(False)

    def __bool__(self) -> bool:
        return self.sock is not None

    def send(self, *lines: str) -> None:
        if self.sock is None or self.muted:
            return
        try:
            self.sock.sendto("\n".join(lines).encode(), self.address)
            self.failing = False
        except OSError as error:
            if not self.failing:
                logger.warning("the service manager at NOTIFY_SOCKET was not told %s: %s", lines[0], error)
            self.failing = True

    def close(self) -> None:
        """Somebody else speaks from now on."""
        if self.sock is not None:
            self.sock.close()
        self.sock, self.interval = None, 0.0

    def ready(self, status: str) -> None:
        self.send("READY=1", status_line(status))

    def reloading(self) -> None:
        self.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", "STATUS=reloading")

    def status(self, status: str) -> None:
        self.send(status_line(status))

    def stopping(self, status: str) -> None:
        self.send("STOPPING=1", status_line(status))

    def next_beat(self) -> float | None:
        """When `beat` is due, on the monotonic clock; None when never."""
        return self.due if self.interval and not self.muted else None

    def beat(self) -> None:
        """WATCHDOG=1, when it is time for it."""
        now = time.monotonic()
        if self.interval and now >= self.due:
            self.due = now + self.interval
            self.send("WATCHDOG=1")


def status_line(text: str) -> str:
    return "STATUS=" + " ".join(text.split())[:LONGEST_STATUS]


def watchdog_seconds(environment: Mapping[str, str]) -> float:
    """Half of what the manager waits (sd_watchdog_enabled(3) advises it), 0.0 when it does not, or not for us."""
    text, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not text.isdecimal() or (pid and pid != str(os.getpid())):
        return 0.0
    return int(text) / 2e6
