"""What machine, what versions, how busy: kept with every result."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from .fastgw_config import ROOT

LIBRARIES = ("fastgw", "uvloop", "httptools", "Cython", "PyJWT", "cryptography")


def cpu_model() -> str:
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found.group(1) if found else platform.machine()


def memory_gib() -> float:
    kib = re.search(r"^MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return round(int(kib.group(1)) / (1 << 20), 1) if kib else 0.0


def commit() -> str:
    """The commit that is measured, with a + when files differ from it; "unknown" outside a clone."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True, timeout=20).stdout

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "fastgw", "setup.py")
        return git("rev-parse", "--short=10", "HEAD").strip() + ("+" if changed.strip() else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def version_of(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def gather() -> dict[str, object]:
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": memory_gib(),
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", platform.system()),
        "python": sys.version.split()[0],
        "commit": commit(),
        "libraries": {name: version for name in LIBRARIES if (version := version_of(name))},
        "load_average_at_start": os.getloadavg()[0],
    }
