"""Raw data → `Config` and every finding. Each room, service, consumer and route is validated by itself, so
that one mistake hides no other; what is right in a broken mapping is still checked against the rest."""

from __future__ import annotations

import functools
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from fastgw._core.codes import CODES as FAILURES
from fastgw.config.env import Expanded
from fastgw.config.errors import Finding, Path, did_you_mean
from fastgw.config.findings import field_names, fields_of, from_validation, models_in, unknown_key
from fastgw.config.http2 import check_http2
from fastgw.config.priorities import check_priorities
from fastgw.config.reach import reachable_endpoint
from fastgw.config.registry import PolicySpec, Resolver
from fastgw.config.schema import ROOMS, SINGLE_ROOMS, Config
from fastgw.config.schema.base import is_later
from fastgw.config.schema.consumers import Consumer, Plan
from fastgw.config.schema.routes import PolicyUse
from fastgw.config.schema.services import Service
from fastgw.config.schema.tests import ConfigTest
from fastgw.config.secret_refs import Reader
from fastgw.config.text import MAX_FINDINGS, Map, Seq

LATER = "is part of the format, but not available in this version"
MAX_SERVICES = 100_000
MAX_ROUTES = 1_000_000
MAX_POLICIES = 100
MAX_TESTS = 10_000
MAX_PLANS = 1000


def not_implemented(path: Path, what: str = "") -> Finding:
    return Finding(
        "not_implemented",
        path,
        f"{what or repr(str(path[-1]))} {LATER}",
        hint="take it out, or wait for a version that has it",
        at_key=True,
    )


def nobody_has(name: str, path: Path, stored: bool) -> Finding:
    """A policy would refuse everybody. Consumers of a store have API keys alone."""
    there = " of this file (those of the store have API keys alone)" if stored else ""
    wanted = f"consumers: [{{name: …, {name}: …}}]"
    return Finding("missing_key", path, f"no consumer{there} has `{name}`: nobody could pass", wanted)


class Check:
    """The state of one check. `run()` gives the Config (to be used only when there is no error)."""

    def __init__(
        self, data: Any, file: str, base: str | None, resolver: Resolver, secrets: Reader | None = None
    ) -> None:
        self.data = data
        self.resolver = resolver
        self.findings: list[Finding] = []
        self.context: dict[str, Any] = {
            "base": base, "templates": [], "secret_files": {}, "secrets": secrets, "secret_refs": {},
            "secrets_missing": {}, "secrets_old": {},
        }  # fmt: skip
        self.config = Config(file=file)
        self.service_names: set[str] = set()
        self.used_services: set[str] = set()
        self.specs: dict[str, PolicySpec | None] = {}

    def run(self) -> Config:
        from fastgw.config.routes import check_routes
        from fastgw.config.tcp import check_tcp

        data = self.data
        if not isinstance(data, dict):
            what = "is empty" if data is None else "is not a mapping"
            self.report(
                Finding(
                    "syntax" if data is None else "wrong_type",
                    (),
                    f"the configuration {what}",
                    "a mapping with `services:` and `routes:`",
                )
            )
            return self.config
        for name in data:
            if name not in ROOMS:
                self.report(unknown_key((name,), ROOMS))
        for name, model in SINGLE_ROOMS.items():
            if name != "secrets":
                self.context["secrets_room"] = self.config.secrets    # which comes first
            if data.get(name) is not None:
                room = self.validate(model, data[name], (name,))
                if room is not None:
                    setattr(self.config, name, room)
                    self.later(room, (name,))
        self.services(data.get("services"))
        self.plans(data.get("plans"))
        self.consumers(data.get("consumers"))
        self.config.policies = self.policies(data.get("policies"), ("policies",))
        check_routes(self, data.get("routes"))
        check_tcp(self)
        for finding in (*check_http2(self.config), *check_priorities(self.config)):
            self.report(finding)
        if self.config.cache.purges == "redis" and self.config.stores.redis is None:
            wanted = "stores: {redis: {url: …}}"
            self.report(Finding("missing_key", ("cache", "purges"), "there is no store 'redis'", wanted))
        self.tests(data.get("tests"))
        self.tls()
        store = self.config.api_keys.store
        if store is not None and getattr(self.config.stores, store, None) is None:
            said = f"there is no store {store!r}"
            self.report(Finding("missing_key", ("api_keys", "store"), said, f"stores: {{{store}: {{url: …}}}}"))
        self.cross()
        self.config.secret_files = tuple(self.context["secret_files"].items())
        self.config.secret_refs = tuple(self.context["secret_refs"].items())
        self.config.secrets_missing = tuple(self.context["secrets_missing"].values())
        return self.config

    def report(self, finding: Finding) -> None:
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(finding)

    def tell(self, finding: Finding | None) -> None:
        """Reports what a check by itself has found, if anything."""
        if finding is not None:
            self.report(finding)

    # -------------------------------------------------------------------------------------- one mapping

    def validate(self, model: Any, raw: Any, path: Path) -> Any:
        """The validated object; after errors, what is left of it without the wrong keys, or None."""
        try:
            return validator(model).validate_python(raw, context=self.context)
        except ValidationError as error:
            for finding in from_validation(error, raw, path, model):
                self.report(finding)
            if not isinstance(raw, dict):
                return None
            bad = {item["loc"][0] for item in error.errors(include_url=False, include_input=False) if item["loc"]}
            rest = {name: value for name, value in raw.items() if name not in bad}
            try:
                return validator(model).validate_python(rest, context=self.context)
            except ValidationError:
                return None

    def later(self, room: BaseModel, path: Path) -> None:
        """Reports the keys of later versions that the file gives."""
        marked = marked_fields(type(room))
        if not marked:
            return
        for name in room.model_fields_set & marked.keys():
            value = getattr(room, name, None)
            if value is None:
                continue
            if marked[name]:
                self.report(not_implemented((*path, name)))
            elif isinstance(value, BaseModel):
                self.later(value, (*path, name))
            elif isinstance(value, tuple):
                for number, item in enumerate(value):
                    if isinstance(item, BaseModel):
                        self.later(item, (*path, name, number))

    def items(self, raw: Any, path: Path, most: int) -> list[Any]:
        """A list of the file, or nothing after a finding."""
        if raw is None:
            return []
        if not isinstance(raw, list):
            self.report(Finding("wrong_type", path, "is not a list", "a list ('- ' before each item)"))
            return []
        if len(raw) > most:
            self.report(Finding("out_of_range", path, f"has {len(raw)} items", f"at most {most}"))
        return raw[:most]

    # -------------------------------------------------------------------------------------- rooms

    def services(self, raw: Any) -> None:
        if raw is None:
            return
        if not isinstance(raw, dict):
            self.report(Finding("wrong_type", ("services",), "is not a mapping", "NAME: URL, or NAME: {endpoints: …}"))
            return
        if len(raw) > MAX_SERVICES:
            self.report(Finding("out_of_range", ("services",), "too many services", f"at most {MAX_SERVICES}"))
            return
        self.service_names = set(raw)
        for name, value in raw.items():
            path: Path = ("services", name)
            self.name(name, path)
            service = self.validate(Service, value, path)
            if service is None:
                continue
            self.config.services[name] = service
            self.later(service, path)
            if not service.endpoints and service.discovery is None and not self.reported(path):
                self.report(
                    Finding("missing_key", path, "the service has no endpoints", "endpoints: [http://host:port]")
                )
            if not any(endpoint.weight for endpoint in service.endpoints) and service.endpoints:
                self.report(Finding("out_of_range", path, "no endpoint has a weight", "a weight of at least 1"))

    def reported(self, path: Path) -> bool:
        return any(finding.path[: len(path)] == path for finding in self.findings)

    def name(self, name: str, path: Path) -> None:
        from fastgw.config.fields import NAME

        if not NAME.match(name):
            self.report(
                Finding(
                    "bad_value",
                    path,
                    f"{name[:60]!r} is not a name",
                    "letters, digits and any of _ . : @ / -",
                    at_key=True,
                )
            )

    def consumers(self, raw: Any) -> None:
        names: dict[str, int] = {}
        keys: dict[str, Path] = {}
        consumers: list[Consumer] = []
        for number, value in enumerate(self.items(raw, ("consumers",), 1_000_000)):
            consumer = self.validate(Consumer, value, ("consumers", number))
            if consumer is None:
                continue
            if consumer.name in names:
                self.report(
                    Finding(
                        "duplicate_name",
                        ("consumers", number, "name"),
                        f"a consumer {consumer.name!r} is already at consumers[{names[consumer.name]}]",
                    )
                )
            names.setdefault(consumer.name, number)
            if consumer.plan is not None and consumer.plan not in self.config.plans:
                hint = did_you_mean(consumer.plan, self.config.plans)
                what = f"there is no plan {consumer.plan!r}"
                self.report(Finding("unknown_plan", ("consumers", number, "plan"), what, "one of `plans`", hint))
            for place, digest in enumerate(one.hash for one in consumer.keys):
                path: Path = ("consumers", number, "keys", place)
                if digest in keys:
                    first = keys[digest]
                    self.report(
                        Finding(
                            "duplicate_credential",
                            path,
                            f"the same key is already at consumers[{first[1]}].keys[{first[3]}]",
                            "each key once, or nobody knows who is asking",
                        )
                    )
                keys.setdefault(digest, path)
            consumers.append(consumer)
        self.config.consumers = tuple(consumers)

    def plans(self, raw: Any) -> None:
        if raw is None:
            return
        if not isinstance(raw, dict) or len(raw) > MAX_PLANS:
            what = "is not a mapping" if not isinstance(raw, dict) else "has too many plans"
            self.report(Finding("wrong_type", ("plans",), what, f"NAME: {{scopes: …}}, at most {MAX_PLANS}"))
            return
        for name, value in raw.items():
            self.name(name, ("plans", name))
            plan = self.validate(Plan, {} if value is None else value, ("plans", name))
            if plan is not None:
                self.config.plans[name] = plan

    def tests(self, raw: Any) -> None:
        found = []
        for number, value in enumerate(self.items(raw, ("tests",), MAX_TESTS)):
            test = self.validate(ConfigTest, value, ("tests", number))
            if test is not None:
                found.append((test, value.line if isinstance(value, Map) else 0))
        self.config.tests = tuple(found)

    # -------------------------------------------------------------------------------------- policies

    def spec(self, name: str) -> PolicySpec | None:
        if name not in self.specs:
            self.specs[name] = self.resolver(name)
        return self.specs[name]

    def policies(self, raw: Any, path: Path) -> tuple[PolicyUse, ...]:
        """A list of bare names and `{name: options}`."""
        uses: list[PolicyUse] = []
        marks = raw.marks if isinstance(raw, Seq) else None
        for number, item in enumerate(self.items(raw, path, MAX_POLICIES)):
            where = (*path, number)
            line, col = marks[number] if marks else (0, 0)
            if isinstance(item, str):
                use = self.policy(str(item), None, where, where)
            elif isinstance(item, dict) and len(item) == 1:
                name, options = next(iter(item.items()))
                use = self.policy(name, options, where, (*where, name))
            else:
                hint = ""
                if isinstance(item, dict) and len(item) > 1:
                    hint = "indent the options below the name; each policy begins with its own '- '"
                self.report(Finding("wrong_type", where, "is not a policy", "NAME, or one NAME: {options}", hint))
                continue
            if use is not None:
                use.line, use.col = line, col
                uses.append(use)
        return tuple(uses)

    def policy(self, name: str, options: Any, where: Path, at: Path) -> PolicyUse | None:
        try:
            spec = self.spec(name)
        except Exception as error:
            self.report(
                Finding(
                    "unknown_policy",
                    at,
                    f"the policy {name[:100]!r} can not be loaded: {error}",
                    "package.module:Class that can be imported",
                    at_key=True,
                )
            )
            return None
        if spec is None:
            known = sorted(self.resolver.names())
            hint = did_you_mean(name, known)
            self.report(
                Finding(
                    "unknown_policy",
                    at,
                    f"there is no policy {name[:100]!r}",
                    "" if hint else "one of " + ", ".join(known),
                    hint,
                    at_key=True,
                )
            )
            return None
        context = self.context["templates"] = []
        raw = {} if options is None else options
        model = spec.options
        try:
            checked = model.model_validate(raw, context=self.context)
        except ValidationError as error:
            for finding in from_validation(error, raw, at, model):
                self.report(finding)
            return None
        except Exception as error:  # a validator of someone else's policy: say so, go on
            self.report(Finding("bad_value", at, f"the policy's own check failed: {type(error).__name__}"))
            return None
        self.later(checked, at)
        self.references(spec, checked, at)
        return PolicyUse(name, spec, checked, where, templates=tuple(context))

    def references(self, spec: PolicySpec, options: Any, at: Path) -> None:
        """What a policy's options name must be there."""
        from fastgw.config.routes import known_service

        for kind, name, path in spec.references(options) if spec.references is not None else ():
            where = (*at, *path)
            if kind == "service":
                known_service(self, name, where)
            elif kind == "store" and name != "memory" and getattr(self.config.stores, name, None) is None:
                self.report(
                    Finding("missing_key", where, f"there is no store {name!r}", f"stores: {{{name}: {{url: …}}}}")
                )
            elif kind == "credential":
                there = any(getattr(one, name) for one in self.config.consumers) or self.reported(("consumers",))
                self.tell(None if there else nobody_has(name, where, self.config.api_keys.store is not None))

    def tls(self) -> None:
        """Reads the files of certificates. Without TLS nothing is imported that could."""
        services = self.config.services.values()
        if (
            any(listener.own_tls is not None for listener in self.config.server.listeners)
            or any(service.tls is not None for service in services)
            or any(service.https for service in services)
        ):
            from fastgw.config.tls import check_tls

            check_tls(self)

    # -------------------------------------------------------------------------------------- across rooms

    def cross(self) -> None:
        config = self.config
        for name in self.service_names - self.used_services:
            self.report(
                Finding(
                    "unused",
                    ("services", name),
                    f"no route uses the service {name!r}",
                    at_key=True,
                    severity="warning",
                )
            )
        seen: dict[Any, int] = {}
        for number, listener in enumerate(config.server.listeners):
            path: Path = ("server", "listeners", number, "bind")
            if listener.bind in seen and (listener.bind.port or listener.bind.unix):
                self.report(
                    Finding(
                        "conflict",
                        path,
                        f"{listener.bind} is already at listeners[{seen[listener.bind]}]",
                        "each address once",
                    )
                )
            seen.setdefault(listener.bind, number)
        admin = config.admin
        if admin.enabled and admin.bind in seen and admin.bind.port:
            self.report(
                Finding("conflict", ("admin", "bind"), f"{admin.bind} is a public listener too", "another port")
            )
        if admin.enabled and not admin.bind.loopback and not admin.token:
            self.report(
                Finding(
                    "exposed",
                    ("admin", "bind"),
                    f"{admin.bind} can be reached from outside, and there is no `admin.token`",
                    "a token, or a loopback address such as 127.0.0.1:9901",
                )
            )
        for page in config.server.error_pages:
            if page.islower() and page not in FAILURES and page not in ("4xx", "5xx"):
                self.report(
                    Finding(
                        "bad_choice",
                        ("server", "error_pages", page),
                        f"the gateway has no error code {page!r}; only a policy of your own could answer with it",
                        hint=did_you_mean(page, FAILURES),
                        at_key=True,
                        severity="warning",
                    )
                )
        places: dict[str, int] = {}
        for number, public in enumerate(config.server.public_endpoints):
            self.tell(reachable_endpoint(public.path, config, ("server", "public_endpoints", number)))
            if public.path in places:
                self.report(
                    Finding(
                        "conflict",
                        ("server", "public_endpoints", number),
                        f"the path {public.path!r} is already at [{places[public.path]}]",
                    )
                )
            places.setdefault(public.path, number)

    def unread_templates(self, templates: list[tuple[Expanded, Path]]) -> None:
        """A request template in a value that takes none would be plain text by accident: an error."""
        broken = {finding.path for finding in self.findings}
        for value, path in templates:
            if value.used or any(path[:n] in broken for n in range(1, len(path) + 1)):
                continue
            self.report(
                Finding(
                    "bad_reference",
                    path,
                    "holds a request template (${…}), and this value takes none",
                    "${UPPER_SNAKE} for the environment, or '$${' for the text",
                )
            )


@functools.cache
def marked_fields(model: type[BaseModel]) -> dict[str, bool]:
    """The fields that are of a later version (True), or are rooms that may have such fields (False)."""
    fields = fields_of(model)
    return {name: is_later(info) for name, info in fields.items() if is_later(info) or models_in(info.annotation)}


VALIDATORS: dict[Any, Any] = {}


def validator(model: Any) -> Any:
    found = VALIDATORS.get(model)
    if found is None:
        found = VALIDATORS[model] = TypeAdapter(model).validator
    return found


__all__ = ["Check", "field_names", "not_implemented", "validator"]
