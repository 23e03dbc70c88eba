"""What is told of mirroring: `GET /mirrors` and the reports of what differs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastgw._core.record import MIRROR_RESULTS, Stats
from fastgw.config import Config
from fastgw.policies._mirror import OUTCOMES, Report, Reports, merged, ranked
from fastgw.policies.mirror import MirrorOptions


def mirror_counts(stats: Sequence[Stats], services: Mapping[int, str]) -> dict[str, dict[str, int]]:
    """Service → result → how many copies, over all workers; services that never had any are left out."""
    found: dict[str, dict[str, int]] = {}
    for slot in sorted({0, *services}):
        counts = [one.read_mirror(slot) for one in stats if slot < one.services]
        total = dict(zip(MIRROR_RESULTS, map(sum, zip(*counts, strict=True)), strict=False))
        if any(total.values()):
            found[services.get(slot, "other")] = total
    return found


def mirrors_view(
    config: Config, told: Iterable[Reports], stats: Sequence[Stats], services: Mapping[int, str]
) -> dict[str, list[dict[str, Any]]]:
    """Route → a row for each of its `mirror` policies. `told`: the reports of workers; `services`: the names of slots.

    `copies` are those of all routes to that service; `compared_for` is seconds; `differences` are ranked.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    reports, counts = merged(told), mirror_counts(stats, services)
    now = time.time()
    for route in config.routes:
        for use in config.chain(route):
            options = use.options
            if not isinstance(options, MirrorOptions):
                continue
            name = str(route.name)
            row: dict[str, Any] = {
                "route": name,
                "service": options.service,
                "share": options.share,
                "copies": dict(counts.get(options.service) or dict.fromkeys(MIRROR_RESULTS, 0)),
            }
            if options.compare is not None:
                report = reports.get((name, options.service)) or Report(outcomes=dict.fromkeys(OUTCOMES, 0))
                row |= {
                    "compared": report.outcomes,
                    "compared_for": round(now - report.since, 1),
                    "kinds": len(report.kinds),
                    "unlisted": report.unlisted,
                    "differences": ranked(report),
                }
            found.setdefault(name, []).append(row)
    return found
