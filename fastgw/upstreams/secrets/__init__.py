"""Who keeps secrets: one file per kind. Each answers `await read(path, version)` with the fields of one document.

`Unreadable`: it says that there is no such thing, or that it is not for us. SourceError, OSError: it did not answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from fastgw.upstreams.secrets.kubernetes import KubernetesSecrets
from fastgw.upstreams.secrets.vault import Vault

__all__ = ["Provider", "open_provider"]


class Provider(Protocol):
    async def read(self, path: str, version: int) -> Mapping[str, Any]: ...


def open_provider(source: str, options: Any) -> Provider:
    return Vault(options) if source == "vault" else KubernetesSecrets(options)
