"""`python -m benchmarks.features`: what each feature of resilience costs, in instructions per request.

The workload `plain` over two endpoints, under callgrind: without any feature, and with one at a time switched on. The
endpoints are well, so it is what a feature costs while nothing is wrong. Counts do not depend on the machine's load.
Results go to benchmarks/results/features.json and .md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from fastgw.config import check
from fastgw.policies import RESOLVER

from .macro import fastgw_config, instructions
from .macro.backend import Backend
from .macro.facts import commit
from .macro.gateways import GATEWAYS
from .macro.process import BenchError
from .macro.report import table
from .macro.setups import Setup

RESULTS = Path(__file__).resolve().parent / "results"
REQUESTS = 1000
CHECK = {"path": "/health", "statuses": ["2xx"], "interval": "1h"}


def mirrored(options: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"services": ("shadow",), "route": {"policies": [{"mirror": {"service": "shadow", **options}}]}}


# What is put into the service, or under "route" into the route; "services" are others that it needs.
FEATURES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "off": ("none of them", {}),
    "checks": ("`health_check`", {"health_check": CHECK}),
    "outliers": ("`outliers`", {"outliers": {}}),
    "checks+outliers": ("`health_check` and `outliers`", {"health_check": CHECK, "outliers": {}}),
    "retry": ("`retry: {attempts: 3}`", {"retry": {"attempts": 3}}),
    "breaker": ("`circuit_breaker: {}`", {"circuit_breaker": {}}),
    "breaker rates": (
        "`circuit_breaker: {scope: service, error_rate: 50%}`",
        {"circuit_breaker": {"scope": "service", "error_rate": "50%"}},
    ),
    "deadline": ("`timeouts: {header: X-Request-Timeout}`", {"timeouts": {"header": "X-Request-Timeout"}}),
    "hedge": ("`hedge: 1s`", {"hedge": "1s"}),
    "hedge_percentile": ("`hedge: {percentile: p95, delay: 1s}`", {"hedge": {"percentile": "p95", "delay": "1s"}}),
    "concurrency": ("`concurrency: 200`", {"concurrency": 200}),
    "adaptive": (
        "`concurrency: {adaptive: {}}`, with a queue",
        {"concurrency": {"adaptive": {"min": 50}, "queue": {"max": 1000}}},
    ),
    "mirror_share": ("`mirror`, `share: 1%`", mirrored({"share": "1%"})),
    "mirror": ("`mirror` of all requests: twice as many", mirrored({})),
    "mirror_compare": ("`mirror` of all, `compare: {}`", mirrored({"compare": {}})),
    "least_requests": ("`balance: least_requests`", {"balance": "least_requests"}),
}
NOT_THERE = ("unknown_key", "not_implemented", "unknown_policy")


def render(feature: str, port: int, upstream: int) -> str:
    """The file of the workload `plain`, two endpoints, with one feature."""
    text = fastgw_config.render("plain", port=port, upstream=upstream, routes=2, rate=1, token_cache=True)
    tree = yaml.safe_load(text)
    changes = dict(FEATURES[feature][1])
    more, route = changes.pop("services", ()), changes.pop("route", {})
    service = tree["services"]["service"]
    service["endpoints"] = [f"http://127.0.0.1:{upstream}", f"http://localhost:{upstream}"]
    service["dns"] = {"refresh": "1h"}               # no look-ups meanwhile
    service.update(changes)
    for name in more:                                # the same backend
        tree["services"][name] = {"endpoints": [f"http://127.0.0.1:{upstream}"]}
    for one in tree["routes"]:
        one.update(route)
    return yaml.safe_dump(tree, sort_keys=False)


def missing(feature: str) -> str:
    """Why this tree does not have a feature; "": it has. BenchError when the file is wrong otherwise."""
    config, problems = check(render(feature, 1, 2), resolver=RESOLVER)
    errors = [problem for problem in problems if problem.severity == "error"]
    if config is not None:
        return ""
    if all(problem.code in NOT_THERE for problem in errors):
        return errors[0].message
    raise BenchError(f"{feature}: {'; '.join(map(str, errors))}")


def measure(feature: str, backend: Backend, folder: Path, requests: int) -> float:
    def write(setup: Setup) -> Sequence[str]:
        setup.put("gateway.yaml", render(feature, setup.port, setup.upstream))
        command = [sys.executable, "-m", "fastgw", "run", "gateway.yaml"]
        return [*command, *fastgw_config.SINGLE_PROCESS]

    return instructions.while_serving(replace(GATEWAYS["fastgw"], write=write), "plain", backend, folder, requests)


def as_table(found: Mapping[str, float]) -> str:
    rows = [
        [FEATURES[name][0], f"{value:,.0f}", f"{value - found['off']:+,.0f}" if name != "off" else ""]
        for name, value in found.items()
    ]
    return table(["switched on", "instructions per request", "more"], rows)


def measured_before(file: Path, requests: int) -> dict[str, float]:
    """What a run of the same commit, without changes, has found: it needs not be measured in one go."""
    try:
        facts = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    now = commit()
    same = (facts["commit"], facts["requests"]) == (now, requests) and not now.endswith("+")
    return dict(facts["instructions"]) if same and now != "unknown" else {}


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.features", description=__doc__)
    parser.add_argument("features", nargs="*", metavar="FEATURE", help=", ".join(FEATURES))
    parser.add_argument("--requests", type=int, default=REQUESTS, help="that are counted (%(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args(words)
    if unknown := [name for name in args.features if name not in FEATURES]:
        parser.error(f"unknown: {', '.join(unknown)}")
    wanted = dict.fromkeys(("off", *(args.features or FEATURES)))
    found = measured_before(args.results / "features.json", args.requests)
    failed = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        with Backend("c", folder / "backend") as backend:
            for feature in wanted:
                if reason := missing(feature):
                    print(f"{feature}: left out, {reason}", flush=True)
                    continue
                try:
                    found[feature] = measure(feature, backend, folder / feature, args.requests)
                except BenchError as error:
                    print(f"{feature}: not measured, {error}", flush=True)
                    found.pop(feature, None)
                    failed = True
                else:
                    print(f"{feature}: {found[feature]:,.0f}", flush=True)
    if "off" not in found:
        return 1
    found = {name: found[name] for name in FEATURES if name in found}
    text = as_table(found)
    print(text)
    facts = {"commit": commit(), "date": time.strftime("%Y-%m-%d"), "requests": args.requests, "instructions": found}
    args.results.mkdir(parents=True, exist_ok=True)
    (args.results / "features.json").write_text(json.dumps(facts, indent=2) + "\n")
    note = (
        f"Commit {facts['commit']}, {facts['date']}: user instructions per request of the workload `plain` over two\n"
        f"endpoints, counted by callgrind: the least of {instructions.WINDOWS} windows of {args.requests} requests.\n"
        "What the process does by itself meanwhile is counted too: runs differ by about a hundred.\n"
    )
    (args.results / "features.md").write_text(f"# What features of resilience cost\n\n{note}\n{text}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
