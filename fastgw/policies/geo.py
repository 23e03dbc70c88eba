"""`geo`: who may come in by country or network operator, and headers that tell the service where a client is."""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, model_validator

from fastgw._core.exchange import Problem
from fastgw.config.fields import shown, wrong
from fastgw.config.schema.base import Room, key
from fastgw.config.schema.tls import FilePath
from fastgw.policies._files import Watched, watch
from fastgw.policies._parts import EditableName, listed
from fastgw.policies._report import Report
from fastgw.policies.base import BuildContext, Policy, PolicyError

if TYPE_CHECKING:
    from fastgw._core.exchange import Exchange

REMEMBERED = 8192
"""Addresses whose places a worker keeps."""
COUNTRY = re.compile(r"[A-Z]{2}\Z")
MAX_TEXT = 200


class Place(NamedTuple):
    """Where an address is: ISO 3166-1 code, number and name of the autonomous system; empty when not known."""

    country: str = ""
    asn: int = 0
    operator: str = ""


UNKNOWN = Place()


def _country(value: object) -> str:
    text = value.upper() if isinstance(value, str) else ""
    if not COUNTRY.match(text):
        hint = "two letters of ISO 3166-1; NO must be quoted" if isinstance(value, bool) else "two letters such as DE"
        raise wrong("bad_value", f"{shown(value)} is not a country", hint)
    return text


def _number(value: object) -> int:
    text = value.upper().removeprefix("AS") if isinstance(value, str) else value
    if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= 10:
        text = int(text)
    if not isinstance(text, int) or isinstance(text, bool) or not 0 < text < 1 << 32:
        raise wrong("bad_value", f"{shown(value)} is not the number of an autonomous system", "AS64496, or 64496")
    return text


Countries = Annotated[tuple[Annotated[str, BeforeValidator(_country)], ...], BeforeValidator(listed)]
Numbers = Annotated[tuple[Annotated[int, BeforeValidator(_number)], ...], BeforeValidator(listed)]


class GeoHeaders(Room):
    """Headers that the service gets. The same ones from clients are always removed."""

    country: EditableName | None = key(None, "Gets the country's code.", example="X-Country")
    asn: EditableName | None = key(None, "Gets the number of the autonomous system.", example="X-Asn")
    operator: EditableName | None = key(None, "Gets its name.", example="X-Operator")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name in (self.country, self.asn, self.operator) if name is not None)


class GeoOptions(Room):
    """Databases, and what follows from them."""

    country_file: FilePath | None = key(None, "Database in MaxMind's format that has countries.",
                                        example="country.mmdb")  # fmt: skip
    asn_file: FilePath | None = key(None, "Database in MaxMind's format that has autonomous systems.",
                                    example="asn.mmdb")  # fmt: skip
    allow_countries: Countries = key((), "Countries that may come in.", max_length=300, example=["DE", "FR"])
    deny_countries: Countries = key((), "Countries that may not.", max_length=300)
    allow_asns: Numbers = key((), "Autonomous systems that may come in.", max_length=10_000, example=["AS64496"])
    deny_asns: Numbers = key((), "Autonomous systems that may not.", max_length=10_000)
    unknown: Literal["allow", "refuse"] = key(
        "refuse", "With `allow_…`: what becomes of an address that the database does not have."
    )
    headers: GeoHeaders = key(GeoHeaders(), "Headers for the service.")
    mode: Literal["enforce", "log"] = key("enforce", "`log`: say who would be refused, and let them in.")

    @model_validator(mode="after")
    def _complete(self) -> GeoOptions:
        by_country = self.allow_countries or self.deny_countries or self.headers.country
        by_asn = self.allow_asns or self.deny_asns or self.headers.asn or self.headers.operator
        if by_country and self.country_file is None:
            raise wrong("missing_key", "there is no database of countries", "`country_file:`")
        if by_asn and self.asn_file is None:
            raise wrong("missing_key", "there is no database of autonomous systems", "`asn_file:`")
        if not (by_country or by_asn):
            raise wrong("missing_key", "nothing follows from where a client is", "`deny_countries:`, `headers:`, …")
        return self


class Geo(Policy):
    """Refuses with 403 `country_denied` by the country or the autonomous system of the client's address.

    Countries and autonomous systems are two questions; a client must pass both. In each, `deny_…` comes before
    `allow_…`. The databases are read again when they change. Needs the extra `geo`. Failure: closed; a database that
    cannot be read when the gateway starts makes the route refuse, later the one before it stays in force and the log
    says so.
    """

    name = "geo"
    Options = GeoOptions
    options: GeoOptions

    def __init__(self, options: GeoOptions, context: BuildContext) -> None:
        super().__init__(options, context)
        self.databases = Databases(options)
        watch(context, self.databases)
        self.report = Report("geo", "would be refused") if options.mode == "log" else None
        self.countries = frozenset(options.allow_countries), frozenset(options.deny_countries)
        self.asns = frozenset(options.allow_asns), frozenset(options.deny_asns)

    @classmethod
    def prepare(cls, options: GeoOptions) -> GeoOptions:
        Databases(options)                              # a bad file keeps a new configuration out
        return options

    def passes(self, value: Any, lists: tuple[frozenset[Any], frozenset[Any]]) -> bool:
        allowed, denied = lists
        if value in denied:
            return False
        if not allowed or value in allowed:
            return True
        return not value and self.options.unknown == "allow"

    def request(self, exchange: Exchange) -> Problem | None:
        place = self.databases.place(exchange.client_ip)
        if not (self.passes(place.country, self.countries) and self.passes(place.asn, self.asns)):
            if self.report is None:
                return Problem(403, "country_denied")
            self.report(exchange, f"{place.country or 'unknown country'}, AS{place.asn}")
        headers = self.options.headers
        for name in headers.names:
            exchange.request.remove(name)
        if headers.country is not None and place.country:
            exchange.request.set(headers.country, place.country)
        if headers.asn is not None and place.asn:
            exchange.request.set(headers.asn, str(place.asn))
        if headers.operator is not None and place.operator:
            exchange.request.set(headers.operator, place.operator)
        return None


class Databases(Watched):
    """Both databases of a policy, and the places of addresses that were asked for last."""

    def __init__(self, options: GeoOptions) -> None:
        files = {"country": options.country_file, "asn": options.asn_file}
        self.kinds = [kind for kind, name in files.items() if name is not None]
        self.readers: dict[str, Any] = {}
        self.known: dict[str, Place] = {}
        super().__init__(name for name in files.values() if name is not None)

    def take(self, contents: list[bytes]) -> None:
        self.readers = {
            kind: opened(content, str(path))
            for kind, path, content in zip(self.kinds, self.paths, contents, strict=True)
        }
        self.known = {}

    def place(self, address: str) -> Place:
        known = self.known
        found = known.get(address)
        if found is None:
            if len(known) >= REMEMBERED:
                known.clear()
            found = known[address] = self.look_up(address)
        return found

    def look_up(self, address: str) -> Place:
        readers = self.readers
        country = asn = None
        with contextlib.suppress(ValueError):           # no address at all, or an IPv6 one in a database of IPv4
            country = readers["country"].get(address) if "country" in readers else None
        with contextlib.suppress(ValueError):
            asn = readers["asn"].get(address) if "asn" in readers else None
        return Place(country_of(country), *operator_of(asn))


def opened(content: bytes, name: str) -> Any:
    """A reader of a copy that nobody can change: a file that shrinks under a mapping would end the process."""
    try:
        import maxminddb
    except ImportError:
        raise PolicyError("geo needs maxminddb: pip install 'fastgw[geo]'") from None
    fd = os.memfd_create("fastgw-geo", os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as copy:
            copy.write(content)
        return maxminddb.open_database(f"/proc/self/fd/{fd}", maxminddb.MODE_AUTO)
    except (maxminddb.InvalidDatabaseError, OSError) as error:
        raise PolicyError(f"{name} is no database in MaxMind's format ({type(error).__name__})") from None
    finally:
        os.close(fd)


def country_of(record: Any) -> str:
    """The code of a record; of one without a country, that of where the range is registered."""
    for part in ("country", "registered_country"):
        found = record.get(part) if isinstance(record, dict) else None
        code = found.get("iso_code") if isinstance(found, dict) else found
        if isinstance(code, str) and COUNTRY.match(code):
            return code
    return ""


def operator_of(record: Any) -> tuple[int, str]:
    if not isinstance(record, dict):
        return 0, ""
    number, name = record.get("autonomous_system_number"), record.get("autonomous_system_organization")
    text = "".join(c if " " <= c <= "~" else "?" for c in name[:MAX_TEXT]) if isinstance(name, str) else ""
    return (number if isinstance(number, int) else 0), text.strip()
