"""Options of policies that know a service's methods: where its descriptors come from, and the worker's own of them."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from fastgw.config.fields import Duration, shown, wrong
from fastgw.config.schema.address import OriginUrl
from fastgw.config.schema.base import Room, key
from fastgw.config.schema.tls import FilePath, parse_file
from fastgw.policies.base import BuildContext, PolicyError
from fastgw.protocols import EXTRA
from fastgw.protocols.json_form import JsonOptions

if TYPE_CHECKING:
    from fastgw.protocols.transcoding import Transcoder

MAX_FILE = 16 * 1024 * 1024
REMEMBERED_SECONDS = 1.0
"""A start compiles the file twice, at once; a server is asked once."""


class DescriptorFile:
    """The content of a descriptor set, read where the configuration is checked: all workers have the same."""

    __slots__ = ("data", "digest", "name")

    def __init__(self, name: str, data: bytes) -> None:
        self.name = name
        self.data = data
        self.digest = hashlib.sha256(data).hexdigest()

    def __repr__(self) -> str:
        return f"<DescriptorFile {self.name} {self.digest[:12]}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DescriptorFile) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(cls.read)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string"}

    @classmethod
    def read(cls, value: object, info: ValidationInfo) -> DescriptorFile:
        """A path, absolute or beside the configuration file."""
        if isinstance(value, DescriptorFile):
            return value
        path = Path(parse_file(value, info))
        try:
            with path.open("rb") as stream:
                data = stream.read(MAX_FILE + 1)
        except OSError as error:
            message = f"{shown(value)} can not be read: {error.strerror}"
            raise wrong("file_unreadable", message, f"a readable file {shown(str(path))}") from None
        if len(data) > MAX_FILE:
            raise wrong("file_unreadable", f"{shown(value)} is too large", "at most 16 MiB")
        return cls(path.name, data)


class Reflection(Room):
    """A server that tells its own descriptors (gRPC Server Reflection, v1 or v1alpha)."""

    address: OriginUrl = key(doc="`http://host:port`, or `https://host:port`.", example="http://127.0.0.1:9011")
    timeout: Duration = key(10.0, "How long it may take.", ge=0.1, le=300, example="10s")
    ca: FilePath | None = key(
        None, "File with the authorities that are trusted, PEM; by default those that grpcio brings.",
        example="internal-ca.crt",
    )  # fmt: skip


_asked: dict[tuple[object, ...], tuple[float, DescriptorFile | PolicyError]] = {}


def reflected(given: Reflection, services: tuple[str, ...]) -> DescriptorFile:
    """Asks, and blocks meanwhile. PolicyError when the server does not tell."""
    from fastgw.protocols.reflection import ReflectionError, ask

    what = (os.getpid(), str(given.address), given.ca, services)
    at, found = _asked.get(what, (0.0, None))
    if found is None or time.monotonic() - at > REMEMBERED_SECONDS:
        try:
            found = DescriptorFile(str(given.address), ask(str(given.address), given.timeout, services, given.ca))
        except ReflectionError as error:
            found = PolicyError(str(error))
        _asked[what] = (time.monotonic(), found)
    if isinstance(found, PolicyError):
        raise found
    return found


def build(file: DescriptorFile, services: tuple[str, ...], automatic: str, options: JsonOptions) -> Transcoder:
    """PolicyError: what is wrong with the descriptors, or the package that is missing."""
    try:
        from fastgw.protocols.descriptors import DescriptorError, Descriptors
        from fastgw.protocols.transcoding import Transcoder
    except ImportError as error:
        raise PolicyError(EXTRA.format(name=error.name)) from None
    try:
        return Transcoder(Descriptors(file.data), services, automatic, options)
    except DescriptorError as error:
        raise PolicyError(f"{file.name}: {error}") from None


def shared(
    context: BuildContext, file: DescriptorFile, services: tuple[str, ...], automatic: str, options: JsonOptions
) -> Transcoder:
    """One for all routes of a worker that have the same, for as long as a plan has it."""
    kept: WeakValueDictionary[object, Transcoder]
    kept = context.shared.get_or_create("grpc:transcoders", WeakValueDictionary)
    what = (file.digest, services, automatic, options)
    found = kept.get(what)
    if found is None:
        found = kept[what] = build(file, services, automatic, options)
    return found
