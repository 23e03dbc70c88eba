"""`openapi`: documents of 3.0 and 3.1, what passes, what is refused and reported, documents that are none."""

import json

import pytest
import yaml
from pydantic import ValidationError

from fastgw.policies import PolicyError
from fastgw.policies._contract import Ledger, report
from fastgw.policies._openapi import Contract, from_30
from fastgw.policies.openapi import Openapi, OpenapiOptions
from fastgw.testing import GatewayProcess
from fastgw.testing.policy import Trial

DOCUMENT = """
openapi: 3.0.3
info: {title: Shop, version: "1"}
servers: [{url: https://api.example.com/v1}]
paths:
  /orders:
    get:
      operationId: list
      parameters:
        - {name: page, in: query, schema: {type: integer, minimum: 0, exclusiveMinimum: true}}
        - {name: tags, in: query, explode: false, schema: {type: array, items: {enum: [a, b]}}}
        - {$ref: "#/components/parameters/Tenant"}
    post:
      requestBody: {$ref: "#/components/requestBodies/Order"}
  /orders/mine:
    get: {}
  /orders/{id}:
    parameters: [{name: id, in: path, required: true, schema: {type: integer}}]
    get: {parameters: [{name: s, in: cookie, required: true, schema: {minLength: 3}}]}
    delete: {}
  /files/{name}.{kind}:
    get: {parameters: [{name: kind, in: path, required: true, schema: {enum: [png, jpg]}}]}
components:
  parameters:
    Tenant: {name: X-Tenant, in: header, required: true, schema: {type: string, maxLength: 5}}
  requestBodies:
    Order:
      required: true
      content:
        application/json: {schema: {$ref: "#/components/schemas/Order"}}
        text/*: {}
  schemas:
    Order:
      type: object
      required: [item]
      properties:
        item: {type: string}
        note: {type: string, nullable: true}
        parts: {type: array, items: {$ref: "#/components/schemas/Order"}}
    Unused: {type: nonsense}
"""
TENANT = {"X-Tenant": "acme"}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "shop.yaml"
    path.write_text(DOCUMENT)
    return str(path)


@pytest.mark.parametrize(
    "line, headers, status",
    [
        ("GET /v1/orders", TENANT, 0),
        ("HEAD /v1/orders", TENANT, 0),
        ("GET /v1/orders?page=1&tags=a,b&other=1", TENANT, 0),
        ("GET /v1/orders?page=0", TENANT, 400),
        ("GET /v1/orders?tags=a,c", TENANT, 400),
        ("GET /v1/orders?page=1&page=2", TENANT, 400),
        ("GET /v1/orders", {}, 400),
        ("GET /v1/orders", {"x-tenant": "much too long"}, 400),
        ("PUT /v1/orders", TENANT, 405),
        ("GET /orders", TENANT, 404),
        ("GET /v1/orders/", TENANT, 404),
        ("GET /v1/nothing", TENANT, 404),
        ("GET /v1", TENANT, 404),
        ("GET /v1/orders/mine", {}, 0),
        ("GET /v1/orders/5", {"Cookie": "a=1; s=abc"}, 0),
        ("GET /v1/orders/5", {"Cookie": "s=ab"}, 400),
        ("GET /v1/orders/5", {}, 400),
        ("GET /v1/orders/five", {"Cookie": "s=abc"}, 400),
        ("DELETE /v1/orders/5", {}, 0),
        ("GET /v1/files/a.b.png", {}, 0),
        ("GET /v1/files/a.exe", {}, 400),
        ("GET /v1/files/a", {}, 404),
        ("POST /v1/orders", {}, 400),
    ],
)
def test_requests(file, line, headers, status):
    outcome = Trial("openapi", {"file": file}).ask(line, headers)
    assert (0 if outcome.passed else outcome.status) == status
    if status == 405:
        assert outcome.header("Allow") == "GET, POST"
    if status == 400:
        assert outcome.code == "contract_broken" and outcome.problem["errors"]
    assert Trial("openapi", {"file": file, "mode": "log"}).ask(line, headers).passed


def test_options(file):
    trial = Trial("openapi", {"file": file, "base": "/api", "parameters": "refuse", "unknown": "report"})
    assert trial.ask("GET /api/orders/mine").passed
    assert trial.ask("GET /v1/orders/mine").passed, "it is reported"
    refused = trial.ask("GET /api/orders/mine?x=1")
    assert refused.problem["errors"] == [{"where": "query.x", "message": "is not described"}]
    rows = report([trial.policy.ledger.rows()])["unknown"]
    assert {(row["path"], row["what"]) for row in rows} == {
        ("/v1/orders/mine", "unknown path"), ("/api/orders/mine", "query.x is not described")}  # fmt: skip


def post(client, body, content_type=b"application/json"):
    head = b"POST /v1/orders HTTP/1.1\r\nHost: a\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
    return client.request(head % (content_type, len(body)) + body)


def test_bodies(gateway, upstream, file):
    running = gateway(
        f"services: {{up: '{upstream.url}'}}\n"
        f"routes: [{{path: /v1/*, service: up, policies: [openapi: {{file: '{file}', body_size: 80KiB}}]}}]"
    )
    with running.client() as client:
        for body in (b'{"item": "a", "note": null}', b'{"item": "a", "parts": [{"item": "b"}]}',
                     b'{"item": "' + b"a" * 50_000 + b'"}'):  # fmt: skip
            assert post(client, body).status == 200
        for body in (b'{"note": "a"}', b'{"item": "a", "parts": [{}]}', b"{"):
            assert post(client, body).status == 400
        assert post(client, b"anything", b"text/plain").status == 200
    with running.client() as client:
        assert post(client, b"<a/>", b"application/xml").status == 415


def test_the_admin_api_reports_what_is_not_known(file):
    config = {
        "server": {"workers": 2},
        "routes": [{"path": "/*", "policies": [{"openapi": {"file": file}}, {"respond": {"body": "a"}}]}],
    }
    with GatewayProcess(config) as gateway:
        for path in [b"/nothing"] * 5 + [b"/v1/orders/mine"] * 3 + [b"/v1/orders/x"]:
            with gateway.client() as client:
                client.request(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % path)
        status, body = gateway.admin("/contract")
    found = json.loads(body)
    assert status == 200 and found["other"] == 0
    assert found["unknown"][0] == {
        "route": "/*", "method": "GET", "path": "/nothing", "what": "unknown path", "count": 5}  # fmt: skip
    assert [(row["path"], row["count"]) for row in found["unknown"][1:]] == [("/v1/orders/x", 1)]


def test_the_report_is_bounded():
    ledger = Ledger()
    for number in range(2000):
        ledger.add("r", "GET", f"/{number}" + "x" * 500, "unknown path")
    assert len(ledger.counts) == 500 and ledger.other == 1500
    whole = report([ledger.rows(), ledger.rows()])
    assert len(whole["unknown"]) == 500 and whole["other"] == 3000
    assert all(len(row["path"]) <= 200 and row["count"] == 2 for row in whole["unknown"])


def test_schemas_of_3_0():
    assert from_30({"type": "string", "nullable": True, "enum": ["a"]}) == {
        "type": ["string", "null"], "nullable": True, "enum": ["a", None]}  # fmt: skip
    assert from_30({"maximum": 5, "exclusiveMaximum": True}) == {"exclusiveMaximum": 5}
    assert from_30({"maximum": 5, "exclusiveMaximum": False}) == {"maximum": 5}


def test_schemas_of_3_1():
    text = yaml.safe_dump(
        {
            "openapi": "3.1.0",
            "paths": {"/a": {"get": {"parameters": [
                {"name": "n", "in": "query", "schema": {"type": ["integer", "null"], "exclusiveMinimum": 3}}]}}},
        }
    )  # fmt: skip
    operations, _ = Contract(text.encode()).find("/a")
    assert operations["GET"].query.faults("query", [("n", "4")]) == []
    assert operations["GET"].query.faults("query", [("n", "3")]) != []


def changed(old, new):
    assert old in DOCUMENT
    return DOCUMENT.replace(old, new)


@pytest.mark.parametrize(
    "text, words",
    [
        ("a: [", "not YAML"),
        ("openapi: 3.0.0", "no `paths:`"),
        (changed("openapi: 3.0.3", "openapi: 2.0"), "is not read"),
        (changed("  /orders/mine:", "  orders/mine:"), "begins with"),
        (changed("  /orders/mine:", "  /orders/%6Dine: {}\n  /orders/mine:"), "another path is the same"),
        (changed('"#/components/parameters/Tenant"', '"#/components/parameters/None"'), "leads nowhere"),
        (changed('"#/components/parameters/Tenant"', '"http://127.0.0.1:9/x"'), "leads nowhere"),
        (changed('items: {$ref: "#/components/schemas/Order"}', 'items: {$ref: "#/x"}'), "leads nowhere"),
        (changed("schema: {minLength: 3}", "schema: {minLength: x}"), "can not be used"),
        (changed("schema: {minLength: 3}", "schema: {pattern: '(?=a)'}"), "can not be used"),
    ],
)
def test_documents_that_are_none(tmp_path, text, words):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(PolicyError, match=words) as caught:
        Openapi.prepare(OpenapiOptions(file=str(file)))
    assert "bad.yaml" in str(caught.value)


@pytest.mark.parametrize("options", [{}, {"file": "a", "base": "api"}, {"file": "a", "base": "/api/"}, {"file": 1}])
def test_wrong_options(options):
    with pytest.raises(ValidationError):
        OpenapiOptions.model_validate(options)
