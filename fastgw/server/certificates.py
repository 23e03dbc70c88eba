"""Certificates in use: their files are looked at again and again, ticket keys are exchanged, ends are told.

A file that changed is read when it has been still from one look to the next, so that a certificate and its key may
be written one after the other. What can not be used is told once and counted; what was in use stays in use.
Nothing here starts anything: who owns a `CertificateWatch` calls `poll`, brings the change to the workers, and says
`taken` when it has.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from fastgw.config import Config
from fastgw.config.errors import Finding
from fastgw.config.material import ListenerMaterial, Material
from fastgw.plan.tls import TlsSpec

logger = logging.getLogger("fastgw.tls")

POLL_SECONDS = 2.0
RENEW = 30 * 86400
"""Seconds before its end from which on a self-signed certificate is made anew."""

Loaded = tuple[Any, list[Finding]]
Signature = tuple[tuple[int, int, int, int] | None, ...]


@dataclass(slots=True, eq=False)
class Part:
    """Files that are read together. `value` is what is in use; `read` gives a new one (None: can not be used)."""

    owner: str
    paths: tuple[str, ...]
    read: Callable[[], Loaded]
    value: Any = field(repr=False)
    seen: Signature | None = None
    used: Signature | None = None
    refused: Signature | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be brought to the workers.

    material   what the files hold now, whole
    rotate     listeners that get a new ticket key
    """

    material: Material
    rotate: frozenset[str]
    parts: Mapping[Part, tuple[Any, Signature]] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class CertificateState:
    """One certificate that is served. `error`: why its files as they are now are not, or an empty string."""

    listener: str
    name: str
    kind: str
    not_after: int
    error: str = ""

    def days(self, now: float | None = None) -> float:
        """Days until its end, negative after it."""
        return (self.not_after - (time.time() if now is None else now)) / 86400


def signature(path: str) -> tuple[int, int, int, int] | None:
    """Changes when the file does, also when a link (as Kubernetes and certbot make them) leads elsewhere."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


class CertificateWatch:
    """`failures` counts files that could not be taken into use. Times are seconds of any clock that goes on."""

    def __init__(self) -> None:
        self.failures = 0
        self.material = Material()
        self.tls: Mapping[str, TlsSpec] = {}
        self.rotate_at: dict[str, float] = {}
        self.own: set[str] = set()
        self.listeners: dict[str, tuple[list[Part], Part | None]] = {}
        self.services: dict[str, Part] = {}

    @property
    def empty(self) -> bool:
        """Without TLS there is nothing to look at."""
        return not self.tls and not self.services

    # ------------------------------------------------------------------ what is in force

    def follow(self, config: Config, tls: Mapping[str, TlsSpec], now: float) -> None:
        """A configuration is in force. Its files are read once more: they may have changed since it was checked."""
        before, self.tls, self.material = self.tls, tls, config.tls
        self.listeners = {
            name: listener_parts(name, listener.own_tls, config.tls.listeners[name])
            for listener in config.server.listeners
            if listener.own_tls is not None and (name := str(listener.bind)) in config.tls.listeners
        }
        self.services = {
            name: service_part(name, config.services[name].tls, material)
            for name, material in config.tls.services.items()
            if config.services[name].tls is not None
        }
        here = [(str(one.bind), one.own_tls) for one in config.server.listeners]
        self.own = {name for name, tls in here if tls is not None and tls.self_signed is not None}
        for name in self.rotate_at.keys() - tls.keys():
            del self.rotate_at[name]
        for name, spec in tls.items():
            same = name in before and before[name].ticket_keys[:1] == spec.ticket_keys[:1]
            at = now + spec.ticket_rotate
            self.rotate_at[name] = min(at, self.rotate_at[name]) if same and name in self.rotate_at else at

    def taken(self, change: Change, tls: Mapping[str, TlsSpec], now: float) -> None:
        """The workers have the change; `tls` is what they have."""
        self.material, self.tls = change.material, tls
        for part, (value, used) in change.parts.items():
            part.value, part.used = value, used
            logger.info("%s: %s are in use", part.owner, ", ".join(part.paths))
        for name in change.rotate:
            self.rotate_at[name] = now + tls[name].ticket_rotate

    def parts(self) -> Iterable[Part]:
        for certificates, clients in self.listeners.values():
            yield from certificates
            if clients is not None:
                yield clients
        yield from self.services.values()

    def states(self) -> list[CertificateState]:
        """Every certificate that is served."""
        found = []
        for listener, spec in self.tls.items():
            parts = self.listeners.get(listener, ([], None))[0]
            for number, certificate in enumerate(spec.certificates):
                error = parts[number].error if number < len(parts) else ""
                state = CertificateState(listener, certificate.name, certificate.kind, certificate.not_after, error)
                found.append(state)
        return found

    # ------------------------------------------------------------------ what changed

    def poll(self, now: float, wall: float | None = None) -> Change | None:
        """A look at everything: what is to be brought to the workers, or None. Reads files; may run in a thread."""
        wall = time.time() if wall is None else wall
        changed: dict[Part, tuple[Any, Signature]] = {}
        for part in self.parts():
            found = self.look(part)
            if found is not None:
                changed[part] = found
        rotate = {name for name, at in self.rotate_at.items() if at <= now and self.tls[name].ticket_keys}
        renew = any(self.tls[name].certificates[0].not_after - wall < RENEW for name in self.own & self.tls.keys())
        if not changed and not rotate and not renew:
            return None
        return Change(self.with_parts(changed), frozenset(rotate), changed)

    def look(self, part: Part) -> tuple[Any, Signature] | None:
        """What a part is now, when that is new and good."""
        now: Signature = tuple(map(signature, part.paths))
        if now == part.used or now == part.refused:
            part.seen = now
            return None
        if now != part.seen:
            part.seen = now
            return None
        value, findings = part.read()
        if tuple(map(signature, part.paths)) != now:
            return None
        if value is None:
            part.refused = now
            part.error = words(findings)
            self.failures += 1
            logger.error("%s: %s: %s; what was in use stays", part.owner, ", ".join(part.paths), part.error)
            return None
        part.refused, part.error = None, ""
        if value == part.value:
            part.used = now
            return None
        if findings:
            logger.warning("%s: %s", part.owner, words(findings))
        return value, now

    def with_parts(self, changed: Mapping[Part, tuple[Any, Signature]]) -> Material:
        def value(part: Part) -> Any:
            return changed[part][0] if part in changed else part.value

        listeners = dict(self.material.listeners)
        for name, (certificates, clients) in self.listeners.items():
            client_ca, crl = value(clients) if clients is not None else (b"", b"")
            listeners[name] = ListenerMaterial(tuple(map(value, certificates)), client_ca, crl)
        services = {**self.material.services, **{name: value(part) for name, part in self.services.items()}}
        return Material(listeners, services)


def words(findings: Iterable[Finding]) -> str:
    """Errors when there are any, else the warnings."""
    findings = list(findings)
    errors = [finding for finding in findings if finding.severity == "error"]
    return "; ".join(f"{'.'.join(map(str, f.path))}: {f.message}" for f in errors or findings)


def listener_parts(name: str, tls: Any, material: ListenerMaterial) -> tuple[list[Part], Part | None]:
    # what reads certificates is imported only where there are some
    from fastgw.config.certificates import CertificateFiles, load, load_authorities, load_revocations
    from fastgw.config.tls import files_of

    def read_certificate(files: CertificateFiles) -> Loaded:
        value, findings = load(files)
        if value is None and {f.path[0] for f in findings if f.severity == "error"} == {"ocsp"}:
            # a staple is a favour: a renewed certificate does not wait for it
            value, _ = load(replace(files, ocsp=None))
        return value, findings

    def read_clients() -> Loaded:
        authorities, findings = load_authorities(tls.client_ca, "client_ca")
        revocations = b""
        if tls.crl is not None and authorities:
            revocations, more = load_revocations(tls.crl, authorities)
            findings += more
        bad = any(finding.severity == "error" for finding in findings)
        return (None if bad else (authorities, revocations)), findings

    certificates = []
    for entry, value in zip(tls.certificates, material.certificates, strict=False):
        files = files_of(entry)
        certificates.append(Part(f"listener {name}", files.paths(), partial(read_certificate, files), value))
    clients = None
    if tls.client_ca is not None:
        paths = (tls.client_ca,) if tls.crl is None else (tls.client_ca, tls.crl)
        clients = Part(f"listener {name}", paths, read_clients, (material.client_ca, material.crl))
    return certificates, clients


def service_part(name: str, tls: Any, material: Any) -> Part:
    from fastgw.config.tls import check_upstream

    def read() -> Loaded:
        value, findings = check_upstream(tls)
        return (None if any(finding.severity == "error" for finding in findings) else value), findings

    paths = tuple(path for path in (tls.ca, tls.cert, tls.key) if path is not None)
    return Part(f"service {name}", paths, read, material)
