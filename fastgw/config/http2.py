"""HTTP/2, checked: is it built in, and do the schemes of a service's endpoints fit what is to be spoken to them?"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import replace

from fastgw.config.errors import Finding, Path
from fastgw.config.schema import Config
from fastgw.config.schema.routes import PolicyUse, Route
from fastgw.config.schema.services import Service

HINT = "libnghttp2-dev installed, and fastgw built again"


def check_http2(config: Config) -> Iterable[Finding]:
    """Asked for in so many words, HTTP/2 must be there; by default it is spoken to clients where it can be."""
    if importlib.util.find_spec("fastgw._core.h2") is None:
        asked: list[Path] = [
            ("server", "listeners", number, "http2")
            for number, listener in enumerate(config.server.listeners)
            if "http2" in listener.model_fields_set and listener.http2.enabled
        ]
        asked += [("services", name, "protocol") for name, one in config.services.items() if one.protocol != "http/1.1"]
        for path in asked:
            yield Finding("not_built", path, "this fastgw was built without HTTP/2", HINT)
    for name, service in config.services.items():
        for finding in check_service(service):
            yield replace(finding, path=("services", name, *finding.path))
    for route in config.routes:
        for use in route.policies:
            if use.spec.http2:
                yield from check_policy(config, route, use)


def check_policy(config: Config, route: Route, use: PolicyUse) -> Iterable[Finding]:
    """One that speaks HTTP/2 stands on a route: do its services? (One for every route may be meant for some.)"""
    for name in filter(None, (route.service, *(share.service for share in route.split))):
        service = config.services.get(name)
        if service is None:
            continue
        if service.protocol == "http/1.1" or (service.protocol == "auto" and not service.https):
            message = f"{use.name} speaks gRPC to {name}, which is spoken to by HTTP/1.1"
            yield Finding("conflict", use.path, message, f"`protocol: h2c`, or `h2`, in `services.{name}`")


def check_service(service: Service) -> Iterable[Finding]:
    """Paths are of the service."""
    wrong = {"h2": "http", "h2c": "https"}.get(service.protocol)
    if wrong is not None:
        other = "h2c" if wrong == "http" else "h2"
        message = f"`protocol: {service.protocol}` is spoken {'with' if wrong == 'http' else 'without'} TLS"
        for number, endpoint in enumerate(service.endpoints):
            if endpoint.url.scheme == wrong:
                yield Finding(
                    "conflict", ("endpoints", number), f"{message}, and this is {wrong}", f"`protocol: {other}`"
                )
        if service.discovery is not None and service.discovery.scheme == wrong:
            message = f"{message}, and this is {wrong}"
            yield Finding("conflict", ("discovery", "scheme"), message, f"`protocol: {other}`")
    yield from check_health(service)
    if service.protocol == "auto" and not service.https:
        message = "no endpoint is https: HTTP/1.1 is spoken, for only TLS can negotiate"
        yield Finding("unused", ("protocol",), message, "`protocol: h2c`, or https endpoints", severity="warning")
    if service.protocol == "http/1.1" and "http2" in service.model_fields_set:
        message = "has no effect: HTTP/1.1 is spoken"
        yield Finding("unused", ("http2",), message, "`protocol: h2`, `h2c` or `auto`", severity="warning")


def check_health(service: Service) -> Iterable[Finding]:
    """Checks by gRPC: is what they need installed, and is HTTP/2 spoken where they ask?"""
    check = service.health_check
    if check is None or check.type != "grpc":
        return
    path: Path = ("health_check", "type")
    for name in ("h2", "google", "google.protobuf"):
        if importlib.util.find_spec(name) is None:
            message = f"the package {name.replace('google.', '')} is not installed: pip install 'fastgw[grpc]'"
            yield Finding("unavailable", path, message)
            return
    if check.port is None and (service.protocol == "http/1.1" or (service.protocol == "auto" and not service.https)):
        message = "gRPC needs HTTP/2, and endpoints of this service are spoken to by HTTP/1.1"
        yield Finding("conflict", path, message, "`protocol: h2c`, or `h2`, or a `port` where gRPC is spoken")
