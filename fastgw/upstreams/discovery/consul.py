"""Endpoints from Consul: /v1/health/service by blocking queries.

https://developer.hashicorp.com/consul/api-docs/health and …/features/blocking
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote, urlencode

import orjson

from fastgw.config.schema.address import parse_origin
from fastgw.upstreams.discovery.base import Alive, Found, Seen, Source, SourceError
from fastgw.upstreams.discovery.http import Call, refused

SHORTEST = 0.2
"""Seconds from one query to the next, however often its index moves."""


class ConsulSource(Source):
    def __init__(self, service: str, options: Any) -> None:
        super().__init__(service, options)
        address = options.address
        self.origin = parse_origin(address if "://" in address else f"http://{address}")

    def __str__(self) -> str:
        return f"consul {self.origin}"

    def target(self, index: int) -> str:
        options = self.options
        query: list[tuple[str, str]] = [("tag", tag) for tag in options.tags]
        if options.passing:
            query.append(("passing", "1"))
        if options.datacenter:
            query.append(("dc", options.datacenter))
        if index:
            query += [("index", str(index)), ("wait", f"{max(1, int(options.interval * 1000))}ms")]
        return f"/v1/health/service/{quote(self.name, safe='')}" + (f"?{urlencode(query)}" if query else "")

    async def run(self, seen: Seen, alive: Alive) -> None:
        loop = asyncio.get_running_loop()
        index = 0
        trust = self.trust()
        token = self.options.token
        headers = {"X-Consul-Token": token.reveal()} if token is not None else {}
        while True:
            begun = loop.time()
            # "A small random amount of additional wait time is added to the supplied maximum wait time … up to wait/16"
            wait = self.options.interval * (1 + 1 / 16) if index else 0.0
            timeout = self.options.timeout + wait
            async with Call(
                self.origin, "GET", self.target(index), headers=headers, timeout=timeout, trust=trust
            ) as call:
                if call.status != 200:
                    raise refused(call, "the query")
                if index and call.headers.get("x-consul-index") == str(index):
                    alive()
                else:
                    seen(self.read(await call.text()))
                index = self.next(index, call.headers.get("x-consul-index", ""))
            if index == 0:
                await asyncio.sleep(self.options.interval)       # it does not block: asked again now and then
            elif loop.time() - begun < SHORTEST:
                await asyncio.sleep(SHORTEST)

    @staticmethod
    def next(index: int, told: str) -> int:
        """"Reset the index if it goes backwards"; "Sanity check index is greater than zero"."""
        new = int(told) if told.isascii() and told.isdigit() and len(told) < 20 else 0
        return 0 if new < index else new

    def read(self, body: bytes) -> list[Found]:
        try:
            entries = orjson.loads(body)
            return [self.one(entry) for entry in entries if self.usable(entry)]
        except (ValueError, TypeError, KeyError, AttributeError):
            raise SourceError("the answer is not what a health query is answered with") from None

    def usable(self, entry: dict[str, Any]) -> bool:
        """`passing=1` leaves only good ones to the answer; without it, critical ones are still none to ask."""
        states = {check.get("Status") for check in entry.get("Checks") or ()}
        return states <= ({"passing"} if self.options.passing else {"passing", "warning"})

    def one(self, entry: dict[str, Any]) -> Found:
        service, node = entry["Service"], entry.get("Node") or {}
        host = service.get("Address") or node["Address"]
        meta = service.get("Meta") or {}
        weights = service.get("Weights") or {}
        warned = any(check.get("Status") == "warning" for check in entry.get("Checks") or ())
        zone = (service.get("Locality") or node.get("Locality") or {}).get("Zone") or meta.get("zone") or ""
        labels = {**meta, "id": service.get("ID") or "", "node": node.get("Node") or ""}
        return self.found(host, service["Port"], weights.get("Warning" if warned else "Passing", 1), zone, labels)
