"""Compiling beside the workers: in a process of its own that takes what nobody else wants, and cannot hang a reload."""

import asyncio
import contextlib
import json
import os
import signal
import threading
from pathlib import Path

import pytest
import yaml

from fastgw.config import ConfigError
from fastgw.server import compiler, plan_file
from fastgw.server.compiler import CompileError, compile_aside
from fastgw.server.shared import Slots
from fastgw.testing import GatewayProcess

TREE = {
    "server": {"listeners": ["127.0.0.1:0"]},
    "services": {"up": "http://127.0.0.1:1"},
    "consumers": [{"name": "ann", "keys": ["sha256:" + "0" * 64]}],
    "routes": [{"name": f"r{i}", "path": f"/{i}", "service": "up"} for i in range(120)],
}


def compiled(source):
    return asyncio.run(compile_aside(source, 7, Slots(1000), Slots(10)))


def test_a_release_has_the_routes_in_files_and_the_rest_at_hand():
    release = compiled(TREE)
    try:
        assert release.generation == 7
        assert release.head.routes == ()
        assert [str(service) for service in release.head.services] == ["up"]
        assert [route.path for route in release.config().routes] == [f"/{i}" for i in range(120)]
        assert plan_file.read(release.plan).routes == 120
        assert release.route_slots.names["r119"] == 120
    finally:
        release.close()


def test_problems_come_back_as_they_would_here():
    with pytest.raises(ConfigError) as caught:
        compiled({**TREE, "routes": [{"path": "/x", "service": "nobody"}, {"path": "/y", "servise": "up"}]})
    assert "nobody" in str(caught.value)
    assert "servise" in str(caught.value)


def test_a_process_that_dies_is_an_error_and_leaves_nothing(monkeypatch):
    pids = []

    def fork(*arguments):
        pids.append(whole(*arguments))
        return pids[-1]

    whole = compiler.fork
    monkeypatch.setattr(compiler, "fork", fork)
    monkeypatch.setattr(compiler, "write", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(CompileError, match="SIGKILL"):
        compiled(TREE)
    assert len(os.listdir("/proc/self/fd")) == before
    (pid,) = pids
    with pytest.raises(ChildProcessError):           # it was waited for
        os.waitpid(pid, os.WNOHANG)


def test_a_starved_process_is_followed_by_one_with_more_right_to_a_core(monkeypatch, tmp_path):
    """The first one stands still, as if it had no time; the second is of ordinary policy, nice, and does it."""
    attempts = tmp_path / "attempts"
    whole = compiler.write

    def write(*arguments):
        with attempts.open("a") as file:
            file.write(f"{os.sched_getscheduler(0)} {os.nice(0)} {os.getpid()}\n")
        if os.sched_getscheduler(0) == os.SCHED_IDLE:
            os.kill(os.getpid(), signal.SIGSTOP)
        whole(*arguments)

    monkeypatch.setattr(compiler, "write", write)
    monkeypatch.setattr(compiler, "LOOK_SECONDS", 0.2)
    release = compiled(TREE)
    assert len(release.config().routes) == 120
    release.close()
    *before, (second, nicer, _) = [line.split() for line in attempts.read_text().splitlines()]
    assert int(second) == os.SCHED_OTHER
    assert int(nicer) == min(19, os.nice(0) + compiler.MODEST)
    assert len(before) <= 1                          # none: it had no time at all, not even for its first line
    for first, _, pid in before:
        assert int(first) == os.SCHED_IDLE
        # it was ended; it goes when it has time, which may be after our loop
        with contextlib.suppress(ChildProcessError):
            assert os.WTERMSIG(os.waitpid(int(pid), 0)[1]) == signal.SIGKILL


def test_one_that_does_not_end_is_given_up(monkeypatch):
    monkeypatch.setattr(compiler, "write", lambda *_: signal.pause())
    monkeypatch.setattr(compiler, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(compiler, "LONGEST_SECONDS", 0.2)
    with pytest.raises(CompileError, match="was not compiled"):
        compiled(TREE)


def comm(pid):
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def feed(gateway, text):
    """Who waits at the pipe in the place of the file has it, and who comes later, or tries once more, finds a file."""
    replacement = gateway.file.with_suffix(".new")
    replacement.write_text(text)
    fifo = os.open(gateway.file, os.O_RDWR | os.O_NONBLOCK)
    os.write(fifo, text.encode())
    replacement.rename(gateway.file)
    os.close(fifo)


def test_the_agent_answers_while_a_configuration_is_compiled(config, eventually):
    with GatewayProcess(config) as gateway:
        tree = yaml.safe_load(gateway.file.read_text())
        tree["routes"].insert(0, {"path": "/new", "policies": [{"respond": {"status": 418}}]})
        gateway.file.unlink()
        os.mkfifo(gateway.file)                       # whoever reads it waits for us
        answers = []
        asking = threading.Thread(target=lambda: answers.append(gateway.admin("/config/reload", "POST", timeout=60)))
        asking.start()
        pid = eventually(
            lambda: next((pid for pid in gateway.processes() if comm(pid) == compiler.NAME), 0), "it compiles"
        )
        assert eventually(lambda: os.sched_getscheduler(pid) == os.SCHED_IDLE, "the lowest priority")
        listening = {f"socket:[{line.split()[9]}]" for line in Path("/proc/net/tcp").read_text().splitlines()[1:]}
        held = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
        assert not held & listening                   # no socket of the gateway is kept open by it
        assert json.loads(gateway.admin("/ready")[1])["generation"] == 1
        feed(gateway, yaml.safe_dump(tree))
        asking.join(60)
        assert answers[0][0] == 200, answers
        with gateway.client() as client:
            client.send(b"GET /new HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.response().status == 418
