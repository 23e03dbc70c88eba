"""The format of the configuration, one file per room. `Config` is the checked whole.

    Config
      .file        str                     where it came from
      .server      Server                  listeners, limits, timeouts, … (server.py)
      .admin       Admin                   the operators' listener
      .stores      Stores                  what policies share (stores.py)
      .cache       Cache                   memory for answers (cache.py)
      .services    dict[str, Service]      by name (services.py)
      .consumers   tuple[Consumer, ...]     who asks (consumers.py)
      .plans       dict[str, Plan]         by name
      .priorities  Priorities | None       classes of requests (priorities.py)
      .api_keys    ApiKeys                 where managed keys are
      .observability Observability         access_log, metrics, tracing, logging (observe.py)
      .policies    tuple[PolicyUse, ...]   for every route, in order (routes.py)
      .routes      tuple[Route, ...]       in file order; match keys are flat on the route
      .tls         Material                what the files of certificates held (material.py)
      .secret_files  tuple[(path, FileStamp), ...]   files that secrets were read from, as they were
      .secret_refs tuple[(SecretRef, stamp), ...]     kept elsewhere; a stamp only tells one value from another
      .secrets_missing tuple[(words, may wait), ...]  those of them that could not be read
      .stamp       FileStamp | None        of the configuration file, when it was read
      .tests       tuple[(ConfigTest, line), ...]   what `fastgw test` runs (tests.py)

Durations are seconds (float), sizes bytes (int), address ranges `ipaddress` networks, secrets `Secret`,
templates `Template`; a shorthand of the file is always its long form here. Nothing is None that has a
default.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fastgw.config.errors import Path
from fastgw.config.fields import FileStamp
from fastgw.config.material import Material
from fastgw.config.schema.cache import Cache
from fastgw.config.schema.consumers import ApiKeys, Consumer, Plan
from fastgw.config.schema.observe import Observability
from fastgw.config.schema.priorities import Priorities
from fastgw.config.schema.routes import PolicyUse, Route
from fastgw.config.schema.secrets import Secrets
from fastgw.config.schema.server import Admin, Server
from fastgw.config.schema.services import Service
from fastgw.config.schema.stores import Stores
from fastgw.config.schema.tests import ConfigTest
from fastgw.config.secret_refs import SecretRef

SINGLE_ROOMS: dict[str, Any] = {
    "secrets": Secrets,
    "server": Server,
    "admin": Admin,
    "stores": Stores,
    "cache": Cache,
    "observability": Observability,
    "api_keys": ApiKeys,
    "priorities": Priorities,
}
ROOMS = (
    "server", "admin", "secrets", "stores", "cache", "services", "consumers", "plans", "api_keys", "priorities",
    "observability", "policies", "routes", "tests",
)  # fmt: skip


@dataclass(slots=True, eq=False)
class Config:
    """The checked configuration. To be read only."""

    file: str = "<text>"
    server: Server = field(default_factory=Server)
    admin: Admin = field(default_factory=Admin)
    secrets: Secrets = field(default_factory=Secrets)
    stores: Stores = field(default_factory=Stores)
    cache: Cache = field(default_factory=Cache)
    services: dict[str, Service] = field(default_factory=dict)
    consumers: tuple[Consumer, ...] = ()
    plans: dict[str, Plan] = field(default_factory=dict)
    api_keys: ApiKeys = field(default_factory=ApiKeys)
    priorities: Priorities | None = None
    observability: Observability = field(default_factory=Observability)
    policies: tuple[PolicyUse, ...] = ()
    routes: tuple[Route, ...] = ()
    tls: Material = field(default_factory=Material)
    tests: tuple[tuple[ConfigTest, int], ...] = ()
    secret_files: tuple[tuple[str, FileStamp], ...] = ()
    secret_refs: tuple[tuple[SecretRef, bytes | None], ...] = ()
    secrets_missing: tuple[tuple[str, bool], ...] = ()
    stamp: FileStamp = None

    def chain(self, route: Route) -> tuple[PolicyUse, ...]:
        """The policies of a route in order: those for every route but `without`, then its own."""
        shared = self.policies
        if route.without:
            shared = tuple(use for use in shared if use.name not in route.without)
        return (*shared, *route.policies) if route.policies else shared

    def __repr__(self) -> str:
        return f"<Config {self.file}: {len(self.routes)} routes, {len(self.services)} services>"


__all__ = ["ROOMS", "SINGLE_ROOMS", "Config", "Path"]
