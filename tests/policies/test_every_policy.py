"""Every policy has what a reader needs: words for each option, an example, what it does when it fails, a cost."""

import json
import re
import shutil
import time
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fastgw.config import check
from fastgw.policies import BUILTIN, RESOLVER, resolve
from fastgw.policies.describe import nested
from fastgw.testing import GatewayProcess
from tests.policies.test_geo import write

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "policies.example.yaml"
COSTS = ROOT / "benchmarks" / "results" / "policies.json"
MEASURED = {
    "abac", "acl", "all_of", "any_of", "authorize", "ban", "basic_auth", "bot", "client_credentials", "cors", "csrf",
    "forward_auth", "geo", "headers", "hmac", "identity", "identity_token", "ip", "jwt", "key_auth", "memory", "mtls",
    "oauth2_introspection", "oidc", "opa", "openapi", "rate_limit", "request_id", "security_headers", "session",
    "token_exchange", "validate", "waf",
}  # fmt: skip
"""Who calls, what he may, and protection. The others have figures on their pages, or answer by themselves."""


def beside(folder):
    """The files that the example names."""
    shutil.copy(ROOT / "fastgw" / "testing" / "demo_grpc" / "library.pb", folder / "library.pb")
    shutil.copy(ROOT / "fastgw" / "testing" / "demo_openapi.yaml", folder / "people.openapi.yaml")
    write(folder / "country.mmdb", {"2.125.160.216/29": {"country": {"iso_code": "GB"}}})
    key = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "gateway-key.pem").write_bytes(key)


def names(uses):
    for use in uses:
        yield use.name
        yield from names(getattr(use.options, "policies", ()))


def described(model, path=""):
    for name, field in model.model_fields.items():
        yield f"{path}{name}", bool(field.description)
        if (inner := nested(field.annotation)) is not None:
            yield from described(inner, f"{path}{name}.")


@pytest.mark.parametrize("name", BUILTIN)
def test_it_is_described(name):
    policy = resolve(name)
    assert [option for option, there in described(policy.Options) if not there] == []
    words = " ".join((policy.__doc__ or "").split())
    assert re.search(r"Failure: \S", words), "what does it do when it cannot do its work?"


def checked(folder, file):
    """The policies of a configuration that is right."""
    shutil.copy(file, folder / "gateway.yaml")
    config, problems = check(folder / "gateway.yaml", resolver=RESOLVER, env={})
    assert [str(problem) for problem in problems if problem.severity == "error"] == []
    return {name for uses in (config.policies, *(route.policies for route in config.routes)) for name in names(uses)}


def test_each_has_an_example(tmp_path):
    beside(tmp_path)
    found = checked(tmp_path, EXAMPLE)
    assert MEASURED | {"jwks"} <= found
    config, _ = check(ROOT / "config.example.yaml", resolver=RESOLVER, env={})
    found |= {name for uses in (config.policies, *(route.policies for route in config.routes)) for name in names(uses)}
    pages = (page.read_text() for page in (ROOT / "docs").glob("*.md"))
    blocks = "\n".join(block for page in pages for block in re.findall(r"```yaml\n(.*?)```", page, re.S))
    assert [name for name in BUILTIN if name not in found and not re.search(rf"\b{name}\b", blocks)] == []


def test_the_example_runs():
    text = EXAMPLE.read_text()
    gateway = GatewayProcess(text)
    beside(gateway.folder)
    paths = [route["path"].replace("*", "x").replace("{tenant}", "t1") for route in yaml.safe_load(text)["routes"]]
    with gateway:
        for path in paths:
            # who waits for an issuer that is not there waits for some seconds at the start
            deadline = time.monotonic() + 60
            while True:
                with gateway.client() as client:
                    method = "POST" if path == "/once" else "GET"
                    head = f"{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
                    answer = client.request(head.encode())
                if b"not ready" not in answer.body or time.monotonic() > deadline:
                    break
            assert b"policy_unavailable" not in answer.body and b"policy_failed" not in answer.body, (path, answer)
            assert answer.get("x-request-id") or answer.status == 404, path
        assert "cannot be built" not in gateway.stderr


def test_costs_are_measured():
    rows = json.loads(COSTS.read_text())["rows"]
    assert {row["policy"] for row in rows} == MEASURED, "run: python -m benchmarks.policies"
    page = COSTS.with_suffix(".md").read_text()
    for row in rows:
        # a difference of two figures: below none by no more than what it is unsure by
        assert -row["apart"] <= row["microseconds"] < 100_000 and f"| `{row['policy']}`" in page
