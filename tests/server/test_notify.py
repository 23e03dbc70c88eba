"""What a service manager hears: a datagram socket of the test is the manager."""

import os
import signal
import socket
import time

import pytest
import yaml

from fastgw.server.notify import Notifier, watchdog_seconds
from fastgw.testing import GatewayProcess


class Manager:
    """Listens at $NOTIFY_SOCKET; each datagram is a dict."""

    def __init__(self, address, shown):
        self.shown = shown
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(address)
        self.sock.settimeout(30)

    def next(self):
        return dict(line.split("=", 1) for line in self.sock.recv(4096).decode().split("\n"))

    def until(self, name):
        """The first datagram that has the name, and those before it."""
        before = []
        while name not in (found := self.next()):
            before.append(found)
        return found, before


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    name = f"fastgw-test-{os.getpid()}-{time.monotonic_ns()}"
    abstract = request.param == "abstract"
    found = Manager(f"\0{name}" if abstract else str(tmp_path / "n"), f"@{name}" if abstract else str(tmp_path / "n"))
    yield found
    found.sock.close()


def test_a_life_is_told(config, manager):
    with GatewayProcess(config, env={"NOTIFY_SOCKET": manager.shown}) as gateway:
        ready, before = manager.until("READY")
        assert before == []
        assert ready == {"READY": "1", "STATUS": "serving with 2 workers, configuration 1"}

        begun = time.monotonic_ns() // 1000
        gateway.signal(signal.SIGHUP)
        reloading = manager.next()
        assert reloading.pop("STATUS") == "reloading"
        assert begun <= int(reloading.pop("MONOTONIC_USEC")) <= time.monotonic_ns() // 1000
        assert reloading == {"RELOADING": "1"}
        assert manager.until("READY")[0]["STATUS"] == "serving with 2 workers, configuration 2"

        good = gateway.file.read_text()
        gateway.file.write_text("routes: 7\n")
        gateway.signal(signal.SIGHUP)
        assert manager.next()["RELOADING"] == "1"
        told, _ = manager.until("READY")              # it waits no longer, and what was in force serves
        assert told["STATUS"].endswith("configuration 2; the last reload failed, see the log")

        gateway.file.write_text(yaml.safe_dump(yaml.safe_load(good)))
        assert gateway.admin("/config/reload", "POST")[0] == 200
        assert manager.next() == {"STATUS": "serving with 2 workers, configuration 3"}
        gateway.signal(signal.SIGTERM)
        assert manager.next() == {"STOPPING": "1", "STATUS": "draining"}
        assert gateway.wait() == 0


def test_the_watchdog_is_fed_for_as_long_as_the_supervisor_goes_round(config, manager):
    config["server"]["workers"] = 1
    env = {"NOTIFY_SOCKET": manager.shown, "WATCHDOG_USEC": "100000"}
    with GatewayProcess(config, env=env) as gateway:
        for _ in range(5):
            assert manager.until("WATCHDOG")[0] == {"WATCHDOG": "1"}
        manager.sock.settimeout(0.5)                  # ten beats

        def silent():
            os.kill(gateway.pid, signal.SIGSTOP)      # again: somebody else may have let it go on
            try:
                while True:
                    manager.next()                    # what was sent before is read
                    if time.monotonic() > end:
                        return False
            except TimeoutError:
                return True

        try:
            for _ in range(60):
                end = time.monotonic() + 1
                if stood_still := silent():
                    break
            assert stood_still
        finally:
            os.kill(gateway.pid, signal.SIGCONT)


def test_one_process_tells_too(config, manager):
    config["server"]["workers"] = 0
    with GatewayProcess(config, env={"NOTIFY_SOCKET": manager.shown}) as gateway:
        assert manager.next() == {"READY": "1", "STATUS": "serving in one process"}
        gateway.signal(signal.SIGTERM)
        assert manager.next()["STOPPING"] == "1"
        assert gateway.wait() == 0


def test_a_manager_that_is_not_there_or_does_not_read_changes_nothing(caplog, tmp_path):
    gone = Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    for _ in range(3):
        gone.ready("x")
    assert len(caplog.records) == 1                  # an episode is told once
    assert "was not told READY=1" in caplog.text
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(tmp_path / "deaf"))
        full = Notifier({"NOTIFY_SOCKET": str(tmp_path / "deaf")})
        for _ in range(5000):
            full.status("x" * 1000)
        assert len(caplog.records) == 2


def test_nothing_is_told_where_nobody_asks():
    silent = Notifier({"WATCHDOG_USEC": "100"})
    assert not silent
    assert silent.next_beat() is None
    silent.ready("x")
    assert not Notifier({"NOTIFY_SOCKET": "vsock:2:1"})


def test_a_status_is_one_line_and_bounded(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "n"))
        Notifier({"NOTIFY_SOCKET": str(tmp_path / "n")}).ready("a\nREADY=0 " + "b" * 5000)
        lines = manager.recv(9000).decode().split("\n")
    assert lines[0] == "READY=1"
    assert len(lines) == 2
    assert lines[1].startswith("STATUS=a READY=0 bb")
    assert len(lines[1]) < 300


def test_a_watchdog_that_waits_for_somebody_else_is_not_ours():
    assert watchdog_seconds({"WATCHDOG_USEC": "30000000"}) == 15.0
    assert watchdog_seconds({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}) == 15.0
    assert watchdog_seconds({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}) == 0.0
    assert watchdog_seconds({"WATCHDOG_USEC": "soon"}) == 0.0
