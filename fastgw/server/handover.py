"""The part of the supervisor that runs in a binary upgrade: who takes over, and what waits until that is decided."""

from __future__ import annotations

import logging
import os
import signal
from typing import TYPE_CHECKING

from fastgw import __version__
from fastgw.plan.tls import Tickets
from fastgw.server.estate import Estate
from fastgw.server.upgrade import Successor

if TYPE_CHECKING:
    from fastgw.server.supervisor import Supervisor

logger = logging.getLogger("fastgw.supervisor")

LOOK_SECONDS = 0.1


class Handover:
    """`command` is what an upgrade executes; empty: there is none. `done`: the successor serves, we drain."""

    def __init__(self, supervisor: Supervisor, command: list[str]) -> None:
        self.supervisor = supervisor
        self.command = command
        self.successor: Successor | None = None
        self.listening = False
        self.done = False
        self.waiting: set[signal.Signals] = set()
        """Signals that came meanwhile: for whoever serves afterwards."""

    @property
    def pending(self) -> bool:
        return self.successor is not None and not self.done

    def begin(self, asked: bool) -> None:
        """`asked`: by the agent, which waits for the answer; else by a signal."""
        why = ""
        if not self.command:
            why = "it was started with --demo: start it anew"
        elif self.done or self.supervisor.stopping or self.supervisor.drain_at:
            why = "it is draining"
        elif self.pending:
            why = "an upgrade is under way"
        elif not self.supervisor.serving:
            why = "its own workers do not serve yet"
        else:
            try:
                self.successor = Successor(self.command, self.estate())
            except (OSError, ValueError) as error:
                why = f"{self.command[0]} cannot be started: {error}"
        if self.successor is None or why:
            logger.error("no upgrade: %s", why)
            if asked:
                self.supervisor.tell_agent({"op": "upgraded", "error": why, "pid": 0, "over": not self.pending})
            return
        logger.info("upgrade: process %d starts: %s", self.successor.pid, " ".join(self.command))
        self.listening = True
        self.supervisor.watch(self.successor.channel, self.listen)
        self.supervisor.tell_agent({"op": "upgrading"})
        self.supervisor.notifier.status("upgrading")

    def estate(self) -> Estate:
        owner = self.supervisor
        listeners = owner.listeners
        admin = {str(owner.admin_bind): [owner.admin]} if owner.admin is not None else {}
        tickets = {
            name: Tickets(tls.client_auth, tls.client_ca, tls.crl, tls.ticket_keys)
            for name, tls in owner.release.tls.items()
        }
        return Estate(
            owner.release.generation,
            __version__,
            os.getpid(),
            os.path.abspath(owner.source) if isinstance(owner.source, str) else "",
            {name: found for name, found in listeners.sockets.items() if name not in listeners.activated},
            listeners.activated,
            {name: found for name, found in admin.items() if name not in listeners.activated},
            owner.memory.hand_on(),
            tickets,
            owner.addresses,
            owner.endpoints,
            {source: found for source, found in owner.keys.items() if found is not None},
        )

    # ------------------------------------------------------------------ how it goes

    def listen(self) -> None:
        """The successor said something."""
        assert self.successor is not None
        if not self.successor.listen():
            self.deaf()
        if self.successor.serving and not self.successor.late and not self.done:
            self.succeed()

    def deaf(self) -> None:
        if self.listening and self.successor is not None:
            self.listening = False
            self.supervisor.unwatch(self.successor.channel)

    def look(self) -> None:
        """Each time round the loop."""
        if self.successor is None or self.done:
            return
        why = self.successor.failure()
        if not why:
            return
        self.deaf()
        self.successor.channel.close()
        self.successor = None
        logger.error("the upgrade failed, this process serves on: %s", why)
        self.supervisor.tell_agent({"op": "upgraded", "error": why, "pid": 0, "over": True})
        if not self.supervisor.stopping:
            self.supervisor.notifier.status(f"{self.supervisor.state()}; the upgrade failed: {why}")
            waiting, self.waiting = self.waiting, set()
            self.supervisor.on_signals(bytes(waiting))

    def succeed(self) -> None:
        assert self.successor is not None
        successor, self.done = self.successor, True
        self.deaf()
        logger.info("upgrade: process %d serves; this one drains and ends", successor.pid)
        self.supervisor.tell_agent({"op": "upgraded", "error": "", "pid": successor.pid, "over": True})
        # from the main process, before the new one speaks: until then it has no say
        self.supervisor.notifier.send(f"MAINPID={successor.pid}")
        self.supervisor.notifier.close()
        successor.go_on()
        successor.channel.close()
        for number in self.waiting:
            successor.signal(number)
        self.supervisor.retire()

    def next_look(self) -> float | None:
        """Seconds until `look` may have something to see."""
        return LOOK_SECONDS if self.pending else None

    # ------------------------------------------------------------------ signals

    def takes(self, number: int) -> bool:
        """Whether a signal is the successor's, or has to wait until it is known whose it is."""
        if self.successor is None or number not in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            return False
        if self.done:
            self.successor.signal(signal.Signals(number))
            return number != signal.SIGUSR1           # the files of both are opened anew
        if number == signal.SIGUSR2:
            return False
        self.waiting.add(signal.Signals(number))
        return True

    def abort(self) -> bool:
        """The supervisor is to end: so is who would take over. True while that takes its time."""
        if self.successor is None or self.done:
            return False
        self.successor.abort("the one that runs was stopped")
        self.look()
        return self.pending
