"""The bearer tokens of the policy workload. The secret is a fixed test value: they protect nothing."""

from __future__ import annotations

import jwt

SECRET = "fastgw-benchmarks-hs256-secret-of-43-bytes!"
ISSUER = "https://issuer.example.com"
SUBJECT = "user-0001"
TENANT = "acme"
YEAR_2100 = 4102444800
YEAR_2024 = 1704067200

KINDS = ("good", "expired", "other_tenant", "bad_signature", "unsigned")


def token(kind: str = "good") -> str:
    claims = {
        "iss": ISSUER,
        "sub": SUBJECT,
        "aud": "benchmarks",
        "tenant": "other" if kind == "other_tenant" else TENANT,
        "scope": "orders:read orders:write",
        "iat": YEAR_2024,
        "exp": YEAR_2024 + 3600 if kind == "expired" else YEAR_2100,
    }
    if kind == "unsigned":
        return jwt.encode(claims, None, algorithm="none")
    secret = SECRET[::-1] if kind == "bad_signature" else SECRET
    # Envoy picks its key by "kid"
    return jwt.encode(claims, secret, algorithm="HS256", headers={"kid": "bench"})
