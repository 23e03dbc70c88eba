"""JSON over HTTP/1.1 for a gRPC service: the descriptors of what the backend answers, and the check."""

from __future__ import annotations

from pathlib import Path

from .backend import MESSAGE
from .checks import ask
from .process import BenchError

SERVICE = "bench.S"
FILE = "bench.pb"
PATH = "/api/item"


def descriptors(folder: Path) -> Path:
    """Writes the set: `rpc Get(Item) returns (Item)` with `get: "/api/{name}"`; Item has two strings."""
    from google.api import annotations_pb2
    from google.protobuf import descriptor_pb2

    file = descriptor_pb2.FileDescriptorProto(name="bench.proto", package="bench", syntax="proto3")
    file.dependency.append("google/api/annotations.proto")
    message = file.message_type.add(name="Item")
    for number, name in enumerate(("text", "name"), 1):
        message.field.add(name=name, json_name=name, number=number, type=9, label=1)
    method = file.service.add(name="S").method.add(name="Get", input_type=".bench.Item", output_type=".bench.Item")
    method.options.Extensions[annotations_pb2.http].get = "/api/{name}"
    # Envoy wants all that is imported
    imported = [annotations_pb2.DESCRIPTOR, *annotations_pb2.DESCRIPTOR.dependencies]
    found = descriptor_pb2.FileDescriptorSet(file=[file])
    for one in imported:
        one.CopyToProto(found.file.add())
    found.file.sort(key=lambda one: ("google/protobuf/descriptor.proto", "google/api/http.proto",
                                     "google/api/annotations.proto", "bench.proto").index(one.name))  # fmt: skip
    path = folder / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(found.SerializeToString())
    return path


def check(port: int) -> None:
    """The message as JSON."""
    answer = ask(port, PATH)
    text = answer.text.replace(" ", "").replace("\n", "")
    if answer.status != 200 or text != f'{{"text":"{MESSAGE[7:].decode()}"}}':
        raise BenchError(f"wrong answer: {answer.status} {answer.text!r}")
