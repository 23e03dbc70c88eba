"""`grpc.health.v1.Health/Check`: one call of gRPC over a connection of its own, by h2 and protobuf.

https://github.com/grpc/grpc/blob/master/doc/health-checking.md
grpcio is not used: it has threads, and a gateway forks.
`pip install 'fastgw[grpc]'`
"""

from __future__ import annotations

import asyncio
from functools import cache
from typing import Any
from urllib.parse import unquote

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from fastgw.protocols.grpc_frames import COMPRESSED, FrameError, FrameReader, frame

METHOD = "/grpc.health.v1.Health/Check"
MAX_BYTES = 256 * 1024
"""Of everything an endpoint sends during one check."""
MAX_MESSAGE = 4096
PIECE = 64 * 1024
STATUSES = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
STRING, ENUM, OPTIONAL = 9, 14, 1
"""Of FieldDescriptorProto."""
SETTINGS = 4


@cache
def messages() -> tuple[Any, Any]:
    """The classes of HealthCheckRequest and HealthCheckResponse, in a pool of their own."""
    file: Any = descriptor_pb2.FileDescriptorProto(name="health.proto", package="grpc.health.v1", syntax="proto3")
    request = file.message_type.add(name="HealthCheckRequest")
    answer = file.message_type.add(name="HealthCheckResponse")
    request.field.add(name="service", number=1, type=STRING, label=OPTIONAL)
    kind = answer.enum_type.add(name="ServingStatus")
    for number, name in enumerate(STATUSES):
        kind.value.add(name=name, number=number)
    type_name = ".grpc.health.v1.HealthCheckResponse.ServingStatus"
    answer.field.add(name="status", number=1, type=ENUM, label=OPTIONAL, type_name=type_name)
    pool: Any = descriptor_pool.DescriptorPool()
    pool.Add(file)
    find = pool.FindMessageTypeByName
    return tuple(
        message_factory.GetMessageClass(find(f"grpc.health.v1.{one.name}")) for one in file.message_type
    )


class HealthCall:
    """`await HealthCall(reader, writer, …).run()`: "" for SERVING, else why not. The caller bounds the time and closes.

    `service` as the endpoint calls it, "" for all of it; `authority` as `host:port`.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        service: str,
        authority: str,
        scheme: str,
        timeout: float,
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.http2: Any = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding=None)
        )
        self.body = frame(messages()[0](service=service).SerializeToString())
        self.head = [
            (":method", "POST"),
            (":scheme", scheme),
            (":path", METHOD),
            (":authority", authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "fastgw"),
            ("grpc-timeout", f"{max(int(timeout * 1000), 1)}m"),
        ]
        self.frames = FrameReader(MAX_MESSAGE)
        self.fields: dict[str, str] = {}
        self.message: bytes | None = None
        self.ended = False

    async def run(self) -> str:
        try:
            return await self.talk()
        except h2.exceptions.ProtocolError:
            return "the answer is not HTTP/2"
        except (FrameError, DecodeError):
            return "the answer is not one of gRPC"

    async def talk(self) -> str:
        self.http2.initiate_connection()
        stream = self.http2.get_next_available_stream_id()
        self.http2.send_headers(stream, self.head)
        self.http2.send_data(stream, self.body, end_stream=True)
        self.writer.write(self.http2.data_to_send())
        room = MAX_BYTES
        start = b""
        while not self.ended:
            data = await self.reader.read(PIECE)
            room -= len(data)
            if not data:
                return "the connection ended before the answer"
            if room < 0:
                return f"the answer is longer than {MAX_BYTES} bytes"
            # RFC 9113 3.4: the first frame is SETTINGS; h2 would wait for all of a frame that "HTTP/1.1" makes
            start += data[: 4 - len(start)]
            if len(start) == 4 and start[3] != SETTINGS:
                return "the answer is not HTTP/2"
            for event in self.http2.receive_data(data):
                why = self.take(event)
                if why:
                    return why
            self.writer.write(self.http2.data_to_send())
        return self.verdict()

    def take(self, event: Any) -> str:
        """Why the check failed, when it did so by this event."""
        if isinstance(event, (h2.events.ResponseReceived, h2.events.TrailersReceived)):
            fields = {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers}
            self.fields.update(fields)
            if fields.get(":status", "200") != "200":
                return f"status {fields[':status']}"
        elif isinstance(event, h2.events.DataReceived):
            for flags, message in self.frames.feed(event.data):
                if flags & COMPRESSED or self.message is not None:
                    raise FrameError
                self.message = message
        elif isinstance(event, h2.events.StreamEnded):
            self.ended = True
        elif isinstance(event, (h2.events.StreamReset, h2.events.ConnectionTerminated)):
            try:
                name = h2.errors.ErrorCodes(event.error_code or 0).name
            except ValueError:
                name = str(event.error_code)
            return f"the call was refused: {name}"
        return ""

    def verdict(self) -> str:
        status = self.fields.get("grpc-status")
        if status != "0":
            text = unquote(self.fields.get("grpc-message", ""))[:100]
            return f"grpc-status {(status or 'missing')[:20]}" + (f": {text}" if text else "")
        self.frames.end()
        if self.message is None:
            raise FrameError
        found = int(messages()[1].FromString(self.message).status)
        return "" if found == STATUSES.index("SERVING") else STATUSES[found] if found < len(STATUSES) else str(found)
