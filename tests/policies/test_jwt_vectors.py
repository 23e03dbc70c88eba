"""Tokens of RFC 7515, 7516 and 7519, and each way to be refused with its reason."""

import base64
import hashlib
import hmac
import json

import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from fastgw._core.verified import Verified
from fastgw.config.fields import Secret
from fastgw.policies._jwk import SigningKey, load_key, read_jwk, read_jwks
from fastgw.policies._tokens import Rules, Verifier, claim
from fastgw.policies.base import PolicyError

ALL = ("RS256", "PS256", "ES256", "ES384", "ES512", "EdDSA")

# RFC 7515 A.1: HS256
HS_KEY = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"
HS_TOKEN = (
    "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9"
    ".eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
    ".dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
)
# RFC 7515 A.2: RS256
RS_JWK = {
    "kty": "RSA",
    "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZ"
         "S-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2"
         "CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9g"
         "b54h4FRWyuXpoQ",
    "e": "AQAB",
}  # fmt: skip
RS_TOKEN = (
    "eyJhbGciOiJSUzI1NiJ9"
    ".eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
    ".cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1"
    "dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDw"
    "usC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"
)
# RFC 7515 A.3: ES256
ES_JWK = {"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
          "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}  # fmt: skip
ES_TOKEN = (
    "eyJhbGciOiJFUzI1NiJ9"
    ".eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
    ".DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
)
# RFC 7519 6.1: without a signature
NONE_TOKEN = (
    "eyJhbGciOiJub25lIn0"
    ".eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ."
)
# RFC 7516 A.3: encrypted
JWE_TOKEN = (
    "eyJhbGciOiJBMTI4S1ciLCJlbmMiOiJBMTI4Q0JDLUhTMjU2In0"
    ".6KB707dM9YTIgHtLvtgWQ8mKwboJW3of9locizkDTHzBC2IlrT1oOQ.AxY8DCtDaGlsbGljb3RoZQ"
    ".KDlTtXchhZTGufMYmOYGS4HffxPSUrfmqCHXaI9wOGY.U0m_YmjN04DJvceFICbCVQ"
)
EPOCH = 1300819380
CLOCK_SKEW = 10**9
"""Leeway, in seconds, with which the tokens of 2011 are not expired."""


def b64(raw):
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def hs_key(kid=None):
    return SigningKey(kid, "HS256", base64.urlsafe_b64decode(HS_KEY + "=="))


def verify(text, *keys, **rules):
    rules.setdefault("required_claims", {})
    return Verifier(keys, Rules(**rules)).verify(text.encode())


def refusal(text, *keys, **rules):
    return verify(text, *keys, **rules).detail


@pytest.mark.parametrize(
    "text, key",
    [(HS_TOKEN, hs_key()), (RS_TOKEN, read_jwk(RS_JWK, ALL)), (ES_TOKEN, read_jwk(ES_JWK, ALL))],
    ids=["A.1", "A.2", "A.3"],
)
def test_tokens_of_rfc_7515(text, key):
    found = verify(text, key, leeway=CLOCK_SKEW)
    assert found.claims == {"iss": "joe", "exp": EPOCH, "http://example.com/is_root": True}
    assert found.key is key
    assert refusal(text, key) == "The token has expired."
    start, _, signature = text.rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    for changed in (bytes([raw[0] ^ 1]) + raw[1:], raw[:-1] + bytes([raw[-1] ^ 128]), b"", raw[:-3], raw + b"\0"):
        assert refusal(f"{start}.{b64(changed)}", key, leeway=CLOCK_SKEW) == "The token's signature is not valid."
    # the same bytes, spelled otherwise
    again = signature[:-1] + chr(ord(signature[-1]) + 1)
    assert base64.urlsafe_b64decode(again + "==") == raw
    assert refusal(f"{start}.{again}", key, leeway=CLOCK_SKEW) == "The token is malformed."


def test_none_and_encrypted_tokens():
    for key in (hs_key(), read_jwk(RS_JWK, ALL)):
        assert refusal(NONE_TOKEN, key) == "The token's algorithm is not the key's."
        assert refusal(JWE_TOKEN, key) == "The token is encrypted (JWE)."


def test_a_public_key_is_no_shared_secret():
    """RFC 8725 2.1: the algorithm changed to HS256, the public key taken as the secret."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    key = SigningKey(None, *load_key("RS256", None, Secret(pem.decode())))
    head, body = b64(b'{"alg":"HS256"}'), b64(b'{"sub":"root"}')
    signature = b64(hmac.new(pem, f"{head}.{body}".encode(), hashlib.sha256).digest())
    assert refusal(f"{head}.{body}.{signature}", key) == "The token's algorithm is not the key's."


def signed(header, payload=b'{"sub":"ada"}'):
    """A good HS256 signature over whatever is there."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    start = f"{b64(raw)}.{b64(payload)}"
    key = base64.urlsafe_b64decode(HS_KEY + "==")
    return f"{start}.{b64(hmac.new(key, start.encode(), hashlib.sha256).digest())}"


@pytest.mark.parametrize(
    "text, reason",
    [
        ("", "The token is malformed."),
        ("a", "The token is malformed."),
        ("a.b", "The token is malformed."),
        ("a.b.c.d", "The token is malformed."),
        ("..", "The token is malformed."),
        (HS_TOKEN + "=", "The token is malformed."),
        (HS_TOKEN + "\n", "The token is malformed."),
        (HS_TOKEN.replace(".", ". ", 1), "The token is malformed."),
        (HS_TOKEN.replace("-", "+"), "The token is malformed."),
        (signed(b"{"), "The token is malformed."),
        (signed(b"[]"), "The token is malformed."),
        (signed(b"[" * 3000), "The token is malformed."),
        (signed(b"\xff\xfe"), "The token is malformed."),
        (signed({}), "The token's algorithm is not the key's."),
        (signed({"alg": "none"}), "The token's algorithm is not the key's."),
        (signed({"alg": "HS512"}), "The token's algorithm is not the key's."),
        (signed({"alg": "hs256"}), "The token's algorithm is not the key's."),
        (signed({"alg": ["HS256"]}), "The token's algorithm is not the key's."),
        (signed({"alg": "HS256", "crit": ["exp"], "exp": 1}), "The token has critical extensions."),
        (signed({"alg": "HS256", "crit": []}), "The token has critical extensions."),
        (signed({"alg": "HS256", "crit": ["b64"], "b64": False}), "The token has critical extensions."),
        (signed({"alg": "HS256", "kid": 7}), "The token is malformed."),
        (signed({"alg": "HS256"}, b"{"), "The token is not valid."),
        (signed({"alg": "HS256"}, b"[]"), "The token is not valid."),
        (signed({"alg": "HS256"}, b'{"a":' + b"[" * 3000), "The token is not valid."),
        (signed({"alg": "HS256"}, b'{"exp": "soon"}'), "The token is not valid."),
        (signed({"alg": "HS256"}, b'{"exp": Infinity}'), "The token is not valid."),
        (signed({"alg": "HS256"}, b'{"exp": 1}'), "The token has expired."),
        (signed({"alg": "HS256"}, b'{"nbf": 99999999999}'), "The token is not valid yet."),
        (signed({"alg": "HS256"}, b'{"sub": "a\\nb"}'), "The token's subject cannot be used."),
        (signed({"alg": "HS256"}, b'{"sub": ["a"]}'), "The token's subject cannot be used."),
        (signed({"alg": "HS256"}, b'{"scope": "a\\u0000b"}'), "The token's scopes cannot be used."),
    ],
)
def test_each_refusal_has_its_reason(text, reason):
    problem = verify(text, hs_key())
    assert (problem.status, problem.detail) == (401, reason)
    assert dict(problem.headers)["WWW-Authenticate"].startswith('Bearer error="invalid_token"')


def test_keys_embedded_in_a_token_are_not_looked_at():
    """RFC 7515 4.1.2 to 4.1.6: `jku`, `jwk`, `x5u`, `x5c` would let a token bring its own key."""
    mine = ec.generate_private_key(ec.SECP256R1())
    jwk = json.loads(pyjwt.get_algorithm_by_name("ES256").to_jwk(mine.public_key()))
    for header in ({"jwk": jwk}, {"jku": "https://evil.example/keys"}, {"x5u": "https://evil.example/"}):
        text = pyjwt.encode({"sub": "root"}, mine, "ES256", headers=header)
        assert refusal(text, read_jwk(ES_JWK, ALL)) == "The token's signature is not valid."


def test_types():
    rules = {"types": ("at+jwt",)}
    assert refusal(signed({"alg": "HS256", "typ": "JWT"}), hs_key(), **rules) == "The token is of another type."
    assert refusal(signed({"alg": "HS256"}), hs_key(), **rules) == "The token is of another type."
    for typ in ("at+jwt", "AT+JWT", "application/at+jwt"):
        assert verify(signed({"alg": "HS256", "typ": typ}), hs_key(), **rules).claims["sub"] == "ada"


def test_nested_claims():
    claims = {"realm": {"roles": ["a", "b"], "user": {"name": "ada"}}, "https://x.y/z": 1, "a.b": 2, "a": {"b": 3}}
    assert claim(claims, "realm.user.name") == "ada"
    assert claim(claims, "https://x.y/z") == 1 and claim(claims, "a.b") == 2
    assert claim(claims, "realm.roles.0") is None and claim(claims, "nothing", 7) == 7
    text = signed({"alg": "HS256"}, json.dumps(claims).encode())
    rules = {"required_claims": {"realm.roles": "b"}, "user_claim": "realm.user.name", "scope_claims": ["realm.roles"]}
    found = verify(text, hs_key(), **rules)
    assert found.refusal is None and found.consumer.name == "ada"
    assert b"X-User-Scopes: a b\r\n" in found.lines
    assert verify(text, hs_key(), required_claims={"realm.tenant": None}).refusal.code == "forbidden"


@given(st.binary(max_size=300) | st.text("ABab01-_.=", max_size=300).map(str.encode))
def test_anything_else_is_refused(raw):
    found = Verifier([hs_key()], Rules(required_claims={})).verify(raw)
    assert found.status == 401


@given(st.data())
def test_a_token_with_one_byte_changed_is_refused(data):
    good = signed({"alg": "HS256"}, b'{"sub":"ada","scope":"a b"}').encode()
    at = data.draw(st.integers(0, len(good) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != good[at]))
    found = Verifier([hs_key()], Rules(required_claims={})).verify(good[:at] + bytes([other]) + good[at + 1 :])
    assert found.status == 401


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists, max_leaves=5),
       st.sampled_from(["sub", "scope", "exp", "nbf", "iat", "iss", "aud", "jti"]))  # fmt: skip
def test_claims_of_any_kind_break_nothing(value, name):
    """Whatever a signed token says, it is good or refused."""
    found = verify(signed({"alg": "HS256"}, json.dumps({"sub": "ada", name: value}).encode()), hs_key())
    assert isinstance(found, Verified) or found.status == 401


# ---------------------------------------------------------------------------------------- sets of keys

P256 = {**ES_JWK, "kid": "k"}
SMALL = json.loads(
    pyjwt.get_algorithm_by_name("RS256").to_jwk(rsa.generate_private_key(65537, 1024).public_key())
)


@pytest.mark.parametrize(
    "jwk, reason",
    [
        ({"kty": "oct", "k": HS_KEY}, "none of RSA, EC and OKP"),
        ({**P256, "d": "870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE"}, "private key"),
        ({**P256, "use": "enc"}, "not for signatures"),
        ({**P256, "key_ops": ["sign"]}, "not for signatures"),
        ({**P256, "alg": "HS256"}, "not among those accepted"),
        ({**P256, "alg": "RS256"}, "not among those accepted"),
        ({**P256, "x": P256["y"]}, "cannot be read"),
        ({**P256, "x": 7}, "cannot be read"),
        ({**P256, "crv": "P-255"}, "cannot be read"),
        ({**P256, "kid": 7}, "not a short text"),
        ({**P256, "kid": "k" * 257}, "not a short text"),
        (SMALL, "1024 bits"),
        ({"kty": "RSA"}, "cannot be read"),
    ],
)
def test_keys_of_a_set_that_are_not_used(jwk, reason):
    with pytest.raises(PolicyError) as caught:
        read_jwk(jwk, ALL)
    assert reason in str(caught.value)


def test_a_key_has_one_algorithm():
    assert read_jwk(RS_JWK, ALL).algorithm == "RS256"
    assert read_jwk(RS_JWK, ("PS256", "RS256")).algorithm == "PS256"
    assert read_jwk({**RS_JWK, "alg": "PS256"}, ALL).algorithm == "PS256"
    assert read_jwk(P256, ALL).algorithm == "ES256"
    with pytest.raises(PolicyError):
        read_jwk({**RS_JWK, "alg": "RS512"}, ALL)


def test_a_set_is_bounded_and_what_cannot_be_used_is_left_out():
    good, bad = read_jwks([P256, {"kty": "oct"}, 7, *([RS_JWK] * 200)], ALL)
    assert len(good) == 98 and len(bad) == 2
    assert read_jwks(None, ALL)[0] == [] and read_jwks({}, ALL)[0] == []
