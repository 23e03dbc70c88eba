"""The document rooted at `api_gateway:` that the design documents of gateways publish, taken as it is.

It is translated into the format of this project before it is checked; every finding is told at the place in the
document that it came from. What the document asks for and this version does not have is reported, never ignored.
"""

from __future__ import annotations

from typing import Any

from fastgw.config.errors import Finding, Path, did_you_mean
from fastgw.config.fields import shown
from fastgw.config.findings import unknown_key
from fastgw.config.text import Map, Seq

ROOT = "api_gateway"
KEYS = {
    (): (
        "server", "routing", "plugins", "service_discovery", "circuit_breaker", "observability", "services",
        "consumers", "plans",
    ),
    ("server",): ("host", "port", "timeout"),
    ("routing",): ("routes",),
    ("routes",): ("path", "service", "strip_prefix", "methods", "load_balancer"),
    ("plugin",): ("name", "config"),
    ("rate_limiting",): ("requests_per_minute", "burst", "by"),
    ("caching",): ("ttl", "max_size"),
    ("service_discovery",): ("type", "address", "refresh_interval"),
    ("observability",): ("metrics", "tracing", "logging"),
    ("logging",): ("level", "format"),
}
AUTHENTICATION = {
    "jwt": "jwt", "api_key": "key_auth", "key": "key_auth", "basic": "basic_auth", "hmac": "hmac", "mtls": "mtls",
    "oauth2": "oauth2_introspection", "oidc": "oidc", "forward": "forward_auth",
}  # fmt: skip
"""`type` of the plugin `authentication` → the policy whose options its `config` has."""
PLUGINS = {"authentication": "jwt", "rate_limiting": "rate_limit", "caching": "cache", "cors": "cors"}
BY = {"user_id": "claim:sub", "ip": "client_ip", "ip_address": "client_ip", "api_key": "consumer"}
"""What the document calls a key of a rate limit; `user_id` is the token's subject."""


class Translation:
    """`data` in our format, `findings` of the translation itself, and where each part came from."""

    def __init__(self, data: Any) -> None:
        self.places: dict[Path, Path] = {}
        self.findings: list[Finding] = []
        self.services: dict[str, dict[str, Any]] = {}
        self.cache: dict[str, Any] = {}
        self.data: dict[str, Any] = self.translate(data)

    def origin(self, path: Path) -> Path:
        """Where a path of the translated tree stands in the document."""
        for length in range(len(path), 0, -1):
            found = self.places.get(path[:length])
            if found is not None:
                return found + path[length:]
        return (ROOT,)

    def section(self, value: Any, kind: tuple[str, ...], path: Path) -> dict[str, Any]:
        """A mapping of the document; what it has and should not is told."""
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.findings.append(Finding("wrong_type", path, "is not a mapping", "a mapping"))
            return {}
        known = KEYS.get(kind)
        if known is not None:
            for name in value:
                if name not in known:
                    self.findings.append(unknown_key((*path, name), known))
        return value

    def put(self, into: dict[str, Any], to: Path, source: dict[str, Any], name: str, at: Path) -> None:
        """into[to's last] = source[name], when it is there."""
        if source.get(name) is not None:
            into[str(to[-1])] = source[name]
            self.places[to] = (*at, name)

    def translate(self, data: Any) -> dict[str, Any]:
        extra = [name for name in data if name != ROOT]
        self.findings += [unknown_key((name,), (ROOT,)) for name in extra]
        root = self.section(data[ROOT], (), (ROOT,))
        tree: dict[str, Any] = {"server": self.server(root.get("server")), "policies": Seq()}
        self.places[("server",)] = (ROOT, "server")
        tree["observability"] = self.observability(root.get("observability"), tree["server"])
        if isinstance(root.get("services"), dict):
            for name, service in root["services"].items():
                self.services[name] = {"endpoints": [service]} if isinstance(service, str) else service
            self.places[("services",)] = (ROOT, "services")
        for name in ("consumers", "plans"):
            if root.get(name) is not None:
                tree[name] = root[name]
                self.places[(name,)] = (ROOT, name)
        tree["routes"] = self.routes(root.get("routing"))
        self.plugins(root.get("plugins"), tree["policies"])
        self.everywhere(root)
        if self.cache:
            tree["cache"] = self.cache
        tree["services"] = self.services
        return tree

    def server(self, value: Any) -> dict[str, Any]:
        at = (ROOT, "server")
        given = self.section(value, ("server",), at)
        server: dict[str, Any] = {}
        if given.get("port") is not None or given.get("host") is not None:
            host = str(given.get("host", "0.0.0.0"))
            host = f"[{host}]" if ":" in host else host
            server["listeners"] = [f"{host}:{given.get('port', 8080)}"]
            self.places[("server", "listeners")] = (*at, "port" if given.get("port") is not None else "host")
            self.places[("server", "listeners", 0)] = self.places[("server", "listeners")]
        if given.get("timeout") is not None:
            server["timeouts"] = {"total": given["timeout"]}
            self.places[("server", "timeouts")] = self.places[("server", "timeouts", "total")] = (*at, "timeout")
        return server

    def routes(self, value: Any) -> list[Any]:
        at: Path = (ROOT, "routing", "routes")
        items = self.section(value, ("routing",), at[:2]).get("routes")
        if not isinstance(items, list):
            self.findings.append(Finding("missing_key", at[:2], "there are no routes", "routing: {routes: [...]}"))
            return []
        found: list[Any] = []
        self.places[("routes",)] = at
        for number, item in enumerate(items):
            here = (*at, number)
            given = self.section(item, ("routes",), here)
            route = Map()
            route.line, route.col = (item.line, item.col) if isinstance(item, Map) else (0, 0)
            for name in ("path", "service", "strip_prefix", "methods"):
                self.put(route, ("routes", number, name), given, name, here)
            self.places[("routes", number)] = here
            wanted = given.get("service")
            if isinstance(wanted, str):
                service = self.services.setdefault(wanted, {})
                self.places.setdefault(("services", wanted), (*here, "service"))
                if isinstance(service, dict):
                    told = service.get("balance")
                    if told is not None and given.get("load_balancer") not in (None, told):
                        what = f"another route has {shown(told)} for the service {shown(wanted)}"
                        self.findings.append(Finding("conflict", (*here, "load_balancer"), what, "one for a service"))
                    else:
                        self.put(service, ("services", wanted, "balance"), given, "load_balancer", here)
            found.append(route)
        return found

    def plugins(self, value: Any, policies: Seq) -> None:
        policies.marks = []
        if value is not None and not isinstance(value, list):
            self.findings.append(Finding("wrong_type", (ROOT, "plugins"), "is not a list", "[{name: …, config: …}]"))
            return
        for number, item in enumerate(value or ()):
            at = (ROOT, "plugins", number)
            given = self.section(item, ("plugin",), at)
            name = given.get("name")
            if not isinstance(name, str) or name not in PLUGINS:
                hint = did_you_mean(name, PLUGINS) if isinstance(name, str) else ""
                expected = "" if hint else "one of " + ", ".join(PLUGINS)
                self.findings.append(
                    Finding("unknown_policy", (*at, "name"), f"there is no plugin {shown(name)}", expected, hint)
                )
                continue
            ours = PLUGINS[name] if name != "authentication" else self.authentication(given.get("config"), at)
            to = ("policies", len(policies))
            options = self.options(name, given.get("config"), (*to, ours), (*at, "config"))
            self.places[to] = at
            self.places[(*to, ours)] = at
            policies.append({ours: options})
            policies.marks.append((item.line, item.col) if isinstance(item, Map) else (0, 0))

    def authentication(self, value: Any, at: Path) -> str:
        """The policy of a plugin `authentication`; without a `type` it is `jwt`."""
        kind = value.get("type", "jwt") if isinstance(value, dict) else "jwt"
        found = AUTHENTICATION.get(kind) if isinstance(kind, str) else None
        if found is None:
            hint = did_you_mean(kind, AUTHENTICATION) if isinstance(kind, str) else ""
            what = f"there is no authentication by {shown(kind)}"
            expected = "" if hint else "one of " + ", ".join(AUTHENTICATION)
            self.findings.append(Finding("bad_choice", (*at, "config", "type"), what, expected, hint))
        return found or "jwt"

    def options(self, name: str, value: Any, to: Path, at: Path) -> dict[str, Any]:
        given = self.section(value, (name,), at)
        options: dict[str, Any] = {}
        if name == "authentication":
            for key in given:
                if key != "type":
                    self.put(options, (*to, key), given, key, at)
        elif name == "rate_limiting":
            self.put(options, (*to, "requests"), given, "requests_per_minute", at)
            self.put(options, (*to, "burst"), given, "burst", at)
            options["per"] = "1m"
            if given.get("by") is not None:
                options["by"] = BY.get(str(given["by"]), given["by"])
                self.places[(*to, "by")] = (*at, "by")
        elif name == "caching":
            self.put(options, (*to, "ttl"), given, "ttl", at)
            if given.get("max_size") is not None:
                # how many answers are kept is a bound of the memory that all routes share
                self.cache["entries"] = given["max_size"]
                self.places[("cache", "entries")] = (*at, "max_size")
                self.places[("cache",)] = at
        else:
            for key in given:
                self.put(options, (*to, key), given, key, at)
        return options

    def everywhere(self, root: dict[str, Any]) -> None:
        """Discovery is for services that are not declared, the breaker for all of them."""
        discovery = self.section(root.get("service_discovery"), ("service_discovery",), (ROOT, "service_discovery"))
        here = (ROOT, "service_discovery")
        if discovery and all(isinstance(s, dict) and s.get("endpoints") for s in self.services.values()):
            self.findings.append(
                Finding("unused", here, "every service has endpoints of its own", at_key=True, severity="warning")
            )
        for name, service in self.services.items():
            if not isinstance(service, dict):
                continue
            if root.get("service_discovery") is not None and not service.get("endpoints"):
                renamed = {"refresh" if key == "refresh_interval" else key: item for key, item in discovery.items()}
                service["discovery"] = renamed
                to: Path = ("services", name, "discovery")
                self.places[to] = (ROOT, "service_discovery")
                self.places[(*to, "refresh")] = (ROOT, "service_discovery", "refresh_interval")
            if root.get("circuit_breaker") is not None:
                service["circuit_breaker"] = root["circuit_breaker"]
                self.places[("services", name, "circuit_breaker")] = (ROOT, "circuit_breaker")

    def observability(self, value: Any, server: dict[str, Any]) -> dict[str, Any]:
        at = (ROOT, "observability")
        given = self.section(value, ("observability",), at)
        found: dict[str, Any] = {}
        self.places[("observability",)] = at
        for name in ("metrics", "tracing", "logging"):
            self.put(found, ("observability", name), given, name, at)
        metrics = given.get("metrics")
        if isinstance(metrics, dict) and metrics.get("enabled", True):
            # the document asks for them beside its routes, where its `excluded_paths` expects them
            path = metrics.get("endpoint", "/metrics")
            server["public_endpoints"] = ["health", {"endpoint": "metrics", "path": path}]
            self.places[("server", "public_endpoints")] = (*at, "metrics")
        return found
