"""Secrets of Kubernetes (core/v1), read one by one: who may `get` one by its name need not be let list them all.

https://kubernetes.io/docs/reference/kubernetes-api/config-and-storage-resources/secret-v1/
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import orjson

from fastgw.config.secret_refs import Unreadable
from fastgw.upstreams.cluster import Cluster
from fastgw.upstreams.discovery.base import SourceError

DENIED = {401: "the token is not known", 403: "the token is not allowed to read it", 404: "there is no such secret"}


class KubernetesSecrets:
    def __init__(self, options: Any) -> None:
        self.cluster = Cluster(options)

    async def read(self, path: str, version: int) -> Mapping[str, Any]:
        namespace, _, name = path.rpartition("/")
        target = f"/api/v1/namespaces/{namespace or self.cluster.namespace}/secrets/{name}"
        async with self.cluster.call(target) as call:
            if call.status in DENIED:
                raise Unreadable(f"Kubernetes says {call.status}: {DENIED[call.status]}")
            if call.status != 200:
                raise SourceError(f"Kubernetes answered with {call.status}")
            body = await call.text()
        try:
            data = orjson.loads(body)["data"] or {}
            return {key: base64.b64decode(value, validate=True).decode() for key, value in data.items()}
        except (ValueError, KeyError, TypeError, AttributeError, binascii.Error):
            # `from None`: what was read would stand in the traceback
            raise SourceError("Kubernetes answered with something that is no secret of text") from None
