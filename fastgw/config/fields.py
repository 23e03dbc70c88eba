"""The types of single values: Duration, Size, Ratio, Cidr, Secret, Regex (and Template, in `templating`).

Policies declare their options with these too:

    class Options(BaseModel):
        window: Duration = Field(60.0, description="…", gt=0)
        secret: Secret
        value: Template

A value that came from the environment is shown in errors as the reference it was written as, never by its
content.
"""

from __future__ import annotations

import hmac
import ipaddress
import math
import os
import re
from pathlib import Path
from typing import Annotated, Any

import re2
from pydantic import (
    BeforeValidator,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from fastgw.config import secret_refs
from fastgw.config.env import Expanded

MAX_SECRET_FILE = 1024 * 1024


def wrong(code: str, message: str, expected: str) -> PydanticCustomError:
    """An error of ours: `code` is one of `errors.CODES`."""
    return PydanticCustomError(code, "{message}", {"message": message, "expected": expected})


def shown(value: object) -> str:
    """A value as it may be printed: short, and never what came out of the environment."""
    if isinstance(value, Expanded):
        return value.source if len(value.source) <= 60 else value.source[:59] + "…"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    if value is None:
        return "nothing"
    text = (
        repr(value)
        if isinstance(value, str)
        else str(value).lower()
        if isinstance(value, bool)
        else str(value)
    )
    return text if len(text) <= 60 else text[:59] + "…"


# -------------------------------------------------------------------------------------- durations and sizes

DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h|d))+\Z")
NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?\Z")
MAX_DURATION = 10 * 365 * 86400.0
EXPECTED_DURATION = "a duration such as 250ms, 10s, 1m or 1h30m (a bare number is seconds)"


def parse_duration(value: object) -> float:
    """`250ms`, `10s`, `1m`, `1h30m`, or a number of seconds → seconds as a float."""
    seconds: float | None = None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value) if math.isfinite(value) else None
    elif isinstance(value, str) and len(value) <= 64:
        text = value.strip()
        if NUMBER.match(text):
            seconds = float(text)
        elif DURATION.match(text):
            seconds = math.fsum(float(n) * DURATION_UNITS[unit] for n, unit in DURATION_PART.findall(text))
    if seconds is None:
        raise wrong("bad_value", f"{shown(value)} is not a duration", EXPECTED_DURATION)
    if not 0 <= seconds <= MAX_DURATION:
        raise wrong("out_of_range", f"{shown(value)} is out of range", "0s to 3650d")
    return seconds


def format_duration(seconds: float) -> str:
    """The shortest spelling that `parse_duration` reads back as the same number."""
    for unit in ("d", "h", "m", "s", "ms"):
        count = seconds / DURATION_UNITS[unit]
        if seconds and count == int(count) and parse_duration(f"{int(count)}{unit}") == seconds:
            return f"{int(count)}{unit}"
    return f"{seconds!r}s" if NUMBER.match(repr(seconds)) else f"{seconds:.12f}".rstrip("0").rstrip(".") + "s"


SIZE_UNITS = {
    "": 1, "B": 1,
    "KB": 10**3, "MB": 10**6, "GB": 10**9,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30,
}  # fmt: skip
SIZE = re.compile(r"([0-9]{1,16}(?:\.[0-9]{1,6})?)\s?([A-Za-z]{0,3})\Z")
MAX_SIZE = 2**50
EXPECTED_SIZE = "a size such as 512, 32KiB, 10MiB or 1MB"


def parse_size(value: object) -> int:
    """`32KiB`, `10MiB`, `1MB`, or a number of bytes → bytes as an int."""
    count: float | int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        count = value
    elif isinstance(value, str) and len(value) <= 64:
        match = SIZE.match(value.strip())
        if match and match[2].upper() in SIZE_UNITS:
            number = float(match[1]) if "." in match[1] else int(match[1])
            count = number * SIZE_UNITS[match[2].upper()]
    if count is None or count != int(count):
        raise wrong("bad_value", f"{shown(value)} is not a size", EXPECTED_SIZE)
    if not 0 <= count <= MAX_SIZE:
        raise wrong("out_of_range", f"{shown(value)} is out of range", "0 to 1024 TiB")
    return int(count)


def format_size(count: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count and count % size == 0:
            return f"{count // size}{unit}"
    return f"{count}"


def parse_ratio(value: object) -> float:
    """`0.1` or `10%` → a float from 0 to 1."""
    number: float | None = None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        number = float(value)
    elif isinstance(value, str) and len(value) <= 32:
        text = value.strip()
        if NUMBER.match(text):
            number = float(text)
        elif text.endswith("%") and NUMBER.match(text[:-1].strip()):
            number = float(text[:-1]) / 100
    if number is None or math.isnan(number):
        raise wrong(
            "bad_value", f"{shown(value)} is not a ratio", "a number from 0 to 1, or a percentage such as 10%"
        )
    if not 0 <= number <= 1:
        raise wrong("out_of_range", f"{shown(value)} is out of range", "0 to 1 (or 0% to 100%)")
    return number


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    WithJsonSchema({"type": ["string", "number"], "format": "duration",
                    "pattern": r"^\s*([0-9.]+(ms|s|m|h|d)?)+\s*$|\$\{", "minimum": 0}),
]  # fmt: skip
"""Seconds as a float; written `250ms`, `10s`, `1m`, `1h30m` or as a number of seconds."""

Size = Annotated[
    int,
    BeforeValidator(parse_size),
    WithJsonSchema({"type": ["string", "integer"], "format": "size",
                    "pattern": r"^\s*[0-9.]+\s?([kKmMgG][iI]?)?[bB]?\s*$|\$\{", "minimum": 0}),
]  # fmt: skip
"""Bytes as an int; written `32KiB`, `10MiB`, `1MB` or as a number of bytes."""

Ratio = Annotated[
    float,
    BeforeValidator(parse_ratio),
    WithJsonSchema({"type": ["string", "number"], "format": "ratio", "pattern": r"^\s*[0-9.]+\s*%?\s*$|\$\{",
                    "minimum": 0, "maximum": 1}),
]  # fmt: skip
"""A float from 0 to 1; written `0.1` or `10%`."""


# ------------------------------------------------------------------------------------ addresses and regexes

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_cidr(value: object) -> Network:
    """`10.0.0.0/8`, `2001:db8::/32` or one address → an ipaddress network."""
    if isinstance(value, (ipaddress.IPv4Network, ipaddress.IPv6Network)):
        return value
    if isinstance(value, str):
        try:
            return ipaddress.ip_network(str(value).strip())
        except ValueError as error:
            if "host bits" in str(error):
                network = ipaddress.ip_network(str(value).strip(), strict=False)
                message = f"{shown(value)} has bits set beyond the prefix"
                raise wrong("bad_value", message, f"{network}") from None
    raise wrong(
        "bad_value", f"{shown(value)} is not an address range", "an address or CIDR such as 10.0.0.0/8"
    )


Cidr = Annotated[
    Network,
    BeforeValidator(parse_cidr),
    WithJsonSchema({"type": "string", "format": "cidr"}),
]
"""An ipaddress network; written as an address or a CIDR range."""

RE2_OPTIONS = re2.Options()
RE2_OPTIONS.log_errors = False
RE2_OPTIONS.max_mem = 8 << 20
MAX_REGEX = 4096


def compile_regex(text: str) -> Any:
    """Compiles with RE2 (linear time, no back-references); raises `wrong("bad_regex", …)`."""
    if len(text) > MAX_REGEX:
        raise wrong("bad_regex", "the regular expression is too long", f"at most {MAX_REGEX} characters")
    try:
        return re2.compile(str(text), RE2_OPTIONS)
    except re2.error as error:
        reason = error.args[0] if error.args else "does not compile"
        reason = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        message = f"the regular expression {shown(text)} does not compile: {reason}"
        raise wrong("bad_regex", message, "RE2 syntax (no look-around, no back-references)") from None
    except UnicodeError:
        raise wrong("bad_regex", "the regular expression is not valid text", "RE2 syntax") from None


def parse_regex(value: object) -> str:
    if not isinstance(value, str):
        raise wrong("wrong_type", f"{shown(value)} is not a regular expression", "text in RE2 syntax")
    compile_regex(value)
    return str(value)


Regex = Annotated[str, BeforeValidator(parse_regex), WithJsonSchema({"type": "string", "format": "regex"})]
"""The text of a regular expression that RE2 compiles."""


# ------------------------------------------------------------------------------------------ secrets


class Secret:
    """A value that must not be seen: `repr`, `str`, comparison and pickling of it give nothing away.

    Written as text, as `${VAR}`, as `file:path` (relative to the configuration; one trailing newline is
    dropped), as `credential:name` (of systemd), or as `vault:path#field` or `kubernetes:name#key` (see `secrets:`).
    `reveal()` gives the text. `missing` says why there is none: who keeps it did not answer.
    """

    __slots__ = ("_value", "missing")

    may_wait = False
    """Whether only what needs it stays closed while it is missing, and the gateway starts without it."""

    def __init__(self, value: str, missing: str = "") -> None:
        self._value = value
        self.missing = missing

    def reveal(self) -> str:
        """SecretMissing when there is none."""
        if self.missing:
            raise SecretMissing(self.missing)
        return self._value

    def state(self) -> tuple[str, str]:
        """What another process makes it anew of."""
        return self._value, self.missing

    def __repr__(self) -> str:
        return "Secret(***)"

    def __str__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return "***"

    def __bool__(self) -> bool:
        return bool(self._value or self.missing)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return self.missing == other.missing and hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash(("Secret", self._value))

    def __reduce__(self) -> Any:
        raise TypeError("a Secret is not pickled")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            cls._parse, serialization=core_schema.to_string_ser_schema()
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "string", "format": "secret"}

    @classmethod
    def _parse(cls, value: object, info: ValidationInfo) -> Secret:
        if isinstance(value, Secret):
            return value
        if not isinstance(value, str):
            kind = "a number must be quoted" if isinstance(value, (int, float)) else "the value is not text"
            raise wrong("wrong_type", f"a secret is text; {kind}", "text, ${VAR} or file:path")
        context = info.context if isinstance(info.context, dict) else {}
        try:
            ref = secret_refs.parse(value)
        except ValueError:
            message = f"{shown(value)} is not how a secret is written that is kept elsewhere"
            raise wrong("bad_reference", message, secret_refs.EXPECTED) from None
        if ref is not None:
            return cls._elsewhere(ref, context)
        if value.startswith("credential:"):
            path = credential_path(str(value)[11:])
        elif value.startswith("file:"):
            name = str(value)[5:]
            path = Path(context.get("base") or ".", name.removeprefix("//") if name.startswith("///") else name)
        else:
            return cls(str(value))
        stamp = file_stamp(str(path))
        found = cls(read_secret(path, value))
        context.get("secret_files", {})[str(path.absolute())] = stamp
        return found

    @classmethod
    def _elsewhere(cls, ref: secret_refs.SecretRef, context: dict[str, Any]) -> Secret:
        reader: secret_refs.Reader | None = context.get("secrets")
        if "secrets_room" not in context:
            raise wrong("bad_reference", f"{ref} cannot be read before `secrets:` is", "text, ${VAR} or file:path")
        if reader is None:
            raise wrong("unavailable", f"{ref} cannot be read: nobody is asked here", "text, ${VAR} or file:path")
        try:
            text, stamp, warning = reader.read(ref, context["secrets_room"])
        except secret_refs.Unreadable as error:
            raise wrong("file_unreadable", f"{ref} cannot be read: {error}", secret_refs.EXPECTED) from None
        except secret_refs.Unreachable as error:
            missing = f"{ref} cannot be read: {error}"
            context["secret_refs"][ref] = None
            waits = cls.may_wait and all(may for _, may in [context["secrets_missing"].get(ref, ("", True))])
            context["secrets_missing"][ref] = (missing, waits)
            return cls("", missing)
        context["secret_refs"][ref] = stamp
        if warning:
            context["secrets_old"][ref] = f"{ref}: {warning}"
        return cls(text)


class SecretMissing(ValueError):
    """There is no secret: who keeps it did not answer. The text says who, and why."""


FileStamp = tuple[int, int, int] | None


def file_stamp(path: str) -> FileStamp:
    """What changes when a file does; None when it is not there."""
    try:
        facts = os.stat(path)
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_size, facts.st_ino


def credential_path(name: str) -> Path:
    """Where systemd puts a credential (systemd.exec(5), LoadCredential=)."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        what = "a credential needs $CREDENTIALS_DIRECTORY, which systemd sets"
        raise wrong("file_unreadable", what, "LoadCredential= in the unit, or file:path")
    if not NAME.match(name) or "/" in name:
        raise wrong("bad_value", f"{shown(name)} is not the name of a credential", "a name of LoadCredential=")
    return Path(folder, name)


def read_secret(path: Path, written: str) -> str:
    """The content of a `file:` or `credential:` reference, without one trailing newline."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_SECRET_FILE + 1)
        if len(raw) > MAX_SECRET_FILE:
            raise wrong("file_unreadable", f"{shown(written)} is too large", "at most 1 MiB")
        text = raw.decode()
    except OSError as error:
        raise wrong(
            "file_unreadable",
            f"{shown(written)} can not be read: {error.strerror}",
            f"a readable file {shown(str(path))}",
        ) from None
    except ValueError:
        raise wrong("file_unreadable", f"{shown(written)} is not UTF-8 text", "a text file") from None
    return text.removesuffix("\n").removesuffix("\r")


# ------------------------------------------------------------------------------------------ names

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@/-]{0,199}\Z")
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,200}\Z")
EXPECTED_HEADER = "a header name: letters, digits, '-' and '_'"


def parse_name(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise wrong("wrong_type", f"{shown(value)} is not a name", "a name")
    if not NAME.match(value):
        raise wrong(
            "bad_value",
            f"{shown(value)} is not a name",
            "letters, digits and any of _ . : @ / - (at most 200)",
        )
    return str(value)


def parse_header_name(value: object) -> str:
    """RFC 9110 §5.1: field-name = token."""
    if not isinstance(value, str) or not TOKEN.match(value):
        raise wrong("bad_value", f"{shown(value)} is not a header name", EXPECTED_HEADER)
    return str(value)


MADE_BY_GATEWAY = frozenset(
    [
        "connection",
        "content-length",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ]
)
"""RFC 9110 §7.6.1 and RFC 9112 §6: they say what this hop is and how its message is framed."""

Name = Annotated[
    str, BeforeValidator(parse_name), WithJsonSchema({"type": "string", "pattern": r"^[A-Za-z0-9_]|^\$\{"})
]
"""The name of a thing of the configuration."""

HeaderName = Annotated[str, BeforeValidator(parse_header_name), WithJsonSchema({"type": "string"})]
"""A header's name, in the spelling of the file."""
