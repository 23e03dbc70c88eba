"""Verifies JSON Web Tokens; PyJWT and cryptography do the cryptography.

RFC 8725 (JWT best practice) is what the order of the checks follows: the algorithm belongs to the key,
never to the token (3.1); `none` does not exist; a `kid` only chooses among the keys of the file (3.10).
"""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jwt as pyjwt

from fastgw._core.exchange import Consumer, Problem
from fastgw._core.verified import Verified
from fastgw.policies._jwk import SigningKey
from fastgw.policies._keysets import Keys

BASE64URL = rb"(?:[A-Za-z0-9_-]{4})*(?:[A-Za-z0-9_-][AQgw]|[A-Za-z0-9_-]{2}[AEIMQUYcgkosw048])?"
COMPACT = re.compile(rb"(?=[^.])" + rb"\.".join([BASE64URL] * 3) + rb"\Z")
"""RFC 7515 §2, §3.1: three times base64url, which has no padding, no white space and no other characters; and the bits
after the last byte are zero (RFC 4648 §3.5), so that there is one spelling of each token."""
ABSENT = object()
MAX_IDENTITY = 1024
LAST = 9e9
"""Seconds since 1970: the year 2255. Later ones do not fit into 64 bits of nanoseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a token must say beside a good signature."""

    issuers: Sequence[str] = ()
    audiences: Sequence[str] = ()
    leeway: float = 0.0
    types: Sequence[str] = ()
    required_claims: Mapping[str, Any]
    required_scopes: Sequence[str] = ()
    scope_claims: Sequence[str] = ("scope", "scopes", "scp")
    user_claim: str = "sub"
    user_header: str = "X-User-Id"
    scopes_header: str = "X-User-Scopes"
    user_prefix: str = ""


class Issuer(NamedTuple):
    """Somebody whose keys are fetched; `audiences` in the place of those of the rules, when there are any;
    `user_prefix` stands before the names of his users."""

    keys: Keys
    audiences: Sequence[str] = ()
    user_prefix: str = ""


class UnknownKey(NamedTuple):
    """The token names a key that its issuer does not have, as far as is known here."""

    keys: Keys


def unauthorized(code: str, detail: str) -> Problem:
    """RFC 6750 §3: a refusal says how to authenticate; with a bad token also what is wrong."""
    challenge = "Bearer"
    if code != "unauthorized":
        challenge = f'Bearer error="invalid_token", error_description="{detail}"'
    return Problem(401, code, detail, headers={"WWW-Authenticate": challenge})


def forbidden(code: str, detail: str, scope: str = "") -> Problem:
    challenge = 'Bearer error="insufficient_scope"' + (f', scope="{scope}"' if scope else "")
    return Problem(403, code, detail, headers={"WWW-Authenticate": challenge})


class Verifier:
    """Tokens → `Verified` (good, perhaps with a refusal for a missing scope) or `Problem` (no good token).

    `keys` are those of the file. With `issuers` a token's `iss` says whose keys it may be signed with: by name, before
    anything of it is believed; the signature then covers that name.
    """

    def __init__(
        self, keys: Sequence[SigningKey], rules: Rules, issuers: Mapping[str, Issuer] | None = None
    ) -> None:
        self.rules = rules
        self.by_kid = {key.kid: key for key in keys}
        self.only = keys[0] if len(keys) == 1 else None
        self.issuers = dict(issuers or {})
        self.decoder = pyjwt.PyJWT()

    def __repr__(self) -> str:
        return f"<Verifier {list(self.by_kid.values()) or sorted(self.issuers)}>"

    def verify(self, token: bytes) -> Verified | Problem | UnknownKey:
        if token.count(b".") == 4:
            return unauthorized("invalid_token", "The token is encrypted (JWE).")
        if not COMPACT.match(token):
            return unauthorized("invalid_token", "The token is malformed.")
        header = part_of(token, 0)
        if header is None:
            return unauthorized("invalid_token", "The token is malformed.")
        # RFC 7515 §4.1.11: we know no extension, so a token that has critical ones must be refused
        if "crit" in header:
            return unauthorized("invalid_token", "The token has critical extensions.")
        # RFC 8725 §3.11: a token that is meant for something else is refused by its type
        if self.rules.types and not self.is_of_type(header.get("typ")):
            return unauthorized("invalid_token", "The token is of another type.")
        kid = header.get("kid")
        if kid is not None and not isinstance(kid, str):
            return unauthorized("invalid_token", "The token is malformed.")
        rules = self.rules
        key: SigningKey | None
        if self.issuers:
            issuer = self.issuers.get(issuer_of(token))
            if issuer is None:
                return unauthorized("invalid_token", "The token is of another issuer.")
            if not issuer.keys.by_kid:
                detail = "The keys of the token's issuer could not be fetched."
                return Problem(503, "keys_unavailable", detail, headers={"Retry-After": "5"}, side=2)
            key = issuer.keys.find(kid, header.get("alg"))
            if key is None and kid is not None:
                return UnknownKey(issuer.keys)
            audiences = issuer.audiences or rules.audiences
            names = (issuer.keys.source.issuer,)
            rules = replace(rules, issuers=names, audiences=audiences, user_prefix=issuer.user_prefix)
        else:
            key = self.key_for(kid)
        if key is None:
            return unauthorized("invalid_token", "The token is signed by an unknown key.")
        if header.get("alg") != key.algorithm:
            return unauthorized("invalid_token", "The token's algorithm is not the key's.")
        return self.claims_of(token, key, rules)

    def is_of_type(self, typ: object) -> bool:
        """RFC 7515 §4.1.9: in any case, and `application/` may be left out."""
        return isinstance(typ, str) and typ.lower().removeprefix("application/") in self.rules.types

    def key_for(self, kid: str | None) -> SigningKey | None:
        found = self.by_kid.get(kid)
        # one key without a kid takes tokens with any: an issuer may name its only key
        if found is None and self.only is not None and self.only.kid is None:
            return self.only
        return found

    def claims_of(self, token: bytes, key: SigningKey, rules: Rules) -> Verified | Problem:
        try:
            claims = self.decode(token, key, rules)
        except pyjwt.InvalidSignatureError:
            return unauthorized("invalid_token", "The token's signature is not valid.")
        except pyjwt.ExpiredSignatureError:
            return unauthorized("token_expired", "The token has expired.")
        except pyjwt.ImmatureSignatureError:
            return unauthorized("invalid_token", "The token is not valid yet.")
        except pyjwt.InvalidAudienceError:
            return unauthorized("invalid_token", "The token is for another audience.")
        except pyjwt.InvalidIssuerError:
            return unauthorized("invalid_token", "The token is of another issuer.")
        except pyjwt.MissingRequiredClaimError:
            return unauthorized("invalid_token", "The token lacks a claim.")
        except (pyjwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
            return unauthorized("invalid_token", "The token is not valid.")
        return identity(claims, rules, key)

    def decode(self, token: bytes, key: SigningKey, rules: Rules) -> dict[str, Any]:
        claims: dict[str, Any] = self.decoder.decode(
            token.decode("ascii"),
            key.key,
            algorithms=[key.algorithm],
            audience=list(rules.audiences) or None,
            issuer=list(rules.issuers) or None,
            leeway=rules.leeway,
            options={
                "verify_signature": True,
                "verify_aud": bool(rules.audiences),
                "verify_iss": bool(rules.issuers),
                "verify_sub": False,
                "require": [*(["aud"] if rules.audiences else []), *(["iss"] if rules.issuers else [])],
            },
        )
        return claims


def identity(claims: dict[str, Any], rules: Rules, key: Any = None) -> Verified | Problem:
    """What claims that are believed come to: who calls, and whether that is enough here."""
    user = claim(claims, rules.user_claim)
    if isinstance(user, int) and not isinstance(user, bool):
        user = str(user)
    if user is not None and (not isinstance(user, str) or not header_safe(user)):
        return unauthorized("invalid_token", "The token's subject cannot be used.")
    if user:
        user = rules.user_prefix + user
    scopes = scopes_of(claims, rules)
    if not all(header_safe(scope) for scope in scopes):
        return unauthorized("invalid_token", "The token's scopes cannot be used.")
    lines = []
    if user:
        lines.append(f"{rules.user_header}: {user}\r\n")
    if scopes:
        lines.append(f"{rules.scopes_header}: {' '.join(scopes)}\r\n")
    expiry = claims.get("exp")
    deadline = 0 if expiry is None else int(min(float(expiry) + rules.leeway, LAST) * 1e9)
    not_before = claims.get("nbf")
    return Verified(
        Consumer(user, credential=user, scopes=scopes or None) if user else None,
        claims,
        "".join(lines).encode("latin-1"),
        deadline,
        0 if not_before is None else int(max(0.0, min(float(not_before) - rules.leeway, LAST)) * 1e9),
        refusal(claims, scopes, rules),
        key,
    )


def scopes_of(claims: Mapping[str, Any], rules: Rules) -> list[str]:
    for name in rules.scope_claims:
        value = claim(claims, name)
        if isinstance(value, str):
            return value.split()
        if isinstance(value, list):
            return [scope for scope in value if isinstance(scope, str)]
    return []


def refusal(claims: Mapping[str, Any], scopes: Sequence[str], rules: Rules) -> Problem | None:
    for name, wanted in rules.required_claims.items():
        found = claim(claims, name, ABSENT)
        if found is ABSENT:
            return forbidden("forbidden", f"The token lacks the claim {name}.")
        accepted = wanted if isinstance(wanted, (tuple, list)) else (wanted,)
        if wanted is not None and not any(same(found, value) for value in accepted):
            return forbidden("forbidden", f"The token's claim {name} has another value.")
    missing = [scope for scope in rules.required_scopes if scope not in scopes]
    if missing:
        return forbidden(
            "insufficient_scope",
            f"The token lacks the scope {' '.join(missing)}.",
            " ".join(rules.required_scopes),
        )
    return None


def claim(claims: Mapping[str, Any], name: str, default: Any = None) -> Any:
    """A claim by name; dots go into objects, unless a claim has the dotted name itself."""
    found: Any = claims.get(name, ABSENT)
    if found is ABSENT and "." in name:
        found = claims
        for part in name.split("."):
            found = found.get(part, ABSENT) if isinstance(found, dict) else ABSENT
    return default if found is ABSENT else found


def part_of(token: bytes, number: int) -> dict[str, Any] | None:
    """The header (0) or the claims (1) of a token, unverified; None when they are not a JSON object."""
    part = token.split(b".")[number]
    try:
        found = json.loads(urlsafe_b64decode(part + b"=" * (-len(part) % 4)))
    except (ValueError, RecursionError):             # what base64 and Unicode object to are ValueErrors
        return None
    return found if isinstance(found, dict) else None


def issuer_of(token: bytes) -> str:
    """What a token says of its issuer, unverified; empty when it says nothing that can be read."""
    issuer = (part_of(token, 1) or {}).get("iss")
    return issuer if isinstance(issuer, str) else ""


def same(found: Any, wanted: Any) -> bool:
    """Equal, or an element of a list; true is not 1."""
    if isinstance(found, list):
        return any(same(each, wanted) for each in found)
    return found == wanted and isinstance(found, bool) == isinstance(wanted, bool)


def header_safe(text: str) -> bool:
    """It goes into a header line of the upstream's request: printable, no line break, and bounded."""
    return 0 < len(text) <= MAX_IDENTITY and all(
        " " <= c <= "\xff" and not "\x7f" <= c <= "\x9f" for c in text
    )
