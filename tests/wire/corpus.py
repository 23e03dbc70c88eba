"""Reads the case files; README.md beside it describes their form."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ESCAPES = {"r": b"\r", "n": b"\n", "t": b"\t", "0": b"\0", "\\": b"\\"}
TOKEN = re.compile(r"\\x([0-9a-f]{2})|\\(.)|([^\\]+)", re.DOTALL)
REPEAT = re.compile(r"<<(.*?)\*(\d+)>>", re.DOTALL)


def unescape(text: str) -> bytes:
    """The bytes that a section of a case file stands for."""
    text = REPEAT.sub(lambda match: match[1] * int(match[2]), text.replace("\n", ""))
    return b"".join(
        bytes([int(hexa, 16)]) if hexa else ESCAPES[short] if short else plain.encode("latin-1")
        for hexa, short, plain in TOKEN.findall(text)
    )


@dataclass(frozen=True)
class Case:
    name: str
    description: str
    sections: dict[str, bytes]
    expect: dict[str, list[str]]

    def one(self, key: str, default: str = "") -> str:
        return self.expect.get(key, [default])[0]

    def lines(self, key: str) -> list[bytes]:
        """The values of a key, as bytes."""
        return [unescape(value) for value in self.expect.get(key, [])]


KEYS = {
    "downstream": {
        "config", "status", "code", "side", "connection", "interim", "upstream", "upstream-has",
        "upstream-lacks", "upstream-body", "send", "xfail",
    },
    "upstream": {
        "then", "late", "status", "code", "side", "connection", "interim", "body", "client", "client-has",
        "client-lacks", "reuse", "xfail",
    },
}  # fmt: skip


def read(path: Path) -> Case:
    parts = re.split(r"^\[(\w+)\]$", path.read_text(encoding="latin-1"), flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    expect: dict[str, list[str]] = {}
    for line in sections.pop("expect").strip("\n").split("\n"):
        key, _, value = line.partition(": ")
        assert key.rstrip(":") in KEYS[path.parent.name], f"{path}: unknown key {line!r}"
        expect.setdefault(key.rstrip(":"), []).append(value)
    raw = {name: unescape(text) for name, text in sections.items()}
    return Case(path.stem, parts[0].strip(), raw, expect)


def cases(folder: str) -> list[Case]:
    return [read(path) for path in sorted((HERE / folder).glob("*.case"))]


def parameters(found: list[Case]) -> list[object]:
    """The cases as pytest parameters, the known failures marked."""
    return [
        pytest.param(
            case,
            id=case.name,
            marks=[pytest.mark.xfail(reason=case.one("xfail"), strict=True)] if "xfail" in case.expect else [],
        )
        for case in found
    ]
