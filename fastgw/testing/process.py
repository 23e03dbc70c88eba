"""The gateway as users run it: `python -m fastgw run FILE` in a process of its own."""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from fastgw.testing.client import DEFAULT_TIMEOUT, RawClient

PR_SET_CHILD_SUBREAPER = 36


_reserved: list[socket.socket] = []


def free_port(host: str = "127.0.0.1") -> int:
    """A port nobody listens on, below the range from which the kernel takes those of outgoing connections.

    No other process that asks this function gets it as long as this one lives: test runners work side by side.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for _ in range(200):
        port = random.SystemRandom().randint(10_000, 32_000)
        # a name in the abstract namespace is one lock for all processes, and goes with its holder
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            try:
                claim.bind(f"\0fastgw-testing-port-{port}")
                sock.bind((host, port))
            except OSError:
                claim.close()
                continue
        _reserved.append(claim)
        return port
    raise RuntimeError("no free port found")


def descendants(pid: int) -> list[int]:
    """The process ids of all children of `pid`, theirs included."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *descendants(child)]
    return found


def private_bytes(pid: int) -> int:
    """Memory of a process that it shares with nobody (smaps_rollup Private_*), in bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def descriptors(pid: int) -> int:
    """How many file descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


class Successor:
    """A process that was started by one of our children: what of subprocess.Popen is needed here."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code, when it has ended and its parent has too."""
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:                 # its parent lives
                return None
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = time.monotonic() + (60.0 if timeout is None else timeout)
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired([f"process {self.pid}"], timeout or 60.0)
            time.sleep(0.01)
        return code


class GatewayProcess:
    """A gateway process on free ports of 127.0.0.1, ready when the `with` block begins, gone when it ends.

    `config` is YAML text or a mapping. In a mapping, `server.listeners` and `admin.bind` are filled in when
    they are not there; in text, `${FASTGW_PORT}` and `${FASTGW_ADMIN_PORT}` stand for the ports chosen.
    `args` come after the file on the command line.
    Leaving the block sends SIGTERM and asserts that the process ends by itself with exit code 0.
    """

    def __init__(
        self,
        config: Mapping[str, Any] | str,
        *,
        env: Mapping[str, str] | None = None,
        args: tuple[str, ...] = (),
        ready_timeout: float = 60.0,
        stop_timeout: float = 60.0,
    ) -> None:
        self.host = "127.0.0.1"
        self.port = free_port()
        self.admin_port = free_port()
        self.ready_timeout = ready_timeout
        self.stop_timeout = stop_timeout
        self.folder = Path(tempfile.mkdtemp(prefix="fastgw-test-"))
        self.file = self.folder / "gateway.yaml"
        self._text = config if isinstance(config, str) else self._complete(config)
        self._env = {
            **os.environ,
            "FASTGW_PORT": str(self.port),
            "FASTGW_ADMIN_PORT": str(self.admin_port),
            "PYTHONUNBUFFERED": "1",
            **(env or {}),
        }
        self._args = args
        self._process: subprocess.Popen[bytes] | None = None
        self._successor: Successor | None = None
        self.leaving: subprocess.Popen[bytes] | Successor | None = None

    def _complete(self, config: Mapping[str, Any]) -> str:
        tree = dict(config)
        server = dict(tree.get("server") or {})
        server.setdefault("listeners", [{"bind": f"{self.host}:{self.port}"}])
        server.setdefault("workers", 1)
        tree["server"] = server
        admin = dict(tree.get("admin") or {})
        admin.setdefault("bind", f"{self.host}:{self.admin_port}")
        tree["admin"] = admin
        return yaml.safe_dump(tree, sort_keys=False)

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        """Of the supervisor: after an `upgrade` of the one that took over."""
        if self._successor is not None:
            return self._successor.pid
        assert self._process is not None, "the gateway was not started"
        return self._process.pid

    @property
    def stdout(self) -> str:
        """Whole lines: of one that is being written nothing."""
        text = (self.folder / "stdout").read_text(errors="replace")
        return text[: text.rfind("\n") + 1]

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text(errors="replace")

    def client(self, timeout: float = DEFAULT_TIMEOUT, *, receive_buffer: int = 0) -> RawClient:
        """A raw connection to the gateway's first listener."""
        return RawClient(self.address, timeout, receive_buffer=receive_buffer)

    def admin(
        self, path: str, method: str = "GET", headers: Mapping[str, str] | None = None, timeout: float = 30.0
    ) -> tuple[int, str]:
        """Status and body of a request to the admin listener."""
        connection = http.client.HTTPConnection(self.host, self.admin_port, timeout=timeout)
        try:
            connection.request(method, path, headers=dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def processes(self) -> list[int]:
        """The ids of the gateway's processes: the first one is the one that was started."""
        return [self.pid, *descendants(self.pid)]

    def start(self) -> GatewayProcess:
        self.file.write_text(self._text)
        with open(self.folder / "stdout", "wb") as out, open(self.folder / "stderr", "wb") as err:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "fastgw", "run", str(self.file), *self._args],
                stdout=out,
                stderr=err,
                stdin=subprocess.DEVNULL,
                env=self._env,
            )
        try:
            self._wait_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + self.ready_timeout
        while True:
            if self._process is not None and self._process.poll() is not None:
                code = self._process.returncode
                raise RuntimeError(f"the gateway ended with {code}:\n{self.stderr}\n{self._text}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.admin("/ready")[0] == 200:
                    return
            if time.monotonic() > deadline:
                raise RuntimeError(f"the gateway was not ready in {self.ready_timeout} s:\n{self.stderr}")
            time.sleep(0.02)

    def signal(self, number: int) -> None:
        """Sends a signal to the supervisor."""
        os.kill(self.pid, number)

    def upgrade(self, timeout: float = 120.0) -> dict[str, Any]:
        """`POST /upgrade`. From then on the new supervisor is the gateway, and `leaving` waits for the old one. Raises
        RuntimeError with what it says when it refuses.

        The new one is a child of the old one: so that its exit code is known when that has ended, this process adopts
        orphans until the gateway is gone (PR_SET_CHILD_SUBREAPER, prctl(2))."""
        self.adopt_orphans()
        status, text = self.admin("/upgrade", "POST", timeout=timeout)
        body: dict[str, Any] = json.loads(text)
        if status != 200:
            raise RuntimeError(f"no upgrade: {body.get('detail', body)}")
        self.follow(body["pid"])
        return body

    @staticmethod
    def adopt_orphans(adopt: bool = True) -> None:
        """Children of our children become ours when those end, and can be waited for: from now on, or no longer."""
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0)

    def follow(self, pid: int) -> None:
        """Another supervisor is the gateway now."""
        self.leaving = self._successor or self._process
        self._successor = Successor(pid)

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the end of the supervisor; its exit code."""
        current = self._successor or self._process
        assert current is not None
        return current.wait(self.stop_timeout if timeout is None else timeout)

    def stop(self) -> int:
        """SIGTERM, then waits; the exit code. Raises subprocess.TimeoutExpired when it does not end."""
        current = self._successor or self._process
        if current is not None and current.poll() is None:
            self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """Ends all of it at once, and removes its folder."""
        for one in (self._process, self._successor):
            if one is not None and one.poll() is None:
                for pid in [*descendants(one.pid), one.pid]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                one.wait(30)
        self.adopt_orphans(False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> GatewayProcess:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None:
                # what the gateway said belongs to the failure
                sys.stderr.write(self.stderr[-8000:])
                return
            code = self.stop()
            if os.environ.get("FASTGW_SANITIZE") == "1":
                # a worker that ended so was replaced, and the test may have passed
                assert "runtime error:" not in self.stderr, self.stderr[-8000:]
            assert code == 0, f"the gateway ended with exit code {code}:\n{self.stderr[-8000:]}"
        finally:
            self.kill()
