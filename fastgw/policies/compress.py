"""`compress`: bodies of responses in an encoding that the client takes (RFC 9110 8.4, 12.5.3)."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, model_validator

from fastgw._core.compress import Compress as NativeCompress
from fastgw._core.exchange import Hook
from fastgw._core.offload import Offload
from fastgw.config.fields import Duration, Size, shown, wrong
from fastgw.config.schema.base import Room, key
from fastgw.policies._compression import CODINGS, LEVELS, THREADS, Coding, keep_memory, maker
from fastgw.policies.base import BuildContext, Policy

TYPES = (
    "text/*", "application/json", "application/*+json", "application/xml", "application/*+xml",
    "application/javascript",
    "application/x-ndjson", "application/jsonl", "application/json-seq", "application/yaml", "application/wasm",
    "application/x-www-form-urlencoded", "application/vnd.ms-fontobject", "image/svg+xml", "image/bmp",
    "image/vnd.microsoft.icon", "font/ttf", "font/otf",
)  # fmt: skip
ETAGS = ("weaken", "suffix", "remove")
CREDENTIALS = ("always", "same_site", "never")
MEDIA_TYPE = re.compile(r"[a-z0-9!#$&^_.+*-]{1,100}/[a-z0-9!#$&^_.+*-]{1,100}\Z")


def _media_type(value: object) -> str:
    if not isinstance(value, str) or not MEDIA_TYPE.match(value.lower()):
        raise wrong("bad_value", f"{shown(value)} is not a media type", "text/*, application/*+json, image/svg+xml, …")
    return value.lower()


MediaType = Annotated[str, BeforeValidator(_media_type)]


class CompressLevels(Room):
    """How much work is done for how few bytes."""

    gzip: int = key(6, "Level of zlib.", ge=LEVELS["gzip"][0], le=LEVELS["gzip"][1])
    br: int = key(4, "Quality of brotli.", ge=LEVELS["br"][0], le=LEVELS["br"][1])
    zstd: int = key(3, "Level of zstd.", ge=LEVELS["zstd"][0], le=LEVELS["zstd"][1])


class CompressOptions(Room):
    """Which answers, in which encodings."""

    encodings: tuple[Coding, ...] = key(
        ("gzip",),
        "What is offered, best first: of what a client takes with the same weight, the first. `br` and `zstd` need the "
        "extra `fastgw[compression]`.",
        min_length=1,
        max_length=3,
        example=["zstd", "br", "gzip"],
    )
    levels: CompressLevels = key(CompressLevels(), "How much work is done for how few bytes.")
    types: tuple[MediaType, ...] = key(
        TYPES,
        "Media types that are worth it; `*` stands for any characters.",
        min_length=1,
        max_length=200,
        example=["text/*", "application/json"],
    )
    min_size: Size = key(256, "What is known to be smaller stays as it is.", ge=0, le=1024**3, example="1KiB")
    flush_after: Duration = key(
        0.01,
        "What the service sent is with the client when it has said nothing more for so long. Streams of events and of "
        "lines of JSON do not wait at all.",
        ge=0.001,
        le=60,
        example="10ms",
    )
    etag: Literal["weaken", "suffix", "remove"] = key(
        "weaken",
        'What becomes of a strong ETag: `W/"x"`, `"x-gzip"`, or nothing. Conditions of requests that name such a tag '
        "are understood.",
    )
    credentials: Literal["always", "same_site", "never"] = key(
        "always",
        "Whether answers to requests with cookies or `Authorization` are compressed: `same_site` unless a page of "
        "another site asks, `never` protects most against BREACH.",
    )
    upstream: Literal["as_is", "identity"] = key(
        "as_is",
        "`identity` takes Accept-Encoding away, so that the service sends plain bodies for the gateway to compress.",
    )
    max_active: int = key(
        1000, "Bodies compressed at the same time, per worker; beyond, they go as they are.", ge=1, le=1_000_000
    )

    @model_validator(mode="after")
    def _once(self) -> CompressOptions:
        if len(set(self.encodings)) != len(self.encodings):
            raise wrong("conflict", "an encoding is named twice", "each once, best first")
        return self


class Wanted:
    """Called with a media type in lower case: is it one of these?"""

    def __init__(self, types: tuple[str, ...]) -> None:
        self.pattern = re.compile("|".join(re.escape(one).replace(r"\*", "[^/]*") for one in types))

    def __call__(self, kind: bytes) -> bool:
        return self.pattern.fullmatch(kind.decode("latin-1")) is not None


class Compress(Policy):
    """Compresses bodies of answers as they pass, for clients that take it; flushes what is there when the service
    pauses.

    Not what is encoded already, `no-transform`, parts (206), gRPC and WebSockets. Order: before `cache` and `coalesce`
    each answer is compressed for itself, behind `cache` it is kept compressed. Failure: a body that cannot be
    compressed to its end breaks off.
    """

    name = "compress"
    Options = CompressOptions
    options: CompressOptions

    def __init__(self, options: CompressOptions, context: BuildContext) -> None:
        super().__init__(options, context)
        self.makers = [
            (coding.encode(), CODINGS.index(coding), *maker(coding, getattr(options.levels, coding)))
            for coding in options.encodings
        ]
        self.offload: Offload = context.shared.get_or_create("offload", lambda: Offload(THREADS))

    def hook(self) -> Hook:
        options = self.options
        keep_memory()
        return NativeCompress(
            self.makers,
            Wanted(options.types),
            options.min_size,
            int(options.flush_after * 1e9),
            ETAGS.index(options.etag),
            CREDENTIALS.index(options.credentials),
            options.max_active,
            options.upstream == "identity",
            self.offload,
        )
