"""The room `services.NAME.discovery`: who knows the endpoints of a service."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ValidationInfo, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from fastgw.config.fields import Duration, Name, Secret, shown, wrong
from fastgw.config.schema.address import is_ip, parse_origin
from fastgw.config.schema.base import Room, key

KEYS_OF = {
    "dns": ("address", "port", "record", "scheme"),
    "file": ("path", "scheme"),
    "consul": ("address", "token", "ca", "tags", "passing", "datacenter", "scheme"),
    "etcd": ("address", "token", "user", "password", "ca", "prefix", "scheme"),
    "kubernetes": ("address", "token", "ca", "namespace", "port", "scheme"),
}
"""What each kind takes beside the keys that all of them have."""
COMMON = ("type", "service", "refresh", "keep", "wait", "timeout", "max_endpoints")
NEEDED = {"dns": (), "file": ("path",), "consul": ("address",), "etcd": ("address",), "kubernetes": ()}
REFRESH = {"dns": 30.0, "file": 1.0, "consul": 30.0, "etcd": 300.0, "kubernetes": 300.0}


def parse_address(value: object) -> str:
    """`host:port` or a URL without a path → as it was written, without a slash at its end."""
    text = str(value).strip() if isinstance(value, str) else ""
    if text.startswith("unix:"):
        raise wrong("bad_value", f"{shown(value)} is a unix socket", "host:port, http://host:port or https://host:port")
    try:
        if parse_origin(text if "://" in text else f"http://{text}").scheme == "tcp":
            raise wrong("bad_value", f"{shown(value)} is no address", "http")
    except PydanticCustomError:
        raise wrong(
            "bad_value", f"{shown(value)} is no address", "host:port, http://host:port or https://host:port"
        ) from None
    return text.removesuffix("/")


SourceAddress = Annotated[
    str, BeforeValidator(parse_address), WithJsonSchema({"type": "string", "examples": ["consul:8500"]})
]


def beside(value: object, info: ValidationInfo) -> object:
    """A path is meant from the folder of the configuration file."""
    base = (info.context or {}).get("base")
    return os.path.abspath(os.path.join(base, value)) if base and isinstance(value, str) and value else value


BesideFile = Annotated[str, BeforeValidator(beside), WithJsonSchema({"type": "string"})]


class Discovery(Room):
    """Where the endpoints of a service are learnt from. Asked once per host, in the background."""

    type: Literal["dns", "file", "consul", "etcd", "kubernetes"] = key(doc="Who knows the endpoints.")
    address: SourceAddress | None = key(
        None,
        "Where it is asked: `host:port` or a URL (consul, etcd; kubernetes: by default that of the cluster it runs in; "
        "dns: the address of a name server, by default those of the host).",
        example="consul:8500",
    )
    service: str | None = key(
        None, "The service's name there; by default its name here.", min_length=1, max_length=253, example="users-v2"
    )
    refresh: Duration | None = key(
        None,
        "How often, when nothing changes: by default 30s for dns (the TTL when that is less) and consul (the `wait` of "
        "its blocking queries), 1s for file, 5m for the watches of etcd and kubernetes.",
        ge=0.1,
        le=86400,
        example="30s",
    )
    keep: Duration = key(
        86400.0,
        "How long the last good answer is used while there is no other; then `endpoints` of the file, or none.",
        ge=0,
        le=365 * 86400,
    )
    wait: Duration = key(
        10.0, "How long `/ready` and a reload wait for the first answer; then requests get 503.", ge=0, le=600
    )
    timeout: Duration = key(5.0, "How long one answer may take.", ge=0.05, le=300)
    max_endpoints: int = key(1000, "Endpoints that are used; more are left out, which is told.", ge=1, le=10000)
    scheme: Literal["http", "https", "tcp"] = key(
        "http", "How the endpoints are spoken to; `tcp` for the services of listeners with `protocol: tcp`."
    )
    token: Secret | None = key(
        None, "What is sent to be let in (consul, etcd; kubernetes: by default the service account's)."
    )
    user: str | None = key(None, "Who asks (etcd).", min_length=1, max_length=200, example="gateway")
    password: Secret | None = key(None, "Its password (etcd).")
    ca: BesideFile | None = key(
        None,
        "A file with the certificates that sign for an https:// `address`; by default those of the host.",
        min_length=1,
        max_length=4096,
        example="ca.crt",
    )
    port: int | str | None = key(
        None, "Port of the endpoints (dns: 80 by default; kubernetes: a name or number).", example="http"
    )
    record: Literal["auto", "address", "srv"] = key(
        "auto", "What is looked up (dns): A and AAAA, or SRV; `auto` is SRV for a name that begins with `_`."
    )
    path: BesideFile | None = key(
        None, "The file (file): YAML or JSON.", min_length=1, max_length=4096, example="endpoints.yaml"
    )
    tags: tuple[Name, ...] = key((), "Tags that an instance must have (consul).", max_length=20, example=["v2"])
    passing: bool = key(
        True, "Only instances whose checks all pass (consul); `false` adds those with warnings, never critical ones."
    )
    datacenter: str | None = key(None, "The datacenter (consul).", pattern=r"^[A-Za-z0-9_-]{1,100}$", example="dc2")
    prefix: str = key(
        "/services/", "What the keys of a service begin with, before its name and a slash (etcd).", max_length=1000
    )
    namespace: str | None = key(
        None,
        "The namespace (kubernetes); by default its own.",
        pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        example="shop",
    )

    @property
    def interval(self) -> float:
        """`refresh`, or the default of its kind."""
        return REFRESH[self.type] if self.refresh is None else self.refresh

    @model_validator(mode="after")
    def _of_its_kind(self) -> Any:
        mine = (*COMMON, *KEYS_OF[self.type])
        for name in sorted(self.model_fields_set):
            if name not in mine and getattr(self, name) is not None:
                raise wrong("conflict", f"`{name}` is nothing for {self.type}", "one of " + ", ".join(mine))
        for name in NEEDED[self.type]:
            if getattr(self, name) is None:
                raise wrong("missing_key", f"{self.type} needs `{name}`", f"{name}: …")
        srv = self.record == "srv" or (self.record == "auto" and (self.service or "").startswith("_"))
        if self.type == "dns" and self.scheme == "tcp" and self.port is None and not srv:
            raise wrong("missing_key", "`scheme: tcp` has no port of its own", "port: …, or an SRV record")
        if self.type == "dns":
            if isinstance(self.port, str) or not 1 <= (self.port or 80) <= 65535:
                raise wrong("bad_value", f"`port` {shown(self.port)} is no port", "1 to 65535")
            server = (self.address or "127.0.0.1").rpartition("://")[2]
            host = parse_origin(f"http://{server}").host
            if not is_ip(host):
                raise wrong("bad_value", f"{shown(self.address)} is a name", "the IP address of a name server")
        if (self.user is None) != (self.password is None):
            raise wrong("missing_key", "`user` and `password` go together", "both or none")
        if self.user is not None and self.token is not None:
            raise wrong("conflict", "there is a `token`, and a `user` too", "one of them")
        return self
