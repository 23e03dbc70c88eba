"""What `fastgw check` says of stores and limits when there are several workers."""

import subprocess
import sys

import pytest

from fastgw.config import check
from fastgw.plan.notices import notices
from fastgw.policies import RESOLVER

SECRET = "0123456789abcdef0123456789abcdef"
HEAD = """
stores: {redis: {url: "redis://127.0.0.1:1"}}
services: {s: "http://127.0.0.1:1"}
routes:
- path: /*
  service: s
  policies:
  - """
IDEMPOTENCY = "idempotency: {store: %s, on_failure: closed}"
OIDC = (
    "oidc: {service: s, issuer: 'https://id.example', base_url: 'https://a.example', client_id: c, "
    f"client_secret: {SECRET}, session: {{secret: {SECRET}, store: %s}}}}"
)


def warned(policy, workers):
    config, problems = check(HEAD + policy, resolver=RESOLVER, env={})
    assert config is not None and problems == [], problems
    return [(one.severity, one.code, one.path) for one in notices(config, workers)]


@pytest.mark.parametrize(
    "policy, path",
    [
        ("session: {store: %s}", "session.store"),
        (IDEMPOTENCY, "idempotency.store"),
        (OIDC, "oidc.session.store"),
        ("any_of: [{session: {store: %s}}, key_auth]", "any_of.policies[0].session.store"),
    ],
)
def test_what_each_worker_keeps_by_itself_is_warned_of_when_there_are_several(policy, path):
    place = f"routes[0].policies[0].{path}"
    assert warned(policy % "memory", 4) == [("warning", "memory_of_each_worker", place)]
    assert warned(policy % "memory", 1) == warned(policy % "memory", 0) == warned(policy % "redis", 4) == []


def test_limits_in_the_memory_of_the_host_are_those_of_all_its_workers():
    assert warned("rate_limit: {limits: [5/s, {requests: 3, algorithm: concurrency}]}", 4) == []


def test_check_says_it_and_can_refuse_it(tmp_path):
    file = tmp_path / "gateway.yaml"
    file.write_text("server: {workers: 3}\n" + HEAD + IDEMPOTENCY % "memory")
    command = [sys.executable, "-m", "fastgw", "check", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert "warning[memory_of_each_worker]" in done.stdout and "there are 3" in done.stdout
    assert f"{file}:9:" in done.stdout
    assert subprocess.run([*command, "--strict-warnings"], capture_output=True, timeout=120).returncode == 1
