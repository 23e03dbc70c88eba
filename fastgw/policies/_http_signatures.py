"""HTTP Message Signatures (RFC 9421): whose keys there are, and whether a request is signed by one of them.

The library takes a third of a millisecond for a request, nearly all of it for structured fields, which it reads several
times. What nearly every client sends is written in one plain way: one signature, components by name alone, parameters
without escapes. That is read here, once; its signature base is the one the library would make (a test compares them),
and the library's algorithm verifies it. All else, whatever it is, is the library's.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from fastgw._core.exchange import Consumer, Exchange
from fastgw.policies.base import PolicyError

LABEL = r"[a-z*][a-z0-9_.*-]{0,99}"
COMPONENT = r'"@?[a-z][a-z0-9-]{0,99}"'
VALUE = r'(?:[1-9][0-9]{0,11}|"[ !#-\[\]-~]*")'
INPUT = re.compile(rf"({LABEL})=(\(({COMPONENT}(?: {COMPONENT}){{0,99}})\)((?:;[a-z]{{1,20}}={VALUE})+))\Z")
PARAMETER = re.compile(r';([a-z]+)=(?:([0-9]+)|"([^"]*)")')
SIGNATURE = re.compile(rf"({LABEL})=:([A-Za-z0-9+/]+={{0,2}}):\Z")
DIGEST = re.compile(r"sha-(256|512)=:([A-Za-z0-9+/]+={0,2}):\Z")
HOST = re.compile(r"([A-Za-z0-9._-]+)(:[1-9][0-9]{0,4})?\Z")
TARGET = re.compile(r"/(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*\Z")
"""RFC 3986 §3.3, §3.4: a path, and a query."""
NUMBERS, TEXTS = frozenset(["created", "expires"]), frozenset(["alg", "keyid", "nonce", "tag"])
PORTS = {"http": ":80", "https": ":443"}
DIGEST_FIELD = "content-digest"
LITTLE = "hmac-sha256"
"""Takes microseconds; the others ten times as much, and more."""

Parameters = Mapping[str, Any]


class Refused(Exception):
    """It is signed, but not well. Says nothing of what was sent."""


class Key:
    """`algorithm`: what the library verifies with, made once; `id` its name in RFC 9421 §6.2.2."""

    __slots__ = ("algorithm", "consumer", "id", "public")

    def __init__(self, kind: Any, public: Any, consumer: Consumer) -> None:
        self.id: str = kind.algorithm_id
        self.public = public
        self.algorithm = kind(public_key=public)
        self.consumer = consumer


def key_of(signing: Any, consumer: Consumer) -> Key:
    """The key of one of a consumer's `signing_keys`. PolicyError, which never quotes it."""
    from http_message_signatures import algorithms

    kinds = {kind.algorithm_id: kind for kind in vars(algorithms).values() if hasattr(kind, "algorithm_id")}
    if signing.secret is not None:
        return Key(algorithms.HMAC_SHA256, signing.secret.reveal().encode(), consumer)
    try:
        name, public = signing.loaded()
        return Key(kinds[name], public, consumer)
    except ValueError as error:
        raise PolicyError(f"the signing key {signing.id}: {error}") from None


class Asked:
    """A request as the library wants it."""

    def __init__(self, exchange: Exchange) -> None:
        self.method = exchange.method
        target = exchange.path + (f"?{exchange.query}" if exchange.query else "")
        self.url = f"{exchange.scheme}://{exchange.host}{target}"
        merged: dict[str, str] = {}
        for name, value in exchange.request.pairs():
            name = name.lower()
            merged[name] = f"{merged[name]}, {value}" if name in merged else value
        self.headers = merged


def authority(exchange: Exchange) -> str | None:
    """RFC 9421 §2.2.3: in lower case, without the scheme's own port. None for what is not plain."""
    found = HOST.match(exchange.host)
    if found is None:
        return None
    port = found[2] or ""
    return found[1].lower() + ("" if port == PORTS.get(exchange.scheme) else port)


def target(exchange: Exchange) -> str | None:
    whole = exchange.path + (f"?{exchange.query}" if exchange.query else "")
    return whole if TARGET.match(whole) else None


def path(exchange: Exchange) -> str | None:
    found: str = exchange.path
    return found if TARGET.match(found) and "?" not in found else None


def query(exchange: Exchange) -> str | None:
    """RFC 9421 §2.2.7: with its question mark, also where there is none."""
    found = f"?{exchange.query or ''}"
    return found if TARGET.match(f"/{found}") else None


def whole_target(exchange: Exchange) -> str | None:
    rest = target(exchange)
    return None if rest is None or not HOST.match(exchange.host) else f"{exchange.scheme}://{exchange.host}{rest}"


DERIVED: dict[str, Callable[[Exchange], str | None]] = {
    "@method": lambda exchange: str(exchange.method),
    "@authority": authority,
    "@scheme": lambda exchange: str(exchange.scheme),
    "@target-uri": whole_target,
    "@request-target": target,
    "@path": path,
    "@query": query,
}


def field(exchange: Exchange, name: str) -> str | None:
    """RFC 9421 §2.1. None where there is none, or what is not plain."""
    values = exchange.request.get_all(name)
    if not values or name == "set-cookie":
        return None
    value = ", ".join([one.strip(" \t") for one in values])
    return value if value.isascii() and value.replace("\t", " ").isprintable() else None


def component(exchange: Exchange, name: str) -> str | None:
    if name[0] != "@":
        return field(exchange, name)
    derive = DERIVED.get(name)
    return None if derive is None else derive(exchange)


def parameters_of(text: str) -> dict[str, Any] | None:
    """Those of a signature; None for any that is not known, is of another type, or comes twice."""
    found: dict[str, Any] = {}
    for name, number, words in PARAMETER.findall(text):
        known = NUMBERS if number else TEXTS
        if name not in known or name in found:
            return None
        found[name] = int(number) if number else words
    return found


def digested(exchange: Exchange, body: bytes) -> bool | None:
    """RFC 9530: whether the body has all of its digests; None for what is not plain."""
    value = field(exchange, DIGEST_FIELD)
    seen = set()
    for one in (value or "").split(", "):
        found = DIGEST.match(one)
        if found is None or found[1] in seen:
            return None
        seen.add(found[1])
        made = (hashlib.sha256 if found[1] == "256" else hashlib.sha512)(body).digest()
        try:
            if not hmac.compare_digest(base64.b64decode(found[2]), made):
                return False
        except binascii.Error:
            return None
    return True


class Signatures:
    """`Signatures(keys, components, max_age, clock_skew, tag, body)`: keys by their ids, times in seconds; `body`: one
    must be signed by its digest."""

    def __init__(
        self, keys: Mapping[str, Key], components: Sequence[str], max_age: float, clock_skew: float, tag: str | None,
        body: bool,
    ) -> None:  # fmt: skip
        self.keys = keys
        self.components = list(components)
        self.needed = frozenset(components)
        self.max_age = max_age
        self.skew = clock_skew
        self.tag = tag
        self.body = body
        self.all_little = all(key.id == LITTLE for key in keys.values())
        self.verifiers = [self.verifier(name) for name in sorted({key.id for key in keys.values()})]

    def verifier(self, algorithm: str) -> Any:
        """The library's, for the keys of one algorithm."""
        from http_message_signatures import HTTPMessageVerifier, HTTPSignatureKeyResolver

        known = {name: key.public for name, key in self.keys.items() if key.id == algorithm}

        class Keys(HTTPSignatureKeyResolver):
            def resolve_public_key(self, key_id: str) -> Any:
                return known.get(key_id)

        kind = next(type(key.algorithm) for key in self.keys.values() if key.id == algorithm)
        made = HTTPMessageVerifier(signature_algorithm=kind, key_resolver=Keys())
        made.max_clock_skew = timedelta(seconds=self.skew)
        return made

    def costs_little(self, given: str) -> bool:
        """Whether it is worth asking `plain` at once: unless the key is one whose signatures take long."""
        if self.all_little:
            return True
        found = INPUT.match(given)
        parameters = (parameters_of(found[4]) if found is not None else None) or {}
        key = self.keys.get(parameters.get("keyid", ""))
        return key is None or key.id == LITTLE

    def verify(self, exchange: Exchange) -> Parameters:
        """The parameters of the signature. Refused for one that is not good."""
        found = self.plain(exchange)
        return self.by_library(exchange) if found is None else found

    # ------------------------------------------------------------------ the plain way

    def plain(self, exchange: Exchange) -> Parameters | None:
        """None when the library must look."""
        inputs, signatures = exchange.request.get_all("signature-input"), exchange.request.get_all("signature")
        if len(inputs) != 1 or len(signatures) != 1:
            return None
        given, signed = INPUT.match(inputs[0]), SIGNATURE.match(signatures[0])
        if given is None or signed is None or given[1] != signed[1]:
            return None
        parameters = parameters_of(given[4])
        if parameters is None or "keyid" not in parameters or "created" not in parameters:
            return None
        covered = given[3][1:-1].split('" "')
        names = frozenset(covered)
        if len(names) != len(covered):
            return None
        if not self.timely(parameters) or (self.tag is not None and parameters.get("tag") != self.tag):
            raise Refused
        if not self.needed <= names:
            return None                              # components may be written with parameters
        key = self.keys.get(parameters["keyid"])
        if key is None or parameters.get("alg", key.id) != key.id:
            raise Refused
        lines = []
        for name in covered:
            value = component(exchange, name)
            if value is None:
                return None
            lines.append(f'"{name}": {value}\n')
        # RFC 9421 §2.5; what was sent is the canonical text, or it would not have been taken here
        base = f'{"".join(lines)}"@signature-params": {given[2]}'
        try:
            key.algorithm.verify(signature=base64.b64decode(signed[2]), message=base.encode("ascii"))
        except Exception:                            # of the library, and of cryptography: they may quote what was sent
            raise Refused from None
        if self.body:
            body = exchange.request_body or b""
            if DIGEST_FIELD in names:
                good = digested(exchange, body)
                if good is None:
                    return None
                if not good:
                    raise Refused
            elif body or exchange.request.get(DIGEST_FIELD) is not None:
                raise Refused
        return parameters

    def timely(self, parameters: Parameters) -> bool:
        now = time.time()
        created, expires = parameters["created"], parameters.get("expires")
        return bool(
            created <= now + self.skew
            and created + self.max_age >= now - self.skew
            and (expires is None or expires >= now - self.skew)
        )

    # ------------------------------------------------------------------ all else

    def by_library(self, exchange: Exchange) -> Parameters:
        body = (exchange.request_body or b"") if self.body else None
        wanted = [*self.components, DIGEST_FIELD] if body else self.components
        asked, age = Asked(exchange), timedelta(seconds=self.max_age)
        for verifier in self.verifiers:
            try:
                results = verifier.verify(
                    asked, max_age=age, expect_tag=self.tag, require_components=wanted, body=body
                )
            except Exception:                         # its reasons quote what was sent
                continue
            if len(results) == 1:
                found: Parameters = results[0].parameters
                return found
        raise Refused
