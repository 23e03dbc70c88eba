"""Sockets that a service manager opened: systemd's own tool is the manager where it is installed."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import yaml

from fastgw.server.activation import ActivationError, activated
from fastgw.server.sockets import share_of
from fastgw.testing import GatewayProcess, free_port
from fastgw.testing.process import descendants

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

# as a service manager does: sockets from descriptor 3 on, LISTEN_PID of the process that is executed
EXEC = """
import os, sys
fds = [int(fd) for fd in os.environ.pop("TEST_FDS").split(",")]
high = [os.dup2(fd, 100 + n, inheritable=False) for n, fd in enumerate(fds)]
for fd in fds:
    os.close(fd)
for n, fd in enumerate(high):
    os.dup2(fd, 3 + n)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)), LISTEN_FDNAMES="web:admin")
os.execv(sys.argv[1], sys.argv[1:])
"""


def listening(address, family=socket.AF_INET, reuse_port=False):
    sock = socket.socket(family)
    if reuse_port:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(address)
    sock.listen(50)
    return sock


def variables(count, pid=None, names=""):
    return {"LISTEN_PID": str(pid or os.getpid()), "LISTEN_FDS": str(count), "LISTEN_FDNAMES": names, "HOME": "/"}


@contextlib.contextmanager
def running(tree, tmp_path, command, stderr, upgraded=False, **kwargs):
    """A gateway started by somebody else; ends with SIGTERM and exit code 0, or was `upgraded` and has ended."""
    file = tmp_path / "gateway.yaml"
    file.write_text(yaml.safe_dump(tree))
    with open(stderr, "wb") as err:
        process = subprocess.Popen([*command, str(file)], stderr=err, stdout=subprocess.DEVNULL, **kwargs)
    try:
        yield process
        if not upgraded:
            process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, stderr.read_text()
    finally:
        for pid in [*descendants(process.pid), process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def ask(family, address, deadline=30.0, request=REQUEST):
    """Status of one request on a connection of its own. Nothing listens too early: the socket is there before us."""
    with socket.socket(family) as client:
        client.settimeout(deadline)
        client.connect(address)
        client.sendall(request)
        data = b""
        while (more := client.recv(65536)):
            data += more
        return int(data.split()[1])


@pytest.fixture
def tree(config):
    config["server"]["listeners"] = []
    config["admin"] = {"enabled": False}
    return config


def test_sockets_are_taken_over_by_address_and_shared_by_the_workers(tree, tmp_path):
    log = tmp_path / "err"
    path = str(tmp_path / "in.sock")
    with (
        listening(("127.0.0.1", 0)) as tcp,
        listening(("127.0.0.1", 0)) as admin,
        listening(path, socket.AF_UNIX) as unix,
        listening(("127.0.0.1", 0)) as other,
    ):
        address = tcp.getsockname()
        tree["server"]["listeners"] = [f"127.0.0.1:{address[1]}", f"unix:{path}"]
        tree["admin"] = {"bind": f"127.0.0.1:{admin.getsockname()[1]}"}
        given = [tcp, admin, unix, other]
        env = {**os.environ, "TEST_FDS": ",".join(str(one.fileno()) for one in given)}
        command = [sys.executable, "-c", EXEC, sys.executable, "-m", "fastgw", "run"]
        fds = [one.fileno() for one in given]
        with running(tree, tmp_path, command, log, env=env, pass_fds=fds) as process:
            assert [ask(socket.AF_INET, address) for _ in range(20)] == [200] * 20
            assert ask(socket.AF_UNIX, path) == 200
            assert ask(socket.AF_INET, admin.getsockname(), request=REQUEST.replace(b"/ ", b"/services ")) == 200
            # one socket, and both workers accept from it
            inode = os.readlink(f"/proc/self/fd/{tcp.fileno()}")
            holders = {comm(pid) for pid in descendants(process.pid) if inode in links(pid)}
            assert holders == {"fastgw-0", "fastgw-1"}
            # a listener that a reload takes away may come back: the manager's socket stays with us
            file = tmp_path / "gateway.yaml"
            for listeners in ([f"unix:{path}"], tree["server"]["listeners"]):
                file.write_text(yaml.safe_dump({**tree, "server": {**tree["server"], "listeners": listeners}}))
                again = REQUEST.replace(b"GET / ", b"POST /config/reload ")
                assert ask(socket.AF_INET, admin.getsockname(), request=again) == 200
            assert [ask(socket.AF_INET, address) for _ in range(10)] == [200] * 10
        assert f"passed a socket of 127.0.0.1:{other.getsockname()[1]}, which is no listener" in log.read_text()
        assert os.path.exists(path), "the file of a unix socket belongs to who opened it"


def comm(pid):
    try:
        with open(f"/proc/{pid}/comm") as file:
            return file.read().strip()
    except OSError:
        return ""


def links(pid):
    """Where the descriptors of a process lead to."""
    found = set()
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                found.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return found


def test_an_upgrade_hands_activated_sockets_on_and_they_stay_the_managers(tree, tmp_path):
    log, path = tmp_path / "err", str(tmp_path / "in.sock")
    with listening(("127.0.0.1", 0)) as tcp, listening(path, socket.AF_UNIX) as unix:
        tree["server"]["listeners"] = [f"127.0.0.1:{tcp.getsockname()[1]}", f"unix:{path}"]
        given = [tcp, unix]
        env = {**os.environ, "TEST_FDS": ",".join(str(one.fileno()) for one in given)}
        command = [sys.executable, "-c", EXEC, sys.executable, "-m", "fastgw", "run"]
        fds = [one.fileno() for one in given]
        admin = free_port()
        tree["admin"] = {"bind": f"127.0.0.1:{admin}"}
        GatewayProcess.adopt_orphans()
        try:
            with running(tree, tmp_path, command, log, env=env, pass_fds=fds, upgraded=True) as process:
                assert ask(socket.AF_INET, tcp.getsockname()) == 200
                upgrade = REQUEST.replace(b"GET / ", b"POST /upgrade ")
                # one worker has answered; the other one may not serve yet, and until then there is no upgrade
                deadline = time.monotonic() + 60
                while b"do not serve yet" in (answer := told(admin, upgrade)) and time.monotonic() < deadline:
                    time.sleep(0.02)
                assert b'"pid"' in answer, (answer, log.read_text())
                assert process.wait(60) == 0, log.read_text()
                assert ask(socket.AF_INET, tcp.getsockname()) == 200
                assert ask(socket.AF_UNIX, path) == 200
                new = json.loads(answer)["pid"]
                os.kill(new, signal.SIGTERM)
                assert os.waitstatus_to_exitcode(os.waitpid(new, 0)[1]) == 0
        finally:
            GatewayProcess.adopt_orphans(False)
        assert os.path.exists(path), "the file of a unix socket belongs to who opened it"
        # the gateway is gone; who comes now waits in the manager's socket
        with socket.create_connection(tcp.getsockname(), 30) as waiting:
            waiting.sendall(REQUEST)


def told(port, request):
    """The body of an answer."""
    with socket.create_connection(("127.0.0.1", port), 120) as client:
        client.sendall(request)
        data = b""
        while (more := client.recv(65536)):
            data += more
        return data.partition(b"\r\n\r\n")[2]


@pytest.mark.skipif(shutil.which("systemd-socket-activate") is None, reason="no systemd-socket-activate (systemd)")
def test_systemd_activates_it_with_the_first_connection(tree, tmp_path):
    """The real manager's protocol: nothing runs until somebody connects, and that request is answered."""
    log = tmp_path / "err"
    port, path = free_port(), str(tmp_path / "in.sock")
    tree["server"]["listeners"] = [f"127.0.0.1:{port}", f"unix:{path}"]
    command = ["systemd-socket-activate", "-l", f"127.0.0.1:{port}", "-l", path, "--fdname=web:local"]
    with running(tree, tmp_path, [*command, sys.executable, "-m", "fastgw", "run"], log) as process:
        deadline = time.monotonic() + 30
        while True:
            try:
                assert ask(socket.AF_INET, ("127.0.0.1", port)) == 200
                break
            except ConnectionRefusedError:            # the tool itself is not there yet
                assert time.monotonic() < deadline
                time.sleep(0.02)
        assert ask(socket.AF_UNIX, path) == 200
        assert sorted(filter(None, map(comm, descendants(process.pid)))) == ["fastgw-0", "fastgw-1", "fastgw-agent"]


def test_a_promise_that_is_not_kept_is_no_start(tree, tmp_path):
    """An activated gateway without its sockets would listen somewhere, and not where its clients are."""
    tree["server"]["listeners"] = [f"127.0.0.1:{free_port()}"]
    (tmp_path / "gateway.yaml").write_text(yaml.safe_dump(tree))
    code = EXEC.replace("LISTEN_FDS=str(len(fds))", "LISTEN_FDS='3'")
    command = [sys.executable, "-c", code, sys.executable, "-m", "fastgw", "run", str(tmp_path / "gateway.yaml")]
    with listening(("127.0.0.1", 0)) as one:
        ended = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "TEST_FDS": str(one.fileno())},
            pass_fds=[one.fileno()],
        )
    assert ended.returncode == 3
    assert "LISTEN_FDS promises descriptor" in ended.stderr


def test_variables_for_another_process_mean_nothing():
    environment = variables(1, pid=1)
    assert activated(environment) == {}
    assert environment == {"HOME": "/"}              # children must not take them for theirs
    assert activated({"HOME": "/"}) == {}


@pytest.mark.parametrize("count", ["0", "-1", "x", "1025", "", "9" * 400])
def test_the_number_of_sockets_has_bounds(count):
    with pytest.raises(ActivationError, match="is not a number from 1 to 1024"):
        activated(variables(count))


def test_what_is_no_listening_stream_socket_is_left_alone(caplog):
    with socket.socket() as plain, open("/dev/null") as file:
        first = 900
        for number, fd in enumerate((plain.fileno(), file.fileno())):
            os.dup2(fd, first + number)
        try:
            assert activated(variables(2, names="a:b"), first) == {}
        finally:
            for number in range(2):
                os.close(first + number)
    assert "901 (b) of the service manager is no socket" in caplog.text
    assert "900 (a) of the service manager is no listening" in caplog.text


def test_every_socket_has_a_worker_whatever_their_numbers():
    for workers in range(1, 9):
        for count in range(1, 17):
            sockets = [SimpleNamespace(number=number) for number in range(count)]
            shares = [share_of(sockets, slot, workers) for slot in range(workers)]
            assert {one.number for share in shares for one in share} == set(range(count))
            assert all(shares)
            assert len({len(share) for share in shares}) == 1, "no worker has more sockets than another"
