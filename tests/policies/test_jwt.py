"""`jwt`: every way a token can be wrong, what a good one becomes, and that nothing leaks."""

import base64
import json
import logging
import time

import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import ValidationError

from fastgw.policies.jwt import JwtOptions
from fastgw.testing.policy import Trial

SECRET = "a-secret-of-thirty-two-characters!"
OTHER = "another-secret-of-thirty-two-chars"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()


def pem(private) -> str:
    return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def token(claims=None, key=SECRET, algorithm="HS256", headers=None, **more) -> str:
    body = {"sub": "ada", "exp": int(time.time()) + 86400, **(claims or {}), **more}
    return pyjwt.encode({k: v for k, v in body.items() if v is not None}, key, algorithm, headers=headers)


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


def ask(options, text, **more):
    return Trial("jwt", options).ask("GET /orders", bearer(text), **more)


HS = {"secret": SECRET}


def test_a_good_token_becomes_identity_and_is_stripped():
    outcome = ask(HS, token(scope="read:orders write:orders"))
    assert outcome.passed
    assert outcome.exchange.consumer.name == "ada"
    assert outcome.exchange.claims["sub"] == "ada"
    assert outcome.upstream_header("X-User-Id") == "ada"
    assert outcome.upstream_header("X-User-Scopes") == "read:orders write:orders"
    assert outcome.upstream_header("Authorization") is None


def test_the_token_is_forwarded_when_asked_for():
    assert ask({**HS, "forward_token": True}, token()).upstream_header("authorization").startswith("Bearer ")


@pytest.mark.parametrize(
    "options, key, algorithm",
    [
        ({"secret": SECRET, "algorithm": "HS512"}, SECRET, "HS512"),
        ({"public_key": pem(RSA)}, RSA, "RS256"),
        ({"public_key": pem(RSA), "algorithm": "PS384"}, RSA, "PS384"),
        ({"public_key": pem(EC)}, EC, "ES256"),
        ({"public_key": pem(ED)}, ED, "EdDSA"),
    ],
)
def test_algorithms(options, key, algorithm):
    assert ask(options, token(key=key, algorithm=algorithm)).passed
    outcome = ask(options, token(key=OTHER, algorithm="HS256"))
    assert (outcome.status, outcome.code) == (401, "invalid_token")


def unsigned(header: dict, claims: dict) -> str:
    def part(value):
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part(header)}.{part(claims)}."


def hmac_with_public_key() -> str:
    """The classic confusion, made by hand as PyJWT refuses to make it."""
    import hashlib
    import hmac

    body = unsigned({"alg": "HS256", "typ": "JWT"}, {"sub": "eve"}).rstrip(".")
    mac = hmac.new(pem(RSA).encode(), body.encode(), hashlib.sha256).digest()
    return body + "." + base64.urlsafe_b64encode(mac).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "options, text, code",
    [
        (HS, "rubbish", "invalid_token"),
        (HS, "a.b.c", "invalid_token"),
        (HS, unsigned({"alg": "none"}, {"sub": "eve"}), "invalid_token"),
        (HS, unsigned({"alg": "NONE"}, {"sub": "eve"}), "invalid_token"),
        (HS, token(key=OTHER), "invalid_token"),
        (HS, token(algorithm="HS512"), "invalid_token"),
        ({"public_key": pem(RSA)}, hmac_with_public_key(), "invalid_token"),
        (HS, token(headers={"crit": ["exp"], "exp": 1}), "invalid_token"),
        (HS, token(exp=int(time.time()) - 1), "token_expired"),
        (HS, token(nbf=int(time.time()) + 86400), "invalid_token"),
        ({**HS, "issuer": "https://id"}, token(iss="https://evil"), "invalid_token"),
        ({**HS, "issuer": "https://id"}, token(), "invalid_token"),
        ({**HS, "audience": "orders"}, token(aud="users"), "invalid_token"),
        ({**HS, "audience": "orders"}, token(), "invalid_token"),
        (HS, token(sub="ada\r\nX-Admin: 1"), "invalid_token"),
        (HS, token(scope="a\x00b"), "invalid_token"),
        (HS, token(exp="soon"), "invalid_token"),
        ({**HS, "max_size": 200}, token(padding="x" * 300), "invalid_token"),
        (HS, token(headers={"kid": "x" * 20}, key=OTHER), "invalid_token"),
    ],
)
def test_bad_tokens(options, text, code):
    outcome = ask(options, text)
    assert (outcome.passed, outcome.status, outcome.code) == (False, 401, code)
    assert outcome.header("WWW-Authenticate").startswith("Bearer error=")
    assert SECRET not in outcome.body.decode()


def test_no_token():
    outcome = Trial("jwt", HS).ask("GET /")
    assert (outcome.status, outcome.code, outcome.header("WWW-Authenticate")) == (
        401,
        "unauthorized",
        "Bearer",
    )
    assert Trial("jwt", HS).ask("GET /", {"Authorization": "Basic eDp5"}).code == "unauthorized"
    twice = [("Authorization", f"Bearer {token()}"), ("Authorization", f"Bearer {token()}")]
    assert Trial("jwt", HS).ask("GET /", twice).code == "invalid_token"


def test_leeway():
    late = token(exp=int(time.time()) - 5)
    assert ask({**HS, "leeway": "30s"}, late).passed
    assert ask(HS, late).code == "token_expired"


@pytest.mark.parametrize("claims", [{"exp": 1e300}, {"exp": 10**18}, {"nbf": -1e300}, {"nbf": 0}])
def test_times_that_are_out_of_all_bounds(claims):
    assert ask(HS, token(claims)).passed


def test_issuer_and_audience_that_fit():
    options = {**HS, "issuer": ["https://a", "https://b"], "audience": "orders"}
    assert ask(options, token(iss="https://b", aud=["users", "orders"])).passed


def test_keys_are_chosen_by_kid_and_keep_their_algorithm():
    options = {
        "keys": [
            {"kid": "old", "algorithm": "HS256", "secret": SECRET},
            {"kid": "new", "algorithm": "RS256", "public_key": pem(RSA)},
        ]
    }
    assert ask(options, token(headers={"kid": "old"})).passed
    assert ask(options, token(key=RSA, algorithm="RS256", headers={"kid": "new"})).passed
    assert not ask(options, token(headers={"kid": "new"})).passed, "the secret of one key does not do for another"
    assert not ask(options, token()).passed
    assert not ask(options, token(headers={"kid": "../../etc"})).passed


def test_scopes_and_claims_are_403():
    options = {
        **HS,
        "required_scopes": ["read:orders", "write:orders"],
        "required_claims": {"tenant": ["a", "b"]},
    }
    outcome = ask(options, token(scope="read:orders", tenant="a"))
    assert (outcome.status, outcome.code) == (403, "insufficient_scope")
    assert "write:orders" in outcome.problem["detail"] and 'scope="read:orders' in outcome.header("WWW-Authenticate")
    outcome = ask(options, token(scope="read:orders write:orders", tenant="c"))
    assert (outcome.status, outcome.code) == (403, "forbidden")
    assert ask(options, token(scp=["read:orders", "write:orders"], tenant=["x", "b"])).passed
    assert ask({**HS, "required_claims": ["tenant"]}, token()).code == "forbidden"
    assert ask({**HS, "required_claims": {"admin": True}}, token(admin=1)).code == "forbidden"


def test_identity_headers_of_the_client_never_pass():
    forged = {"X-User-Id": "root", "x-user-scopes": "admin"}
    trial = Trial("jwt", {**HS, "excluded_paths": ["/health", "/docs/*"]})
    outcome = trial.ask("GET /orders", {**forged, **bearer(token())})
    assert outcome.upstream_header("X-User-Id") == "ada"
    assert outcome.upstream_header("X-User-Scopes") is None
    for path in ("/health", "/docs", "/docs/a/b", "/health?x=1"):
        outcome = trial.ask(f"GET {path}", forged)
        assert outcome.passed and outcome.upstream_header("X-User-Id") is None, path
        assert outcome.upstream_header("x-user-scopes") is None
    for path in ("/healthy", "/health/x", "/docsx", "/"):
        assert trial.ask(f"GET {path}").status == 401, path


def test_verified_tokens_are_remembered_until_they_expire():
    trial = Trial("jwt", {**HS, "cache": {"size": 4}})
    calls = []
    verify = trial.policy.verifier.verify
    trial.policy.verifier.verify = lambda text: calls.append(text) or verify(text)
    trial.hook = trial.policy.hook()
    good = token()
    for _ in range(3):
        assert trial.ask("GET /", bearer(good)).passed
    assert len(calls) == 1
    # a token that differs in its signature only is another token
    assert not trial.ask("GET /", bearer(good[:-2] + ("AA" if good[-2:] != "AA" else "BB"))).passed
    assert len(calls) == 2
    for number in range(50):
        assert trial.ask("GET /", bearer(token(sub=f"user-{number}"))).passed
    assert len(trial.hook.cache) <= 4


def test_the_cache_honours_expiry():
    from fastgw._core.verified import TokenCache, Verified

    cache = TokenCache(10)
    cache.put(b"t", Verified(None, {}, b"", 1000, 500, None))
    assert cache.get(b"t", 999) is not None
    assert cache.get(b"t", 1000) is None
    assert cache.get(b"t", 999) is None, "an expired token is forgotten"
    cache.put(b"u", Verified(None, {}, b"", 1000, 500, None))
    assert cache.get(b"u", 499) is None


def test_without_cache_every_token_is_verified():
    trial = Trial("jwt", {**HS, "cache": {"size": 0}})
    good = bearer(token())
    assert trial.ask("GET /", good).passed and trial.ask("GET /", good).passed
    assert len(trial.hook.cache) == 0


@pytest.mark.parametrize(
    "options, words",
    [
        ({}, "none of"),
        ({"secret": SECRET, "public_key": pem(RSA)}, "more than one"),
        ({"secret": SECRET, "algorithm": "RS256"}, "does not fit"),
        ({"public_key": pem(RSA), "algorithm": "HS256"}, "does not fit"),
        ({"public_key": pem(RSA), "algorithm": "ES256"}, "does not fit"),
        ({"public_key": "nonsense"}, "not a PEM"),
        ({"secret": pem(RSA)}, "public key stands in the place"),
        ({"secret": ""}, "empty"),
        ({"secret": SECRET, "excluded_paths": ["*"]}, "not a path"),
        ({"secret": SECRET, "algorithm": "none"}, "HS256"),
        ({"keys": [{"algorithm": "HS256", "secret": SECRET}] * 2}, "same `kid`"),
        ({"secret": SECRET, "requird_scopes": []}, "Extra inputs"),
    ],
)
def test_options_that_cannot_protect_are_refused(options, words):
    with pytest.raises(ValidationError) as caught:
        JwtOptions.model_validate(options)
    assert words in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_secret_is_never_shown(caplog):
    caplog.set_level(logging.DEBUG)
    options = JwtOptions.model_validate({"keys": [{"kid": "k", "algorithm": "HS256", "secret": SECRET}]})
    trial = Trial("jwt", options.model_dump())
    outcome = trial.ask("GET /", bearer("x.y.z"))
    seen = [repr(options), str(options), options.model_dump_json(), repr(trial.policy.verifier),
            repr(trial.hook), outcome.body.decode(), caplog.text, repr(outcome.got)]  # fmt: skip
    assert not any(SECRET in text for text in seen)


def test_places_of_the_token():
    trial = Trial("jwt", {**HS, "token": {"cookie": "at", "query": "access_token"}})
    good, bad = token(), token(key=OTHER)
    outcome = trial.ask("GET /", {"Cookie": f"a=1; at={good}; b=2"})
    assert outcome.passed and outcome.upstream_header("Cookie") == "a=1; b=2"
    outcome = trial.ask("GET /", {"Cookie": f"at={good}"})
    assert outcome.passed and outcome.upstream_header("Cookie") is None
    outcome = trial.ask(f"GET /x?a=1&access_token={good}&b=2")
    assert outcome.passed and outcome.exchange.query == "a=1&b=2"
    assert trial.ask("GET /", {"Cookie": f"at={bad}"}).code == "invalid_token"
    assert trial.ask("GET /", {"Cookie": f"bat={good}"}).code == "unauthorized"
    # the header comes first, and the others are hidden with it
    outcome = trial.ask(f"GET /?access_token={bad}", {**bearer(good), "Cookie": f"at={bad}"})
    assert outcome.passed and outcome.upstream_header("Cookie") is None and outcome.exchange.query == ""
    assert trial.ask(f"GET /?access_token={good}", bearer(bad)).code == "invalid_token"
    # another scheme is no token, and goes on
    outcome = trial.ask("GET /", {"Authorization": "Basic eDp5", "Cookie": f"at={good}"})
    assert outcome.passed and outcome.upstream_header("Authorization") == "Basic eDp5"
    assert trial.ask("GET /", {"Cookie": "at=" + "a" * 9000}).code == "invalid_token"


def test_only_a_cookie():
    trial = Trial("jwt", {**HS, "token": {"header": False, "cookie": "at"}})
    assert trial.ask("GET /", bearer(token())).code == "unauthorized"
    outcome = trial.ask("GET /", {"Cookie": f"at={token()}", "Authorization": "Bearer other"})
    assert outcome.passed and outcome.upstream_header("Authorization") == "Bearer other"


def test_a_key_that_goes_takes_its_tokens_along():
    from fastgw._core.verified import TokenCache, Verified

    cache = TokenCache(4)
    for number, key in enumerate(("a", "b", "a", "b")):
        cache.put(b"%d" % number, Verified(None, {}, b"", 0, 0, None, key))
    cache.drop({"a"})
    assert [cache.get(b"%d" % number, 1) is not None for number in range(4)] == [False, True, False, True]


@pytest.mark.parametrize(
    "options, words",
    [
        ({"issuers": [{"issuer": "https://a"}], "secret": SECRET}, "more than one"),
        ({"issuers": [{"issuer": "http://id.example.com"}]}, "https"),
        ({"issuers": [{"issuer": "a", "jwks_url": "http://id.example.com/k"}]}, "https"),
        ({"issuers": [{"issuer": "https://a"}, {"issuer": "https://a"}]}, "same name"),
        ({"issuers": [{"issuer": "https://a", "algorithms": ["HS256"]}]}, "RS256"),
        ({"issuers": [{"issuer": "https://a"}], "issuer": "https://a"}, "stands beside"),
        ({"secret": SECRET, "token": {"header": False}}, "no place"),
        ({"secret": SECRET, "revocation": {}}, "on_failure"),
    ],
)
def test_options_of_issuers_that_are_refused(options, words):
    with pytest.raises(ValidationError) as caught:
        JwtOptions.model_validate(options)
    assert words in str(caught.value) and SECRET not in str(caught.value)
