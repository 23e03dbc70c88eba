"""`mirror`: a share of the requests goes to a second service too, and nobody waits for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, model_validator

from fastgw._core.exchange import Hook
from fastgw._core.mirror import Mirror as NativeMirror
from fastgw._core.mirror import Tally
from fastgw.config.fields import Duration, HeaderName, Name, Ratio, Size, shown, wrong
from fastgw.config.registry import Reference
from fastgw.config.schema.base import Room, key
from fastgw.policies._mirror import CREDENTIALS, Comparison, Rules, reports_of
from fastgw.policies._parts import EditableName
from fastgw.policies.base import Policy


def _pointer(value: str) -> str:
    if len(value) > 200 or not value.startswith("/") or any(ord(c) < 32 for c in value):
        raise wrong("bad_value", f"{shown(value)} is no JSON pointer", "RFC 6901, with * for any item: /items/*/id")
    return value


Pointer = Annotated[str, AfterValidator(_pointer)]


def _line(value: str) -> str:
    if len(value) > 1000 or not value.isascii() or not value.isprintable():
        raise wrong("bad_value", f"{shown(value)} cannot be the value of a header", "printable ASCII")
    return value


Value = Annotated[str, AfterValidator(_line)]


class Compare(Room):
    """What of the two answers is compared."""

    status: bool = key(True, "The statuses, and those of gRPC.")
    headers: bool = key(True, "The headers: which there are, and their values.")
    only_headers: tuple[HeaderName, ...] = key((), "Only these; empty: all.", max_length=100, example=["Cache-Control"])
    ignore_headers: tuple[HeaderName, ...] = key(
        (), "Not these, beside `Date` and others that differ by nature.", max_length=100, example=["X-Trace"]
    )
    body: Literal["json", "exact", "none"] = key(
        "json", "`json`: by members, where both are JSON, else as `exact`; `exact`: byte by byte; `none`."
    )
    ignore: tuple[Pointer, ...] = key(
        (),
        "Parts of a JSON body that may differ: JSON pointers, `*` for any member or item.",
        max_length=200,
        example=["/generated_at", "/items/*/id"],
    )
    max_body: Size = key(64 * 1024, "Larger bodies are not compared.", ge=1, le=256 * 1024, example="64KiB")
    examples: int = key(3, "Examples that are kept of each kind of difference.", ge=0, le=10)

    @model_validator(mode="after")
    def _fitting(self) -> Compare:
        if not (self.status or self.headers or self.body != "none"):
            raise wrong("conflict", "nothing is compared", "`status`, `headers` or `body`, or no `compare`")
        if not self.headers and (self.only_headers or self.ignore_headers):
            raise wrong("conflict", "headers are named and not compared", "`headers: true`")
        if self.body != "json" and self.ignore:
            raise wrong("conflict", f"`ignore` belongs to `body: json`, and this is {self.body}", "no `ignore`")
        return self


class MirrorOptions(Room):
    """Where the copies go, how many, and what of them is told."""

    service: Name = key(..., "The service that gets the copies.", example="orders-next")
    share: Ratio = key(1.0, "Share of the requests that are copied.", ge=0.0001, example="5%")
    timeout: Duration = key(5.0, "So long may a copy take, its connection included.", ge=0.01, le=3600)
    max_in_flight: int = key(
        100, "Copies under way at a time, in each worker; more are not sent.", ge=1, le=100_000
    )
    max_body: Size = key(64 * 1024, "Requests with a larger body are not copied.", ge=0, le=16 * 1024 * 1024)
    headers: dict[EditableName, Value] = key(
        {"X-Mirrored": "1"}, "Headers that a copy has besides, or in the place of the client's.", max_length=50
    )
    remove_headers: tuple[EditableName, ...] = key(
        (), "Headers that a copy does not have.", max_length=50, example=["X-Internal"]
    )
    strip_credentials: bool = key(
        False, "Copies come without `Authorization`, `Cookie`, and the like."
    )
    compare: Compare | None = key(
        None, "The answers are compared, and what differs is counted and ranked: `fastgw mirrors`.", example={}
    )


class Mirror(Policy):
    """A copy of a request goes to a second service, as the request policies have left it; its answer is thrown away,
    or compared.

    Nothing of it is felt by the client, who is answered as though it were not there: copies are sent after the request
    itself, and dropped where there are too many, or their body is too large. Handshakes of WebSockets are not copied.
    Order: after `coalesce` copies are made only of requests that go upstream. Failure: a copy that fails is counted.
    """

    name = "mirror"
    Options = MirrorOptions
    options: MirrorOptions

    @classmethod
    def references(cls, options: Any) -> Iterable[Reference]:
        return (Reference("service", options.service, ("service",)),)

    def hook(self) -> Hook:
        options = self.options
        shared = self.context.shared
        compare = None
        if options.compare is not None:
            given = options.compare
            rules = Rules.of(given)
            compare = Comparison(rules, options.service, reports_of(shared))
        removed = [name.lower() for name in options.remove_headers]
        if options.strip_credentials:
            removed += CREDENTIALS
        return NativeMirror(
            options.service,
            options.share,
            int(options.timeout * 1e9),
            options.max_in_flight,
            options.max_body,
            [name.encode() for name in dict.fromkeys(removed)],
            [(name.encode(), value.encode()) for name, value in options.headers.items()],
            shared.get_or_create(("mirror", self.context.policy_key), Tally),
            compare,
            options.compare.max_body if options.compare is not None else 0,
        )
