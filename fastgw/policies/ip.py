"""`ip`: who may come in, by address."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, model_validator

from fastgw._core.cidr import CidrTable, IpFilter, Listed
from fastgw._core.exchange import Hook
from fastgw.config.fields import Cidr, wrong
from fastgw.config.schema.base import Room, key
from fastgw.config.schema.tls import FilePath
from fastgw.policies._files import Watched, watch
from fastgw.policies._parts import listed
from fastgw.policies._report import Report
from fastgw.policies.base import Policy

Files = Annotated[tuple[FilePath, ...], BeforeValidator(listed)]
Cidrs = Annotated[tuple[Cidr, ...], BeforeValidator(listed)]


class IpOptions(Room):
    """Ranges of addresses, here or in files."""

    allow: Cidrs = key((), "Ranges that may come in.", max_length=100_000, example=["10.0.0.0/8"])
    deny: Cidrs = key((), "Ranges that may not.", max_length=100_000, example=["192.0.2.0/24", "2001:db8::/32"])
    allow_files: Files = key((), "Files with ranges that may come in.", max_length=16, example=["office.txt"])
    deny_files: Files = key(
        (),
        "Files with ranges that may not: one on each line, `#` or `;` begins a comment. They are read again when they "
        "change.",
        max_length=16,
        example=["blocklist.txt"],
    )
    mode: Literal["enforce", "log"] = key("enforce", "`log`: say who would be refused, and let them in.")

    @model_validator(mode="after")
    def _something(self) -> IpOptions:
        if not (self.allow or self.deny or self.allow_files or self.deny_files):
            raise wrong("missing_key", "there is no range to compare with", "`allow:`, `deny:` or files of them")
        return self


class Ip(Policy):
    """Lets in, or refuses with 403 `ip_denied`, by the client's address (behind trusted proxies, the one they tell).

    The longest range that holds an address decides; of the same range in both lists, `deny`. With `allow` or
    `allow_files` an address that is in no list is refused, else it may come in. `0.0.0.0/0` is every IPv4 address,
    `::/0` every IPv6 address. Failure: closed. A file that is missing or has a bad line when the gateway starts makes
    the route refuse; later the ranges before it stay in force and the log says so.
    """

    name = "ip"
    Options = IpOptions
    options: IpOptions

    @classmethod
    def prepare(cls, options: IpOptions) -> IpOptions:
        Ranges(options)                                # a bad file keeps a new configuration out
        return options

    def hook(self) -> Hook:
        options = self.options
        ranges = Ranges(options)
        watch(self.context, ranges)
        report = Report("ip", "would be refused") if options.mode == "log" else None
        return IpFilter(ranges.table, bool(options.allow or options.allow_files), report, ranges)


class Ranges(Watched):
    """The table of a policy, made anew when one of its files changes."""

    def __init__(self, options: IpOptions) -> None:
        self.sources = [
            (kind, "the configuration", "\n".join(map(str, ranges)).encode())
            for kind, ranges in ((Listed.ALLOWED, options.allow), (Listed.DENIED, options.deny))
        ]
        self.kinds = [Listed.ALLOWED] * len(options.allow_files) + [Listed.DENIED] * len(options.deny_files)
        self.table = CidrTable([])
        super().__init__((*options.allow_files, *options.deny_files))

    def take(self, contents: list[bytes]) -> None:
        files = zip(self.kinds, self.paths, contents, strict=True)
        self.table.become(CidrTable([*self.sources, *((kind, str(path), content) for kind, path, content in files)]))
