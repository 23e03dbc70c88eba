"""What one supervisor leaves to the next travels whole, or is refused."""

import os
import socket
import subprocess
import sys
import time

import orjson
import pytest

from fastgw.config.schema.address import Origin
from fastgw.plan.tls import Tickets
from fastgw.policies._keysets import KeySet, Source
from fastgw.server import control, estate
from fastgw.server.estate import Estate, EstateError
from fastgw.server.upgrade import Successor, predecessor
from fastgw.upstreams.discovery import EndpointSet, Found


@pytest.fixture
def channel():
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ends[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    yield ends
    for end in ends:
        end.close()


def listening():
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    return sock


def test_it_arrives_as_it_was(channel):
    found = EndpointSet("up", "dns", 7, (Found(Origin("http", "a", 1), 3, "z", (("x", "y"),), 1),), 12.5)
    left = Estate(
        generation=4,
        version="9.9",
        pid=17,
        source="/a/b.yaml",
        sockets={"127.0.0.1:0": [listening() for _ in range(450)], "unix:/x": [listening()]},
        activated={"[::]:80": [listening()]},
        admin={"127.0.0.1:9901": [listening()]},
        segments={"buckets/1/8": control.memory_file(b"bucketss"), "health/1/6": control.memory_file(b"health")},
        tickets={"a:1": Tickets(2, b"ca\xff", b"", (b"\0" * 80, b"\1" * 80))},
        addresses={"http://a:1": ((2, b"\x02\0\0\1"), (10, b"\xff"))},
        endpoints={"up": found},
        keys={Source("https://issuer", None, ("RS256",)): KeySet(3, ({"kid": "a", "n": "x"},), {"issuer": "i"})},
    )
    estate.send(channel[0], left)
    got = estate.receive(channel[1])
    assert (got.generation, got.version, got.pid, got.source) == (4, "9.9", 17, "/a/b.yaml")
    for mine, theirs in ((left.sockets, got.sockets), (left.activated, got.activated), (left.admin, got.admin)):
        assert {name: [inode(sock) for sock in found] for name, found in mine.items()} == {
            name: [inode(sock) for sock in found] for name, found in theirs.items()
        }
        assert not any(os.get_inheritable(sock.fileno()) for found in theirs.values() for sock in found)
    assert {layout: control.read_file(fd) for layout, fd in got.segments.items()} == {
        "buckets/1/8": b"bucketss", "health/1/6": b"health",
    }  # fmt: skip
    assert (got.tickets, got.addresses, got.endpoints) == (left.tickets, left.addresses, left.endpoints)
    assert got.keys == left.keys
    for fd in (*left.segments.values(), *got.segments.values()):
        os.close(fd)


def test_issuers_that_another_version_describes_otherwise_are_asked_anew(channel):
    send(channel[0], {**DOCUMENT, "keys": [[{"issuer": "a", "colour": 1}, [1, [], {}]]]})
    assert estate.receive(channel[1]).keys == {}


def inode(sock):
    return os.fstat(sock.fileno()).st_ino


def test_no_key_is_shown():
    assert "secret" not in repr(Estate(tickets={"a": Tickets(0, b"", b"", (b"secret" * 20,))}))
    assert "secret" not in repr(Tickets(0, b"", b"", (b"secret" * 20,)))


def send(channel, document, head=estate.FORMAT):
    state = control.memory_file(document if isinstance(document, bytes) else orjson.dumps(document))
    socket.send_fds(channel, [head], [state])
    os.close(state)


DOCUMENT = {"version": "1", "pid": 1, "generation": 1, "source": "", "sockets": {}, "activated": {}, "admin": {},
            "segments": [], "tickets": {}, "addresses": {}, "endpoints": {}, "keys": []}  # fmt: skip


@pytest.mark.parametrize(
    ("document", "match"),
    [
        (b"{", "cannot be read"),
        ([], "cannot be read"),
        ({}, "cannot be read"),
        ({**DOCUMENT, "sockets": {"a": 0}}, "that cannot be"),
        ({**DOCUMENT, "sockets": {"a": 70_000}}, "that cannot be"),
        ({**DOCUMENT, "sockets": {"a": 2, "b": -1}}, "that cannot be"),
        ({**DOCUMENT, "sockets": {"a": 1}}, "0 of 1 descriptors"),
        ({**DOCUMENT, "tickets": {"a": [1]}}, "cannot be read"),
        ({**DOCUMENT, "keys": [1]}, "cannot be read"),
        ({**DOCUMENT, "endpoints": {"a": [1, 2, 3, 4, 5]}}, "cannot be read"),
    ],
)
def test_what_is_not_whole_is_refused(channel, document, match):
    send(channel[0], document)
    channel[0].close()
    with pytest.raises(EstateError, match=match):
        estate.receive(channel[1])


def test_another_format_is_refused_and_named(channel):
    send(channel[0], DOCUMENT, b"fastgw 2")
    with pytest.raises(EstateError, match="hands over as b'fastgw 2', not as b'fastgw 1'"):
        estate.receive(channel[1])
    channel[0].send(estate.FORMAT)                    # without the document
    with pytest.raises(EstateError, match="started anew"):
        estate.receive(channel[1])


def test_a_variable_that_means_nothing_is_no_start():
    assert predecessor({}) is None
    for text in ("x", "99999", "-1"):
        with pytest.raises(EstateError, match="is no socket"):
            predecessor({"FASTGW_UPGRADE_FD": text})


# ------------------------------------------------------------------ the process that is to take over


def test_one_that_does_not_serve_in_time_is_ended_and_killed_when_it_does_not_end():
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    successor = Successor([sys.executable, "-c", stubborn], Estate())
    assert successor.failure() == ""
    successor.deadline = 0.0
    assert successor.failure() == ""                  # it was told to end
    successor.deadline = 0.0
    deadline = time.monotonic() + 60
    while not (why := successor.failure()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert why == "the new supervisor did not serve in 120 s"
    assert successor.process.returncode in (-9, -15)
    successor.channel.close()


def test_one_that_talks_nonsense_is_not_believed():
    code = """if True:
        import os, socket
        channel = socket.socket(fileno=int(os.environ["FASTGW_UPGRADE_FD"]))
        for message in (b"{", b"[1]", b'"x"', b'{"op": 7}', b'{"op":"failed","why":"%s"}' % (b"w" * 3000)):
            channel.send(message)
        os._exit(1)
    """
    successor = Successor([sys.executable, "-c", code], Estate())
    successor.process.wait(60)
    while successor.listen():
        pass
    assert not successor.serving
    assert successor.failure() == "w" * 3000
    successor.channel.close()


def test_a_command_that_is_not_there_is_an_error():
    with pytest.raises(OSError, match="No such file"):
        Successor(["/nowhere/fastgw"], Estate())


def test_the_command_line_is_what_it_was_and_where_links_lead_to_by_then(tmp_path):
    """An installation that a link was moved to has another interpreter in its script's first line."""
    show = "from fastgw.server.upgrade import command_line; print(command_line())"
    script = tmp_path / "fastgw"
    script.write_text(f"#!{sys.executable}\n{show}\n")
    script.chmod(0o755)
    link = tmp_path / "current"
    link.symlink_to(script)
    path = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}

    def told(*command):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=True)
        return done.stdout.strip()

    assert told(str(link), "run", "x") == str([str(link), "run", "x"])
    by_name = [sys.executable, "-X", "utf8", str(script), "run"]
    assert told(*by_name) == str(by_name)
