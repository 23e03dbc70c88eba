"""Endpoints from Kubernetes: list and watch of a service's EndpointSlices (discovery.k8s.io/v1).

https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

import orjson

from fastgw.upstreams.cluster import Cluster
from fastgw.upstreams.discovery.base import Alive, Found, Seen, Source, SourceError
from fastgw.upstreams.discovery.http import Call, refused

PAGE = 500
MAX_PAGES = 40
GONE = 410


class Expired(Exception):
    """410 Gone: the resourceVersion is too old; everything is listed again."""


class KubernetesSource(Source):
    def __init__(self, service: str, options: Any) -> None:
        super().__init__(service, options)
        self.cluster = Cluster(options)
        self.slices: dict[str, list[Found]] = {}
        self.version = ""

    def __str__(self) -> str:
        return f"kubernetes {self.options.namespace or 'its own namespace'}"

    def call(self, **query: str) -> Call:
        path = f"/apis/discovery.k8s.io/v1/namespaces/{quote(self.cluster.namespace, safe='')}/endpointslices"
        query["labelSelector"] = f"kubernetes.io/service-name={self.name}"
        return self.cluster.call(f"{path}?{urlencode(query)}")

    # ------------------------------------------------------------------ list, then watch

    async def run(self, seen: Seen, alive: Alive) -> None:
        while True:
            await self.read_all()
            seen(self.endpoints())
            try:
                while True:
                    await self.watch(seen)
                    alive()
            except Expired:
                continue

    async def read_all(self) -> None:
        slices: dict[str, list[Found]] = {}
        more = ""
        for _ in range(MAX_PAGES):
            async with self.call(limit=str(PAGE), **({"continue": more} if more else {})) as call:
                if call.status == GONE and more:
                    raise SourceError("the list was overtaken by changes")
                if call.status != 200:
                    raise refused(call, "the list of EndpointSlices")
                answer = as_mapping(await call.text())
            for item in answer.get("items") or ():
                name, found = self.slice(item)
                slices[name] = found
            meta = answer.get("metadata") or {}
            self.version, more = str(meta.get("resourceVersion", "")), str(meta.get("continue") or "")
            if not more:
                self.slices = slices
                return
        raise SourceError(f"the list has more than {MAX_PAGES * PAGE} EndpointSlices")

    async def watch(self, seen: Seen) -> None:
        """The server ends it after `refresh` seconds; the next one goes on at the version that was seen last."""
        seconds = self.options.interval
        query = {"watch": "1", "allowWatchBookmarks": "true", "resourceVersion": self.version}
        async with self.call(**query, timeoutSeconds=str(max(1, int(seconds)))) as call:
            if call.status == GONE:
                raise Expired
            if call.status != 200:
                raise refused(call, "the watch of EndpointSlices")
            async for line in call.lines(seconds + self.options.timeout):
                if self.apply(as_mapping(line)):
                    seen(self.endpoints())

    def apply(self, event: dict[str, Any]) -> bool:
        """One event; whether the endpoints may be others now."""
        kind, item = event.get("type"), event.get("object")
        if not isinstance(item, dict):
            raise SourceError("an event has no object")
        if kind == "ERROR":
            if item.get("code") == GONE:
                raise Expired
            raise SourceError(f"the watch was ended with {str(item.get('code'))[:20]}")
        version = (item.get("metadata") or {}).get("resourceVersion")
        if version:
            self.version = str(version)
        if kind not in ("ADDED", "MODIFIED", "DELETED"):
            return False                             # BOOKMARK: a version, and nothing else
        name, found = self.slice(item)
        if kind == "DELETED":
            self.slices.pop(name, None)
        else:
            self.slices[name] = found
        return True

    # ------------------------------------------------------------------ what is in a slice

    def endpoints(self) -> list[Found]:
        return [one for found in self.slices.values() for one in found]

    def slice(self, item: Any) -> tuple[str, list[Found]]:
        try:
            name = str(item["metadata"]["name"])
            port = self.port(item.get("ports") or [])
            found = []
            for endpoint in item.get("endpoints") or ():
                # "A nil value should be interpreted as "true""
                if port and (endpoint.get("conditions") or {}).get("ready") is not False:
                    pod = (endpoint.get("targetRef") or {}).get("name") or ""
                    labels = {"pod": pod, "node": endpoint.get("nodeName") or ""}
                    # "Consumers … should only use the first of these addresses": they are the same endpoint
                    address = endpoint["addresses"][0]
                    found.append(self.found(address, port, 1, endpoint.get("zone") or "", labels))
            return name, found
        except (KeyError, TypeError, AttributeError, IndexError):
            raise SourceError("an EndpointSlice is not as it should be") from None

    def port(self, ports: Any) -> int:
        """The one that is asked for by name or number, or the only one; 0 when this slice has it not."""
        wanted = self.options.port
        usable = [port for port in ports if port.get("port") and port.get("protocol") in (None, "TCP")]
        if wanted is not None:
            usable = [port for port in usable if wanted in (port["port"], port.get("name"), str(port["port"]))]
        elif len(usable) > 1:
            names = ", ".join(str(port.get("name") or port["port"])[:40] for port in usable[:10])
            raise SourceError(f"the service has several ports ({names}): `port` says which")
        return int(usable[0]["port"]) if usable else 0


def as_mapping(text: bytes) -> dict[str, Any]:
    try:
        data = orjson.loads(text)
    except ValueError:
        raise SourceError("it answered with something that is not JSON") from None
    if not isinstance(data, dict):
        raise SourceError("it answered with something that is no object")
    return data
