"""`fastgw explain`: what the policies say to a key or a token."""

import base64
import hashlib
import json

import jwt
import pytest

from fastgw.cli import main
from fastgw.config.schema.consumers import ApiKeys
from fastgw.server.keys import KeyFile
from fastgw.testing.certificates import Authority

SECRET = "planted-secret-of-32-bytes-and-more"
KEY = "planted-key-1"
CONFIG = f"""
services: {{up: http://127.0.0.1:9001}}
plans: {{gold: {{scopes: [orders:read]}}}}
api_keys: {{file: keys.json}}
consumers:
  - {{name: ada, plan: gold, groups: [staff], keys: ["sha256:{hashlib.sha256(KEY.encode()).hexdigest()}"],
     password: "$2b$04$koQhi7k71jW0VOFlA8zlM.sbiOzPCVn1rFzj9z8TYvm/Q4nrvI9pa", certificates: ["DNS:ada.example.com"]}}
  - {{name: bob}}
routes:
  - path: /orders/{{tenant}}
    service: up
    policies:
      - request_id
      - any_of: [key_auth, {{jwt: {{secret: {SECRET}}}}}]
      - authorize: {{rule: readers, scopes: [orders:read]}}
      - abac: [{{rule: own, allow: 'route.params.tenant == "t1"'}}]
  - path: /outside
    service: up
    policies: [{{forward_auth: {{service: up}}}}, {{acl: {{allow: {{groups: [staff]}}}}}}]
  - {{path: /open, service: up}}
  - {{path: /password, service: up, policies: [basic_auth, {{acl: {{allow: {{groups: [staff]}}}}}}]}}
  - {{path: /certificate, service: up, policies: [mtls]}}
  - {{path: /engine, service: up, policies: [key_auth, {{opa: {{service: up, path: /v1/data/x, on_failure: open}}}}]}}
  - {{path: /token, service: up, policies: [{{oauth2_introspection: {{service: up, client_id: c, client_secret: s}}}}]}}
  - {{path: /within, service: up, policies: [{{any_of: [key_auth, {{all_of: [basic_auth, mtls]}}]}}]}}
  - path: /within/outside
    service: up
    policies:
      - any_of: [key_auth, {{all_of: [basic_auth, {{forward_auth: {{service: up}}}}]}}]
      - acl: {{deny: {{plans: [x]}}}}
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "gateway.yaml").write_text(CONFIG)
    return tmp_path / "gateway.yaml"


@pytest.fixture
def explain(file, capsys):
    def run(request, *headers):
        code = main(["explain", str(file), request, "--json", *(word for header in headers for word in ("-H", header))])
        shown = capsys.readouterr().out
        assert code == 0 and SECRET not in shown and KEY not in shown
        return json.loads(shown)["verdicts"]

    return run


def test_a_key(explain):
    rows = explain("/orders/t1", f"X-API-Key: {KEY}")
    assert [(row["policy"], row["verdict"]) for row in rows] == [
        ("any_of", "passes"), ("authorize", "passes"), ("abac", "passes"),
    ]  # fmt: skip
    assert rows[0]["consumer"] == "ada" and rows[0]["plan"] == "gold" and rows[0]["scopes"] == ["orders:read"]
    rows = explain("/orders/t2", f"X-API-Key: {KEY}")
    assert rows[-1]["code"] == "rule_refused" and "own" in rows[-1]["detail"]


def test_a_token(explain):
    token = jwt.encode({"sub": "eve", "scope": "users:read"}, SECRET, "HS256")
    rows = explain("/orders/t1", f"Authorization: Bearer {token}")
    assert rows[0]["consumer"] == "eve"
    assert (rows[1]["verdict"], rows[1]["status"], rows[1]["code"]) == ("refuses", 403, "insufficient_scope")
    assert len(rows) == 2                                        # what comes later is not reached
    bad = jwt.encode({"sub": "eve"}, "x" * 32, "HS256")
    assert explain("/orders/t1", f"Authorization: Bearer {bad}")[0]["code"] == "invalid_token"


def test_nobody(explain):
    assert explain("/orders/t1")[0]["code"] == "unauthorized"
    assert explain("/open") == []


def test_a_managed_key(explain, file):
    keys = KeyFile(ApiKeys(file=str(file.parent / "keys.json")), lambda put, drop: None)
    record, key = keys.create("bob", ["orders:read"], None, "")
    assert explain("/orders/t1", f"X-API-Key: {key}")[0]["credential"] == record.id
    keys.revoke(record.id)
    assert explain("/orders/t1", f"X-API-Key: {key}")[0]["code"] == "invalid_key"
    (file.parent / "keys.json").write_text("nonsense")
    assert explain("/orders/t1", f"X-API-Key: {key}")[0]["status"] == 503


def test_who_cannot_be_asked_here(explain):
    rows = explain("/outside")
    assert rows[0]["verdict"] == "would ask" and "up whether it may pass (GET /): 2xx" in rows[0]["detail"]
    assert "503 authorizer_unavailable" in rows[0]["detail"]
    assert rows[1]["code"] == "unauthorized"
    row = explain("/engine", f"X-API-Key: {KEY}")[1]
    assert row["verdict"] == "would ask" and "unanswered, it passes" in row["detail"]
    (row,) = explain("/token")
    assert (row["verdict"], row["status"]) == ("refuses", 401)
    (row,) = explain("/token", "Authorization: Bearer planted-opaque")
    assert row["verdict"] == "would ask" and "what the token is worth" in row["detail"] and "planted" not in str(row)


def test_a_password(explain):
    def basic(text):
        return f"Authorization: Basic {base64.b64encode(text.encode()).decode()}"

    rows = explain("/password", basic("ada:correct horse"))
    assert [(row["policy"], row["verdict"]) for row in rows] == [("basic_auth", "passes"), ("acl", "passes")]
    assert rows[0]["consumer"] == "ada" and rows[0]["groups"] == ["staff"]
    for header in (basic("ada:planted"), basic("eve:correct horse"), "Authorization: Basic !"):
        (row,) = explain("/password", header)
        assert (row["verdict"], row["status"], row["code"]) == ("refuses", 401, "invalid_credentials")
    assert explain("/password")[0]["code"] == "unauthorized"


def test_a_certificate(explain, tmp_path, file, capsys):
    authority = Authority(tmp_path)
    right, wrong = authority.leaf("ada.example.com", client=True), authority.leaf("eve.example.com", client=True)
    assert explain("/certificate")[0]["code"] == "unauthorized"
    for pair, expected in ((right, ("passes", None)), (wrong, ("refuses", "invalid_certificate"))):
        assert main(["explain", str(file), "/certificate", "--json", "--client-cert", pair.cert]) == 0
        (row,) = json.loads(capsys.readouterr().out)["verdicts"]
        assert (row["verdict"], row.get("code")) == expected
    assert main(["explain", str(file), "/certificate", "--client-cert", str(tmp_path / "none")]) == 2
    main(["explain", str(file), "/certificate", "--client-cert", authority.key])
    assert "no certificate in PEM" in capsys.readouterr().err


def test_within_compositions(explain, tmp_path, file, capsys):
    good = f"Authorization: Basic {base64.b64encode(b'ada:correct horse').decode()}"
    bad = f"Authorization: Basic {base64.b64encode(b'ada:planted').decode()}"
    assert explain("/within", f"X-API-Key: {KEY}")[0]["consumer"] == "ada"
    (row,) = explain("/within", bad)
    assert (row["verdict"], row["code"]) == ("refuses", "invalid_credentials") and "planted" not in str(row)
    (row,) = explain("/within", good)
    assert (row["verdict"], row["code"]) == ("refuses", "unauthorized"), "there is no certificate"
    right = Authority(tmp_path).leaf("ada.example.com", client=True)
    assert main(["explain", str(file), "/within", "--json", "-H", good, "--client-cert", right.cert]) == 0
    (row,) = json.loads(capsys.readouterr().out)["verdicts"]
    assert (row["verdict"], row["credential"]) == ("passes", "DNS:ada.example.com")
    # somebody outside is asked where those before him do not decide
    rows = explain("/within/outside", f"X-API-Key: {KEY}")
    assert [row["verdict"] for row in rows] == ["passes", "passes"] and rows[0]["consumer"] == "ada"
    assert explain("/within/outside", bad)[-1]["code"] == "invalid_credentials"
    rows = explain("/within/outside", good)
    assert rows[0]["verdict"] == "would ask" and "up whether it may pass" in rows[0]["detail"]
    assert rows[1]["code"] == "unauthorized", "who it is, only the one outside knows"


def test_in_words(file, capsys):
    assert main(["explain", str(file), "/orders/t1", "-H", f"X-API-Key: {KEY}"]) == 0
    shown = capsys.readouterr().out
    assert "verdict   any_of: passes as ada (ada/0, groups staff, plan gold, scopes orders:read)" in shown
    main(["explain", str(file), "/orders/t1"])
    assert "verdict   any_of: refuses with 401 unauthorized" in capsys.readouterr().out
