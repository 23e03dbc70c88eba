"""How messages look in JSON, and what goes wrong on the way: what of `transcoding` can be had without protobuf."""

from __future__ import annotations

from dataclasses import dataclass


class BadInput(ValueError):
    """What the client sent is not what the method takes. The message is a sentence for the client."""


class BadOutput(ValueError):
    """What the service sent is not what the method gives. The message is a sentence for the log."""


@dataclass(frozen=True, slots=True)
class JsonOptions:
    """How JSON is read and written.

    max_depth       nested messages of a request
    proto_names     fields as in the .proto file, not in lowerCamelCase
    defaults        fields without presence are written even when they have their default
    enum_numbers    enums are written as numbers
    ignore_unknown  fields and query parameters that the message does not have are passed over
    """

    max_depth: int = 64
    proto_names: bool = False
    defaults: bool = False
    enum_numbers: bool = False
    ignore_unknown: bool = False
