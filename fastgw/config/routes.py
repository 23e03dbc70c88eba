"""The checks of routes: each by itself, then against services, policies and the other routes."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from fastgw.config.errors import Finding, Path, did_you_mean
from fastgw.config.findings import from_validation, unknown_key
from fastgw.config.pattern import PathPattern, parse_path
from fastgw.config.reach import add_effect, reachable, slash_effect, strip_effect
from fastgw.config.rooms import MAX_ROUTES, Check, validator
from fastgw.config.schema.routes import MATCH_KEYS, ROUTE_KEYS, PolicyUse, Route
from fastgw.config.text import Map

KNOWN = frozenset(MATCH_KEYS)
ANY_PATH = PathPattern("prefix", "", ("*",))


class Seen:
    """What the routes before had: names, and what they match."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}
        self.given: dict[str, int] = {}
        self.matches: dict[Any, int] = {}


def check_routes(check: Check, raw: Any) -> None:
    items = check.items(raw, ("routes",), MAX_ROUTES)
    http = any(listener.protocol == "http" for listener in check.config.server.listeners)
    http = http and not check.reported(("server", "listeners"))
    if not items and http and not check.reported(("routes",)):
        check.report(
            Finding(
                "missing_key",
                ("routes",) if raw is not None else (),
                "there are no routes",
                "routes: [{path: /x/*, service: NAME}]",
            )
        )
    validate = validator(Route).validate_python
    seen = Seen()
    routes: list[Route] = []
    shared_terminal = any(use.spec.terminal for use in check.config.policies)
    for index, item in enumerate(items):
        told = len(check.findings)
        route = one_route(check, item, index, validate)
        if route is None:
            continue
        if item.__class__ is Map:
            route.line, route.col = item.line, item.col
        route.index = index
        relate(check, route, item, seen, shared_terminal, check.findings[told:])
        routes.append(route)
    name_the_nameless(routes, seen)
    check.config.routes = tuple(routes)
    check_shared(check, routes)


def one_route(check: Check, item: Any, index: int, validate: Any) -> Route | None:
    """Validates one item; after errors, what is left of it (for the checks that follow) or None."""
    path: Path = ("routes", index)
    if not isinstance(item, dict):
        check.report(Finding("wrong_type", path, "is not a route", "{path: /x/*, service: NAME}"))
        return None
    raw = flatten(check, item, path) if "match" in item else item
    try:
        return validate(raw, context=check.context)  # type: ignore[no-any-return]
    except ValidationError as error:
        for finding in from_validation(error, raw, (), Route):
            finding.path = path + inside_match(item, finding.path)
            if finding.code == "unknown_key":
                finding = better_unknown(finding, path)
            check.report(finding)
        bad = {
            entry["loc"][0] for entry in error.errors(include_url=False, include_input=False) if entry["loc"]
        }
        rest = {name: value for name, value in raw.items() if name not in bad}
        try:
            return validate(rest, context=check.context)  # type: ignore[no-any-return]
        except ValidationError:
            return None


def better_unknown(finding: Finding, path: Path) -> Finding:
    if len(finding.path) == len(path) + 1:
        return unknown_key(
            finding.path, [*(name for name in ROUTE_KEYS if name not in KNOWN), "match", *MATCH_KEYS]
        )
    return finding


def inside_match(item: dict[str, Any], path: Path) -> Path:
    """Where a key of the flat route really stands."""
    match = item.get("match")
    if path and path[0] in KNOWN and path[0] not in item and isinstance(match, dict) and path[0] in match:
        return ("match", *path)
    return path


def flatten(check: Check, item: dict[str, Any], path: Path) -> dict[str, Any]:
    """`match: {path: …}` → `path: …` on the route itself."""
    raw = {name: value for name, value in item.items() if name != "match"}
    match = item["match"]
    if match is None:
        return raw
    if not isinstance(match, dict):
        check.report(
            Finding("wrong_type", (*path, "match"), "is not a mapping", "{path: /x/*, methods: [GET], …}")
        )
        return raw
    both = [name for name in item if name in KNOWN]
    if both:
        check.report(
            Finding(
                "conflict",
                (*path, both[0]),
                f"{both[0]!r} stands on the route, and there is a `match:` too",
                "all of it in `match:`, or no `match:`",
                at_key=True,
            )
        )
    for name, value in match.items():
        if name in KNOWN:
            raw[name] = value
        else:
            check.report(unknown_key((*path, "match", name), MATCH_KEYS))
    return raw


def relate(
    check: Check, route: Route, item: dict[str, Any], seen: Seen, shared_terminal: bool, told: list[Finding]
) -> None:
    """One route against everything else. `told` is what is wrong with it by itself: no echo of that here."""
    path: Path = ("routes", route.index)
    pattern = route.pattern = parse_path(route.path) if route.path is not None else ANY_PATH
    if route.path is not None:
        check.tell(reachable(route, pattern, check.config, (*path, *inside_match(item, ("path",)))))
    check.tell(slash_effect(route, pattern, (*path, "trailing_slash")))
    given = item.get("policies")                  # an empty `policies:` is none
    route.policies = () if given is None else check.policies(given, (*path, "policies"))
    if not any(finding.code == "unknown_key" for finding in told):
        target(check, route, item, path, shared_terminal)
    elif route.service is not None:
        known_service(check, route.service, (*path, "service"))
    if route.strip_prefix is not None or route.rewrite is not None or route.add_prefix is not None:
        rewriting(check, route, item, path, pattern)
    if route.without:
        withouts(check, route, path)
    if route.policies or check.config.policies:
        captures(check, route, pattern)
    identity(check, route)
    cached(check, route)
    encoded(check, route)
    recheck(check, route, path)
    broadcast(check, route, path)
    same_name(check, route, path, seen)
    if not told:
        same_match(check, route, path, seen)


def target(check: Check, route: Route, item: dict[str, Any], path: Path, shared_terminal: bool) -> None:
    if route.service is not None:
        if route.split:
            check.report(
                Finding(
                    "conflict",
                    (*path, "split"),
                    "`service` and `split` are both there",
                    "one of them",
                    at_key=True,
                )
            )
        known_service(check, route.service, (*path, "service"))
    for number, share in enumerate(route.split):
        known_service(check, share.service, (*path, "split", number, "service"))
    if route.split and not any(share.weight for share in route.split):
        check.report(
            Finding("out_of_range", (*path, "split"), "no service has a weight", "a weight of at least 1")
        )
    if route.split_by is not None and not route.split and "split" not in item:
        check.report(
            Finding(
                "conflict",
                (*path, "split_by"),
                "there is no `split` that it could be for",
                "a `split:`",
                at_key=True,
            )
        )
    if route.service is None and not route.split and not ("service" in item or "split" in item):
        own = any(use.spec.terminal for use in route.policies)
        shared = shared_terminal and any(use.spec.terminal for use in check.config.chain(route))
        if not own and not shared and not check.reported((*path, "policies")):
            check.report(
                Finding(
                    "no_target",
                    path,
                    "nobody answers this route",
                    "service, split, or a policy that answers (respond, redirect)",
                )
            )


def known_service(check: Check, name: str, path: Path) -> None:
    check.used_services.add(name)
    if name not in check.service_names:
        hint = did_you_mean(name, check.service_names)
        known = (
            "" if hint or not check.service_names else "one of " + ", ".join(sorted(check.service_names)[:20])
        )
        check.report(Finding("unknown_service", path, f"there is no service {name!r}", known, hint))


def rewriting(check: Check, route: Route, item: dict[str, Any], path: Path, pattern: PathPattern) -> None:
    where = (*path, "strip_prefix")
    strip: Any = route.strip_prefix
    given = strip
    if strip is True:
        if pattern.kind == "regex":
            check.report(
                Finding(
                    "conflict",
                    where,
                    "a path that is a regex has no literal part to strip",
                    "the text to strip, or `rewrite`",
                )
            )
        strip = pattern.literal.rstrip("/") or None
    elif strip and pattern.kind != "regex":
        literal = pattern.literal
        if literal != strip and not literal.startswith(strip + "/"):
            check.report(
                Finding(
                    "conflict",
                    where,
                    f"the path {route.path!r} does not begin with {strip!r}",
                    f"a beginning of {literal or '/'!r}, or true",
                )
            )
    route.strip_prefix = strip or None
    if given is not None and not check.reported(where):
        check.tell(strip_effect(route, pattern, check.config, where, given))
    check.tell(add_effect(route, (*path, "add_prefix")))
    if route.rewrite is None:
        return
    for other in ("strip_prefix", "add_prefix"):
        if getattr(route, other) is not None:
            check.report(
                Finding(
                    "conflict",
                    (*path, other),
                    f"`rewrite` gives the whole path, and `{other}` is there too",
                    "one of them",
                    at_key=True,
                )
            )
    for name in route.rewrite.captures:
        if name not in pattern.captures:
            check.report(bad_capture((*path, "rewrite"), name, pattern))


def bad_capture(path: Path, name: str, pattern: PathPattern) -> Finding:
    known = ", ".join(f"{{{capture}}}" for capture in pattern.captures)
    return Finding(
        "bad_capture",
        path,
        f"the path has no capture {{{name}}}",
        f"one of {known}" if known else "a path with {" + name + "}",
        did_you_mean(name, pattern.captures),
    )


def withouts(check: Check, route: Route, path: Path) -> None:
    shared = {use.name for use in check.config.policies}
    for number, name in enumerate(route.without):
        if name not in shared and not check.reported(("policies",)):
            hint = did_you_mean(name, shared)
            check.report(
                Finding(
                    "unknown_policy",
                    (*path, "without", number),
                    f"no policy {name!r} is there for every route",
                    "" if hint else "one of " + (", ".join(sorted(shared)) or "`policies:`, which is empty"),
                    hint,
                )
            )


def captures(check: Check, route: Route, pattern: PathPattern) -> None:
    """`${route.params.x}` in the route's own policies must be a capture of its path."""
    for use in route.policies:
        for template in use.templates:
            for variable in template.variables:
                if variable.kind == "route.params" and variable.name not in pattern.captures:
                    check.report(bad_capture(use.path, variable.name, pattern))


def identity(check: Check, route: Route) -> None:
    """A policy that wants a consumer or claims stands before any policy that could give one."""
    known = False
    for use in check.config.chain(route):
        spec = use.spec
        if spec.needs_identity is not None and not known and spec.needs_identity(use.options):
            finding = Finding(
                "order",
                use.path,
                f"{use.name!r} asks who the caller is, and no policy before it finds out",
                "an authentication policy before it",
                severity="warning",
            )
            if use.path[0] != "policies" or not check.reported(use.path):
                check.report(finding)
        known = known or spec.identifies


GUARDS = frozenset(("ip", "geo", "ban", "csrf", "forward_auth", "opa", "acl", "abac", "authorize", "any_of", "all_of"))


def cached(check: Check, route: Route) -> None:
    """A hit of `cache` is answered before the policies behind it run: none that decides who may ask stands there."""
    found = None
    for use in check.config.chain(route):
        spec = use.spec
        if found is not None and (spec.identifies or use.name in GUARDS):
            finding = Finding(
                "order",
                use.path,
                f"{use.name!r} stands behind `cache`: what is kept would be given to those it refuses",
                "`cache` after it",
            )
            if use.path[0] != "policies" or not check.reported(use.path):
                check.report(finding)
        if use.name != "cache":
            continue
        found = use
        if getattr(use.options, "override", False):
            message = "answers are kept longer than their service says, or against its no-store: RFC 9111 forbids it"
            finding = Finding("breaks_standard", (*use.path, "override"), message, "no `override`", severity="warning")
            if use.path[0] != "policies" or not check.reported((*use.path, "override")):
                check.report(finding)


EXPIRING = ("jwt", "oauth2_introspection")
"""Policies that leave the claims of a token, with its `exp`."""


def expires(name: str, options: object) -> bool:
    """Also within `any_of` and `all_of`."""
    return name in EXPIRING or any(expires(one.name, one.options) for one in getattr(options, "policies", ()))


def encoded(check: Check, route: Route) -> None:
    """What stands before `compress` in the file keeps or shares what it made."""
    before: dict[str, PolicyUse] = {}
    for use in check.config.chain(route):
        if use.name != "compress":
            before.setdefault(use.name, use)
            continue
        found = []
        if "coalesce" in before:
            found.append(("`coalesce` stands before `compress`: no answer is shared, as each is encoded anew",
                          before["coalesce"], "`compress` before it"))  # fmt: skip
        if "cache" in before and getattr(use.options, "credentials", "always") != "always":
            message = "`cache` stands before `compress`: who is to get it plain gets what it keeps, encoded"
            found.append((message, use, "`compress` before `cache`"))
        for message, where, expected in found:
            if where.path[0] != "policies" or not check.reported(where.path):
                check.report(Finding("order", where.path, message, expected, severity="warning"))


def recheck(check: Check, route: Route, path: Path) -> None:
    """`websocket.recheck` closes sockets when a token expires: there must be one."""
    socket = route.websocket
    if socket is None or not socket.recheck:
        return
    if not any(expires(use.name, use.options) for use in check.config.chain(route)):
        check.report(
            Finding(
                "conflict",
                (*path, "websocket", "recheck"),
                "there is no token that could expire: the route has no policy `jwt` or `oauth2_introspection`",
                "one of them among its policies, or no `recheck`",
            )
        )


def broadcast(check: Check, route: Route, path: Path) -> None:
    """`websocket_broadcast` is of one service, on a route that has WebSockets."""
    if route.websocket_broadcast is None:
        return
    where = (*path, "websocket_broadcast")
    if route.websocket is not None and not route.websocket.enabled:
        check.report(Finding("conflict", where, "there are no WebSockets here", "no `websocket: false` beside it"))
    if route.service is None:
        check.report(Finding("conflict", where, "nobody says whose stream it is", "`service`, in the place of `split`"))


def same_name(check: Check, route: Route, path: Path, seen: Seen) -> None:
    if route.name is None:
        return
    first = seen.given.setdefault(route.name, route.index)
    if first != route.index:
        check.report(
            Finding(
                "duplicate_name",
                (*path, "name"),
                f"a route {route.name!r} is already at routes[{first}]",
                "each name once",
            )
        )


def same_match(check: Check, route: Route, path: Path, seen: Seen) -> None:
    text = shape(route.pattern) if route.pattern and route.pattern.segments else route.path
    match = (
        text,
        route.methods,
        route.host,
        route.headers,
        route.query,
        route.cookies,
        route.user_agent,
        route.client_ip,
    )
    first = seen.matches.setdefault(match, route.index)
    if first != route.index:
        check.report(
            Finding(
                "duplicate_route",
                path,
                f"matches exactly what routes[{first}] matches, and will never be chosen",
                "another path, method or predicate",
            )
        )


def shape(pattern: PathPattern) -> str:
    """A template without the names of its parameters."""
    return "/".join(["", *("{:" + s.text + "}" if s.name else s.text for s in pattern.segments)])


def name_the_nameless(routes: list[Route], seen: Seen) -> None:
    """Every route gets a unique name: its path, with `#2`, `#3`, … when that is taken."""
    taken = set(seen.given)
    counts: dict[str, int] = {}
    for route in routes:
        if route.name is not None:
            continue
        base = route.path or "*"
        name = base
        while name in taken:
            counts[base] = counts.get(base, 1) + 1
            name = f"{base}#{counts[base]}"
        taken.add(name)
        route.name = name


def check_shared(check: Check, routes: list[Route]) -> None:
    """`${route.params.x}` in a policy for every route: at least one route must have it."""
    names: set[str] | None = None
    for use in check.config.policies:
        for name in params_of(use):
            if names is None:
                names = {capture for route in routes if route.pattern for capture in route.pattern.captures}
            if name not in names:
                check.report(
                    Finding(
                        "bad_capture",
                        use.path,
                        f"no route has a capture {{{name}}}",
                        "",
                        did_you_mean(name, names),
                    )
                )


def params_of(use: PolicyUse) -> list[str]:
    return [v.name for template in use.templates for v in template.variables if v.kind == "route.params"]
