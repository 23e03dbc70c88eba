"""A FileDescriptorSet (`protoc --include_imports --descriptor_set_out`) → the methods in it and their HTTP rules.

Every set is a world of its own (a DescriptorPool): two services may have messages of the same name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

# what files import that is nobody's own: registered in the default pool by being imported
from google.api import annotations_pb2, httpbody_pb2
from google.protobuf import (
    any_pb2,
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    message_factory,
    struct_pb2,
    timestamp_pb2,
    type_pb2,
    wrappers_pb2,
)
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from fastgw.protocols.http_rules import Template, TemplateError, parse_template

KNOWN = (
    annotations_pb2, httpbody_pb2, any_pb2, duration_pb2, empty_pb2, field_mask_pb2, struct_pb2, timestamp_pb2,
    type_pb2, wrappers_pb2, error_details_pb2, status_pb2,
)  # fmt: skip
MAX_SET = 16 * 1024 * 1024
"""Bytes of a descriptor set."""
MAX_FILES = 10_000
ITSELF = ("grpc.reflection.",)
"""Services that are about the server and not for its clients."""


class DescriptorError(ValueError):
    """A descriptor set that cannot be used. The message is one sentence, and says what to do."""


@dataclass(frozen=True, slots=True)
class HttpRule:
    """One google.api.http binding. `body`: `*`, a field, or "" for none; `response_body`: a field, or ""."""

    method: str
    template: Template
    body: str
    response_body: str


@dataclass(slots=True)
class Method:
    """One method of a service. `path` is `/package.Service/Method`; the classes are protobuf's."""

    path: str
    request: Any
    response: Any
    client_streaming: bool
    server_streaming: bool
    rules: list[HttpRule] = field(default_factory=list)

    @property
    def name(self) -> str:
        """`package.Service.Method`."""
        return self.path[1:].replace("/", ".")


class Descriptors:
    """The services of one set: `services[name]` are its methods. `pool` finds the types of an Any."""

    def __init__(self, data: bytes) -> None:
        """DescriptorError when it is no set, when an import is missing, or a rule makes no sense."""
        files = parse(data)
        self.pool: Any = descriptor_pool.DescriptorPool()
        for one in in_order(files):
            try:
                self.pool.Add(one)
            except TypeError as error:
                raise DescriptorError(f"{one.name} is not a valid file: {error}") from None
        self.services: dict[str, list[Method]] = {}
        for one in files:
            for service in one.service:
                name = f"{one.package}.{service.name}" if one.package else service.name
                self.services[name] = [self._method(name, method) for method in service.method]

    def _method(self, service: str, given: Any) -> Method:
        found = Method(
            f"/{service}/{given.name}",
            self._message(given.input_type),
            self._message(given.output_type),
            given.client_streaming,
            given.server_streaming,
        )
        if given.options.HasExtension(annotations_pb2.http):
            rule = given.options.Extensions[annotations_pb2.http]
            try:
                found.rules = list(rules_of(rule, found.name))
            except TemplateError as error:
                raise DescriptorError(f"the google.api.http rule of {found.name}: {error}") from None
        return found

    def _message(self, name: str) -> Any:
        return message_factory.GetMessageClass(self.pool.FindMessageTypeByName(name.removeprefix(".")))

    def methods(self, services: Sequence[str] = ()) -> Iterator[Method]:
        """Of the named services, or of all; DescriptorError when a name is not there."""
        for name in services:
            if name not in self.services:
                there = ", ".join(sorted(self.services)[:20]) or "none"
                raise DescriptorError(f"there is no service {name}; there are: {there}")
        for name in services or self.services:
            if services or not name.startswith(ITSELF):
                yield from self.services[name]


def parse(data: bytes) -> list[Any]:
    """The files of a set."""
    if len(data) > MAX_SET:
        raise DescriptorError(f"the descriptor set has {len(data)} bytes; the limit is {MAX_SET}")
    try:
        files = list(descriptor_pb2.FileDescriptorSet.FromString(data).file)
    except DecodeError:
        raise DescriptorError(
            "it is no FileDescriptorSet; make one with protoc --include_imports --descriptor_set_out"
        ) from None
    if not files or not all(one.name for one in files):
        raise DescriptorError("the descriptor set has no files")
    if len(files) > MAX_FILES:
        raise DescriptorError(f"the descriptor set has {len(files)} files; the limit is {MAX_FILES}")
    return files


def in_order(files: Sequence[Any]) -> list[Any]:
    """Each file after those it imports. What Google's own packages hold need not be in the set."""
    by_name = {one.name: one for one in files}
    done: dict[str, Any] = {}
    stack = [(one.name, "") for one in reversed(files)]
    begun: set[str] = set()
    while stack:
        name, importer = stack[-1]
        if name in done:
            stack.pop()
            continue
        one = by_name.get(name) or well_known(name, importer)
        missing = [other for other in one.dependency if other not in done]
        if not missing:
            done[name] = one
            stack.pop()
        elif name in begun:
            raise DescriptorError(f"the imports of {name} go round in a circle")
        else:
            begun.add(name)
            stack += [(other, name) for other in missing]
    return list(done.values())


def well_known(name: str, importer: str) -> Any:
    try:
        found = descriptor_pool.Default().FindFileByName(name)
    except KeyError:
        raise DescriptorError(
            f"{importer} imports {name}, which is not in the set; run protoc with --include_imports"
        ) from None
    copy = descriptor_pb2.FileDescriptorProto()
    found.CopyToProto(copy)
    return copy


def rules_of(rule: Any, method: str, *, inner: bool = False) -> Iterator[HttpRule]:
    """A rule and its additional_bindings. TemplateError, DescriptorError."""
    kind = rule.WhichOneof("pattern")
    if kind is None:
        raise DescriptorError(f"the google.api.http rule of {method} has no pattern")
    verb, path = (rule.custom.kind, rule.custom.path) if kind == "custom" else (kind, getattr(rule, kind))
    yield HttpRule(verb.upper(), parse_template(path), rule.body, rule.response_body)
    for other in rule.additional_bindings:
        # http.proto: additional bindings must not contain additional bindings
        if inner or other.additional_bindings:
            raise DescriptorError(f"{method} has additional_bindings inside of additional_bindings")
        yield from rules_of(other, method, inner=True)
