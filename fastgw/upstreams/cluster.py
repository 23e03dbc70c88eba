"""How the API of Kubernetes is asked: in a pod the address, the token and the CA are those of its service account.

The token is read again for every call, because it is rotated.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Any

from fastgw.config.schema.address import Origin, parse_origin
from fastgw.upstreams.discovery.base import SourceError
from fastgw.upstreams.discovery.http import Call

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class Cluster:
    """`options`: `address`, `token`, `ca`, `namespace` and `timeout` of the configuration, each but the last may be
    None."""

    def __init__(self, options: Any, account: Path = ACCOUNT) -> None:
        self.options = options
        self.account = account

    def origin(self) -> Origin:
        if self.options.address is not None:
            address = self.options.address
            return parse_origin(address if "://" in address else f"https://{address}")
        host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        if not host:
            raise SourceError("this is no pod (KUBERNETES_SERVICE_HOST is not set), and there is no `address`")
        return parse_origin(f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}")

    def file(self, name: str) -> str:
        try:
            with open(self.account / name) as file:
                return file.read(1024 * 1024).strip()
        except (OSError, ValueError):
            return ""

    @property
    def namespace(self) -> str:
        return self.options.namespace or self.file("namespace") or "default"

    def context(self, origin: Origin) -> ssl.SSLContext | None:
        if origin.scheme != "https":
            return None
        own = self.account / "ca.crt"
        return trust_of(self.options.ca or (str(own) if own.exists() else None))

    def call(self, target: str) -> Call:
        token = self.options.token.reveal() if self.options.token is not None else self.file("token")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        origin = self.origin()
        timeout = self.options.timeout
        return Call(origin, "GET", target, headers=headers, timeout=timeout, trust=self.context(origin))


def trust_of(ca: str | None) -> ssl.SSLContext:
    """Who signs: the certificates of a file, or those of the host."""
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise SourceError(f"the CA certificates cannot be read: {error}") from None
