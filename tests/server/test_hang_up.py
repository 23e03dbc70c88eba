"""SIGHUP is done whatever happens to the agent, and however often it comes."""

import contextlib
import json
import os
import signal
import threading

import pytest
import yaml

from fastgw.server import compiler
from fastgw.testing import GatewayProcess
from tests.server.test_compiler import feed


def named(gateway, name):
    """The process id of the process of that name, 0 when there is none."""
    for pid in gateway.processes():
        try:
            with open(f"/proc/{pid}/comm") as file:
                if file.read().strip() == name:
                    return pid
        except OSError:
            continue
    return 0


def generation(gateway):
    try:
        return json.loads(gateway.admin("/ready")[1])["generation"]
    except OSError:                                  # there is no agent now
        return 0


def new_route(gateway):
    tree = yaml.safe_load(gateway.file.read_text())
    tree["routes"].insert(0, {"path": "/new", "policies": [{"respond": {"status": 418}}]})
    return yaml.safe_dump(tree)


def ask(gateway, path):
    with gateway.client() as client:
        client.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        return client.response().status


def test_one_that_comes_while_there_is_no_agent_is_done_by_the_next(config, eventually):
    with GatewayProcess(config) as gateway:
        gateway.file.write_text(new_route(gateway))
        # the pause before the third agent is long enough for the signal to find none
        for _ in range(3):
            agent = eventually(lambda: named(gateway, "fastgw-agent"), "an agent")
            os.kill(agent, signal.SIGKILL)
            eventually(lambda old=agent: named(gateway, "fastgw-agent") != old, "it is gone")
        gateway.signal(signal.SIGHUP)
        eventually(lambda: generation(gateway) == 2, "the new configuration")
        eventually(lambda: ask(gateway, "/new") == 418, "adopted by the workers, which is after that")


@pytest.fixture
def blocked(config):
    """A gateway whose file is a pipe: whoever compiles it waits for us. Yields it and the text to write."""
    with GatewayProcess(config) as gateway:
        text = new_route(gateway)
        gateway.file.unlink()
        os.mkfifo(gateway.file)
        yield gateway, text


def test_one_that_an_agent_died_of_is_done_by_the_next(blocked, eventually):
    gateway, text = blocked
    gateway.signal(signal.SIGHUP)
    first = eventually(lambda: named(gateway, compiler.NAME), "it is being compiled")
    os.kill(named(gateway, "fastgw-agent"), signal.SIGKILL)
    eventually(lambda: named(gateway, compiler.NAME) not in (0, first), "the next one compiles it")
    feed(gateway, text)
    eventually(lambda: generation(gateway) == 2, "the new configuration")
    eventually(lambda: ask(gateway, "/new") == 418, "adopted by the workers, which is after that")


def test_any_number_while_one_is_under_way_are_one_more(blocked, eventually):
    gateway, text = blocked
    gateway.signal(signal.SIGHUP)
    eventually(lambda: named(gateway, compiler.NAME), "it is being compiled")
    for _ in range(10):
        gateway.signal(signal.SIGHUP)
    answers = []

    def reload():
        return gateway.admin("/config/reload", "POST", timeout=90)

    asking = [
        threading.Thread(target=lambda: answers.append(reload())) for _ in range(10)
    ]
    for one in asking:
        one.start()
    eventually(lambda: connections(gateway.admin_port) >= 10, "all of them ask")

    def first():
        if generation(gateway) >= 2:
            return True
        # more than once: a compiler that is starved is followed by another one
        with contextlib.suppress(OSError):           # nobody reads now
            fifo = os.open(gateway.file, os.O_WRONLY | os.O_NONBLOCK)
            os.write(fifo, text.encode())
            os.close(fifo)
        with contextlib.suppress(AssertionError):
            eventually(lambda: generation(gateway) >= 2, "the first one", 2)
        return generation(gateway) >= 2

    eventually(first, "the first one")
    feed(gateway, text)                              # the others find a file again
    for one in asking:
        one.join(60)
    assert {status for status, _ in answers} == {200}
    assert {json.loads(body)["generation"] for _, body in answers} == {3}
    assert generation(gateway) == 3


def connections(port):
    """Established connections to a port of 127.0.0.1."""
    with open("/proc/net/tcp") as file:
        rows = [line.split() for line in file.readlines()[1:]]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "01" for row in rows)
