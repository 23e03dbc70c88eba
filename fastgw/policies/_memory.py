"""How much memory there is for this process, and how much of it is used."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")


def numbers(path: Path) -> dict[str, int]:
    """Lines of a name and a number, as in memory.stat and /proc/meminfo."""
    found = {}
    for line in path.read_text().splitlines():
        name, _, rest = line.partition(" ")
        words = rest.split()
        if words and words[0].isdigit():
            found[name.rstrip(":")] = int(words[0])
    return found


class Memory:
    """`used()`: the share of the tightest limit that is used, 0 to 1.

    Limits are those of the cgroups (v2) the process is in, and the memory of the machine. What the kernel keeps of
    files and would give back (inactive_file) is not used: so do Kubernetes and `docker stats` count.
    """

    def __init__(self, proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> None:
        self.proc = proc
        self.groups = list(self.limited(groups))

    def limited(self, root: Path) -> Iterator[tuple[Path, int]]:
        """The cgroups with a limit, and that limit in bytes."""
        try:
            lines = (self.proc / "self" / "cgroup").read_text().splitlines()
        except OSError:
            return
        own = next((line[3:] for line in lines if line.startswith("0::/")), None)
        if own is None:
            return
        folder = root / own.strip("/")
        while True:
            with contextlib.suppress(OSError, ValueError):
                yield folder, int((folder / "memory.max").read_text())
            if folder == root or root not in folder.parents:
                return
            folder = folder.parent

    def used(self) -> float:
        shares = []
        for folder, limit in self.groups:
            with contextlib.suppress(OSError, ValueError):
                current = int((folder / "memory.current").read_text())
                kept = numbers(folder / "memory.stat").get("inactive_file", 0)
                shares.append((current - kept) / max(limit, 1))
        with contextlib.suppress(OSError, KeyError):
            machine = numbers(self.proc / "meminfo")
            shares.append(1 - machine["MemAvailable"] / machine["MemTotal"])
        return max(shares, default=0.0)

    def resident(self) -> int:
        """Bytes of this process."""
        return int((self.proc / "self" / "statm").read_text().split()[1]) * PAGE
