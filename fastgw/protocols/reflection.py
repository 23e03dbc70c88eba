"""Asks a server for its descriptors: gRPC Server Reflection, v1 and v1alpha.

    python -m fastgw.protocols.reflection https://host:port > descriptors.pb

`ask` runs that in a process of its own: grpcio has threads, and a gateway forks.
https://github.com/grpc/grpc-proto/blob/master/grpc/reflection/v1/reflection.proto
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from fastgw.protocols import EXTRA

MAX_SET = 16 * 1024 * 1024
MAX_FILES = 10_000
VERSIONS = ("v1", "v1alpha")
"""Their messages are the same; only the service is called differently."""


class ReflectionError(Exception):
    """The server was not reached, or does not tell. The message is one sentence."""


def ask(url: str, timeout: float, services: Sequence[str] = (), ca: str | None = None) -> bytes:
    """The FileDescriptorSet of a server's services, or of the named ones. Blocks for `timeout` seconds at most."""
    trust = [] if ca is None else ["--ca", ca]
    command = [sys.executable, "-m", __name__, "--timeout", f"{timeout:g}", *trust, "--", url, *services]
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout + 5, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise ReflectionError(f"{url} did not tell its descriptors in {timeout:g} s") from None
    if done.returncode:
        last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise ReflectionError(last[:500] or f"asking {url} for its descriptors failed")
    return done.stdout


class Asked:
    """One conversation with a server."""

    def __init__(self, channel: Any, version: str, deadline: float) -> None:
        from grpc_reflection.v1alpha import reflection_pb2

        self.messages: Any = reflection_pb2
        self.deadline = deadline
        self.files: dict[str, bytes] = {}
        self.size = 0
        self.call = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )

    def one(self, **what: str) -> Any:
        """The answer to one question."""
        left = self.deadline - time.monotonic()
        answers = self.call(iter([self.messages.ServerReflectionRequest(**what)]), timeout=max(left, 0.001))
        for answer in answers:
            if answer.HasField("error_response"):
                raise ReflectionError(f"the server says: {answer.error_response.error_message[:200]}")
            return answer
        raise ReflectionError("the server did not answer")

    def services(self) -> list[str]:
        return [one.name for one in self.one(list_services="").list_services_response.service]

    def take(self, answer: Any) -> Iterator[str]:
        """Keeps the files of an answer; the names of what they import."""
        from google.protobuf.descriptor_pb2 import FileDescriptorProto

        for data in answer.file_descriptor_response.file_descriptor_proto:
            found = FileDescriptorProto.FromString(data)
            if found.name not in self.files:
                self.files[found.name] = data
                self.size += len(data)
                if self.size > MAX_SET or len(self.files) > MAX_FILES:
                    raise ReflectionError("the server's descriptors are too large")
                yield from found.dependency

    def collect(self, services: Sequence[str]) -> None:
        """The files of the services, and all that they import, unless it is one that everybody has."""
        from fastgw.protocols.descriptors import DescriptorError, well_known

        wanted: list[str] = []
        for name in services:
            wanted += self.take(self.one(file_containing_symbol=name))
        while wanted:
            name = wanted.pop()
            if name in self.files:
                continue
            try:
                well_known(name, "")
            except DescriptorError:
                wanted += self.take(self.one(file_by_filename=name))


def fetch(url: str, timeout: float, services: Sequence[str], ca: bytes | None = None) -> bytes:
    """The FileDescriptorSet. ReflectionError; ImportError names what is missing."""
    import grpc
    from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

    scheme, _, target = url.partition("://")
    deadline = time.monotonic() + timeout
    channel = (
        grpc.secure_channel(target, grpc.ssl_channel_credentials(ca))
        if scheme == "https"
        else grpc.insecure_channel(target)
    )
    with channel:
        for version in VERSIONS:
            asked = Asked(channel, version, deadline)
            try:
                names = list(services) or [
                    name for name in asked.services() if not name.startswith("grpc.reflection.")
                ]
                asked.collect(names)
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNIMPLEMENTED and version != VERSIONS[-1]:
                    continue
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    raise ReflectionError(f"{url} has no server reflection") from None
                raise ReflectionError(f"{url}: {error.code().name}: {error.details()}") from None
            files = [FileDescriptorProto.FromString(data) for data in asked.files.values()]
            found: bytes = FileDescriptorSet(file=files).SerializeToString()
            return found
    raise AssertionError("the last version returns or raises")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fastgw.protocols.reflection", description=__doc__)
    parser.add_argument("url", help="http://host:port, or https://host:port")
    parser.add_argument("services", nargs="*", help="package.Service; left out, all")
    parser.add_argument("--timeout", type=float, default=10.0)
    parser.add_argument("--ca", help="PEM file of the authorities to trust, instead of the system's")
    given = parser.parse_args(arguments)
    try:
        ca = None
        if given.ca is not None:
            with open(given.ca, "rb") as file:
                ca = file.read()
        sys.stdout.buffer.write(fetch(given.url, given.timeout, given.services, ca))
    except ImportError as error:
        print(EXTRA.format(name=error.name), file=sys.stderr)
        return 1
    except (ReflectionError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
