"""What is generated from the schema is fresh, complete, and true of the example."""

import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from fastgw.config import load
from fastgw.config.describe import ROOMS, page, rows, schema
from fastgw.policies import RESOLVER

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "config.example.yaml"


def test_the_page_is_fresh():
    assert (ROOT / "docs" / "configuration.md").read_text() == page(), "run `make docs`"


def test_the_schema_is_one_and_takes_the_example():
    found = schema(RESOLVER)
    jsonschema.Draft202012Validator.check_schema(found)
    errors = list(jsonschema.Draft202012Validator(found).iter_errors(yaml.safe_load(EXAMPLE.read_text())))
    assert [error.message for error in errors] == []


@pytest.mark.parametrize(
    "text",
    [
        "sevrer: {}",
        "server: {limits: {header_size: []}}",
        "routes: [{path: /x, servce: a}]",
        "routes: [{path: /x, policies: [{cors: {orgins: ['*']}}]}]",
    ],
)
def test_the_schema_refuses_what_check_refuses(text):
    validator = jsonschema.Draft202012Validator(schema(RESOLVER))
    assert not validator.is_valid(yaml.safe_load(text))


def keys_in(value, found):
    if isinstance(value, dict):
        for key, item in value.items():
            found.add(str(key))
            keys_in(item, found)
    elif isinstance(value, list):
        for item in value:
            keys_in(item, found)
    return found


def test_the_example_has_every_key():
    there = keys_in(yaml.safe_load(EXAMPLE.read_text()), set())
    # the keys of TLS need files, there is one Redis, and what was kept on disk would be found by the next run: their
    # tours are pages of their own, which are tested too
    for tour in ("tls.md", "stores.md", "cache-storage.md"):
        for block in re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / tour).read_text(), re.DOTALL):
            keys_in(yaml.safe_load(block), there)
    wanted = set()
    for _, model, title in ROOMS:
        for row in rows(model, f"{title}."):
            wanted.add(row.split("`")[1].rpartition(".")[2].rstrip("[]"))
    assert sorted(wanted - there) == []


def test_the_example_loads_without_a_warning():
    config = load(EXAMPLE, resolver=RESOLVER, env={})
    assert len(config.routes) == 24


def test_the_verb_prints_the_schema():
    result = subprocess.run([sys.executable, "-m", "fastgw", "schema"], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0
    assert '"$schema": "https://json-schema.org/draft/2020-12/schema"' in result.stdout
