"""Children of the harness: started pinned to a core, watched, ended by their own pid whatever happens."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

GATEWAY_CORE, LOAD_CORE = 0, 1
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """Something that ends this part of the run, in words for the user."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def pinned(command: Sequence[str], core: int | None) -> list[str]:
    return list(command) if core is None else ["taskset", "-c", str(core), *command]


class Child:
    """One program in the foreground, its errors kept in a file. `with Child(...)` ends it on the way out."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        core: int | None = None,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        self.process = subprocess.Popen(
            pinned(command, core),
            stdin=subprocess.DEVNULL,
            stdout=self._errors,
            stderr=self._errors,
            cwd=cwd,
            env={**os.environ, **(env or {})},
        )

    def __repr__(self) -> str:
        return f"<Child {self.name} pid={self.pid}>"

    @property
    def pid(self) -> int:
        return self.process.pid

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def errors(self) -> str:
        """The last 2,000 characters of what it said."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")[-2000:]

    def wait_for_port(self, port: int, seconds: float = 30.0) -> None:
        """Returns when it accepts connections. Raises BenchError when it ends or takes too long."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise BenchError(f"{self.name} ended with {self.process.returncode}: {self.errors()}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            time.sleep(0.02)
        raise BenchError(f"{self.name} did not listen on port {port} within {seconds:.0f} s: {self.errors()}")

    def stop(self, seconds: float = 10.0, first: signal.Signals = signal.SIGTERM) -> int:
        """Asks, waits, then kills it with all that it started. Its exit status."""
        family = tree(self.pid)
        if self.process.poll() is None:
            self.process.send_signal(first)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)
        if self.process.poll() is None:
            for pid in family:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._errors.close()
        return self.process.wait(5)


def _parents() -> Iterator[tuple[int, int]]:
    """(pid, parent pid) of every process."""
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # The name in parentheses may hold spaces: fields are counted after its end (proc(5)).
                after_name = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
                yield int(entry.name), int(after_name[1])


def tree(pid: int) -> list[int]:
    """The process and all its descendants, itself first."""
    children: dict[int, list[int]] = {}
    for child, parent in _parents():
        children.setdefault(parent, []).append(child)
    found, at = [pid], 0
    while at < len(found):
        found += children.get(found[at], [])
        at += 1
    return found


@dataclass(frozen=True, slots=True)
class CpuTime:
    """CPU that processes have used: seconds in all, and clock ticks in user mode and in the kernel."""

    seconds: float
    user_ticks: int
    kernel_ticks: int

    def __sub__(self, other: CpuTime) -> CpuTime:
        return CpuTime(
            self.seconds - other.seconds,
            self.user_ticks - other.user_ticks,
            self.kernel_ticks - other.kernel_ticks,
        )

    @property
    def user_share(self) -> float:
        ticks = self.user_ticks + self.kernel_ticks
        return self.user_ticks / ticks if ticks else 0.0


def cpu_time(pids: Sequence[int]) -> CpuTime:
    """CPU used until now by all threads of these processes.

    The total is schedstat's, the scheduler's own clock in nanoseconds for each thread: exact for runs of any
    length, where the ticks of /proc/PID/stat count in hundredths of a second. Kernels without schedstat fall
    back on these. Ticks tell how the total divides into user and kernel (a sample each: right over seconds).
    """
    nanoseconds = user = kernel = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            user += int(fields[11])
            kernel += int(fields[12])
            for thread in os.scandir(f"/proc/{pid}/task"):
                nanoseconds += int(Path(thread.path, "schedstat").read_text().split()[0])
        except FileNotFoundError:
            continue
    seconds = nanoseconds / 1e9 if nanoseconds else (user + kernel) / TICKS_PER_SECOND
    return CpuTime(seconds, user, kernel)


def cores_busy() -> float:
    """Seconds that the two cores have been busy with anything, stolen time included (proc(5))."""
    ticks = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, _, rest = line.partition(" ")
        if name in (f"cpu{GATEWAY_CORE}", f"cpu{LOAD_CORE}"):
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, rest.split()[:8])
            ticks += user + nice + system + irq + softirq + steal
    return ticks / TICKS_PER_SECOND


def ended_children(pids: Sequence[int]) -> float:
    """CPU seconds of children of these processes that have ended and been waited for (proc(5): cutime, cstime)."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[13]) + int(fields[14])
    return ticks / TICKS_PER_SECOND


def finished_children() -> float:
    """CPU seconds of the children that have ended and been waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a process: its own (not shared with any other), and resident in all."""

    private: int
    resident: int


def memory(pid: int | str) -> Memory:
    """From smaps_rollup: the sum of its Private_ lines, and Rss. Kernel memory (sockets) is in neither."""
    private = resident = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split()[:2]
        if name.startswith("Private_"):
            private += int(value) * 1024
        elif name == "Rss:":
            resident = int(value) * 1024
    return Memory(private, resident)


def run(
    command: Sequence[str], seconds: float, *, core: int | None = None, env: Mapping[str, str] | None = None
) -> str:
    """What a command says on stdout. Raises BenchError when it fails or takes longer than `seconds`."""
    try:
        done = subprocess.run(
            pinned(command, core),
            capture_output=True,
            text=True,
            timeout=seconds,
            env={**os.environ, **(env or {})},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BenchError(f"{command[0]} took longer than {seconds:.0f} s") from None
    except FileNotFoundError:
        raise BenchError(f"{command[0]} is not installed") from None
    if done.returncode:
        raise BenchError(f"{' '.join(command)} ended with {done.returncode}: {(done.stderr or done.stdout)[-1000:]}")
    return done.stdout


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
