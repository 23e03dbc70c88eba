"""`identity_token` and `jwks`: what the gateway signs, others can check with what it publishes."""

import json
import time

import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pydantic import ValidationError

from fastgw._core.exchange import Consumer
from fastgw.policies.identity_token import IdentityTokenOptions
from fastgw.testing.policy import Trial

EC = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)
ED = ed25519.Ed25519PrivateKey.generate()


def pem(private):
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def options(private=EC, **more):
    return {"private_key": pem(private), "issuer": "https://gw", "audience": "orders", **more}


def as_ada(claims=None):
    def prepare(exchange):
        exchange.consumer = Consumer("ada", ("staff",))
        exchange.claims = claims

    return prepare


def published(*keys):
    answer = Trial("jwks", {"keys": [{"private_key": pem(key)} for key in keys]}).ask("GET /keys")
    assert answer.status == 200 and answer.header("Content-Type") == "application/jwk-set+json"
    return json.loads(answer.body)["keys"]


@pytest.mark.parametrize("private, algorithm", [(EC, "ES256"), (RSA, "RS256"), (ED, "EdDSA")])
def test_what_is_signed_can_be_checked_with_what_is_published(private, algorithm):
    trial = Trial("identity_token", options(private, claims=["scope", "realm.tenant", "nothing"]))
    claims = {"scope": "read", "realm": {"tenant": "acme"}, "secret": "not told"}
    outcome = trial.ask("GET /", {"X-Identity-Token": "forged"}, prepare=as_ada(claims))
    assert [value for name, value in outcome.sent if name.lower() == "x-identity-token"] != ["forged"]
    token = outcome.upstream_header("X-Identity-Token")
    (jwk,) = published(private)
    assert jwk["alg"] == algorithm and jwk["use"] == "sig" and "d" not in jwk and "p" not in jwk
    assert pyjwt.get_unverified_header(token)["kid"] == jwk["kid"]
    found = pyjwt.decode(token, pyjwt.PyJWK(jwk).key, [algorithm], audience="orders", issuer="https://gw")
    assert found["sub"] == "ada" and found["groups"] == ["staff"]
    assert found["scope"] == "read" and found["realm.tenant"] == "acme" and "secret" not in found
    assert found["exp"] - found["iat"] == 60 and abs(found["iat"] - time.time()) < 60


def test_a_token_is_used_again_by_the_same_caller_only():
    trial = Trial("identity_token", options(claims=["tenant"]))

    def token(claims):
        return trial.ask("GET /", prepare=as_ada(claims)).upstream_header("X-Identity-Token")

    assert token({"tenant": "a"}) == token({"tenant": "a"})
    assert token({"tenant": "a"}) != token({"tenant": "b"})
    assert token({"tenant": 1}) != token({"tenant": "1"})


def test_nobody():
    outcome = Trial("identity_token", options()).ask("GET /")
    assert (outcome.status, outcome.code) == (401, "unauthorized")
    outcome = Trial("identity_token", options(anonymous=True)).ask("GET /", {"X-Identity-Token": "forged"})
    assert outcome.passed and outcome.upstream_header("X-Identity-Token") is None


def test_in_the_authorization_header():
    trial = Trial("identity_token", options(header="Authorization"))
    outcome = trial.ask("GET /", {"Authorization": "Bearer outside"}, prepare=as_ada())
    values = [value for name, value in outcome.sent if name.lower() == "authorization"]
    assert len(values) == 1 and values[0].startswith("Bearer ey")


def test_several_keys_are_published_for_a_rotation():
    kids = [jwk["kid"] for jwk in published(EC, RSA)]
    assert len(set(kids)) == 2
    with pytest.raises(ValidationError):
        published(EC, EC)


@pytest.mark.parametrize(
    "more, words",
    [
        ({"private_key": "nonsense"}, "not a PEM private key"),
        ({"algorithm": "RS256"}, "does not fit"),
        ({"claims": ["sub"]}, "own claim"),
        ({"private_key": pem(rsa.generate_private_key(65537, 1024))}, "1024 bits"),
    ],
)
def test_options_that_are_refused(more, words):
    with pytest.raises(ValidationError) as caught:
        IdentityTokenOptions.model_validate(options(**more))
    assert words in str(caught.value) and "PRIVATE" not in str(caught.value)


def test_the_key_is_never_shown():
    trial = Trial("identity_token", options())
    made = IdentityTokenOptions.model_validate(options())
    for text in (repr(made), made.model_dump_json(), repr(trial.policy.signer), repr(trial.policy)):
        assert "PRIVATE" not in text and pem(EC).splitlines()[1] not in text
