"""Wycheproof's set for JSON Web Signature, where it is supplied: SUITE_DIR/wycheproof/json_web_signature_test.json.

It is not part of this repository. `result` of each vector is what the verifier must say; where ours refuses what may be
accepted, STRICTER says why.
"""

import base64
import json
import os
from pathlib import Path

import jwt as pyjwt
import pytest

from fastgw._core.verified import Verified
from fastgw.policies._issuers import EVERY
from fastgw.policies._jwk import SigningKey, read_jwk
from fastgw.policies._tokens import Rules, Verifier
from fastgw.policies.base import PolicyError

FILE = Path(os.environ.get("SUITE_DIR") or "nowhere") / "wycheproof" / "json_web_signature_test.json"
STRICTER = {
    346: "the key says PS256, the token PS384: a key has one algorithm",
    350: "the key says PS256, the token PS384: a key has one algorithm",
    347: "the key's algorithm is ES521, which does not exist",
    351: "the key's algorithm is ES521, which does not exist",
    372: "a `?` in the middle of base64url: RFC 7515 §2 allows no other characters",
    373: "a `?` in the middle of base64url: RFC 7515 §2 allows no other characters",
}
DEFECTIVE = {367, 370}
"""They are meant to have wrong padding, and have none: the same good token twice."""


class Signatures(Verifier):
    """The payloads of the set are no claims: only header and signature are looked at."""

    def decode(self, token, key, rules):
        pyjwt.PyJWS().decode(token.decode(), key.key, algorithms=[key.algorithm])
        return {}


def key_of(group):
    jwk = group.get("public") or group["private"]
    if jwk["kty"] == "oct":
        return SigningKey(jwk.get("kid"), jwk["alg"], base64.urlsafe_b64decode(jwk["k"] + "=="))
    return read_jwk(jwk, EVERY)


@pytest.mark.skipif(not FILE.exists(), reason="the vectors are not in SUITE_DIR/wycheproof")
def test_json_web_signatures():
    wrong = []
    count = 0
    for group in json.loads(FILE.read_text())["testGroups"]:
        try:
            key = key_of(group)
        except PolicyError as error:
            key, why = None, str(error)
        for vector in group["tests"]:
            count += 1
            reason = why if key is None else None
            if key is not None:
                found = Signatures([key], Rules(required_claims={})).verify(vector["jws"].encode())
                reason = None if isinstance(found, Verified) else found.detail
            good = vector["result"] == "valid"
            if vector["tcId"] in DEFECTIVE or (good and vector["tcId"] in STRICTER):
                continue
            if good != (reason is None):
                wrong.append((vector["tcId"], group["comment"], vector["comment"], vector["result"], reason))
    assert not wrong, "\n".join(map(str, wrong))
    assert count > 300
