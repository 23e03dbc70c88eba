"""`timeouts`: the header that tells a service its time."""

import pytest

from fastgw.config import check, load
from tests.config.test_golden import RESOLVER

TEXT = """
services:
  a: {{endpoints: ['http://127.0.0.1:9001'], timeouts: {timeouts}}}
routes: [{{path: /x, service: a, timeouts: {own}}}]
"""


@pytest.mark.parametrize("where", ["timeouts", "own"])
@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("{honour_client: true}", "missing_key", "`honour_client`"),
        ("{header: 'a b'}", "bad_value", "header name"),
        ("{header: Content-Length}", "bad_value", "something else"),
        ("{header: authorization}", "bad_value", "something else"),
        ("{header: grpc-timeout}", "bad_value", "something else"),
    ],
)
def test_what_is_refused(where, text, code, words):
    given = {"timeouts": "{}", "own": "{}", where: text}
    _, findings = check(TEXT.format(**given), resolver=RESOLVER, env={})
    assert [finding.code for finding in findings] == [code]
    assert words in findings[0].message


def test_what_is_not():
    config = load(TEXT.format(timeouts="{header: X-Left, honour_client: true}", own="{}"), resolver=RESOLVER, env={})
    timeouts = config.services["a"].timeouts
    assert (timeouts.header, timeouts.honour_client, timeouts.connect) == ("X-Left", True, 5.0)
