"""`fastgw test` on real files."""

import json
from xml.etree import ElementTree

import pytest

from fastgw.testing.demo_grpc import DESCRIPTORS
from tests.cli.test_diff import ROOT, run

FILE = """
server: {listeners: ["127.0.0.1:8080"], trusted_proxies: [10.0.0.0/8]}
services:
  users: {endpoints: ["http://users.invalid:9001"], host: users.internal}
  v2: {discovery: {type: consul, address: "consul.invalid:8500"}}
consumers:
  - {name: app, keys: ["sha256:c48a01f49fd0f2cc404bc3cbbc80e91457a3d41bb429a695243de4c61794155c"]}
policies: [request_id]
routes:
  - {name: v2, match: {path: "/users/*", headers: {X-Version: "2"}}, service: v2}
  - {name: users, path: /users/*, service: users, strip_prefix: /users, methods: [GET]}
  - {name: inside, match: {path: /inside, client_ip: 192.168.0.0/16}, service: users}
  - {name: closed, path: /closed, service: users, policies: [key_auth]}
  - {name: slow, path: /slow, service: users, policies: [rate_limit: {requests: 1, per: 1h, by: client_ip}]}
  - {name: old, path: /old, policies: [redirect: {location: "https://example.com/new"}]}
tests:
"""
GOOD = """
  - request: GET https://api.example.com/users/7?page=2
    expect: {route: users, service: users, policies: [request_id], target: /7?page=2, status: 200,
             sent: {Host: users.internal, X-Request-Id: "*", Authorization: "!", x-forwarded-host: "~ api.*"}}
  - {request: /users/7, headers: {X-Version: 2}, expect: {route: v2, service: v2, target: /users/7}}
  - {request: POST /users/7, expect: {status: 405, code: method_not_allowed, headers: {Allow: "~ .*GET.*"}}}
  - {request: GET /nowhere, expect: {status: 404, code: not_found}}
  - {request: GET /inside, client_ip: 192.168.3.4, expect: {route: inside, status: 200}}
  - {request: GET /inside, expect: {status: 404}}
  - {request: GET /inside, client_ip: 10.1.1.1, headers: {X-Forwarded-For: 192.168.9.9}, expect: {route: inside}}
  - {request: GET /inside, client_ip: 172.16.1.1, headers: {X-Forwarded-For: 192.168.9.9}, expect: {status: 404}}
  - {request: GET /closed, expect: {route: closed, policies: [request_id, key_auth], status: 401, code: unauthorized}}
  - {request: GET /closed, headers: {X-API-Key: demo-key}, expect: {route: closed, status: 200}}
  - {request: GET /slow, expect: {status: 200}}
  - {request: GET /slow, expect: {status: 200}}
  - {name: moved, request: GET /old, expect: {route: old, headers: {Location: "https://example.com/new"}}}
  - {request: POST /closed, headers: {X-API-Key: demo-key}, body: "a=1",
     expect: {status: 200, sent: {Content-Length: 3}}}
  - {request: "GET /users/%2e%2e/%00", expect: {status: 400}}
"""


@pytest.fixture
def file(tmp_path):
    return tmp_path / "gateway.yaml"


def test_all_as_expected(file):
    file.write_text(FILE + GOOD)
    found = run("test", str(file))
    assert (found.returncode, found.stdout) == (0, "15 passed, 0 failed\n"), found.stdout + found.stderr


@pytest.mark.parametrize(
    ("test", "words"),
    [
        ("{request: GET /users/7, expect: {route: v2}}", "route: expected v2, got users"),
        ("{request: GET /users/7, expect: {service: v2}}", "service: expected v2, got users"),
        ("{request: GET /users/7, expect: {target: /users/7}}", "target: expected /users/7, got /7"),
        ("{request: GET /users/7, expect: {status: 404}}", "status: expected 404, got 200"),
        ("{request: GET /nowhere, expect: {route: users}}",
         "route: expected users, got none (answered with 404 not_found)"),
        ("{request: GET /closed, expect: {status: 200}}", "status: expected 200, got 401 unauthorized"),
        ("{request: GET /closed, expect: {policies: [key_auth]}}",
         "policies: expected key_auth, got request_id, key_auth"),
        ("{request: GET /old, expect: {headers: {Location: x}}}",
         "headers.Location: expected 'x', got 'https://example.com/new'"),
        ("{request: GET /users/7, expect: {sent: {X-Nothing: '*'}}}", "sent.X-Nothing: expected, and not there"),
        ("{request: GET /users/7, expect: {sent: {Host: '!'}}}", "sent.Host: expected none, got 'users.internal'"),
        ("{request: GET /old, expect: {sent: {Host: '*'}}}",
         "sent.Host: no service got the request (answered with 302)"),
    ],
)  # fmt: skip
def test_what_is_not_as_expected_is_told_with_its_place(file, test, words):
    file.write_text(FILE + "  - " + test + "\n")
    found = run("test", str(file))
    line = (FILE + "  - ").count("\n") + 1
    first, second, last = found.stdout.splitlines()
    assert found.returncode == 4
    assert first.startswith(f"{file}:{line}: ") and second == f"    {words}" and last == "0 passed, 1 failed"


def test_services_of_http2_and_grpc_have_stand_ins_too(file):
    file.write_text(f"""
services: {{up: {{endpoints: ["http://up.invalid:9001"], protocol: h2c}}}}
routes:
  - {{path: /v1/*, service: up, policies: [{{grpc_transcode: {{descriptors: {DESCRIPTORS}}}}}]}}
  - {{path: /*, service: up, policies: [grpc_web]}}
tests:
  - {{request: GET /v1/shelves/1/books/1, expect: {{status: 200, target: /fastgw.demo.v1.Library/GetBook,
      sent: {{Content-Type: application/grpc}}, headers: {{Content-Type: application/json}}}}}}
  - {{request: GET /v1/shelves/1/books?nope=1, expect: {{status: 400, code: bad_request}}}}
  - {{request: GET /v1/shelves/1/books:watch, expect: {{status: 200, headers: {{Content-Type: application/x-ndjson}}}}}}
  - {{request: POST /a.S/M, headers: {{Content-Type: application/grpc-web}}, body: "",
      expect: {{status: 200, sent: {{Content-Type: application/grpc}}, headers: {{Content-Type: "~ .*grpc-web.*"}}}}}}
  - {{request: GET /other, expect: {{status: 200, target: /other}}}}
""")
    found = run("test", str(file))
    assert (found.returncode, found.stdout) == (0, "5 passed, 0 failed\n"), found.stdout + found.stderr


def test_listeners_and_services_of_tcp_are_no_matter(file):
    """Whatever listens first, tests are requests; and stand-ins are told no PROXY header."""
    file.write_text("""
server: {listeners: [{bind: "127.0.0.1:1", protocol: tcp, tls: passthrough, tcp: raw}, {bind: "127.0.0.1:2"}]}
services: {raw: "tcp://raw.invalid:1", up: {endpoints: ["http://up.invalid:1"], proxy_protocol: v1}}
routes: [{path: /*, service: up}]
tests: [{request: GET /x, expect: {status: 200, service: up, target: /x}}]
""")
    found = run("test", str(file))
    assert (found.returncode, found.stdout) == (0, "1 passed, 0 failed\n"), found.stdout + found.stderr


def test_the_example_stands_its_own_tests():
    found = run("test", str(ROOT / "config.example.yaml"))
    assert (found.returncode, found.stdout) == (0, "2 passed, 0 failed\n"), found.stdout + found.stderr


def test_other_forms(file):
    file.write_text(FILE + "  - {name: 'a & b', request: /users/7, expect: {status: 404}}\n" + GOOD)
    found = run("test", str(file), "--format", "junit")
    suite = ElementTree.fromstring(found.stdout)
    assert (suite.get("tests"), suite.get("failures")) == ("16", "1")
    assert suite[0].get("name") == "a & b" and "expected 404" in suite[0].find("failure").get("message")
    found = run("test", str(file), "--format", "json", "--only", "a & b")
    (one,) = json.loads(found.stdout)
    assert found.returncode == 4 and one["failures"] == ["status: expected 404, got 200"] and one["line"] > 1


def test_files_that_cannot_be_tested(file):
    file.write_text(FILE.replace("tests:", ""))
    assert run("test", str(file)).returncode == 2
    file.write_text(FILE + "  - {request: 'fetch it', expect: {sttus: 1}}\n")
    found = run("test", str(file))
    assert found.returncode == 1
    assert "is not a request" in found.stderr and "did you mean 'status'" in found.stderr
    assert f"{file}:{FILE.count(chr(10)) + 1}:" in found.stderr
