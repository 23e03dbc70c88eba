"""Verifies JSON Web Tokens; PyJWT and cryptography do the cryptography.

RFC 8725 (JWT best practice) is what the order of the checks follows: the algorithm belongs to the key,
never to the token (3.1); `none` does not exist; a `kid` only chooses among the keys of the file (3.10).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jwt as pyjwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from fastgw._core.exchange import Consumer, Problem
from fastgw._core.verified import Verified
from fastgw.config.fields import Secret
from fastgw.policies.base import PolicyError

CURVES = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1", "ES256K": "secp256k1"}
BY_CURVE = {curve: algorithm for algorithm, curve in CURVES.items()}
HASH_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
MAX_IDENTITY = 1024
LAST = 9e9
"""Seconds since 1970: the year 2255. Later ones do not fit into 64 bits of nanoseconds."""


def load_key(algorithm: str | None, secret: Secret | None, public_key: Secret | None) -> tuple[str, Any]:
    """(algorithm, key). PolicyError, which never quotes the key, when they do not fit."""
    if secret is not None:
        raw = secret.reveal().encode()
        if not raw:
            raise PolicyError("the secret is empty")
        if raw.lstrip().startswith((b"-----BEGIN", b"ssh-")):
            raise PolicyError("a public key stands in the place of the secret; use `public_key`")
        return algorithm or "HS256", raw
    assert public_key is not None
    try:
        key: Any = load_pem_public_key(public_key.reveal().encode())
    except Exception:
        raise PolicyError("the public key is not a PEM public key") from None
    fitting: Sequence[str]
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < 2048:
            raise PolicyError(f"the RSA key has {key.key_size} bits; at least 2048 are needed")
        fitting = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
    elif isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in BY_CURVE:
        fitting = (BY_CURVE[key.curve.name],)
    elif isinstance(key, (ed25519.Ed25519PublicKey, ed448.Ed448PublicKey)):
        fitting = ("EdDSA",)
    else:
        raise PolicyError("the public key is of a kind no algorithm here uses")
    if algorithm is not None and algorithm not in fitting:
        raise PolicyError(f"the public key does not fit {algorithm}")
    return algorithm or fitting[0], key


@dataclass(frozen=True, slots=True, repr=False)
class SigningKey:
    kid: str | None
    algorithm: str
    key: Any

    def __repr__(self) -> str:
        return f"<SigningKey {self.kid or ''} {self.algorithm}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a token must say beside a good signature."""

    issuers: Sequence[str] = ()
    audiences: Sequence[str] = ()
    leeway: float = 0.0
    required_claims: Mapping[str, Any]
    required_scopes: Sequence[str] = ()
    scope_claims: Sequence[str] = ("scope", "scopes", "scp")
    user_claim: str = "sub"
    user_header: str = "X-User-Id"
    scopes_header: str = "X-User-Scopes"


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
    """Tokens → `Verified` (good, perhaps with a refusal for a missing scope) or `Problem` (no good token)."""

    def __init__(self, keys: Sequence[SigningKey], rules: Rules) -> None:
        self.rules = rules
        self.by_kid = {key.kid: key for key in keys}
        self.only = keys[0] if len(keys) == 1 else None
        self.decoders = {key.algorithm: pyjwt.PyJWT() for key in keys}

    def __repr__(self) -> str:
        return f"<Verifier {list(self.by_kid.values())}>"

    def verify(self, token: bytes) -> Verified | Problem:
        try:
            header = pyjwt.get_unverified_header(token)
        except pyjwt.PyJWTError:
            return unauthorized("invalid_token", "The token is malformed.")
        # RFC 7515 §4.1.11: we know no extension, so a token that has critical ones must be refused
        if "crit" in header:
            return unauthorized("invalid_token", "The token has critical extensions.")
        key = self.key_for(header)
        if key is None:
            return unauthorized("invalid_token", "The token is signed by an unknown key.")
        if header.get("alg") != key.algorithm:
            return unauthorized("invalid_token", "The token's algorithm is not the key's.")
        try:
            claims = self.decode(token, key)
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
        except (pyjwt.PyJWTError, ValueError, TypeError, OverflowError):
            return unauthorized("invalid_token", "The token is not valid.")
        return self.identity(claims)

    def key_for(self, header: Mapping[str, Any]) -> SigningKey | None:
        kid = header.get("kid")
        if kid is not None and not isinstance(kid, str):
            return None
        found = self.by_kid.get(kid)
        # one key without a kid takes tokens with any: an issuer may name its only key
        if found is None and self.only is not None and self.only.kid is None:
            return self.only
        return found

    def decode(self, token: bytes, key: SigningKey) -> dict[str, Any]:
        rules = self.rules
        claims: dict[str, Any] = self.decoders[key.algorithm].decode(
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

    def identity(self, claims: dict[str, Any]) -> Verified | Problem:
        rules = self.rules
        user = claims.get(rules.user_claim)
        if isinstance(user, int) and not isinstance(user, bool):
            user = str(user)
        if user is not None and (not isinstance(user, str) or not header_safe(user)):
            return unauthorized("invalid_token", "The token's subject cannot be used.")
        scopes = self.scopes(claims)
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
            Consumer(user, credential=user) if user else None,
            claims,
            "".join(lines).encode("latin-1"),
            deadline,
            0 if not_before is None else int(max(0.0, min(float(not_before) - rules.leeway, LAST)) * 1e9),
            self.refusal(claims, scopes),
        )

    def scopes(self, claims: Mapping[str, Any]) -> list[str]:
        for name in self.rules.scope_claims:
            value = claims.get(name)
            if isinstance(value, str):
                return value.split()
            if isinstance(value, list):
                return [scope for scope in value if isinstance(scope, str)]
        return []

    def refusal(self, claims: Mapping[str, Any], scopes: Sequence[str]) -> Problem | None:
        for name, wanted in self.rules.required_claims.items():
            if name not in claims:
                return forbidden("forbidden", f"The token lacks the claim {name}.")
            accepted = wanted if isinstance(wanted, (tuple, list)) else (wanted,)
            if wanted is not None and not any(same(claims[name], value) for value in accepted):
                return forbidden("forbidden", f"The token's claim {name} has another value.")
        missing = [scope for scope in self.rules.required_scopes if scope not in scopes]
        if missing:
            return forbidden(
                "insufficient_scope",
                f"The token lacks the scope {' '.join(missing)}.",
                " ".join(self.rules.required_scopes),
            )
        return None


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
