"""Classes of requests: what names them has to name one that is there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fastgw.config.errors import Finding, Path, did_you_mean
from fastgw.config.schema import Config
from fastgw.config.schema.concurrency import Concurrency
from fastgw.config.schema.priorities import RESERVED


def check_priorities(config: Config) -> Iterator[Finding]:
    priorities = config.priorities
    classes = () if priorities is None else priorities.classes
    for route in config.routes:
        if route.priority is not None and route.priority not in classes:
            yield unknown(route.priority, classes, ("routes", route.index, "priority"))
    for path, concurrency in limits(config):
        for name in concurrency.shares:
            if name not in classes and name not in RESERVED:
                yield unknown(name, (*classes, *RESERVED), (*path, "shares", name), at_key=True)
        fair = concurrency.queue.fair
        for name in fair.weights if fair is not None else ():
            if name not in config.plans:
                yield missing("plan", name, config.plans, (*path, "queue", "fair", "weights", name), at_key=True)
    if priorities is None:
        return
    named = {
        "routes": {str(route.name) for route in config.routes},
        "plans": set(config.plans),
        "consumers": {consumer.name for consumer in config.consumers},
    }
    for number, rule in enumerate(priorities.rules):
        at = ("priorities", "rules", number)
        constant = rule.priority.constant
        if constant is not None and constant not in classes:
            yield unknown(constant, classes, (*at, "priority"))
        for kind, known in named.items():
            for place, name in enumerate(getattr(rule, kind) or ()):
                if name not in known:
                    yield missing(kind[:-1], name, known, (*at, kind, place))


def limits(config: Config) -> Iterator[tuple[Path, Concurrency]]:
    for name, service in config.services.items():
        if service.concurrency is not None:
            yield ("services", name, "concurrency"), service.concurrency
    for route in config.routes:
        if route.concurrency is not None:
            yield ("routes", route.index, "concurrency"), route.concurrency


def unknown(name: str, classes: Iterable[str], path: Path, at_key: bool = False) -> Finding:
    known = list(classes)
    expected = "one of " + ", ".join(known) if known else "priorities: {classes: […], default: …}"
    hint = did_you_mean(name, known)
    return Finding("bad_choice", path, f"there is no class {name!r}", expected, hint, at_key=at_key)


def missing(kind: str, name: str, known: Iterable[str], path: Path, at_key: bool = False) -> Finding:
    hint = did_you_mean(name, list(known))
    code = "unknown_plan" if kind == "plan" else "bad_choice"
    return Finding(code, path, f"there is no {kind} {name!r}", f"one of the {kind}s of this file", hint, at_key=at_key)
