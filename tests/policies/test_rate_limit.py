"""`rate_limit`: keys and their fallback, refusals, headers."""

import pytest
from pydantic import ValidationError

from fastgw._core.bucket import BucketTable
from fastgw._core.exchange import Consumer
from fastgw.policies import BuildContext
from fastgw.policies.rate_limit import RateLimitOptions
from fastgw.testing.policy import Trial


def trial(**options):
    return Trial("rate_limit", {"requests": 2, "per": "1h", **options})


def consumer(name):
    return lambda exchange: setattr(exchange, "consumer", Consumer(name))


def test_a_refusal_names_the_limit_and_the_key():
    limit = trial(by="consumer", name="free-plan")
    assert [limit.ask(prepare=consumer("ada")).passed for _ in range(3)] == [True, True, False]
    outcome = limit.ask(prepare=consumer("ada"))
    assert (outcome.status, outcome.code) == (429, "rate_limited")
    problem = outcome.problem
    assert (problem["limit"], problem["key"]) == ("free-plan", "consumer")
    assert 1790 < problem["retry_after"] <= 1800 and outcome.header("Retry-After") == str(problem["retry_after"])
    assert limit.ask(prepare=consumer("bob")).passed


def test_headers_count_down():
    limit = trial(per="2h")
    first, second, third = (limit.ask() for _ in range(3))
    assert first.header("X-RateLimit-Limit") == "2"
    assert [o.header("X-RateLimit-Remaining") for o in (first, second, third)] == ["1", "0", "0"]
    assert first.header("X-RateLimit-Reset") == "3600"
    assert first.header("RateLimit-Policy") == '"2/2h";q=2;w=7200'
    assert second.header("RateLimit") == '"2/2h";r=0;t=7200'
    assert third.status == 429 and third.header("RateLimit").startswith('"2/2h";r=0;t=7')
    assert trial(headers=False).ask().header("RateLimit") is None


def test_burst_is_the_capacity():
    limit = trial(burst=4)
    assert [limit.ask().passed for _ in range(5)] == [True] * 4 + [False]
    assert limit.ask().header("X-RateLimit-Limit") == "4"
    assert limit.ask().header("RateLimit-Policy") == '"2/1h";q=2;w=3600;burst=4'


def test_the_tightest_of_several_limits_is_told():
    wide, narrow = trial(requests=100), trial(requests=10)
    first = wide.ask()
    response = b"HTTP/1.1 200 OK\r\nX-RateLimit-Remaining: 7777\r\n\r\n"
    assert [v for k, v in wide.ask(response=response).got if k == "X-RateLimit-Remaining"] == ["98"]
    assert first.header("X-RateLimit-Remaining") == "99" and narrow.ask().header("X-RateLimit-Remaining") == "9"


@pytest.mark.parametrize(
    "by, one, other",
    [
        ("header:X-Team", {"headers": {"X-Team": "a"}}, {"headers": {"x-team": "b"}}),
        ("cookie:sid", {"headers": {"Cookie": "x=1; sid=a"}}, {"headers": {"Cookie": "sid=b"}}),
        ("query:k", {"line": "GET /?k=a"}, {"line": "GET /?x=1&k=b"}),
        ("client_ip", {"client_ip": "192.0.2.1"}, {"client_ip": "192.0.2.2"}),
        ("client_ip", {"client_ip": "2001:db8::1"}, {"client_ip": "2001:db8:0:1::1"}),
        ("route", {"route": "a"}, {"route": "b"}),
        ("claim:tenant", {"prepare": lambda e: setattr(e, "claims", {"tenant": "a"})},
         {"prepare": lambda e: setattr(e, "claims", {"tenant": "b"})}),
        ("claim:org.id", {"prepare": lambda e: setattr(e, "claims", {"org": {"id": 1}})},
         {"prepare": lambda e: setattr(e, "claims", {"org": {"id": 2}})}),
        (["route", "client_ip"], {"route": "a"}, {"route": "a", "client_ip": "192.0.2.9"}),
    ],
)  # fmt: skip
def test_each_key_has_its_own_bucket(by, one, other):
    limit = trial(by=by, requests=1)
    assert limit.ask(**one).passed
    assert not limit.ask(**one).passed
    assert limit.ask(**other).passed
    wanted = by if isinstance(by, str) else ", ".join(by)
    assert limit.ask(**one).problem["key"] == wanted


def test_global_is_one_bucket():
    limit = trial(by="global")
    assert [limit.ask(client_ip=f"192.0.2.{n}", route=str(n)).passed for n in range(3)] == [True, True, False]


@pytest.mark.parametrize("by", ["consumer", "header:X-Team", "claim:sub", "cookie:c", "query:q"])
def test_a_missing_key_falls_back_to_the_address(by):
    limit = trial(by=by, requests=1)
    assert limit.ask(client_ip="192.0.2.1").passed
    assert limit.ask(client_ip="192.0.2.1").problem["key"] == "client_ip"
    assert limit.ask(client_ip="192.0.2.2").passed


def test_spellings_of_one_value_are_one_key():
    limit = trial(by="query:k", requests=1)
    assert limit.ask("GET /?k=abc").passed and not limit.ask("GET /?k=%61bc").passed
    limit = trial(by="client_ip", requests=1)
    assert limit.ask(client_ip="2001:db8::1").passed
    assert not limit.ask(client_ip="2001:db8::2").passed, "an IPv6 client is its /64"


def test_long_values_are_told_apart():
    limit = trial(by="header:X", requests=1)
    assert limit.ask(headers={"X": "a" * 3000}).passed and limit.ask(headers={"X": "a" * 3001}).passed
    assert not limit.ask(headers={"X": "a" * 3000}).passed


def test_levels_belong_to_the_policys_key_and_survive_a_rebuild():
    table = BucketTable.private(64)
    contexts = [BuildContext(bucket_table=table, policy_key=key) for key in ("*/rate_limit/1", "*/rate_limit/1", "b")]
    same, again, other = (Trial("rate_limit", {"requests": 1, "per": "1h"}, context) for context in contexts)
    assert same.ask().passed and not again.ask().passed and other.ask().passed


@pytest.mark.parametrize("when_full, passed", [("refuse", False), ("allow", True)])
def test_a_full_table(when_full, passed):
    small = Trial("rate_limit", {"requests": 1, "per": "1h", "by": "header:X", "when_full": when_full},
                  BuildContext(bucket_table=BucketTable.private(4), policy_key="k"))  # fmt: skip
    for number in range(15):
        assert small.ask(headers={"X": str(number)}).passed
    outcome = small.ask(headers={"X": "one more"})
    assert outcome.passed is passed
    assert outcome.code == (None if passed else "limiter_full")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"requests": 0},
        {"requests": 1, "per": "0s"},
        {"requests": 1, "by": "user"},
        {"requests": 1, "by": "header:"},
        {"requests": 1, "by": "header:a b"},
        {"requests": 1, "by": []},
        {"requests": 1_000_000_000, "per": "1s"},
        {"requests": 1, "per": "366d", "burst": 1_000_000_000},
        {"requests": 1, "name": 'a"b'},
        {"requests": 1, "burst": 0},
    ],
)
def test_options_that_make_no_sense(options):
    with pytest.raises(ValidationError):
        RateLimitOptions.model_validate(options)


def test_it_asks_for_identity_only_when_it_counts_by_it():
    from fastgw.policies.rate_limit import RateLimit

    def needs(by):
        return RateLimit.needs_identity(RateLimitOptions.model_validate({"requests": 1, "by": by}))

    assert needs("consumer") and needs(["route", "claim:x"]) and not needs("client_ip")
