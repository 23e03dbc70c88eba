"""`decompress`: bodies without their encodings, for policies that read them."""

from __future__ import annotations

from functools import partial
from typing import Literal

from pydantic import model_validator

from fastgw._core.decompress import Decompress as NativeDecompress
from fastgw._core.exchange import Hook, Problem
from fastgw._core.offload import Offload
from fastgw.config.fields import Size, wrong
from fastgw.config.schema.base import Room, key
from fastgw.policies._compression import THREADS, Stream, TooLarge, Undecodable, decode, reader
from fastgw.policies.base import BuildContext, Policy

UpToFour = Literal["gzip", "deflate", "br", "zstd"]


class DecompressOptions(Room):
    """What is decoded, and how much may come of it."""

    encodings: tuple[UpToFour, ...] = key(
        ("gzip", "deflate"),
        "Encodings that are undone. `br` and `zstd` need the extra `fastgw[compression]`.",
        min_length=1,
        max_length=4,
        example=["gzip", "deflate", "br", "zstd"],
    )
    requests: bool = key(True, "Bodies of requests: taken whole, 415 for an encoding that is not among these.")
    responses: bool = key(False, "Bodies of responses, as they pass; other encodings are left alone.")
    max_body: Size = key(
        1024 * 1024, "Bytes of a request's body as it comes; then 413.", ge=1, le=1024**3, example="1MiB"
    )
    max_size: Size = key(
        10 * 1024 * 1024,
        "Bytes that one encoding may give; then 413, and a response breaks off.",
        ge=1,
        le=1024**4,
        example="10MiB",
    )
    max_ratio: int = key(
        100, "Times as large as it came may a body become; counts beyond 1 MiB.", ge=1, le=100_000, example=100
    )
    max_layers: int = key(1, "Encodings, one over the other, of one body.", ge=1, le=4)
    forward: Literal["decoded", "original"] = key(
        "decoded",
        "What the service gets: what the policies saw, or what the client sent.",
    )
    upstream: Literal["as_is", "identity"] = key(
        "as_is", "`identity` takes Accept-Encoding away, so that the service has no reason to encode."
    )

    @model_validator(mode="after")
    def _something(self) -> DecompressOptions:
        if not self.requests and not self.responses and self.upstream == "as_is":
            raise wrong("conflict", "neither `requests` nor `responses` is true", "one of them, or no such policy")
        if len(set(self.encodings)) != len(self.encodings):
            raise wrong("conflict", "an encoding is named twice", "each once")
        return self


def problem(error: Exception, response: bool) -> Problem:
    """What a client is told of it."""
    if not isinstance(error, (TooLarge, Undecodable)):
        raise error
    if response:
        return Problem(502, "upstream_bad_encoding", str(error), side=3)
    if isinstance(error, TooLarge):
        return Problem(413, "body_too_large", f"Decoded, {error}.")
    return Problem(400, "bad_content_encoding", f"Not what its Content-Encoding says: {error}.")


class Decompress(Policy):
    """Decodes bodies of requests for the policies behind it, and bodies of responses for those before it.

    A request's body that is encoded is taken whole, within `max_body`, `max_size` and `max_ratio`. Without an encoding
    it streams as ever. Order: before `waf`, `validate` and others that read bodies of requests; behind those that read
    bodies of responses. Failure: closed; 400 `bad_content_encoding`, 413 `body_too_large`, 415
    `unsupported_content_encoding`, and a response breaks off.
    """

    name = "decompress"
    Options = DecompressOptions
    options: DecompressOptions

    def __init__(self, options: DecompressOptions, context: BuildContext) -> None:
        super().__init__(options, context)
        for coding in options.encodings:
            reader(coding)
        self.offload: Offload = context.shared.get_or_create("offload", lambda: Offload(THREADS))

    def hook(self) -> Hook:
        options = self.options
        return NativeDecompress(
            [coding.encode() for coding in options.encodings],
            options.max_layers,
            options.max_body,
            partial(decode, size=options.max_size, ratio=options.max_ratio),
            partial(Stream, size=options.max_size, ratio=options.max_ratio),
            problem,
            options.requests,
            options.responses,
            options.forward == "original",
            options.upstream == "identity",
            self.offload,
        )
