"""Drawings in the docs that are made from tables of the code; `python -m fastgw.config.describe` makes them anew."""

from __future__ import annotations

from pathlib import Path

from fastgw._core.breaker import TRANSITIONS

WORDS = {
    "tripped": "too many failures, or slow answers",
    "waited": "timeout is over",
    "probe_failed": "a probe failed",
    "probes_well": "all probes were well",
    "reset": "reset",
    "force_open": "open",
    "force_closed": "close",
    "auto": "auto",
}


def circuit_states() -> str:
    """Mermaid: the moves of a circuit breaker. What several states have in common is drawn once, in words."""
    lines = ["stateDiagram-v2", "    [*] --> closed"]
    between: dict[tuple[str, str], list[str]] = {}
    for state, event, after in TRANSITIONS:
        if event == "reset" and not state.startswith("forced"):
            continue                                  # said in one line below
        between.setdefault((state, after), []).append(WORDS[event])
    lines += [f"    {state} --> {after}: {', '.join(words)}" for (state, after), words in between.items()]
    resets = [state for state, event, _ in TRANSITIONS if event == "reset" and not state.startswith("forced")]
    lines.append(f"    note right of closed: reset leads here from {', '.join(resets)} too")
    return "```mermaid\n" + "\n".join(lines) + "\n```\n"


DRAWINGS = {"resilience.md": {"circuit states": circuit_states}}
"""File of docs → name of a drawing, as it stands in the marks around it → what makes it."""


def drawn(text: str, name: str) -> str:
    """The text of a file with its drawings as the tables are now."""
    for title, make in DRAWINGS[name].items():
        begin, end = f"<!-- drawn: {title} -->\n", f"<!-- end: {title} -->"
        head, begin_mark, rest = text.partition(begin)
        _, end_mark, tail = rest.partition(end)
        if begin_mark and end_mark:
            text = head + begin + make() + end + tail
    return text


def draw(folder: Path) -> None:
    for name in DRAWINGS:
        path = folder / name
        path.write_text(drawn(path.read_text(), name))
