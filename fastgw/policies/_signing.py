"""Private keys of the gateway: read once, published by their public halves only."""

from __future__ import annotations

import hashlib
import json
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from typing import Any, Literal

import jwt as pyjwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fastgw.config.fields import Secret
from fastgw.config.schema.base import Room, key
from fastgw.policies._jwk import fitting
from fastgw.policies.base import PolicyError, PolicySecret

SigningAlgorithm = Literal["RS256", "PS256", "ES256", "ES384", "EdDSA"]
MEMBERS = {"RSA": ("e", "kty", "n"), "EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x")}
"""RFC 7638 §3.2: what a thumbprint is made of."""


class PrivateKey(Room):
    """One private key."""

    private_key: PolicySecret = key(doc="The private key in PEM, without a passphrase.", example="file:identity.pem")
    algorithm: SigningAlgorithm | None = key(None, "What it signs with; left out, what fits it (RSA: RS256).")
    kid: str | None = key(None, "Its key id; left out, its thumbprint (RFC 7638).", min_length=1, max_length=200)


@dataclass(frozen=True, slots=True, repr=False)
class Signer:
    kid: str
    algorithm: str
    private: Any
    jwk: dict[str, Any]
    """Its public half, as it is published."""

    def __repr__(self) -> str:
        return f"<Signer {self.kid} {self.algorithm}>"

    def sign(self, claims: dict[str, Any], typ: str = "JWT") -> str:
        return pyjwt.encode(claims, self.private, self.algorithm, headers={"kid": self.kid, "typ": typ})


def read_private(pem: Secret) -> Any:
    """PolicyError, which never quotes the key."""
    text = pem.reveal().encode()
    try:
        private = load_pem_private_key(text, None)
    except Exception:
        raise PolicyError("the private key is not a PEM private key without a passphrase") from None
    if not isinstance(private, (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey, ed25519.Ed25519PrivateKey)):
        raise PolicyError("the private key is of a kind that no algorithm here uses")
    return private


def signer_of(options: PrivateKey) -> Signer:
    private = read_private(options.private_key)
    able = fitting(private.public_key())
    algorithm = options.algorithm or able[0]
    if algorithm not in able:
        raise PolicyError(f"the private key does not fit {algorithm}")
    jwk: dict[str, Any] = json.loads(pyjwt.get_algorithm_by_name(algorithm).to_jwk(private.public_key()))
    thumb = json.dumps({name: jwk[name] for name in MEMBERS[jwk["kty"]]}, separators=(",", ":"), sort_keys=True)
    kid = options.kid or urlsafe_b64encode(hashlib.sha256(thumb.encode()).digest()).rstrip(b"=").decode()
    public = {name: jwk[name] for name in MEMBERS[jwk["kty"]]}
    return Signer(kid, algorithm, private, {**public, "kid": kid, "alg": algorithm, "use": "sig"})
