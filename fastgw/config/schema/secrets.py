"""The room `secrets`: who keeps the secrets that are written as `vault:…` and `kubernetes:…`."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from fastgw.config.fields import Duration, Secret, wrong
from fastgw.config.schema.base import Room, key
from fastgw.config.schema.discovery import BesideFile, SourceAddress

TAKES = {"token": ("token",), "approle": ("role_id", "secret_id"), "kubernetes": ("role", "token_file")}
"""What each way to log in at Vault takes beside `mount`, all of it needed but `token_file`."""
PATH = r"^[A-Za-z0-9_.-]{1,100}(/[A-Za-z0-9_.-]{1,100}){0,9}$"


class VaultAuth(Room):
    """How Vault is told who asks. What it gives is renewed before it expires, or asked for anew."""

    method: Literal["token", "approle", "kubernetes"] = key(doc="Which of its auth methods.")
    token: Secret | None = key(None, "The token (token).", example="file:vault-token")
    role_id: str | None = key(None, "The RoleID (approle).", min_length=1, max_length=200, example="fastgw-edge")
    secret_id: Secret | None = key(None, "The SecretID (approle).", example="file:vault-secret-id")
    role: str | None = key(None, "The role (kubernetes).", min_length=1, max_length=200, example="fastgw")
    token_file: BesideFile | None = key(
        None, "A file with the token of a service account (kubernetes), read at each login; by default the pod's own.",
        min_length=1, max_length=4096, example="/var/run/secrets/tokens/vault",
    )  # fmt: skip
    mount: str | None = key(
        None, "Where the method is mounted; by default the method's name.", pattern=PATH, example="approle"
    )

    @model_validator(mode="after")
    def _of_its_method(self) -> VaultAuth:
        mine = TAKES[self.method]
        for name in ("token", "role_id", "secret_id", "role", "token_file"):
            if name not in mine and getattr(self, name) is not None:
                raise wrong("conflict", f"`{name}` is nothing for the method {self.method}", " and ".join(mine))
            if name in mine and name != "token_file" and getattr(self, name) is None:
                raise wrong("missing_key", f"the method {self.method} needs `{name}`", f"{name}: …")
        return self


class VaultSource(Room):
    """HashiCorp Vault or OpenBao, KV version 2: `vault:path#field`, `vault:path?version=3#field`."""

    address: SourceAddress = key(doc="Where it is asked.", example="https://vault.example.com:8200")
    auth: VaultAuth = key(doc="Who asks.")
    mount: str = key("secret", "Where the secrets engine is mounted.", pattern=PATH)
    namespace: str | None = key(None, "Its namespace, where it has some.", pattern=PATH, example="teams/edge")
    ca: BesideFile | None = key(
        None, "A file with the certificates that sign for it; by default those of the host.",
        min_length=1, max_length=4096, example="vault-ca.crt",
    )  # fmt: skip
    timeout: Duration = key(3.0, "How long one answer may take.", ge=0.05, le=60)


class KubernetesSource(Room):
    """Secrets of Kubernetes, asked for by its API: `kubernetes:name#key`, `kubernetes:namespace/name#key`."""

    address: SourceAddress | None = key(
        None, "Where it is asked; by default the cluster it runs in.", example="https://10.0.0.1:6443"
    )
    namespace: str | None = key(
        None, "The namespace of names that have none; by default its own.",
        pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", example="edge",
    )  # fmt: skip
    token: Secret | None = key(None, "What is sent to be let in; by default the service account's.")
    ca: BesideFile | None = key(
        None, "A file with the certificates that sign for it; by default the service account's.",
        min_length=1, max_length=4096, example="ca.crt",
    )  # fmt: skip
    timeout: Duration = key(3.0, "How long one answer may take.", ge=0.05, le=60)


class Secrets(Room):
    """Who keeps secrets. Any key that takes a secret may be written `vault:path#field` or `kubernetes:name#key`."""

    refresh: Duration = key(
        60.0, "How often they are asked whether a secret has changed; then it is taken into use.", ge=1, le=86400
    )
    vault: VaultSource | None = key(None, "HashiCorp Vault, KV version 2.")
    kubernetes: KubernetesSource | None = key(None, "Secrets of the cluster.")
