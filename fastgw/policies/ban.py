"""`ban`: who is refused too often may not come in for some time."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from fastgw._core.bans import BanHook
from fastgw._core.cidr import CidrTable, Listed
from fastgw._core.exchange import Hook
from fastgw.config.fields import Cidr, Duration, format_duration, wrong
from fastgw.config.schema.base import Room, key
from fastgw.policies._parts import listed
from fastgw.policies._report import Report
from fastgw.policies.base import Policy

Status = Annotated[int, Field(ge=400, le=599)]
Word = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,60}$")]


class BanOptions(Room):
    """What counts, how often, for how long."""

    statuses: Annotated[tuple[Status, ...], BeforeValidator(listed)] = key(
        (401, 403),
        "Statuses of answers that count, 400 to 599, whoever gave them.",
        max_length=100,
        example=[401, 403, 404],
    )
    codes: Annotated[tuple[Word, ...], BeforeValidator(listed)] = key(
        (), "Codes of refusals that count too.", max_length=100, example=["rate_limited"]
    )
    events: int = key(20, "So many of them …", ge=2, le=1_000_000)
    per: Duration = key(60.0, "… in so much time.", ge=1, le=86400, example="1m")
    length: Duration = key(600.0, "How long a ban is.", ge=1, le=30 * 86400, example="10m")
    exempt: Annotated[tuple[Cidr, ...], BeforeValidator(listed)] = key(
        (), "Addresses that are never banned.", max_length=10_000, example=["10.0.0.0/8"]
    )
    mode: Literal["enforce", "log"] = key("enforce", "`log`: say who would be banned, and let them in.")

    @model_validator(mode="after")
    def _something(self) -> BanOptions:
        if not self.statuses and not self.codes:
            raise wrong("missing_key", "nothing counts", "`statuses:` or `codes:`")
        return self


class Ban(Policy):
    """Bans an address that was refused too often: until the ban ends it gets 403 `banned`, on every route with `ban`.

    Outcomes are counted and bans kept for all workers of the host together; of IPv6 addresses by their first 64 bits.
    Where it is for every route, requests count too that no route takes (404). `server.limits.connection_ban` closes
    connections of who is banned at once.
    `GET /bans` of the admin API lists them, `DELETE /bans/{address}` lifts one. Order: first, and for every route.
    Failure: open; when the host's table of counters is full, what has no place in it is not counted.
    """

    name = "ban"
    strays = True
    Options = BanOptions
    options: BanOptions

    def hook(self) -> Hook:
        options = self.options
        exempt = None
        if options.exempt:
            exempt = CidrTable([(Listed.ALLOWED, "exempt", "\n".join(map(str, options.exempt)).encode())])
        enforce = options.mode == "enforce"
        says = f"banned for {format_duration(options.length)}" if enforce else "would be banned"
        return BanHook(
            self.context.bans,
            self.context.bucket_table,
            f"ban/{options.events}/{options.per}/{options.statuses}/{options.codes}".encode(),
            options.events,
            int(options.per * 1e9),
            int(options.length * 1e9),
            options.statuses,
            options.codes,
            exempt,
            Report("ban", says),
            enforce,
        )
