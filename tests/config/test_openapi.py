"""`routes[].openapi`: a route of each path of a document, and problems told at their place."""

import pytest

from fastgw.config import check
from fastgw.policies import RESOLVER
from fastgw.testing import FakeUpstream, GatewayProcess

DOCUMENT = """
openapi: 3.0.3
servers: [{url: https://api.example.com/v1}]
paths:
  /orders: {get: {}, post: {}}
  /orders/{id}: {get: {parameters: [{name: id, in: path, required: true, schema: {type: integer}}]}}
  /files/{name}.{kind}: {delete: {}}
"""
TEXT = """
services: {shop: "http://127.0.0.1:9"}
routes:
  - {path: /before, service: shop}
  - openapi: shop.yaml
    service: shop
    policies: [key_auth]
  - {path: /after, service: shop}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "shop.yaml").write_text(DOCUMENT)

    def checked(text):
        (tmp_path / "gateway.yaml").write_text(text)
        return check(tmp_path / "gateway.yaml", resolver=RESOLVER, env={})

    return checked


def test_each_path_is_a_route(folder):
    config, problems = folder(TEXT)
    assert [str(problem) for problem in problems if problem.severity == "error"] == []
    found = [(str(route.path), list(route.methods or ()), [use.name for use in route.policies])
             for route in config.routes]  # fmt: skip
    both = ["key_auth", "openapi"]
    assert found == [
        ("/before", [], []),
        ("/v1/orders", ["GET", "POST"], both),
        ("/v1/orders/{s2}", ["GET"], both),
        ("/v1/files/{s2}", ["DELETE"], both),
        ("/v1/*", [], both),
        ("/after", [], []),
    ]
    options = config.routes[1].policies[1].options
    assert options.file.endswith("shop.yaml") and options.base == "/v1"


def test_where_its_paths_begin(folder):
    more = "    service: shop\n    path: /api/*\n    strip_prefix: true\n"
    config, _ = folder(TEXT.replace("    service: shop\n", more))
    assert [str(route.path) for route in config.routes[1:5]] == [
        "/api/orders", "/api/orders/{s2}", "/api/files/{s2}", "/api/*"]  # fmt: skip
    assert {route.strip_prefix for route in config.routes[1:5]} == {"/api"}
    assert config.routes[1].policies[1].options.base == "/api"


@pytest.mark.parametrize(
    "old, new, place",
    [
        ("    service: shop\n    policies", "    service: shp\n    policies", "routes[1].service"),
        ("[key_auth]", "[key_aut]", "routes[1].policies[0]"),
        ("openapi: shop.yaml", "openapi: none.yaml", "routes[1].openapi"),
        ("openapi: shop.yaml", "openapi: gateway.yaml", "routes[1].openapi"),
        ("openapi: shop.yaml", "openapi: 1", "routes[1].openapi"),
        ("    service: shop\n    policies", "    service: shop\n    path: /api\n    policies", "routes[1].path"),
        ("    service: shop\n    policies", "    service: shop\n    name: a\n    policies", "routes[1].name"),
        ("path: /after, service: shop", "path: /after, service: sho", "routes[2].service"),
    ],
)
def test_problems_are_told_at_their_place(folder, old, new, place):
    assert old in TEXT
    config, problems = folder(TEXT.replace(old, new, 1))
    assert config is None
    errors = {(problem.path, problem.line > 0) for problem in problems if problem.severity == "error"}
    assert errors == {(place, True)}


def test_it_serves(tmp_path):
    (tmp_path / "shop.yaml").write_text(DOCUMENT)
    asked = [
        (b"GET /v1/orders", 200), (b"GET /v1/orders/5", 200), (b"GET /v1/orders/x", 400), (b"PUT /v1/orders", 405),
        (b"GET /v1/nothing", 404), (b"DELETE /v1/files/a.png", 200), (b"GET /elsewhere", 404)]  # fmt: skip
    with FakeUpstream() as upstream:
        config = {
            "services": {"shop": upstream.url},
            "routes": [{"openapi": str(tmp_path / "shop.yaml"), "service": "shop"}],
        }
        with GatewayProcess(config) as gateway:
            for line, status in asked:
                with gateway.client() as client:
                    assert client.request(line + b" HTTP/1.1\r\nHost: a\r\n\r\n").status == status, line
            report = gateway.admin("/contract")[1]
    assert '"/v1/nothing"' in report and '"/v1/orders"' in report and "elsewhere" not in report
    assert len(upstream.requests) == 3
