"""`grpc_transcode`: HTTP with JSON for clients, gRPC for the service."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Literal

import orjson
from pydantic import model_validator

from fastgw._core.exchange import Problem, Refused, Reply, WholeBody
from fastgw.config.fields import Size, wrong
from fastgw.config.schema.base import Room, key
from fastgw.policies._grpc import DescriptorFile, Reflection, build, reflected, shared
from fastgw.policies.base import BuildContext, Policy, PolicyError
from fastgw.protocols.grpc_frames import COMPRESSED, PREFIX, FrameError, FrameReader, frame
from fastgw.protocols.json_form import BadInput, BadOutput, JsonOptions

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from fastgw._core.exchange import Exchange
    from fastgw.policies.base import Answer
    from fastgw.protocols.rpc_status import RpcStatus
    from fastgw.protocols.transcoding import Binding

NATIVE = "application/grpc"
NDJSON = "application/x-ndjson"
SSE = "text/event-stream"
LARGE = 64 * 1024
"""Bytes from which a message is converted in a thread, so that other exchanges go on meanwhile."""
OF_GRPC = ("grpc-status", "grpc-message", "grpc-status-details-bin", "grpc-encoding", "grpc-accept-encoding")
JSON_TYPES = ("application/json", NDJSON, "application/jsonl", "application/ndjson")


class GrpcTranscodeOptions(Room):
    """Which methods, and how their messages look in JSON."""

    descriptors: DescriptorFile | None = key(
        None,
        "A FileDescriptorSet: `protoc --include_imports --descriptor_set_out=FILE`.",
        example="library.pb",
    )
    reflection: Reflection | None = key(
        None, "A server to ask for them instead, at start and at every reload.",
        example={"address": "http://127.0.0.1:9011"},
    )  # fmt: skip
    services: tuple[str, ...] = key(
        (), "The services, as package.Service; left out, all.", max_length=1000, example=["fastgw.demo.v1.Library"]
    )
    automatic: Literal["unannotated", "all", "none"] = key(
        "unannotated",
        "`POST /package.Service/Method` with the message as body: for methods without a google.api.http rule, "
        "for `all`, for `none`.",
    )
    prefix: str = key(
        "", "What stands before the paths of the rules.", pattern=r"^(/[A-Za-z0-9._~-]+)*$", example="/library"
    )
    max_request: Size = key(
        1024 * 1024, "A larger JSON body (of a stream, a larger line) is refused with 413.", ge=1, le=64 * 1024 * 1024,
        example="1MiB",
    )  # fmt: skip
    max_response: Size = key(
        4 * 1024 * 1024, "A larger message of the service is an error (502).", ge=1, le=64 * 1024 * 1024,
        example="4MiB",
    )  # fmt: skip
    max_depth: int = key(64, "How deep the messages of a request may be nested.", ge=1, le=100)
    stream: Literal["accept", "ndjson", "sse"] = key(
        "accept",
        "How a server's stream is told: `ndjson`, a line for each message; `sse`, an event for each; `accept`, events "
        "where Accept names text/event-stream.",
    )
    errors: Literal["problem", "status"] = key(
        "problem", "What a call that failed is told as: problem+json, or google.rpc.Status in JSON."
    )
    proto_names: bool = key(False, "Fields are written as in the .proto file, not in lowerCamelCase. Both are read.")
    defaults: bool = key(False, "Fields that have their default value are written too.")
    enum_numbers: bool = key(False, "Enums are written as numbers.")
    ignore_unknown: bool = key(False, "Fields and query parameters that the message does not have are passed over.")

    @model_validator(mode="after")
    def _usable(self) -> GrpcTranscodeOptions:
        if self.descriptors is None and self.reflection is None:
            raise wrong("missing_key", "none of `descriptors` and `reflection` is there", "one of them")
        if self.reflection is not None:
            at = self.reflection.address
            if at.unix or at.scheme not in ("http", "https"):
                raise wrong("bad_value", f"reflection is not asked for at {at}", "http://host:port, https://host:port")
        if self.descriptors is not None and self.reflection is None:
            try:
                build(self.descriptors, self.services, self.automatic, self.json_options)
            except PolicyError as error:
                raise wrong("bad_value", str(error), "a descriptor set that has these services") from None
        return self

    @property
    def json_options(self) -> JsonOptions:
        return JsonOptions(self.max_depth, self.proto_names, self.defaults, self.enum_numbers, self.ignore_unknown)


class Call:
    """One transcoded call. `lines` is what came of a client's stream and is no whole line yet."""

    __slots__ = (
        "binding", "events", "first", "foreign", "lines", "query", "reader", "status", "streaming", "variables",
    )  # fmt: skip

    def __init__(self, binding: Binding, variables: dict[tuple[str, ...], str], query: str, events: bool) -> None:
        self.binding = binding
        self.variables = variables
        self.query = query
        self.events = events
        self.first = True
        self.foreign = False
        self.lines: bytearray | None = None
        self.reader: FrameReader | None = None
        self.status: RpcStatus | None = None
        self.streaming = binding.method.server_streaming


class GrpcTranscode(Policy):
    """Lets HTTP clients call gRPC services with JSON, by the google.api.http rules of their methods.

    Requests of gRPC and gRPC-Web pass as they are. A method that streams to the client answers with a line (or
    event) for each message, one that takes a stream reads a message from each line of the request. What fits no
    rule is 404, or 405; what does not fit the method's message is 400. A call that failed has the HTTP status of
    its grpc-status. The service needs `protocol: h2` or `h2c`. Order: after what identifies and limits callers.
    Failure: descriptors that cannot be used are an error of the configuration; where a reflection server does not
    answer at start, the routes refuse until a reload, and at a reload the old configuration stays.
    """

    name = "grpc_transcode"
    http2 = True
    Options = GrpcTranscodeOptions
    options: GrpcTranscodeOptions

    @classmethod
    def prepare(cls, options: Any) -> Any:
        if options.reflection is None:
            return options
        found = reflected(options.reflection, options.services)
        build(found, options.services, options.automatic, options.json_options)
        return options.model_copy(update={"descriptors": found})

    def __init__(self, options: GrpcTranscodeOptions, context: BuildContext) -> None:
        super().__init__(options, context)
        if options.descriptors is None:
            raise PolicyError("the reflection server did not answer when the configuration was compiled")
        self.transcoder = shared(
            context, options.descriptors, options.services, options.automatic, options.json_options
        )
        self.state = f"grpc_transcode:{context.policy_key}"

    # ------------------------------------------------------------------ requests

    def request(self, exchange: Exchange) -> Answer | WholeBody | Awaitable[Answer | WholeBody]:
        head = exchange.request
        content_type = head.get("content-type") or ""
        if content_type.lower().startswith(NATIVE):
            return None
        call: Call | None = exchange.vars.get(self.state)
        if call is None:
            found = self._find(exchange)
            if not isinstance(found, Call):
                return found
            call = exchange.vars[self.state] = found
        # a page of another origin can send other types without being asked for leave (Fetch standard, 3.2.1)
        foreign = takes_json_body(call.binding) and media_type(content_type) not in JSON_TYPES
        if foreign and content_type and exchange.announces_body:
            return not_json()
        if call.binding.method.client_streaming:
            call.lines, call.foreign = bytearray(), foreign
            self._begin(exchange, call, None)
            return None
        if exchange.announces_body and exchange.request_body is None:
            return WholeBody(self.options.max_request)
        body = exchange.request_body or b""
        if foreign and body.strip():
            return not_json()
        if len(body) > LARGE:
            return self._aside(exchange, call, body, content_type)
        try:
            message = call.binding.request(call.variables, call.query, body, content_type)
        except BadInput as error:
            return bad_input(error)
        self._begin(exchange, call, message)
        return None

    def _find(self, exchange: Exchange) -> Call | Problem:
        """The call that a request asks for."""
        prefix = self.options.prefix
        path = exchange.path
        rules = self.transcoder.rules
        if not path.startswith(prefix + "/"):
            return Problem(404, "not_found", "No method has this path.")
        path = path[len(prefix) :]
        try:
            found = rules.match(exchange.method, path)
        except UnicodeDecodeError:
            return Problem(400, "bad_target", "The path is not UTF-8.")
        if found is None:
            methods = sorted(rules.methods(path) - {"*"})
            if methods:
                return Problem(405, "method_not_allowed", headers={"Allow": ", ".join(methods)})
            return Problem(404, "not_found", "No method has this path.")
        coding = (exchange.request.get("content-encoding") or "identity").strip().lower()
        if coding != "identity":
            return Problem(415, "unsupported_media_type", "Compressed bodies are not read here.")
        wanted = self.options.stream
        events = wanted == "sse" or (wanted == "accept" and SSE in (exchange.request.get("accept") or "").lower())
        return Call(*found, exchange.query, events)

    async def _aside(self, exchange: Exchange, call: Call, body: bytes, content_type: str) -> Answer | WholeBody:
        try:
            message = await asyncio.to_thread(call.binding.request, call.variables, call.query, body, content_type)
        except BadInput as error:
            return bad_input(error)
        self._begin(exchange, call, message)
        return None

    def _begin(self, exchange: Exchange, call: Call, message: bytes | None) -> None:
        """The request as the service gets it. `message` None: it follows from the lines."""
        head = exchange.request
        for name in ("Accept", "Accept-Encoding", "Content-Encoding", "Grpc-Encoding"):
            head.remove(name)
        head.set("Grpc-Accept-Encoding", "identity")
        exchange.speak_grpc(NATIVE)
        exchange.send_as("POST", call.binding.method.path, None if message is None else frame(message))
        if not call.streaming:
            exchange.hold_response(self.options.max_response + PREFIX)

    def request_body(self, exchange: Exchange, chunk: bytes, end: bool) -> bytes:
        call: Call | None = exchange.vars.get(self.state)
        if call is None or call.lines is None:
            return chunk
        lines = call.lines
        searched = len(lines)
        lines += chunk
        out = []
        at = 0
        while (newline := lines.find(b"\n", max(at, searched))) >= 0:
            out.append(self._line(call, bytes(lines[at:newline])))
            at = newline + 1
        del lines[:at]
        if len(lines) > self.options.max_request:
            self._line(call, bytes(lines))
        if end:
            out.append(self._line(call, bytes(lines)))
            lines.clear()
        return b"".join(out)

    def _line(self, call: Call, line: bytes) -> bytes:
        """The frame of one line; nothing for an empty one."""
        limit = self.options.max_request
        if len(line) > limit:
            raise Refused(Problem(413, "body_too_large", f"A line may have {limit} bytes."))
        if not line.strip():
            return b""
        if call.foreign:
            raise Refused(not_json())
        try:
            message = call.binding.stream_item(call.first, call.variables, call.query, line)
        except BadInput as error:
            raise Refused(bad_input(error)) from None
        call.first = False
        return frame(message)

    # ------------------------------------------------------------------ responses

    def response_head(self, exchange: Exchange) -> Answer | Awaitable[Answer]:
        call: Call | None = exchange.vars.get(self.state)
        if call is None or exchange.is_local:
            return None
        head, trailers = exchange.response, exchange.response_trailers
        exchange.response_trailers = None
        if head.status != 200 or not (head.get("content-type") or "").lower().startswith(NATIVE):
            return broken("The service did not answer by gRPC.")
        ending = trailers if trailers is not None and "grpc-status" in trailers else head
        status = self._status(exchange, ending)
        for name in OF_GRPC:
            head.remove(name)
        if status is not None and status.code:
            return self._failed(status)
        if call.streaming:
            call.reader, call.status = FrameReader(self.options.max_response), status
            head.set("Content-Type", SSE if call.events else NDJSON)
            head.set("Cache-Control", "no-store")
            return None
        if status is None:
            return broken("The service ended without a grpc-status.")
        body = exchange.response_body or b""
        if len(body) > LARGE:
            return self._answer_aside(exchange, call, body)
        return settle(exchange, self._answer(call, body))

    async def _answer_aside(self, exchange: Exchange, call: Call, body: bytes) -> Answer:
        return settle(exchange, await asyncio.to_thread(self._answer, call, body))

    def _answer(self, call: Call, body: bytes) -> tuple[str, bytes] | Problem:
        """(content type, body) of a call that gives one message."""
        reader = FrameReader(self.options.max_response)
        try:
            messages = reader.feed(body)
            reader.end()
            if len(messages) != 1 or messages[0][0] & COMPRESSED:
                raise BadOutput("the service did not answer with one message as it was asked to")
            return call.binding.response(messages[0][1])
        except (FrameError, BadOutput) as error:
            return broken(f"Of the service, {error}.")

    def _status(self, exchange: Exchange, fields: Any) -> RpcStatus | None:
        """How the call ended; None where that is not told yet."""
        status = fields.get("grpc-status")
        if status is None:
            return None
        from fastgw.protocols.rpc_status import parse_status

        found = parse_status(
            status, fields.get("grpc-message"), fields.get("grpc-status-details-bin"), self.transcoder.pool
        )
        exchange.grpc_status = found.code
        return found

    def _failed(self, status: RpcStatus) -> Reply | Problem:
        if self.options.errors == "status":
            return Reply(status.http, orjson.dumps(status.as_json()), content_type="application/json")
        members: dict[str, Any] = {"grpc_status": status.code}
        if status.details:
            members["details"] = status.details
        return Problem(
            status.http, f"grpc_{status.name.lower()}", status.message or None, side=3, members=members
        )

    def response_body(self, exchange: Exchange, chunk: bytes, end: bool) -> bytes:
        call: Call | None = exchange.vars.get(self.state)
        if call is None or call.reader is None or exchange.is_local:
            return chunk
        try:
            out = [self._item(call, flags, message) for flags, message in call.reader.feed(chunk)]
            if end:
                call.reader.end()
        except (FrameError, BadOutput) as error:
            raise Refused(broken(f"Of the service, {error}.")) from None
        if end:
            trailers = exchange.response_trailers
            exchange.response_trailers = None
            out.append(self._ending(exchange, call, trailers))
        return b"".join(out)

    def _item(self, call: Call, flags: int, message: bytes) -> bytes:
        if flags & COMPRESSED:
            raise BadOutput("a message is compressed, which was not asked for")
        item = call.binding.item(message)
        return b"data: " + item + b"\n\n" if call.events else item + b"\n"

    def _ending(self, exchange: Exchange, call: Call, trailers: Any) -> bytes:
        """What follows the last message: nothing, or how the call failed, as the head cannot tell it any more."""
        from fastgw.protocols.rpc_status import RpcStatus

        status = call.status if trailers is None else self._status(exchange, trailers)
        if status is None:
            status = RpcStatus(2, "The service ended without a grpc-status.")
        if status.code == 0:
            return b""
        text = orjson.dumps({"error": status.as_json()})
        return b"event: error\ndata: " + text + b"\n\n" if call.events else text + b"\n"


def media_type(content_type: str) -> str:
    """Without parameters, and `application/json` for every `+json`."""
    kind = content_type.partition(";")[0].strip().lower()
    return "application/json" if kind.endswith("+json") else kind


def takes_json_body(binding: Binding) -> bool:
    """Is the body JSON? A google.api.HttpBody is anything, and some methods take none."""
    return bool(binding.rule.body) and not binding.raw_body


def not_json() -> Problem:
    return Problem(415, "unsupported_media_type", "The body of this method is application/json.")


def bad_input(error: BadInput) -> Problem:
    return Problem(400, "bad_request", str(error))


def broken(detail: str) -> Problem:
    return Problem(502, "upstream_protocol_error", detail, side=3)


def settle(exchange: Exchange, answer: tuple[str, bytes] | Problem) -> Answer:
    """Puts the converted answer in the place of the service's."""
    if isinstance(answer, Problem):
        return answer
    exchange.response.set("Content-Type", answer[0])
    exchange.response_body = answer[1]
    return None
