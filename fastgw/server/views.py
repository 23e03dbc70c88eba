"""What the admin API shows, from the compiled configuration and the workers' snapshots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from fastgw.config import Config
from fastgw.config.fields import Secret
from fastgw.server.circuits import CircuitState
from fastgw.server.discovery import Discovery, fallback_of
from fastgw.server.health import EndpointHealth, Health
from fastgw.upstreams.discovery import EndpointSet
from fastgw.upstreams.discovery.watcher import State

MASK = "***"


def masked(value: Any) -> Any:
    """Plain data for JSON, with every secret masked."""
    if isinstance(value, Secret):
        return MASK
    if isinstance(value, BaseModel):
        return {name: masked(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, Mapping):
        return {str(key): masked(item) for key, item in value.items()}
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value if not isinstance(value, str) else str(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return str(value)
    if isinstance(value, (list, tuple, set, frozenset)):
        return [masked(item) for item in value]
    return str(value)


def route_view(config: Config, route: Any) -> dict[str, Any]:
    match: dict[str, Any] = {"path": route.path or "/*"}
    for name in ("host", "methods", "user_agent"):
        if getattr(route, name):
            match[name] = masked(getattr(route, name))
    for name in ("headers", "query", "cookies"):
        wanted = getattr(route, name)
        if wanted:
            match[name] = {m.name: m.value if m.op == "exact" else f"{m.op} {m.value}".strip() for m in wanted}
    if route.client_ip:
        match["client_ip"] = [str(network) for network in route.client_ip]
    view: dict[str, Any] = {"name": route.name, "match": match}
    if route.service:
        view["service"] = route.service
    if route.split:
        view["split"] = [{"service": share.service, "weight": share.weight} for share in route.split]
    view["policies"] = [use.name for use in config.chain(route)]
    view["line"] = route.line
    return view


def routes_view(config: Config) -> list[dict[str, Any]]:
    return [route_view(config, route) for route in config.routes]


def config_view(config: Config) -> dict[str, Any]:
    """The configuration in force. Keys of consumers are hashes, and masked all the same."""
    consumers = [{**masked(consumer), "keys": [MASK for _ in consumer.keys]} for consumer in config.consumers]
    return {
        "file": config.file,
        "server": masked(config.server),
        "admin": masked(config.admin),
        "services": masked(config.services),
        "consumers": consumers,
        "priorities": masked(config.priorities),
        "observability": masked(config.observability),
        "policies": [{use.name: masked(use.options)} for use in config.policies],
        "routes": [
            {**route_view(config, route), "policies": [{use.name: masked(use.options)} for use in config.chain(route)]}
            for route in config.routes
        ],
    }


POOL_FIELDS = ("connections", "busy", "idle", "connecting", "waiting", "connects", "connect_errors", "reuses")


def discovery_view(state: State | None, told: EndpointSet | None) -> dict[str, Any]:
    """Where the endpoints are from. `age` is how long ago, in seconds, the source confirmed them."""
    if state is None:
        return {"source": "static"}
    view: dict[str, Any] = {"source": state.source, "version": state.version}
    view["age"] = None if state.age is None else round(state.age, 3)
    view["changed"] = None if told is None else told.changed
    view |= {"updates": state.updates, "failures": state.failures, "expired": state.expired}
    if state.left_out:
        view["left_out"] = state.left_out
    if state.error:
        view["error"] = state.error
    return view


def health_view(state: EndpointHealth | None) -> dict[str, Any]:
    """`since` is how long it has been so, in seconds; nothing for endpoints whose state nobody watches."""
    if state is None:
        return {}
    view: dict[str, Any] = {"state": state.state}
    if state.reason:
        view["reason"] = REASONS[state.reason] + (f": {state.why}" if state.why else "")
    view["since"] = None if state.since is None else round(state.since, 3)
    if state.ejected_for is not None:
        view["ejected_for"] = round(state.ejected_for, 3)
    return view | {"ejections": state.ejections, "checks": {"good": state.good, "bad": state.bad}}


REASONS = {
    "check": "the health check failed",
    "errors": "too many errors in a row",
    "failures": "too many failures in a row",
    "success_rate": "a lower success rate than the others",
    "latency": "slower than the others",
}


LIMIT_FIELDS = ("limit", "in_flight", "queued", "refused")


def limits_of(snapshots: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], dict[str, int]]:
    """Limits of requests under way, added up over the workers, by scope (service or route) and name."""
    found: dict[tuple[str, str], dict[str, int]] = {}
    for snapshot in snapshots:
        for one in snapshot.get("limits", ()):
            into = found.setdefault((one["scope"], one["name"]), dict.fromkeys(LIMIT_FIELDS, 0))
            for field in LIMIT_FIELDS:
                into[field] += one[field]
    return found


def overload_view(snapshots: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Limits of requests under way, and, where there is the policy `overload`, how late each worker is, in seconds."""
    workers = [{"pid": one["pid"], **told} for one in snapshots for told in one.get("pressure", ())]
    return {"limits": limits_in_full(snapshots), "workers": workers}


def limits_in_full(snapshots: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Limits of requests under way with who waits and who was shed, by class and tenant, added up over the workers."""
    totals = limits_of(snapshots)
    classes: dict[tuple[str, str], dict[str, dict[str, Any]]] = {key: {} for key in totals}
    tenants: dict[tuple[str, str], dict[tuple[str, str], dict[str, Any]]] = {key: {} for key in totals}
    for one in (one for snapshot in snapshots for one in snapshot.get("limits", ())):
        key = (one["scope"], one["name"])
        for told in one["classes"]:
            empty = {"name": told["name"], "waiting": 0, "waited": 0, "waited_seconds": 0.0, "sheds": {}}
            into = classes[key].setdefault(told["name"], empty)
            into["waiting"] += told["waiting"]
            into["waited"] += sum(told["waited"])
            into["waited_seconds"] = round(into["waited_seconds"] + told["waited_seconds"], 3)
            for reason, many in told["sheds"].items():
                into["sheds"][reason] = into["sheds"].get(reason, 0) + many
        for told in one["tenants"]:
            start = {**told, "waiting": 0, "in_flight": 0}
            into = tenants[key].setdefault((told["class"], told["name"]), start)
            into["waiting"] += told["waiting"]
            into["in_flight"] += told["in_flight"]
    return [
        {
            "scope": key[0],
            "name": key[1],
            **total,
            "classes": list(classes[key].values()),
            "tenants": sorted(tenants[key].values(), key=lambda one: (-one["waiting"], -one["in_flight"], one["name"])),
        }
        for key, total in sorted(totals.items())
    ]


def services_view(
    config: Config,
    snapshots: Sequence[Mapping[str, Any]],
    discovery: Discovery | None = None,
    health: Health | None = None,
) -> list[dict[str, Any]]:
    """Services with the pools of their endpoints, added up over the workers."""
    pools: dict[tuple[str, str], dict[str, int]] = {}
    addresses: dict[tuple[str, str], int] = {}
    for snapshot in snapshots:
        for pool in snapshot["pools"]:
            key = (pool["service"], pool["url"])
            into = pools.setdefault(key, dict.fromkeys(POOL_FIELDS, 0))
            for name in POOL_FIELDS:
                into[name] += pool[name]
            addresses[key] = max(addresses.get(key, 0), pool["addresses"])
    limits = limits_of(snapshots)
    known = discovery.known if discovery is not None else {}
    states = {state.service: state for state in discovery.states()} if discovery is not None else {}
    conditions = health.by_key() if health is not None else {}
    found = []
    circuits: dict[str, list[CircuitState]] = {}
    for circuit in health.circuits.states() if health is not None else ():
        circuits.setdefault(circuit.service, []).append(circuit)
    for name, service in config.services.items():
        told = known.get(name)
        endpoints = told.endpoints if told is not None else fallback_of(service)
        rows = [
            {
                "url": str(endpoint.origin),
                "weight": endpoint.weight,
                **health_view(conditions.get((name, str(endpoint.origin)))),
                **({"priority": endpoint.priority} if endpoint.priority else {}),
                **({"zone": endpoint.zone} if endpoint.zone else {}),
                **({"labels": dict(endpoint.labels)} if endpoint.labels else {}),
                "addresses": addresses.get((name, str(endpoint.origin)), 0),
                **pools.get((name, str(endpoint.origin)), dict.fromkeys(POOL_FIELDS, 0)),
            }
            for endpoint in endpoints
        ]
        view: dict[str, Any] = {"name": name, "balance": service.balance.type, "endpoints": rows}
        if (limit := limits.get(("service", name))) is not None:
            view["concurrency"] = limit
        if name in circuits:
            view["circuit_breakers"] = [one.view() for one in circuits[name]]
        found.append(view | {"discovery": discovery_view(states.get(name), told)})
    return found
