"""`openapi`: only what an OpenAPI document describes passes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import parse_qsl

from pydantic import Field

from fastgw._core.exchange import Problem, WholeBody
from fastgw.config.fields import Size
from fastgw.config.schema.base import Room, key
from fastgw.config.schema.tls import FilePath
from fastgw.policies._contract import Ledger
from fastgw.policies._files import Stamp, read, stamp
from fastgw.policies._openapi import Contract, Operation, of_type
from fastgw.policies._report import Report
from fastgw.policies._schema import Checker, Fault, body_faults
from fastgw.policies._waf_text import Unreadable, inflated
from fastgw.policies.base import BuildContext, Policy, PolicyError

if TYPE_CHECKING:
    from fastgw._core.exchange import Exchange

LARGE = 32 * 1024
MAX_FIELDS = 1000
MAX_SEGMENTS = 64


class OpenapiOptions(Room):
    """The document, and what becomes of what is not in it."""

    file: FilePath = key(doc="The document, YAML or JSON, OpenAPI 3.0 or 3.1.", example="orders.openapi.yaml")
    base: str | None = Field(
        None,
        description="What stands before the paths of the document. Left out, the path of its first server.",
        pattern=r"^(/[A-Za-z0-9._~/-]*[A-Za-z0-9._~-])?$",
        examples=["/api/v1"],
    )
    unknown: Literal["refuse", "report"] = key(
        "refuse", "What becomes of paths and methods that it does not have: 404 and 405, or they pass and are reported."
    )
    parameters: Literal["allow", "refuse"] = key("allow", "Parameters of the query that it does not have.")
    responses: Literal["off", "report", "enforce"] = key(
        "off",
        "Answers of the service that are not as it describes them, by status, headers, media type and JSON body: "
        "`report` counts them, and looks at bodies up to 32 KiB; `enforce` answers 502 in their place, and holds each "
        "answer until it was looked at.",
    )
    response_size: Size = key(
        1024 * 1024, "How large an answer may be that is held; 502 beyond.", ge=1, le=16 * 1024 * 1024
    )
    mode: Literal["enforce", "log"] = key("enforce", "`log`: report what would be refused, and let it pass.")
    body_size: Size = key(1024 * 1024, "How large a body may be; 413 beyond.", ge=1, le=16 * 1024 * 1024)
    depth: int = key(64, "How many levels a body may have.", ge=1, le=1000)


class Openapi(Policy):
    """Lets pass what an OpenAPI document describes: paths, methods, parameters and JSON bodies.

    Paths that it does not have are answered 404 `not_found`, methods 405 `method_not_allowed`, what is not as its
    schemas want it 400 `contract_broken` with what is wrong and where, other kinds of body 415. `GET /contract` of the
    admin API counts all of these. With `responses: enforce` an answer that is not described is 502 `response_invalid`.
    Needs the extra `validate`. Failure: closed; a document that cannot be used makes its route refuse.
    """

    name = "openapi"
    Options = OpenapiOptions
    options: OpenapiOptions

    def __new__(cls, options: OpenapiOptions, context: BuildContext) -> Openapi:
        """A policy costs what its class defines: who looks at answers is a class of its own."""
        return super().__new__({"off": Openapi, "report": Reporting, "enforce": Enforcing}[options.responses])

    @classmethod
    def prepare(cls, options: OpenapiOptions) -> OpenapiOptions:
        loaded(options)                                # a bad document keeps a new configuration out
        return options

    def __init__(self, options: OpenapiOptions, context: BuildContext) -> None:
        super().__init__(options, context)
        self.contract = loaded(options)
        self.base = self.contract.base if options.base is None else options.base
        self.ledger: Ledger = context.shared.get_or_create("contract", Ledger)
        self.report = Report("openapi", "would be refused")

    def request(self, exchange: Exchange) -> Problem | WholeBody | Awaitable[Problem | None] | None:
        path = exchange.path
        inside = path.startswith(self.base) and path.count("/") <= MAX_SEGMENTS
        found = self.contract.find(path[len(self.base) :] or "/") if inside else None
        if found is None:
            return self.unknown(exchange, "path", Problem(404, "not_found"))
        operations, values = found
        operation = operations.get(exchange.method)
        if operation is None and exchange.method == "HEAD":
            operation = operations.get("GET")
        if operation is None:
            allow = (("Allow", ", ".join(operations)),)
            return self.unknown(exchange, "method", Problem(405, "method_not_allowed", None, headers=allow))
        self.expect(exchange, operation)
        return self.check(exchange, operation, values)

    def expect(self, exchange: Exchange, operation: Operation) -> None:
        """This is what it asks for."""

    def check(
        self, exchange: Exchange, operation: Operation, values: list[tuple[str, str]]
    ) -> Problem | WholeBody | Awaitable[Problem | None] | None:
        checker: Checker | None = None
        body = exchange.request_body
        if exchange.announces_body and operation.bodies:
            known, checker = operation.body(exchange.request.get("content-type") or "")
            if not known:
                return self.broken(exchange, [Fault("body", "has a Content-Type that is not described")], 415)
            if checker is not None and body is None:
                return WholeBody(self.options.body_size)
        found = self.parameter_faults(exchange, operation, values)
        if not exchange.announces_body and operation.body_required:
            found.append(Fault("body", "is missing"))
        if found or checker is None or body is None:
            return self.broken(exchange, found)
        if len(body) > LARGE:
            return self.aside(exchange, checker, body)
        return self.broken(exchange, body_faults(checker, body, self.options.depth))

    async def aside(self, exchange: Exchange, checker: Checker, body: bytes) -> Problem | None:
        return self.broken(exchange, await asyncio.to_thread(body_faults, checker, body, self.options.depth))

    def parameter_faults(
        self, exchange: Exchange, operation: Operation, values: list[tuple[str, str]]
    ) -> list[Fault]:
        found: list[Fault] = []
        if operation.path is not None:
            found += operation.path.faults("path", values)
        if operation.query is not None or self.options.parameters == "refuse":
            try:
                pairs = parse_qsl(exchange.query, keep_blank_values=True, max_num_fields=MAX_FIELDS)
            except ValueError:
                return [Fault("query", f"has more than {MAX_FIELDS} parameters")]
            known = operation.query.properties if operation.query is not None else {}
            if self.options.parameters == "refuse":
                extra = dict.fromkeys(name for name, _ in pairs if name not in known)
                found += [Fault(f"query.{name[:100]}", "is not described") for name in list(extra)[:10]]
            if operation.query is not None:
                found += operation.query.faults("query", (pair for pair in pairs if pair[0] in known))
        if operation.header is not None:
            wanted = operation.header.properties
            named = ((name.lower(), value) for name, value in exchange.request.pairs())
            found += operation.header.faults("header", (pair for pair in named if pair[0] in wanted))
        if operation.cookie is not None:
            wanted = operation.cookie.properties
            items = (item.strip().partition("=") for item in (exchange.request.get("cookie") or "").split(";"))
            found += operation.cookie.faults("cookie", ((n, v) for n, _, v in items if n in wanted))
        return found

    def unknown(self, exchange: Exchange, what: str, refusal: Problem) -> Problem | None:
        self.count(exchange, f"unknown {what}")
        return refusal if self.options.unknown == "refuse" and self.options.mode == "enforce" else None

    def broken(self, exchange: Exchange, found: list[Fault], status: int = 400) -> Problem | None:
        if not found:
            return None
        self.count(exchange, f"{found[0].where[:60]} {found[0].message[:60]}")
        if self.options.mode == "log":
            self.report(exchange, f"{found[0].where} {found[0].message}")
            return None
        errors = [fault.members() for fault in found[:10]]
        return Problem(status, "contract_broken", None, members={"errors": errors})

    def count(self, exchange: Exchange, what: str) -> None:
        route = exchange.route.name if exchange.route is not None else ""
        self.ledger.add(route, exchange.method, exchange.path, what)


class Answering(Openapi):
    """What those have in common who look at answers."""

    def expect(self, exchange: Exchange, operation: Operation) -> None:
        exchange.vars[f"{self.context.policy_key}/operation"] = operation
        # compressed as a client likes it, it could not be read
        exchange.request.remove("accept-encoding")

    def expected(self, exchange: Exchange) -> Operation | None:
        """None when the answer is nothing that the document speaks of: the gateway's own, or to an unknown request."""
        operation: Operation | None = exchange.vars.get(f"{self.context.policy_key}/operation")
        return None if operation is None or exchange.is_local else operation

    def head_faults(self, exchange: Exchange, operation: Operation) -> tuple[list[Fault], Checker | None]:
        """What is wrong with status, headers and media type, and what the body is to be checked by."""
        answer = operation.answer(exchange.status)
        if answer is None:
            return [Fault("response", f"has the status {exchange.status}, which is not described")], None
        if answer.headers is not None:
            wanted = answer.headers.properties
            named = ((name.lower(), value) for name, value in exchange.response.pairs())
            found = answer.headers.faults("response.header", (pair for pair in named if pair[0] in wanted))
            if found:
                return found, None
        content = answer.bodies
        if not content or exchange.method == "HEAD" or exchange.status in (204, 304):
            return [], None
        known, checker = of_type(content, exchange.response.get("content-type") or "")
        return ([], checker) if known else ([Fault("response", "has a Content-Type that is not described")], None)

    def body_faults(self, checker: Checker, body: bytes, encoding: str) -> list[Fault]:
        try:
            body = inflated(body, encoding, self.options.response_size) if encoding else body
        except Unreadable:
            return [Fault("response", "has a Content-Encoding that cannot be taken off")]
        found = body_faults(checker, body, self.options.depth)
        return [Fault(one.where.replace("body", "response", 1), one.message) for one in found]

    def told(self, exchange: Exchange, found: list[Fault]) -> bool:
        if found:
            self.count(exchange, f"{found[0].where[:60]} {found[0].message[:60]}")
        return bool(found)


class Enforcing(Answering):
    def expect(self, exchange: Exchange, operation: Operation) -> None:
        super().expect(exchange, operation)
        exchange.hold_response(self.options.response_size)

    def response_head(self, exchange: Exchange) -> Problem | Awaitable[Problem | None] | None:
        operation = self.expected(exchange)
        if operation is None:
            return None
        found, checker = self.head_faults(exchange, operation)
        if found or checker is None:
            return self.refused(exchange, found)
        body, encoding = exchange.response_body or b"", exchange.response.get("content-encoding") or ""
        if len(body) > LARGE or encoding:
            return self.answer_aside(exchange, checker, body, encoding)
        return self.refused(exchange, self.body_faults(checker, body, encoding))

    async def answer_aside(self, exchange: Exchange, checker: Checker, body: bytes, encoding: str) -> Problem | None:
        return self.refused(exchange, await asyncio.to_thread(self.body_faults, checker, body, encoding))

    def refused(self, exchange: Exchange, found: list[Fault]) -> Problem | None:
        # what is wrong is the operator's to know: it is about the service, and in the report
        if self.told(exchange, found) and self.options.mode == "enforce":
            return Problem(502, "response_invalid", None, side=3)
        return None


class Reporting(Answering):
    def response_head(self, exchange: Exchange) -> None:
        operation = self.expected(exchange)
        if operation is None:
            return
        found, checker = self.head_faults(exchange, operation)
        if not self.told(exchange, found) and checker is not None:
            exchange.vars[f"{self.context.policy_key}/answer"] = (checker, bytearray())

    def response_body(self, exchange: Exchange, chunk: bytes, end: bool) -> bytes:
        """Goes on as it comes; a copy of what is not too long is looked at."""
        place = f"{self.context.policy_key}/answer"
        kept = exchange.vars.get(place)
        if kept is not None:
            checker, body = kept
            body += chunk
            if len(body) > LARGE:
                del exchange.vars[place]
            elif end:
                encoding = exchange.response.get("content-encoding") or ""
                self.told(exchange, self.body_faults(checker, bytes(body), encoding))
        return chunk


def loaded(options: OpenapiOptions) -> Contract:
    """PolicyError for what is no document. One for all routes that have the same."""
    path = Path(options.file)
    return contract_of(path, stamp(path), options.responses != "off")


@lru_cache(maxsize=8)
def contract_of(path: Path, stamped: Stamp, answers: bool) -> Contract:
    """`stamped` is what changes when the file does."""
    try:
        return Contract(read(path), answers)
    except PolicyError as error:
        raise PolicyError(f"{path}: {error}") from None
