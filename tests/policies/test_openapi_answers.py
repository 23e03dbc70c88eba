"""`openapi` with `responses:`: answers of a service that are not as its document has them."""

import gzip
import json
import time

import pytest
import yaml

from fastgw.config import check
from fastgw.policies import RESOLVER
from fastgw.policies.openapi import Enforcing, Openapi, OpenapiOptions, Reporting
from fastgw.testing import FakeUpstream, GatewayProcess
from fastgw.testing.policy import Trial

DOCUMENT = {
    "openapi": "3.1.0",
    "paths": {
        "/pets": {
            "get": {"responses": {
                200: {"content": {"application/json": {"schema": {"type": "array", "items": {"type": "integer"}}}},
                      "headers": {"X-Count": {"schema": {"type": "integer"}},
                                  "X-Tags": {"schema": {"type": "array", "items": {"enum": ["a", "b"]}}},
                                  "Content-Type": {"required": True, "schema": {"type": "integer"}}}},
                201: {"headers": {"X-Id": {"$ref": "#/components/headers/Id"}}},
                "204": {"description": "none"},
                "3XX": {"description": "elsewhere"},
                "4xx": {"$ref": "#/components/responses/Problem"},
            }},
            "post": {"responses": {"default": {"content": {"text/*": {}}}}},
        },
    },
    "components": {"headers": {"Id": {"required": True, "schema": {"type": "string", "pattern": "^[a-z]+$"}}},
                   "responses": {"Problem": {"content": {"application/problem+json": {
        "schema": {"type": "object", "required": ["code"]}}}}}},
}  # fmt: skip
JSON = b"application/json"


def answer(body=b"", content_type=b"", status=b"200 OK", more=b""):
    kind = b"Content-Type: %s\r\n" % content_type if content_type else b""
    return b"HTTP/1.1 %s\r\n%s%sContent-Length: %d\r\n\r\n%s" % (status, kind, more, len(body), body)


ANSWERS = {
    "right": (answer(b"[1, 2]", JSON), None),
    "parameters": (answer(b"[1]", b"application/json; charset=utf-8"), None),
    "gzip": (answer(gzip.compress(b"[1]"), JSON, more=b"Content-Encoding: gzip\r\n"), None),
    "large": (answer(b"[" + b"1," * 30_000 + b"1]", JSON), None),
    "chunked": (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"1\r\n[\r\n2\r\n1]\r\n0\r\n\r\n", None),
    "none": (answer(status=b"204 No Content").replace(b"Content-Length: 0\r\n", b""), None),
    "elsewhere": (answer(b"<a>", b"text/html", b"302 Found"), None),
    "problem": (answer(b'{"code": "x"}', b"application/problem+json", b"404 Not Found"), None),
    "headers": (answer(b"[1]", JSON, more=b"x-count: 7\r\nX-Tags: a,b\r\nX-More: any\r\n"), None),
    "id": (answer(status=b"201 Made", more=b"X-Id: abc\r\n"), None),
    "no-id": (answer(status=b"201 Made"), "response.header"),
    "other-id": (answer(status=b"201 Made", more=b"X-Id: planted-7\r\n"), "response.header.x-id"),
    "two-ids": (answer(status=b"201 Made", more=b"X-Id: a\r\nX-Id: b\r\n"), "response.header.x-id came more"),
    "count": (answer(b"[1]", JSON, more=b"X-Count: planted\r\n"), "response.header.x-count"),
    "tags": (answer(b"[1]", JSON, more=b"X-Tags: a,planted\r\n"), "response.header.x-tags"),
    "schema": (answer(b'[1, "planted"]', JSON), "response.1 "),
    "no-json": (answer(b"[1", JSON), "response is not JSON"),
    "type": (answer(b"[1]", b"text/plain"), "response has a Content-Type"),
    "no-type": (answer(b"[1]"), "response has a Content-Type"),
    "status": (answer(b"", status=b"500 Oh"), "response has the status 500"),
    "encoding": (answer(b"[1]", JSON, more=b"Content-Encoding: br\r\n"), "response has a Content-Encoding"),
    "no-gzip": (answer(b"[1]", JSON, more=b"Content-Encoding: gzip\r\n"), "response has a Content-Encoding"),
    "no-code": (answer(b"{}", b"application/problem+json", b"400 Bad"), "response "),
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    file = tmp_path_factory.mktemp("openapi") / "pets.yaml"
    file.write_text(yaml.safe_dump(DOCUMENT))
    seen = []

    def play(connection):
        while True:
            request = connection.read_head()
            seen.append(request)
            connection.send(ANSWERS[request.get("x-answer")][0])

    with FakeUpstream(play) as upstream:
        routes = [
            {"path": f"/{name}/*", "service": "up", "policies": [
                {"openapi": {"file": str(file), "base": f"/{name}", **options}}]}
            for name, options in (
                ("enforce", {"responses": "enforce"}), ("report", {"responses": "report"}),
                ("log", {"responses": "enforce", "mode": "log"}), ("off", {}),
                ("small", {"responses": "enforce", "response_size": 1000}),
                ("unknown", {"responses": "enforce", "unknown": "report"}),
            )
        ]  # fmt: skip
        with GatewayProcess({"services": {"up": upstream.url}, "routes": routes}) as gateway:
            yield gateway, seen


def ask(gateway, where, name, path="/pets"):
    head = f"GET /{where}{path} HTTP/1.1\r\nHost: a\r\nX-Answer: {name}\r\nAccept-Encoding: br\r\n\r\n"
    with gateway.client() as client:
        return client.request(head.encode())


def rows(gateway, where):
    found = json.loads(gateway.admin("/contract")[1])["unknown"]
    return {row["what"]: row["count"] for row in found if row["route"] == f"/{where}/*"}


@pytest.mark.parametrize("name", ANSWERS)
def test_answers(world, name):
    gateway, seen = world
    sent, wrong = ANSWERS[name]
    status = int(sent.split()[1])
    answers = {}
    for where in ("enforce", "report", "log", "off"):
        before = rows(gateway, where)
        answers[where] = ask(gateway, where, name)
        assert (seen[-1].get("accept-encoding") is None) == (where != "off")
        if wrong is None or where == "off":
            assert rows(gateway, where) == before
            continue
        # a report is counted when the answer has gone
        deadline = time.monotonic() + 60
        while not (more := [what for what, count in rows(gateway, where).items() if count > before.get(what, 0)]):
            assert time.monotonic() < deadline
        assert more[0].startswith(wrong) and "planted" not in more[0]
    for where in ("report", "log", "off"):
        assert answers[where].status == status and answers[where].body == answers["off"].body
    if wrong is None:
        assert answers["enforce"].status == status and answers["enforce"].body == answers["off"].body
    else:
        refused = answers["enforce"]
        assert refused.status == 502 and b'"response_invalid"' in refused.body
        assert b"planted" not in refused.body and b"errors" not in refused.body


def test_what_is_too_large_and_what_is_not_described(world):
    gateway, _ = world
    assert b'"upstream_body_too_large"' in ask(gateway, "small", "large").body
    assert ask(gateway, "unknown", "status", "/nothing").status == 500, "the document says nothing of it"


def test_what_it_costs_to_say_nothing(tmp_path):
    file = tmp_path / "pets.yaml"
    file.write_text(yaml.safe_dump(DOCUMENT))
    for responses, kind in (("off", Openapi), ("report", Reporting), ("enforce", Enforcing)):
        trial = Trial("openapi", {"file": str(file), "responses": responses})
        assert type(trial.policy) is kind
    assert not hasattr(Openapi, "response_size") and Openapi.response_head is Openapi.__mro__[1].response_head
    OpenapiOptions.model_validate({"file": str(file)})


def test_a_document_whose_answers_are_wrong_is_only_wrong_where_they_are_looked_at(tmp_path):
    document = json.loads(json.dumps(DOCUMENT))
    document["paths"]["/pets"]["get"]["responses"]["200"] = {"$ref": "#/nowhere"}
    (tmp_path / "pets.yaml").write_text(yaml.safe_dump(document))
    for options, words in (("", ""), (", responses: report", "responses.200")):
        text = f"routes: [{{openapi: {{file: pets.yaml{options}}}, service: a}}]\nservices: {{a: 'http://127.0.0.1:1'}}\n"
        (tmp_path / "gateway.yaml").write_text(text)
        config, problems = check(tmp_path / "gateway.yaml", resolver=RESOLVER, env={})
        assert config is not None, problems
        uses = config.routes[0].policies
        assert uses[0].options.responses == (options.rpartition(" ")[2] or "off")
        if words:
            with pytest.raises(ValueError, match=words):
                uses[0].spec.handler.prepare(uses[0].options)
        else:
            uses[0].spec.handler.prepare(uses[0].options)
