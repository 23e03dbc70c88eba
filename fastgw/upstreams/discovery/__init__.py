"""Where a service's endpoints are learnt from: one file per kind of source, one watcher for all of them.

    watcher = Watcher("users", options, fallback=(), publish=publish)   # options: config.schema.discovery.Discovery
    task = loop.create_task(watcher.live())

It runs once per host. `publish(EndpointSet)` is called for every change.
"""

from __future__ import annotations

from fastgw.upstreams.discovery.base import EndpointSet, Found, Source, SourceError
from fastgw.upstreams.discovery.watcher import Watcher

__all__ = ["EndpointSet", "Found", "Source", "SourceError", "Watcher"]
