"""`fastgw waf`: how many of the texts of some files the rules of `waf` refuse."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from fastgw.policies._waf import Engine, score, shipped
from fastgw.policies._waf_text import Part, arguments

MAX_TEXT = 16 * 1024
HELP = """Measures the rules of `waf`: for each file, how many of its texts are refused. A text is a line, or in a YAML
file an item of its `payload:`; each is looked at as the value of a query parameter, as it would come from a client."""


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("waf", help="measure the rules of `waf` against files of attacks or of ordinary texts",
                              description=HELP)  # fmt: skip
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a file, or a folder of files")
    parser.add_argument("--level", type=int, choices=(1, 2), default=1, help="that of the policy")
    parser.add_argument("--threshold", type=int, default=5, help="the score from which a text is refused")
    parser.add_argument("--ordinary", action="store_true", help="texts are ordinary, and in bodies: show those refused")
    parser.add_argument("--missed", action="store_true", help="show those that are not refused")
    parser.set_defaults(run=run)


def texts(path: Path) -> list[str]:
    raw = path.read_bytes().decode("utf-8", "replace")
    if path.suffix in (".yml", ".yaml"):
        try:
            data = yaml.safe_load(raw)
        except yaml.YAMLError as error:
            raise ValueError(f"{path}: not YAML: {str(error).splitlines()[0]}") from None
        items = data.get("payload") if isinstance(data, dict) else None
        if not isinstance(items, list):
            raise ValueError(f"{path}: there is no list `payload:`")
        found = [str(item) for item in items]
    else:
        found = raw.splitlines()
    return [text[:MAX_TEXT] for text in dict.fromkeys(found) if text.strip()]


def run(given: argparse.Namespace) -> int:
    engine = Engine(shipped(), given.level)
    files = [file for path in given.files for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    refused = total = 0
    spent = 0.0
    for path in files:
        try:
            found = texts(path)
        except (OSError, ValueError) as error:
            print(f"fastgw waf: {error}", file=sys.stderr)
            return 2
        count = 0
        for text in found:
            parts = [Part("body.text", text)] if given.ordinary else [*arguments("query", "q=" + escaped(text))]
            begun = time.perf_counter()
            matches = engine.inspect(parts)
            spent += time.perf_counter() - begun
            hit = score(matches) >= given.threshold
            count += hit
            if given.ordinary and hit:
                print(f"    {text[:160]!r}  {', '.join(match.rule for match in matches)}")
            elif given.missed and not hit:
                print(f"    {text[:160]!r}  score {score(matches)}")
        share = f"{100 * count / len(found):5.1f} %" if found else "      -"
        print(f"{share}  {count:6} of {len(found):6}  {path.name}")
        refused, total = refused + count, total + len(found)
    if total:
        each = spent / total * 1e6
        print(f"{100 * refused / total:5.1f} %  {refused:6} of {total:6}  refused, {each:.0f} µs for each")
    return 0


def escaped(text: str) -> str:
    """As it stands in a query: what would end the parameter is escaped, the rest is as whoever wrote it meant it."""
    return text.replace("&", "%26").replace("#", "%23")
