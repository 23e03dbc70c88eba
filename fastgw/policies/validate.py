"""`validate`: bodies, queries and headers as JSON Schema has them."""

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
    body_size: Size = key(
        1024 * 1024, "How large a body may be; 413 beyond.", ge=1, le=16 * 1024 * 1024, example="1MiB"
    )
    depth: int = key(64, "How many levels a body may have.", ge=1, le=1000)
    mode: Literal["enforce", "log"] = key("enforce", "`log`: say what would be refused, and let it pass.")

    @model_validator(mode="after")
    def _something(self) -> ValidateOptions:
        if self.body is not None and self.body_file is not None:
            raise wrong("conflict", "`body:` and `body_file:` are two schemas of one body", "one of them")
        if self.body is None and self.body_file is None and self.query is None and self.headers is None:
            raise wrong("missing_key", "there is no schema", "`body:`, `query:` or `headers:`")
        return self


class Validate(Policy):
    """Refuses with 400 `contract_broken` what is not as the schemas have it, and says what is wrong, and where.

    A body must be JSON where there is a schema of it (415 otherwise); POST, PUT and PATCH must have one then.
    References of a schema stay within it, patterns are searched in linear time. Needs the extra `validate`.
    Failure: closed; a schema that cannot be used makes its route refuse.
    """

    name = "validate"
    Options = ValidateOptions
    options: ValidateOptions

    @classmethod
    def prepare(cls, options: ValidateOptions) -> ValidateOptions:
        """The file is read once for all workers."""
        if options.body_file is not None:
            options = options.model_copy(update={"body": loaded(Path(options.body_file)), "body_file": None})
        Schemas(options)
        return options

    def __init__(self, options: ValidateOptions, context: BuildContext) -> None:
        if options.body_file is not None:              # it could not be read where the configuration was compiled
            options = options.model_copy(update={"body": loaded(Path(options.body_file))})
        super().__init__(options, context)
        self.schemas = Schemas(options)
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

    def verdict(self, exchange: Exchange, found: list[Fault], status: int = 400) -> Problem | None:
        if not found:
            return None
        if self.report is not None:
            self.report(exchange, f"{found[0].where} {found[0].message}")
            return None
        return broken(found, status)


def broken(found: list[Fault], status: int = 400) -> Problem:
    """The refusal, with what is wrong."""
    return Problem(status, "contract_broken", None, members={"errors": [fault.members() for fault in found]})


class Schemas:
    """The schemas of a policy, compiled. PolicyError for one that is none."""

    def __init__(self, options: ValidateOptions) -> None:
        self.body = Checker(options.body) if options.body is not None else None
        self.query = Parameters(options.query) if options.query is not None else None
        self.headers = Parameters(options.headers, lower=True) if options.headers is not None else None

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
