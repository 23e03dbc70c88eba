"""Which class a request is of, and whose it is, where it has to wait: for `fastgw explain`."""

from __future__ import annotations

from typing import Any

from fastgw._core.exchange import Exchange
from fastgw._core.priorities import Priorities, Tenants
from fastgw.config import Config
from fastgw.config.schema.routes import Route
from fastgw.plan.resilience import priorities_of, services_of, tenants_of


def waits(config: Config, route: Route, exchange: Exchange) -> list[dict[str, Any]]:
    """A row for each limit that the request meets and may wait at, and one for its class where there are any."""
    rows: list[dict[str, Any]] = []
    given = priorities_of(config)
    if given is not None:
        rows.append({"policy": "priority", "line": route.line, "verdict": Priorities(**given).find(exchange)})
    limits = [("the route", route.concurrency)]
    limits += [(name, config.services[name].concurrency) for name in services_of(route)]
    for whose, limit in limits:
        if limit is None or limit.queue.fair is None:
            continue
        tenants = Tenants(*tenants_of(limit.queue.fair))
        name, weight = tenants.find(exchange)
        tenant = "that it names itself" if tenants.secret else name.decode("utf-8", "replace")
        words = f"at {whose} it waits as tenant {tenant}"
        if weight > 1:
            words += f", with weight {weight}"
        rows.append({"policy": "fair", "line": route.line, "verdict": words})
    return rows
