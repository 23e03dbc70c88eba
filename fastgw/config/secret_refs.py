"""References to secrets that somebody else keeps: `vault:path#field` and `kubernetes:name#key`.

This module knows how they are written. Who asks Vault or Kubernetes is given to `check(…, secrets=reader)`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

REFERENCE = re.compile(
    r"(?P<source>vault|kubernetes):(?P<path>[A-Za-z0-9_.-]{1,253}(?:/[A-Za-z0-9_.-]{1,253}){0,19})"
    r"(?:\?version=(?P<version>[1-9][0-9]{0,8}))?#(?P<field>[A-Za-z0-9_.-]{1,253})\Z"
)
BEGINS = re.compile(r"(?:vault|kubernetes):")
EXPECTED = "vault:path#field, vault:path?version=3#field, kubernetes:name#key or kubernetes:namespace/name#key"


class DocumentKey(NamedTuple):
    """What is asked for at once. `version` 0 is the newest."""

    source: str
    path: str
    version: int

    def __str__(self) -> str:
        return f"{self.source}:{self.path}" + (f"?version={self.version}" if self.version else "")


@dataclass(frozen=True, slots=True)
class SecretRef:
    """One field of a document."""

    document: DocumentKey
    field: str

    def __str__(self) -> str:
        return f"{self.document}#{self.field}"


class Unreadable(Exception):
    """It was asked, and said that there is no such thing, or that it is not for us. The text holds no secret."""


class Unreachable(Exception):
    """Nobody knows: there was no answer, or none to use. The text holds no secret."""


class Reader(Protocol):
    def read(self, ref: SecretRef, room: Any) -> tuple[str, bytes, str]:
        """(the secret, its stamp, what is wrong with it or ""), by the room `secrets:`. A stamp tells whether it
        changed, and nothing about it. Unreadable, Unreachable."""


def parse(text: str) -> SecretRef | None:
    """None for what is no reference at all; ValueError for one that is not written as it should be."""
    if BEGINS.match(text) is None:
        return None
    match = REFERENCE.match(text)
    if match is None:
        raise ValueError("not written as a reference")
    source, path, version = match["source"], match["path"], int(match["version"] or 0)
    parts = path.split("/")
    if any(part in (".", "..") for part in parts) or (source == "kubernetes" and (version or len(parts) > 2)):
        raise ValueError("not written as a reference")
    return SecretRef(DocumentKey(source, path, version), match["field"])
