"""Every example of docs/authentication.md is a configuration that is accepted."""

import re
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fastgw.config import check
from fastgw.policies import RESOLVER

PAGE = Path(__file__).parents[2] / "docs" / "authentication.md"
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
ENV = {"CLIENT_SECRET": "a client's secret", "SESSION_SECRET": "a secret for sessions of more than 32"}


def whole(text):
    """A list of policies, or a part of a file, with what it needs around it."""
    tree = yaml.safe_load(text)
    tree = {"policies": tree} if isinstance(tree, list) else tree
    tree.setdefault("services", {})
    if "${CLIENT_SECRET}" in text:
        tree["services"].setdefault("id", "https://id.example.com")
    if "service: orders" in text or "routes" not in tree:
        tree["services"].setdefault("orders", "http://127.0.0.1:9002")
    tree.setdefault("routes", [{"path": "/orders/*", "service": "orders"}])
    return tree


@pytest.mark.parametrize("text", BLOCKS, ids=lambda text: re.search(r"- (\w+)", text)[1])
def test_example(text, tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "identity.pem").write_bytes(pem)
    file = tmp_path / "gateway.yaml"
    file.write_text(yaml.safe_dump(whole(text), sort_keys=False))
    config, problems = check(file, resolver=RESOLVER, env=ENV)
    assert config is not None, problems
    assert not [problem for problem in problems if problem.severity == "error"]


def test_there_are_examples():
    policies = {"jwt", "oidc", "oauth2_introspection", "client_credentials", "token_exchange", "identity_token", "jwks"}
    assert policies <= set(re.findall(r"[-{\[] ?\{?(\w+):", "".join(BLOCKS)))
