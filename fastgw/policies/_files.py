"""Files beside the configuration that policies read, and read again when they change.

One thread of a process looks at all of them. A new content is handed over by the thread, so that reading and parsing
it takes no time from requests; what cannot be read or parsed leaves the old content in force, and is told in the log.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Iterable
from pathlib import Path

from fastgw.policies.base import BuildContext, PolicyError

logger = logging.getLogger("fastgw.policy")

LOOK_SECONDS = 1.0
MAX_FILE = 256 * 1024 * 1024

Stamp = tuple[int, int, int] | None


def read(path: Path) -> bytes:
    """The content. PolicyError when it cannot be read, or is too large."""
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_FILE + 1)
    except OSError as error:
        raise PolicyError(f"{path} can not be read: {error.strerror}") from None
    if len(content) > MAX_FILE:
        raise PolicyError(f"{path} is larger than {MAX_FILE >> 20} MiB")
    return content


def stamp(path: Path) -> Stamp:
    """What changes when a file does; None when it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class Watched:
    """Some files and what is made of them. Is looked at for as long as somebody holds it."""

    def __init__(self, paths: Iterable[str]) -> None:
        """PolicyError when a file cannot be used."""
        self.paths = tuple(map(Path, paths))
        self.taken = self.seen = [stamp(path) for path in self.paths]
        try:
            self.take([read(path) for path in self.paths])
        except ValueError as error:
            raise PolicyError(str(error)) from None

    def take(self, contents: list[bytes]) -> None:
        """Makes it anew of the contents, in the order of `paths`. ValueError for what cannot be used."""
        raise NotImplementedError

    def look(self) -> None:
        """Takes what has changed, once it has stayed the same from one look to the next: it is written whole."""
        found = [stamp(path) for path in self.paths]
        steady, self.seen = found == self.seen, found
        if found == self.taken or not steady:
            return
        self.taken = found
        names = ", ".join(map(str, self.paths))
        try:
            self.take([read(path) for path in self.paths])
        except ValueError as error:
            logger.error("%s: what was there before stays in force: %s", names, error)
        else:
            logger.info("%s: taken into use anew", names)


class FileWatch:
    """The thread of a process, begun with the first file."""

    def __init__(self) -> None:
        self.watched: weakref.WeakSet[Watched] = weakref.WeakSet()
        self.lock = threading.Lock()
        self.pid = 0

    def add(self, watched: Watched) -> None:
        with self.lock:
            self.watched.add(watched)
            if self.pid != os.getpid():               # threads do not survive a fork
                self.pid = os.getpid()
                threading.Thread(target=self.run, name="fastgw-files", daemon=True).start()

    def run(self) -> None:
        pause = threading.Event()
        while not pause.wait(LOOK_SECONDS):
            self.look()

    def look(self) -> None:
        with self.lock:
            watched = list(self.watched)
        for one in watched:
            try:
                one.look()
            except Exception:                         # the next look tries again
                logger.exception("%s could not be looked at", ", ".join(map(str, one.paths)))


def watch(context: BuildContext, watched: Watched) -> None:
    """It is looked at from now on, by the one thread of this process."""
    if watched.paths:
        files: FileWatch = context.shared.get_or_create("files", FileWatch)
        files.add(watched)
