"""The result as JSON, as Markdown and as an SVG plot."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from .stats import Verdict, spread
from .workloads import WORKLOADS

Result = Mapping[str, Any]


def number(value: float | None, metric: str) -> str:
    """A figure in the unit of its metric."""
    if value is None:
        return "-"
    if metric == "others":
        return f"{value:.0%}"
    if metric.endswith("_ns"):
        return f"{value:.0f} ns"
    if metric.endswith("_ratio"):
        return f"{value:.2f} x"
    if metric.endswith("_us"):
        return f"{value:.1f} µs"
    if metric.endswith("bytes_per_s"):
        return f"{value / (1 << 20):,.0f} MiB/s"
    if metric.endswith("_per_s"):
        return f"{value:,.0f}/s"
    if metric.endswith("_s"):
        return f"{value:.2f} s"
    if "bytes" in metric:
        return f"{value / (1 << 20):.1f} MiB" if abs(value) >= 1 << 20 else f"{value / 1024:.1f} KiB"
    return f"{value:,.0f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, columns padded so that the source can be read too; all but the first to the right."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]

    def one(cells: Sequence[str]) -> str:
        padded = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * w if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join([one(lines[0]), one(rule), *map(one, lines[1:])])


def save(folder: Path, name: str, facts: Mapping[str, Any], text: str) -> None:
    """`name`.json for programs, and `name`.md for people."""
    (folder / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")
    (folder / f"{name}.md").write_text(text)


COLUMNS: Sequence[tuple[str, Callable[[Mapping[str, float]], str]]] = (
    ("CPU µs/request", lambda m: f"{m['cpu_us']:.1f}"),
    ("of it user", lambda m: f"{m['cpu_us'] * m['cpu_user_share']:.1f}"),
    ("requests/s", lambda m: f"{m['requests_per_s']:,.0f}"),
    ("p50 µs", lambda m: f"{m['p50_us']:,.0f}"),
    ("p99 µs", lambda m: f"{m['p99_us']:,.0f}"),
    ("core busy", lambda m: f"{m['busy']:.0%}"),
    ("others", lambda m: f"{m['others']:.0%}"),
)


def workload_table(name: str, gateways: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    metric = WORKLOADS[name].metric
    columns = list(COLUMNS)
    if metric == "added_us":
        columns.insert(0, ("added µs", lambda m: f"{m['added_us']:.1f}" if "added_us" in m else ""))
    if metric == "bytes_per_s":
        columns.insert(0, ("MiB/s", lambda m: f"{m['bytes_per_s'] / (1 << 20):,.0f}"))
    fastgw = gateways.get("fastgw", {}).get("median", {}).get(metric)
    rows = []
    for gateway, its in gateways.items():
        median = its["median"]
        ratio = median.get(metric, 0) / fastgw if fastgw and gateway != "direct" and metric in median else None
        variation = spread(its["rounds"], metric) if metric in median else 0.0
        rows.append(
            [
                f"{gateway} {versions.get(gateway, '')}".strip(),
                *(
                    "" if gateway == "direct" and "cpu" in str(title).lower() else show(median)
                    for title, show in columns
                ),
                f"± {variation / 2:.0%}",
                f"{ratio:.2f}" if ratio else "",
            ]
        )
    head = ["gateway", *(title for title, _ in columns), "spread", "÷ fastgw"]
    return table(head, rows)


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    words = {True: "yes", False: "**no**", None: "not measured"}
    rows = [
        [v.text, v.workload, number(v.value, v.metric), number(v.limit, v.metric), words[v.reached]] for v in verdicts
    ]
    return table(["target", "workload", "fastgw", "limit", "reached"], rows)


def markdown(result: Result, verdicts: Sequence[Verdict], plot: str | None = None) -> str:
    facts, settings = result["facts"], result["settings"]
    libraries = ", ".join(f"{name} {version}" for name, version in facts["libraries"].items())
    machine = (
        f"{facts['when']}, commit `{facts['commit']}`, {facts['cpu']} ({facts['cores']} cores, "
        f"{facts['memory_gib']} GiB), Linux {facts['kernel']}, {facts['system']}, Python {facts['python']}, "
        f"{libraries}."
    )
    method = (
        f"Median of {settings['rounds']} interleaved rounds of {settings['seconds']} s, worker on core 0, "
        f"load (wrk) and backend ({settings['backend']}) on core 1. Load average "
        f"{facts['load_average_at_start']:.2f} at the start, {facts['load_average_at_end']:.2f} at the end "
        "(a run alone on the machine ends at 1 to 2; far more means that others used it)."
    )
    parts = ["# fastgw beside other gateways", machine, method]
    if plot:
        parts.append(f"![CPU per request]({plot})")
    parts += ["## Targets", verdict_table(verdicts)]
    for name, gateways in result["workloads"].items():
        if gateways:
            parts += [
                f"## {name}: {WORKLOADS[name].title}",
                workload_table(name, gateways, result["versions"]),
            ]
    if result.get("instructions"):
        rows = [
            [gateway, workload, f"{value:,.0f}"]
            for workload, its in result["instructions"].items()
            for gateway, value in its.items()
        ]
        parts += [
            "## User instructions per request (callgrind)",
            table(["gateway", "workload", "instructions"], rows),
        ]
    if result.get("routes"):
        rows = [[name.replace("_", " "), number(value, name)] for name, value in result["routes"].items()]
        parts += ["## Route table (100,000 routes)", table(["what", "figure"], rows)]
    if result.get("reload"):
        rows = [[name.replace("_", " "), number(value, name)] for name, value in result["reload"].items()]
        how = (
            "Windows of the length below, quiet and reloading in turn; a load at a fixed rate (`macro/paced.c`); "
            "two workers, nothing of the gateway pinned."
        )
        parts += ["## Latency while 10,000 routes are reloaded", how, table(["what", "figure"], rows)]
    if result.get("memory"):
        rows = [
            [gateway, name.replace("_", " "), number(value, name)]
            for gateway, its in result["memory"].items()
            for name, value in its.items()
        ]
        parts += ["## Memory", table(["gateway", "what", "figure"], rows)]
    if result.get("left_out"):
        parts += ["## Left out", "\n".join(f"- {line}" for line in result["left_out"])]
    return "\n\n".join(parts) + "\n"


BAR, GAP, LEFT, WIDTH, TITLE = 20, 6, 190, 520, 34
COLOURS = {"fastgw": "#1a7f5a", "fastgw-no-token-cache": "#6bbf9c"}
OTHERS = "#9aa5b1"
PLOTTED = ("plain", "policy", "static")


def svg(workloads: Mapping[str, Mapping[str, Any]]) -> str:
    """Bars of CPU per request, one group for each workload that has them; shorter is better."""
    groups = [(name, workloads[name]) for name in PLOTTED if workloads.get(name)]
    height = 30 + sum(TITLE + len(gateways) * (BAR + GAP) + 12 for _, gateways in groups)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 90}" height="{height}" '
        f'viewBox="0 0 {LEFT + WIDTH + 90} {height}" font-family="system-ui, sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        '<text x="10" y="20" fill="#52606d">CPU µs per request, one worker; shorter is better</text>',
    ]
    y = 30
    for name, gateways in groups:
        values = {gateway: its["median"]["cpu_us"] for gateway, its in gateways.items() if gateway != "direct"}
        longest = max(values.values())
        parts.append(f'<text x="10" y="{y + 22}" font-weight="600">{name}: {escape(WORKLOADS[name].title)}</text>')
        y += TITLE
        for gateway, value in sorted(values.items(), key=lambda item: item[1]):
            length = max(1.0, value / longest * WIDTH)
            middle = y + BAR * 0.72
            parts += [
                f'<text x="{LEFT - 8}" y="{middle:.0f}" text-anchor="end">{escape(gateway)}</text>',
                f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2" '
                f'fill="{COLOURS.get(gateway, OTHERS)}"/>',
                f'<text x="{LEFT + length + 6:.1f}" y="{middle:.0f}">{value:.1f}</text>',
            ]
            y += BAR + GAP
        y += 12
    return "\n".join([*parts, "</svg>"]) + "\n"


def write(result: Result, verdicts: Sequence[Verdict], folder: Path, name: str) -> list[Path]:
    """NAME.json, NAME.md and, when there is something to draw, NAME.svg."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = any(result["workloads"].get(w) for w in PLOTTED)
    files = {
        f"{name}.json": json.dumps(result, indent=1, ensure_ascii=False) + "\n",
        f"{name}.md": markdown(result, verdicts, f"{name}.svg" if drawn else None),
    }
    if drawn:
        files[f"{name}.svg"] = svg(result["workloads"])
    for file, text in files.items():
        (folder / file).write_text(text)
    return [folder / file for file in files]
