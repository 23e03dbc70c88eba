"""`validate`: bodies, queries, headers and WebSocket messages as JSON Schema has them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import parse_qsl

import yaml
from pydantic import BeforeValidator, model_validator

from fastgw._core.exchange import Problem, WholeBody
from fastgw.config.fields import Size, shown, wrong
from fastgw.config.schema.base import Room, key
from fastgw.config.schema.tls import FilePath
from fastgw.policies._files import read
from fastgw.policies._report import Report
from fastgw.policies._schema import Checker, Fault, Parameters, body_faults, is_json, plain
from fastgw.policies.base import BuildContext, Policy, PolicyError

if TYPE_CHECKING:
    from fastgw._core.exchange import Exchange

LARGE = 32 * 1024
"""Bytes of a body from which it is looked at in a thread, so that other exchanges go on meanwhile."""
MAX_FIELDS = 1000


def _schema(value: object) -> Any:
    if not isinstance(value, (dict, bool)):
        raise wrong("wrong_type", f"{shown(value)} is not a JSON Schema", "a mapping")
    try:
        return plain(value)
    except ValueError as error:
        raise wrong("bad_value", str(error), "a smaller one, or a file") from None


SchemaText = Annotated[dict[str, Any], BeforeValidator(_schema)]


class ValidateMessages(Room):
    """Messages of WebSockets, text or binary: each a JSON document. One that is not as its schema has it closes the
    socket with 1008. Such sockets are not compressed."""

    client: SchemaText | None = key(None, "JSON Schema of what clients send.", example={"required": ["type"]})
    client_file: FilePath | None = key(None, "A file with it, JSON or YAML.", example="commands.schema.json")
    service: SchemaText | None = key(None, "JSON Schema of what the service sends.", example={"type": "object"})
    service_file: FilePath | None = key(None, "A file with it, JSON or YAML.", example="events.schema.json")
    size: Size = key(64 * 1024, "How large a message may be; more closes the socket (1009).", ge=125, le=1024 * 1024)

    @model_validator(mode="after")
    def _something(self) -> ValidateMessages:
        for side in ("client", "service"):
            if getattr(self, side) is not None and getattr(self, f"{side}_file") is not None:
                raise wrong("conflict", f"`{side}:` and `{side}_file:` are two schemas of one thing", "one of them")
        if all(one is None for one in (self.client, self.client_file, self.service, self.service_file)):
            raise wrong("missing_key", "there is no schema", "`client:` or `service:`")
        return self

    def loaded(self) -> ValidateMessages:
        """With the files read."""
        update: dict[str, Any] = {}
        for side in ("client", "service"):
            file = getattr(self, f"{side}_file")
            if file is not None:
                update |= {side: loaded(Path(file)), f"{side}_file": None}
        return self.model_copy(update=update) if update else self


class ValidateOptions(Room):
    """The schemas."""

    body: SchemaText | None = key(
        None, "JSON Schema of bodies.", example={"type": "object", "required": ["name"]}
    )
    body_file: FilePath | None = key(None, "A file with it, JSON or YAML.", example="order.schema.json")
    query: SchemaText | None = key(
        None,
        "JSON Schema of the query: an object of its parameters. Texts are taken for numbers and booleans where it "
        "wants them, several of a name for an array.",
        example={"properties": {"page": {"type": "integer", "minimum": 1}}},
    )
    headers: SchemaText | None = key(None, "The same of headers, in any case of letters.")
    messages: ValidateMessages | None = key(None, "WebSocket messages, of either side.")
    body_size: Size = key(
        1024 * 1024, "How large a body may be; 413 beyond.", ge=1, le=16 * 1024 * 1024, example="1MiB"
    )
    depth: int = key(64, "How many levels a body may have.", ge=1, le=1000)
    mode: Literal["enforce", "log"] = key("enforce", "`log`: say what would be refused, and let it pass.")

    @model_validator(mode="after")
    def _something(self) -> ValidateOptions:
        if self.body is not None and self.body_file is not None:
            raise wrong("conflict", "`body:` and `body_file:` are two schemas of one body", "one of them")
        if all(one is None for one in (self.body, self.body_file, self.query, self.headers, self.messages)):
            raise wrong("missing_key", "there is no schema", "`body:`, `query:`, `headers:` or `messages:`")
        return self


class Validate(Policy):
    """Refuses with 400 `contract_broken` what is not as the schemas have it, and says what is wrong, and where.

    A body must be JSON where there is a schema of it (415 otherwise); POST, PUT and PATCH must have one then. A
    WebSocket is closed (1008, with the code as the reason) at the first message that is not right; it does not go on.
    References of a schema stay within it, patterns are searched in linear time. Needs the extra `validate`.
    Failure: closed; a schema that cannot be used makes its route refuse.
    """

    name = "validate"
    Options = ValidateOptions
    options: ValidateOptions

    @classmethod
    def prepare(cls, options: ValidateOptions) -> ValidateOptions:
        """The file is read once for all workers."""
        options = with_files(options)
        Schemas(options)
        return options

    def __init__(self, options: ValidateOptions, context: BuildContext) -> None:
        options = with_files(options)                  # they could not be read where the configuration was compiled
        super().__init__(options, context)
        self.schemas = Schemas(options)
        self.inspects = tuple(self.schemas.messages)
        self.message_size = options.messages.size if options.messages is not None else 0
        self.report = Report("validate", "would be refused") if options.mode == "log" else None

    def request(self, exchange: Exchange) -> Problem | WholeBody | Awaitable[Problem | None] | None:
        schemas, body = self.schemas, exchange.request_body
        if schemas.body is not None and exchange.announces_body and body is None:
            if not is_json(exchange.request.get("content-type") or ""):
                return self.verdict(exchange, [Fault("body", "is not JSON by its Content-Type")], 415)
            return WholeBody(self.options.body_size)
        found = schemas.head_faults(exchange)
        if schemas.body is None or found:
            return self.verdict(exchange, found)
        if not body:
            missing = exchange.method in ("POST", "PUT", "PATCH")
            return self.verdict(exchange, [Fault("body", "is missing")] if missing else [])
        if len(body) > LARGE:
            return self.aside(exchange, schemas.body, body)
        return self.verdict(exchange, body_faults(schemas.body, body, self.options.depth))

    async def aside(self, exchange: Exchange, checker: Checker, body: bytes) -> Problem | None:
        return self.verdict(exchange, await asyncio.to_thread(body_faults, checker, body, self.options.depth))

    def websocket_message(self, exchange: Exchange, message: bytes, text: bool, side: str) -> Problem | None:
        problem = self.verdict(exchange, message_faults(self.schemas.messages[side], message, self.options.depth))
        if problem is None or side == "client":
            return problem
        return Problem(502, "response_invalid", None, side=3)

    def verdict(self, exchange: Exchange, found: list[Fault], status: int = 400) -> Problem | None:
        if not found:
            return None
        if self.report is not None:
            self.report(exchange, f"{found[0].where} {found[0].message}")
            return None
        return broken(found, status)


def with_files(options: ValidateOptions) -> ValidateOptions:
    """The files read, once for all workers. PolicyError."""
    update: dict[str, Any] = {}
    if options.body_file is not None:
        update |= {"body": loaded(Path(options.body_file)), "body_file": None}
    if options.messages is not None:
        update["messages"] = options.messages.loaded()
    return options.model_copy(update=update) if update else options


def message_faults(checker: Checker, message: bytes, depth: int) -> list[Fault]:
    return [Fault(one.where.replace("body", "message", 1), one.message) for one in body_faults(checker, message, depth)]


def broken(found: list[Fault], status: int = 400) -> Problem:
    """The refusal, with what is wrong."""
    return Problem(status, "contract_broken", None, members={"errors": [fault.members() for fault in found]})


class Schemas:
    """The schemas of a policy, compiled. PolicyError for one that is none."""

    def __init__(self, options: ValidateOptions) -> None:
        self.body = Checker(options.body) if options.body is not None else None
        self.query = Parameters(options.query) if options.query is not None else None
        self.headers = Parameters(options.headers, lower=True) if options.headers is not None else None
        given = options.messages
        schemas = {"client": given.client, "service": given.service} if given is not None else {}
        self.messages = {side: Checker(schema) for side, schema in schemas.items() if schema is not None}

    def head_faults(self, exchange: Exchange) -> list[Fault]:
        found: list[Fault] = []
        if self.query is not None:
            found += query_faults(self.query, exchange.query)
        if self.headers is not None:
            wanted = self.headers.properties
            named = ((name.lower(), value) for name, value in exchange.request.pairs())
            found += self.headers.faults("header", (pair for pair in named if pair[0] in wanted))
        return found


def query_faults(parameters: Parameters, query: str) -> list[Fault]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        return [Fault("query", f"has more than {MAX_FIELDS} parameters")]
    return parameters.faults("query", pairs)


def loaded(path: Path) -> Any:
    """A schema from a file. PolicyError when it has none."""
    try:
        found = plain(yaml.safe_load(read(path)))
    except (yaml.YAMLError, ValueError) as error:
        raise PolicyError(f"{path}: {str(error).splitlines()[0]}") from None
    if not isinstance(found, dict):
        raise PolicyError(f"{path} is not a JSON Schema")
    return found
