"""What is different between two configurations, in words. Secrets are compared and never shown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from fastgw.config import Config
from fastgw.config.fields import Secret
from fastgw.config.findings import fields_of, in_unit, unit_of
from fastgw.config.schema.consumers import Consumer
from fastgw.config.schema.routes import MATCH_KEYS, ROUTE_KEYS, PolicyUse, Route, ValueMatch
from fastgw.config.schema.services import Service
from fastgw.server.views import MASK

SENSITIVE = re.compile(r"secret|token|passw|credential|private|api[-_]?key|(^|\.)keys?$|authorization|cookie$", re.I)
"""Keys whose values are not shown, whatever their type: headers that a policy sets may hold anything."""
LONGEST = 120
ROUTE_REST = tuple(key for key in ROUTE_KEYS if key not in (*MATCH_KEYS, "name", "policies"))


@dataclass(slots=True)
class Change:
    """`how` is added, removed or changed; `what` listener, service, policy, route, consumer, setting; `lines` tell a
    change key by key."""

    how: str
    what: str
    name: str
    lines: list[str] = field(default_factory=list)

    def text(self) -> str:
        mark = {"added": "+", "removed": "-", "changed": "~"}[self.how]
        head = f"{mark} {self.what} {self.name}".rstrip()
        return "\n".join([head, *(f"    {line}" for line in self.lines)])


Leaf = tuple[Any, str]
"""What is compared, and what is shown of it."""


def leaves(value: Any, name: str, unit: str = "") -> Iterator[tuple[str, Leaf]]:
    """(dotted name, leaf) of everything in a value."""
    if isinstance(value, BaseModel) or (fields_of(type(value)) and hasattr(value, "__slots__")):
        for key, info in fields_of(type(value)).items():
            if info.init is not False:
                yield from leaves(getattr(value, key), f"{name}.{key}" if name else key, unit_of(info))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(item, f"{name}.{key}" if name else str(key), unit)
    elif isinstance(value, tuple) and value and all(isinstance(item, ValueMatch) for item in value):
        for match in value:
            words = match.value if match.op == "exact" else {"regex": f"~ {match.value}"}.get(match.op, match.op)
            yield from leaves(words, f"{name}.{match.name}")
    else:
        yield name, (comparable(value), MASK if SENSITIVE.search(name) else shown(value, unit))


def defaults(value: Any, name: str = "") -> set[str]:
    """The names of leaves that are as they would be had nobody written them."""
    if isinstance(value, Mapping):
        return {leaf for key, item in value.items() for leaf in defaults(item, f"{name}.{key}" if name else str(key))}
    found: set[str] = set()
    for key, info in fields_of(type(value)).items():
        item, where = getattr(value, key, None), f"{name}.{key}" if name else key
        if not info.is_required() and comparable(item) == comparable(info.get_default(call_default_factory=True)):
            found |= {leaf for leaf, _ in leaves(item, where)}
        else:
            found |= defaults(item, where)
    return found


def comparable(value: Any) -> Any:
    if isinstance(value, Secret):
        return ("secret", *value.state())
    if isinstance(value, BaseModel):
        return [(key, comparable(getattr(value, key))) for key in type(value).model_fields]
    if isinstance(value, (list, tuple)):
        return [comparable(item) for item in value]
    if isinstance(value, Mapping):
        return {key: comparable(item) for key, item in value.items()}
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


def shown(value: Any, unit: str = "") -> str:
    if isinstance(value, Secret):
        return MASK
    if value is None or (isinstance(value, (tuple, list, str, dict)) and not value and not isinstance(value, str)):
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return in_unit(value, unit)
    if isinstance(value, BaseModel):
        parts = [f"{key}: {leaf[1]}" for key, leaf in leaves(value, "") if leaf[1] != "none"]
        text = "{" + ", ".join(parts) + "}"
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        text = str(value)
    elif isinstance(value, (tuple, list, set, frozenset)):
        text = ", ".join(shown(item, unit) for item in value)
    else:
        text = str(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def told(name: str, old: Leaf | None, new: Leaf | None) -> str:
    if old is None or old[1] == "none":
        return f"{name}: {new[1] if new else 'none'} is new"
    if new is None or new[1] == "none":
        return f"{name}: {old[1]} is gone"
    if old[1] == new[1]:
        return f"{name}: is another one ({new[1]})"
    return f"{name}: {old[1]} → {new[1]}"


def compare(old: Any, new: Any, but: Iterable[str] = ()) -> list[str]:
    """A line for each key of two values that differs."""
    before, after = dict(leaves(old, "")), dict(leaves(new, ""))
    left_out = tuple(but)
    names = [
        name
        for name in dict.fromkeys((*before, *after))
        if not (left_out and name.split(".")[0] in left_out)
        and what(before.get(name)) != what(after.get(name))
    ]
    # a room that one side does not have: of its keys those that say something, if any do
    plain = {name for name in defaults(old) | defaults(new) if (name in before) != (name in after)}
    said = {name.rpartition(".")[0] for name in names if name not in plain}
    return [
        told(name, before.get(name), after.get(name))
        for name in names
        if name not in plain or name.rpartition(".")[0] not in said
    ]


def what(leaf: Leaf | None) -> Any:
    """An empty list, an empty mapping and nothing are the same."""
    return None if leaf is None or leaf[0] in ([], {}) else leaf[0]


def paired(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Names of both, with None where one has it not."""
    for name in dict.fromkeys((*old, *new)):
        yield name, old.get(name), new.get(name)


# ------------------------------------------------------------------ the rooms


def differences(old: Config, new: Config) -> list[Change]:
    """In the order of the file: settings, listeners, services, consumers, policies, routes."""
    found: list[Change] = []
    for room in ("server", "admin", "secrets", "stores", "cache", "priorities", "observability"):
        lines = compare(getattr(old, room), getattr(new, room), but=("listeners",))
        found += [Change("changed", "setting", f"{room}.{line}") for line in lines]
    listeners = [{str(one.bind): one for one in config.server.listeners} for config in (old, new)]
    found += simple("listener", listeners[0], listeners[1])
    found += services(old.services, new.services)
    consumers = [{one.name: one for one in config.consumers} for config in (old, new)]
    found += [consumer(*item) for item in paired(*consumers) if different(item[1], item[2])]
    for line in policies(old.policies, new.policies):
        found.append(Change("changed", "policies", f"for every route: {line}"))
    return found + routes(old, new)


def different(old: Any, new: Any) -> bool:
    return old is None or new is None or bool(compare(old, new))


def simple(what: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    for name, before, after in paired(old, new):
        if before is None or after is None:
            yield Change("added" if before is None else "removed", what, name)
        elif lines := compare(before, after):
            yield Change("changed", what, name, lines)


def services(old: Mapping[str, Service], new: Mapping[str, Service]) -> Iterator[Change]:
    """`moved` is said where it has other endpoints."""
    for name, before, after in paired(old, new):
        if before is None or after is None:
            there = before or after
            yield Change("added" if before is None else "removed", "service", name, [f"at {places(there)}"])
            continue
        lines = compare(before, after, but=("endpoints",))
        urls = [{str(one.url): one.weight for one in service.endpoints} for service in (before, after)]
        if urls[0].keys() != urls[1].keys():
            lines.insert(0, f"moved: {places(before)} → {places(after)}")
        for url, weight in urls[0].items():
            if url in urls[1] and urls[1][url] != weight:
                lines.append(f"weight of {url}: {weight} → {urls[1][url]}")
        if lines:
            yield Change("changed", "service", name, lines)


def places(service: Service) -> str:
    found = [str(endpoint.url) for endpoint in service.endpoints]
    if service.discovery is not None:
        found.append(f"{service.discovery.type} discovery")
    return ", ".join(found) if len(found) <= 6 else f"{', '.join(found[:5])} and {len(found) - 5} more"


def consumer(name: str, old: Consumer | None, new: Consumer | None) -> Change:
    if old is None or new is None:
        return Change("added" if old is None else "removed", "consumer", name)
    lines = compare(old, new, but=("keys",))
    before, after = {key.hash: key for key in old.keys}, {key.hash: key for key in new.keys}
    counts = {
        "new": len(after.keys() - before.keys()),
        "gone": len(before.keys() - after.keys()),
        "changed": sum(before[name] != after[name] for name in before.keys() & after.keys()),
    }
    if any(counts.values()):
        lines.append("keys: " + ", ".join(f"{count} {word}" for word, count in counts.items() if count))
    return Change("changed", "consumer", name, lines)


def policies(old: Iterable[PolicyUse], new: Iterable[PolicyUse]) -> list[str]:
    """Numbered among those of the same name, as their state is."""
    before, after = numbered(old), numbered(new)
    lines = []
    for name, mine, theirs in paired(before, after):
        if mine is None or theirs is None:
            lines.append(f"{name} {'added' if mine is None else 'removed'}")
        else:
            lines += [f"{name}: {line}" for line in compare(mine.options, theirs.options)]
    common = [name for name in before if name in after]
    if common != [name for name in after if name in before]:
        lines.append(f"order: {', '.join(before)} → {', '.join(after)}")
    return lines


def numbered(uses: Iterable[PolicyUse]) -> dict[str, PolicyUse]:
    found: dict[str, PolicyUse] = {}
    for use in uses:
        number = 1
        while (name := use.name if number == 1 else f"{use.name} ({number})") in found:
            number += 1
        found[name] = use
    return found


# ------------------------------------------------------------------ routes


def match_of(route: Route) -> tuple[Any, ...]:
    return tuple(comparable(getattr(route, key)) for key in MATCH_KEYS)


def route_words(route: Route) -> str:
    methods = ",".join(route.methods) or "any method"
    target = route.service or ", ".join(f"{share.service} {share.weight}" for share in route.split) or "the gateway"
    host = f"{', '.join(route.host)} " if route.host else ""
    return f"{host}{methods} {route.path or '/*'} → {target}"


def routes(old: Config, new: Config) -> list[Change]:
    before, after = ({str(route.name): route for route in config.routes} for config in (old, new))
    found: list[Change] = []
    gone = {str(match_of(route)): name for name, route in before.items() if name not in after}
    for name, mine, theirs in paired(before, after):
        if theirs is None:
            continue
        renamed = gone.pop(str(match_of(theirs)), None) if mine is None else None
        if renamed is not None:
            mine = before[renamed]
        if mine is None:
            uses = ", ".join(use.name for use in new.chain(theirs))
            found.append(Change("added", "route", name, [route_words(theirs), f"policies: {uses or 'none'}"]))
            continue
        lines = [f"renamed: it was {renamed}"] if renamed is not None else []
        for key in (*MATCH_KEYS, *ROUTE_REST):
            lines += compare({key: getattr(mine, key)}, {key: getattr(theirs, key)})
        lines += [f"policy {line}" for line in policies(mine.policies, theirs.policies)]
        if lines:
            found.append(Change("changed", "route", name, lines))
    found += [Change("removed", "route", name, [route_words(before[name])]) for name in gone.values()]
    common = [name for name in before if name in after]
    if common != [name for name in after if name in before]:
        found.append(Change("changed", "order", "of the routes: it decides between those that match equally well"))
    return found
