"""What the children of the supervisor are born with."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastgw._core.bans import BanTable
from fastgw._core.breaker import CircuitTable
from fastgw._core.cache_store import Storage
from fastgw._core.health import HealthTable
from fastgw._core.holds import HoldTable
from fastgw._core.limit_counts import LimitCounts
from fastgw._core.record import Stats
from fastgw._core.trial import TrialCounts
from fastgw._core.usage import UsageTable
from fastgw.config.schema.consumers import ApiKeys
from fastgw.config.schema.observe import AccessLog as AccessLogConfig
from fastgw.policies._keysets import KeySet, Source
from fastgw.server.compiled import Release
from fastgw.server.shared import SharedMemory
from fastgw.upstreams.discovery import EndpointSet


@dataclass(slots=True)
class WorkerStart:
    """What a worker is born with."""

    slot: int
    plan: int                                        # a memory file; see plan_file
    sockets: Mapping[str, Sequence[socket.socket]]
    agent: socket.socket
    stats: Stats
    buckets: Any
    health: HealthTable
    usage: UsageTable
    bans: BanTable
    api_keys: ApiKeys
    circuits: CircuitTable
    cache: Storage
    holds: HoldTable
    limit_counts: LimitCounts
    access_log: AccessLogConfig
    drain: float
    trial: TrialCounts
    addresses: Mapping[str, Any] = field(default_factory=dict)
    endpoints: Mapping[str, EndpointSet] = field(default_factory=dict)
    keys: Mapping[Source, KeySet] = field(default_factory=dict)
    held: bool = False                               # it accepts when the agent says so


@dataclass(slots=True)
class AgentStart:
    """What an agent is born with."""

    release: Release
    source: Any
    links: Mapping[int, socket.socket]
    pids: Mapping[int, int]
    supervisor: socket.socket
    admin: socket.socket | None
    memory: SharedMemory
    restarts: int = 0
    started_from: Any = None
    addresses: dict[str, Any] = field(default_factory=dict)
    endpoints: dict[str, EndpointSet] = field(default_factory=dict)
    keys: Mapping[Source, KeySet] = field(default_factory=dict)
    held: bool = False                               # the workers accept when it says so
