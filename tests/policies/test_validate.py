"""`validate`: bodies, queries and headers by JSON Schema; what is bounded; schemas that are none."""

import json

import pytest
from pydantic import ValidationError

from fastgw.policies import PolicyError
from fastgw.policies._schema import too_deep
from fastgw.policies.validate import Validate, ValidateOptions
from fastgw.testing.policy import Trial

ORDER = {
    "type": "object",
    "required": ["item"],
    "additionalProperties": False,
    "properties": {
        "item": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 20},
        "count": {"type": "integer", "minimum": 1},
        "to": {"$ref": "#/$defs/address"},
    },
    "$defs": {"address": {"type": "object", "properties": {"mail": {"format": "email"}}}},
}
QUERY = {
    "properties": {
        "page": {"type": "integer", "minimum": 1},
        "ratio": {"type": "number"},
        "all": {"type": "boolean"},
        "tag": {"type": "array", "items": {"enum": ["a", "b"]}},
        "id": {"type": "array", "items": {"type": "integer"}, "maxItems": 2},
        "name": {"type": "string", "minLength": 1},
    },
    "required": ["page"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    "query, where",
    [
        ("page=1", None),
        ("page=2&ratio=1.5&all=true&tag=a&tag=b&id=1&name=x", None),
        ("page=2&ratio=3", None),
        ("", "query"),
        ("page=0", "query.page"),
        ("page=one", "query.page"),
        ("page=1.5", "query.page"),
        ("page=01", "query.page"),
        ("page=1&page=2", "query.page"),
        ("page=1&all=yes", "query.all"),
        ("page=1&tag=c", "query.tag.0"),
        ("page=1&id=1&id=2&id=3", "query.id"),
        ("page=1&name=", "query.name"),
        ("page=1&other=1", "query"),
        ("page=1&" + "&".join("a=1" for _ in range(1100)), "query"),
    ],
)
def test_queries(query, where):
    outcome = Trial("validate", {"query": QUERY}).ask(f"GET /?{query}" if query else "GET /")
    assert outcome.passed is (where is None)
    if where:
        assert (outcome.status, outcome.code) == (400, "contract_broken")
        assert outcome.problem["errors"][0]["where"] == where


def test_headers():
    schema = {"properties": {"X-Count": {"type": "integer"}}, "required": ["X-Count"]}
    trial = Trial("validate", {"headers": schema})
    assert trial.ask("GET /", {"x-count": "5", "X-Other": "1"}).passed
    assert trial.ask("GET /", {"X-COUNT": "five"}).problem["errors"][0]["where"] == "header.x-count"
    assert not trial.ask("GET /").passed


def test_what_is_wrong_is_said_without_what_was_sent():
    outcome = Trial("validate", {"query": QUERY}).ask("GET /?page=secret-value")
    assert "secret-value" not in outcome.body.decode()
    assert outcome.problem["errors"] == [{"where": "query.page", "message": '… is not of type "integer"'}]


def test_errors_are_bounded():
    schema = {"properties": {f"p{n}": {"type": "integer"} for n in range(50)}}
    outcome = Trial("validate", {"query": schema}).ask("GET /?" + "&".join(f"p{n}=x" for n in range(50)))
    assert len(outcome.problem["errors"]) == 10


def post(client, body, content_type=b"application/json", method=b"POST"):
    head = b"%s /p HTTP/1.1\r\nHost: a\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
    return client.request(head % (method, content_type, len(body)) + body)


def test_bodies(gateway, upstream, tmp_path):
    schema = tmp_path / "order.json"
    schema.write_text(json.dumps(ORDER))
    running = gateway(
        f"services: {{up: '{upstream.url}'}}\nroutes: [{{path: /p, service: up, policies: [validate: "
        f"{{body_file: '{schema}', body_size: 100KiB, depth: 10}}]}}]"
    )
    good = [b'{"item": "a"}', b'{"item": "abc", "count": 2, "to": {"mail": "a@example.com"}}']
    bad = [b'{"item": 1}', b"{}", b'{"item": "a", "x": 1}', b"{", b"[]", b'{"item":"a","to":{"mail":"x"}}',
           b'{"item":"a","to":' + b'{"a":' * 20 + b"1" + b"}" * 21, b'{"item":"' + b"a" * 50_000 + b'"}']  # fmt: skip
    with running.client() as client:
        assert [post(client, body).status for body in good] == [200] * len(good)
        answers = [post(client, body) for body in bad]
        assert [answer.status for answer in answers] == [400] * len(bad)
        assert all(b"contract_broken" in answer.body for answer in answers)
        assert post(client, good[0], b"application/problem+json; charset=utf-8").status == 200
        assert client.request(b"GET /p HTTP/1.1\r\nHost: a\r\n\r\n").status == 200, "no body to look at"
        assert client.request(b"POST /p HTTP/1.1\r\nHost: a\r\n\r\n").status == 400, "a body is missing"
    with running.client() as client:
        assert post(client, b"a=1", b"application/x-www-form-urlencoded").status == 415
    with running.client() as client:
        assert post(client, b'"' + b"a" * 110_000 + b'"').status == 413
    assert [bytes(request.body) for request in upstream.requests][:2] == good


def test_log_mode(caplog):
    assert Trial("validate", {"query": QUERY, "mode": "log"}).ask("GET /").passed
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("validate: would be refused: GET '/'") and "page" in line


@pytest.mark.parametrize("levels, deep", [(3, False), (4, True), (100, True)])
def test_depth(levels, deep):
    body = b"[" * levels + b"]" * levels
    assert too_deep(body, json.loads(body), 3) is deep


@pytest.mark.parametrize(
    "schema, words",
    [
        ({"type": "what"}, "can not be used"),
        ({"pattern": "(?=a)b"}, "can not be used"),
        ({"$ref": "http://127.0.0.1:9/schema.json"}, "can not be used"),
        ({"$ref": "#/$defs/none"}, "can not be used"),
    ],
)
def test_schemas_that_are_none(schema, words):
    with pytest.raises(PolicyError, match=words):
        Validate.prepare(ValidateOptions(body=schema))


@pytest.mark.parametrize(
    "text, words", [("[1]", "is not a JSON Schema"), ("a: [", "while parsing"), (None, "can not be read")]
)
def test_files_that_are_none(tmp_path, text, words):
    file = tmp_path / "schema.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(PolicyError, match=words):
        Validate.prepare(ValidateOptions(body_file=str(file)))


@pytest.mark.parametrize(
    "options", [{}, {"body": "x"}, {"body": {}, "body_file": "a"}, {"query": {}, "depth": 0}, {"query": []}]
)
def test_wrong_options(options):
    with pytest.raises(ValidationError):
        ValidateOptions.model_validate(options)
