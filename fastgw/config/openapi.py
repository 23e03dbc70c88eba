"""Routes of an OpenAPI document: an item of `routes:` with `openapi:` stands for a route of each path.

Each has the item's other keys, the methods that the document has for its path, and the policy `openapi` after the
item's own. One route more, for everything below, lets that policy answer, and count, what the document does not have.
"""

from __future__ import annotations

import os
import re
from typing import Any
from urllib.parse import urlsplit

import yaml

from fastgw.config.errors import Finding, Path
from fastgw.config.fields import shown
from fastgw.config.text import Map, Seq

MAX_FILE = 8 * 1024 * 1024
MAX_PATHS = 5000
METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
ITS_OWN = ("name", "methods", "match", "rewrite")
"""Keys that a document, or the paths in it, say."""


class Expansion:
    """`data` with such items replaced, `findings` of it, and where each route came from."""

    def __init__(self, data: dict[str, Any], base: str | None) -> None:
        self.findings: list[Finding] = []
        self.base = base or "."
        self.places: list[tuple[int, bool]] = []
        routes: list[Any] = []
        for number, item in enumerate(data["routes"]):
            made = [item]
            if isinstance(item, dict) and item.get("openapi") is not None:
                made = self.expand(item, ("routes", number))
            self.places += [(number, made != [item])] * len(made)
            routes += made
        self.data = {**data, "routes": routes}

    @staticmethod
    def concerns(data: Any) -> bool:
        routes = data.get("routes") if isinstance(data, dict) else None
        return isinstance(routes, list) and any(isinstance(item, dict) and "openapi" in item for item in routes)

    def origin(self, path: Path) -> Path:
        """Where a path of the replaced tree stands in the file."""
        if len(path) < 2 or path[0] != "routes" or not isinstance(path[1], int) or path[1] >= len(self.places):
            return path
        number, made = self.places[path[1]]
        rest = path[2:]
        if made and rest[:1] in (("path",), ("methods",)):
            rest = ("openapi",)
        return ("routes", number, *rest)

    def wrong(self, code: str, path: Path, message: str, expected: str = "") -> list[Any]:
        self.findings.append(Finding(code, path, message, expected))
        return []

    def expand(self, item: dict[str, Any], at: Path) -> list[Any]:
        for key in ITS_OWN:
            if key in item:
                return self.wrong("conflict", (*at, key), f"{key!r} is what the document says", "without it")
        given = item["openapi"] if isinstance(item["openapi"], dict) else {"file": item["openapi"]}
        if "base" in given:
            return self.wrong("conflict", (*at, "openapi", "base"), "`base` is what `path` says here", "path: /api/*")
        document = self.document(given.get("file"), (*at, "openapi"))
        if document is None:
            return []
        prefix = item.get("path")
        if prefix is None:
            prefix = server_path(document)
        elif isinstance(prefix, str) and prefix.endswith("/*"):
            prefix = prefix[:-2]
        else:
            return self.wrong("bad_value", (*at, "path"), f"{shown(prefix)} has no `/*` at its end", "/api/*")
        policy = {"openapi": {**given, "base": prefix}}
        found: dict[str, list[str]] = {}
        for template, operations in document["paths"].items():
            if not isinstance(operations, dict) or not str(template).startswith("/"):
                return self.wrong("bad_value", (*at, "openapi"), f"the path {shown(template)} of the document is none")
            methods = [method.upper() for method in METHODS if method in operations]
            if methods:
                found.setdefault(prefix + pattern_of(str(template)), []).extend(methods)
        routes = [self.route(item, at, path, prefix, policy, methods) for path, methods in found.items()]
        return [*routes, self.route(item, at, prefix + "/*", prefix, policy, None)]

    def route(
        self, item: dict[str, Any], at: Path, path: str, prefix: str, policy: Any, methods: list[str] | None
    ) -> dict[str, Any]:
        route = Map({key: value for key, value in item.items() if key != "openapi"})
        route.line, route.col = (item.line, item.col) if isinstance(item, Map) else (0, 0)
        route["path"] = path
        if methods is not None:
            route["methods"] = sorted(set(methods))
        if route.get("strip_prefix") is True:
            route["strip_prefix"] = prefix or None
        given = item.get("policies")
        policies = Seq(given if isinstance(given, list) else [])
        marks = given.marks if isinstance(given, Seq) else [(0, 0)] * len(policies)
        policies.append(policy)
        policies.marks = [*marks, (route.line, route.col)]
        if given is None or isinstance(given, list):
            route["policies"] = policies
        return route

    def document(self, name: Any, at: Path) -> dict[str, Any] | None:
        if not isinstance(name, str) or not name or "\0" in name:
            self.wrong("wrong_type", at, f"{shown(name)} is not the name of a file", "a path")
            return None
        try:
            with open(os.path.join(self.base, str(name)), "rb") as stream:
                text = stream.read(MAX_FILE + 1)
        except OSError as error:
            self.wrong("file_unreadable", at, f"{shown(name)} can not be read: {error.strerror}", "a readable file")
            return None
        try:
            found = yaml.load(text, LOADER) if len(text) <= MAX_FILE else None
        except (yaml.YAMLError, ValueError) as error:
            self.wrong("bad_value", at, f"{shown(name)} is not YAML: {str(error).splitlines()[0]}", "OpenAPI 3")
            return None
        paths = found.get("paths") if isinstance(found, dict) else None
        if not isinstance(found, dict) or not isinstance(paths, dict) or not 0 < len(paths) <= MAX_PATHS:
            self.wrong("bad_value", at, f"{shown(name)} has no `paths:`, or too many", f"OpenAPI 3, {MAX_PATHS} paths")
            return None
        return found


def server_path(document: dict[str, Any]) -> str:
    """The path of the first server, as the policy takes it."""
    servers = document.get("servers")
    first = servers[0] if isinstance(servers, list) and servers else None
    url = str(first.get("url", "")) if isinstance(first, dict) else ""
    return "" if "{" in url else urlsplit(url).path.rstrip("/")


def pattern_of(template: str) -> str:
    """A path of a document as a path of a route: a segment with a parameter in it is one of any text."""
    segments = []
    for number, segment in enumerate(template.split("/")):
        segments.append(f"{{s{number}}}" if re.search(r"\{[^{}]+\}", segment) else segment)
    return "/".join(segments)
