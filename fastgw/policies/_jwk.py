"""Keys: from PEM files, and from the JSON an issuer publishes (RFC 7517). PyJWT and cryptography read them.

A key has one algorithm, from the moment it is read (RFC 8725 §3.1: "each key MUST be used with exactly one
algorithm"); what a token says of its algorithm must agree with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jwt as pyjwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from fastgw.config.fields import Secret
from fastgw.policies.base import PolicyError

Algorithm = Literal[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
    "ES256", "ES384", "ES512", "ES256K", "EdDSA",
]  # fmt: skip
PublicAlgorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "ES256K", "EdDSA"
]
CURVES = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1", "ES256K": "secp256k1"}
BY_CURVE = {curve: algorithm for algorithm, curve in CURVES.items()}
RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
MAX_KEYS = 100
"""Keys of one issuer; more are left out."""
MAX_KID = 256


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class SigningKey:
    kid: str | None
    algorithm: str
    key: Any

    def __repr__(self) -> str:
        return f"<SigningKey {self.kid or ''} {self.algorithm}>"


def fitting(key: Any) -> tuple[str, ...]:
    """The algorithms a public key can be used with. PolicyError when there is none, or the key is too weak."""
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < 2048:
            raise PolicyError(f"the RSA key has {key.key_size} bits; at least 2048 are needed")
        return RSA
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in BY_CURVE:
        return (BY_CURVE[key.curve.name],)
    if isinstance(key, (ed25519.Ed25519PublicKey, ed448.Ed448PublicKey)):
        return ("EdDSA",)
    raise PolicyError("the public key is of a kind no algorithm here uses")


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
    text = public_key.reveal().encode()
    try:
        key: Any = load_pem_public_key(text)
    except Exception:
        raise PolicyError("the public key is not a PEM public key") from None
    able = fitting(key)
    if algorithm is not None and algorithm not in able:
        raise PolicyError(f"the public key does not fit {algorithm}")
    return algorithm or able[0], key


def read_jwk(jwk: Mapping[str, Any], algorithms: Sequence[str]) -> SigningKey:
    """One key of a set. PolicyError says why it is none for tokens signed with one of `algorithms`."""
    kty, kid = jwk.get("kty"), jwk.get("kid")
    if kid is not None and (not isinstance(kid, str) or len(kid) > MAX_KID):
        raise PolicyError("its kid is not a short text")
    # a shared secret that everybody can fetch is none, and a private key that was published is lost
    if kty not in ("RSA", "EC", "OKP"):
        raise PolicyError("its kty is none of RSA, EC and OKP")
    if "d" in jwk:
        raise PolicyError("it is a private key")
    # RFC 7517 §4.2, §4.3: what a key is for
    operations = jwk.get("key_ops", ["verify"])
    if jwk.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        raise PolicyError("it is not for signatures")
    try:
        key = pyjwt.get_algorithm_by_name({"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}[kty]).from_jwk(dict(jwk))
    except Exception:
        raise PolicyError("it cannot be read") from None
    able = [algorithm for algorithm in fitting(key) if algorithm in algorithms]
    named = jwk.get("alg")
    if named is not None:
        able = [algorithm for algorithm in able if algorithm == named]
    if not able:
        raise PolicyError("its algorithm is not among those accepted")
    # an RSA key that names no algorithm is for the first that is accepted, and for no other
    return SigningKey(kid, min(able, key=algorithms.index), key)


def read_jwks(keys: Any, algorithms: Sequence[str]) -> tuple[list[tuple[dict[str, Any], SigningKey]], list[str]]:
    """(the usable keys of a set, each as it was written and as it is; why the others are not)."""
    good: list[tuple[dict[str, Any], SigningKey]] = []
    bad: list[str] = []
    if not isinstance(keys, list):
        return [], ["there are no `keys`"]
    for jwk in keys[:MAX_KEYS]:
        try:
            if not isinstance(jwk, dict):
                raise PolicyError("it is not an object")
            good.append((jwk, read_jwk(jwk, algorithms)))
        except PolicyError as error:
            bad.append(str(error))
    return good, bad
