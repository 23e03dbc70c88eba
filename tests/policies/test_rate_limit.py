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
    assert third.status == 429 and third.header("RateLimit") == '"2/2h";r=0;t=3600'
    assert trial(headers=False).ask().header("RateLimit") is None


def test_burst_is_the_capacity():
    limit = trial(burst=4)
    assert [limit.ask().passed for _ in range(5)] == [True] * 4 + [False]
    assert limit.ask().header("X-RateLimit-Limit") == "4"
    assert limit.ask().header("RateLimit-Policy") == '"2/1h";q=2;w=3600;fastgw-burst=4'


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


# ---------------------------------------------------------------------- several limits, algorithms, costs


def many(**options):
    return Trial("rate_limit", options)


def test_several_limits_are_decided_together_and_all_told():
    limit = many(limits=["10/1h", {"requests": 2, "per": "2h", "name": "slow", "algorithm": "sliding_log"}])
    first, second, third = (limit.ask() for _ in range(3))
    assert first.header("RateLimit-Policy") == '"10/1h";q=10;w=3600, "slow";q=2;w=7200'
    assert first.header("RateLimit") == '"10/1h";r=9;t=360, "slow";r=1;t=7200'
    assert second.passed and second.header("X-RateLimit-Limit") == "2" and second.header("X-RateLimit-Remaining") == "0"
    assert third.status == 429 and third.problem["limit"] == "slow"
    assert third.header("RateLimit").startswith('"10/1h";r=8;'), "what is refused is charged to none"
    assert 7100 < int(third.header("Retry-After")) <= 7200


@pytest.mark.parametrize("algorithm", ["token_bucket", "fixed_window", "sliding_window", "sliding_log"])
def test_algorithms(algorithm):
    limit = trial(algorithm=algorithm, per="10h")
    assert [limit.ask().passed for _ in range(3)] == [True, True, False]
    assert limit.ask().header("Retry-After") == limit.ask().header("X-RateLimit-Reset")


def test_requests_under_way_are_given_back_when_they_end():
    limit = many(requests=2, algorithm="concurrency")
    first, second = limit.ask(), limit.ask()
    assert first.header("RateLimit-Policy") == '"2-at-once";q=2;qu="concurrent-requests"'
    assert second.header("RateLimit") == '"2-at-once";r=0'
    refused = limit.ask()
    assert refused.status == 429 and refused.header("Retry-After") == "1"
    for outcome in (first, refused):
        limit.hook.over(outcome.exchange)
    assert limit.ask().passed and not limit.ask().passed


@pytest.mark.parametrize(
    "cost, headers, left",
    [
        (3, {}, 7),
        ("${request.header.X-Cost}", {"X-Cost": "4"}, 6),
        ("${request.header.X-Cost}", {}, 9),
        ("${request.header.X-Cost}", {"X-Cost": "many"}, 9),
        ("${request.header.X-Cost}", {"X-Cost": "99999999999999999999999999"}, 0),
        ("${request.header.X-Cost}", {"X-Cost": "0"}, 10),
    ],
)
def test_a_request_has_its_cost(cost, headers, left):
    limit = many(requests=10, per="1h", cost=cost)
    assert limit.ask(headers=headers).header("X-RateLimit-Remaining") == str(left)


def test_an_answer_has_its_cost():
    limit = many(requests=10, per="1h", response_cost={"header": "X-Cost"})
    costly = b"HTTP/1.1 200 OK\r\nX-Cost: 6\r\n\r\n"
    outcome = limit.ask(response=costly)
    assert outcome.header("X-RateLimit-Remaining") == "3" and outcome.header("X-Cost") is None
    assert limit.ask(response=costly).header("X-RateLimit-Remaining") == "0"
    refused = limit.ask()
    assert refused.status == 429 and 360 < int(refused.header("Retry-After")) <= 1800, "it went below empty"
    kept = many(requests=10, response_cost={"header": "X-Cost", "remove": False}).ask(response=costly)
    assert kept.header("X-Cost") == "6"


def plan(name, consumer="ada", groups=()):
    return lambda exchange: setattr(exchange, "consumer", Consumer(consumer, groups, plan=name))


def test_other_limits_for_plans_methods_groups_and_routes():
    limit = many(
        requests=1,
        per="1h",
        by=["consumer", "route"],
        overrides=[
            {"plans": ["gold"], "methods": ["POST"], "limits": ["4/1h"]},
            {"plans": "gold", "limits": [{"requests": 3, "per": "1h"}]},
            {"groups": "staff", "limits": ["5/1h"]},
            {"routes": ["search"], "limits": ["6/1h"]},
            {"consumers": ["bob"], "limits": ["7/1h"]},
        ],
    )
    told = [
        limit.ask(prepare=plan("gold")),
        limit.ask("POST /", prepare=plan("gold")),
        limit.ask(prepare=plan("free")),
        limit.ask(prepare=plan(None, "eve", ("staff",))),
        limit.ask(route="search"),
        limit.ask(prepare=plan(None, "bob")),
    ]
    assert [one.header("X-RateLimit-Limit") for one in told] == ["3", "4", "1", "5", "6", "7"]
    only = many(overrides=[{"methods": "POST", "limits": ["1/1h"]}])
    assert only.ask().header("RateLimit") is None and only.ask("POST /").passed and not only.ask("POST /").passed


@pytest.mark.parametrize(
    "exempt, how, free",
    [
        ({"addresses": ["10.0.0.0/8"]}, {"client_ip": "10.1.2.3"}, True),
        ({"addresses": ["10.0.0.0/8"]}, {"client_ip": "192.0.2.1"}, False),
        ({"consumers": "ada"}, {"prepare": consumer("ada")}, True),
        ({"groups": ["staff"]}, {"prepare": plan(None, "eve", ("staff",))}, True),
        ({"groups": ["staff"]}, {}, False),
    ],
)
def test_who_is_exempt_is_not_counted(exempt, how, free):
    limit = trial(exempt=exempt, requests=1)
    assert limit.ask(**how).passed
    assert limit.ask(**how).passed is free


def test_log_mode_counts_and_lets_pass(caplog):
    limit = trial(requests=1, mode="log")
    outcomes = [limit.ask() for _ in range(3)]
    assert all(one.passed and one.header("RateLimit") is None for one in outcomes)
    assert "would be refused" in caplog.text and "1/1h" in caplog.text


def test_a_key_may_be_a_template():
    limit = trial(by=["${request.method}:${request.header.X-Team}", "global"], requests=1)
    assert limit.ask(headers={"X-Team": "a"}).passed and not limit.ask(headers={"X-Team": "a"}).passed
    assert limit.ask("POST /", headers={"X-Team": "a"}).passed and limit.ask(headers={"X-Team": "b"}).passed


@pytest.mark.parametrize(
    "styles, names",
    [
        (["ietf"], ["RateLimit-Policy", "RateLimit"]),
        ("x", ["X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"]),
        (["draft03"], ["RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"]),
    ],
)
def test_styles_of_headers(styles, names):
    outcome = trial(headers=styles).ask()
    assert [name for name, _ in outcome.got if "RateLimit" in name] == names


def test_a_keys_state_and_its_reset():
    limit = trial(by=["consumer", "client_ip"])
    ask = {"prepare": consumer("ada"), "client_ip": "192.0.2.7"}
    assert [limit.ask(**ask).passed for _ in range(3)] == [True, True, False]
    (state,) = limit.hook.state(["ada", "192.0.2.7"])
    assert (state["limit"], state["remaining"], state["of"]) == ("2/1h", 0, 2) and 3500 < state["full_in"] <= 3600
    assert limit.hook.reset(["ada", "192.0.2.7"]) == 1 and limit.ask(**ask).passed
    with pytest.raises(ValueError):
        limit.hook.state(["ada"])


@pytest.mark.parametrize(
    "options, code",
    [
        ({"requests": 1, "limits": ["1/s"]}, "conflict"),
        ({"limits": ["1/s"], "per": "1h"}, "conflict"),
        ({"limits": ["fast"]}, "bad_value"),
        ({"limits": ["0/s"]}, "greater_than_equal"),
        ({"limits": ["1/s", "1/1s"]}, "duplicate_name"),
        ({"limits": ["1/s"] * 9}, "too_long"),
        ({"requests": 1, "algorithm": "leaky_bucket"}, "missing_key"),
        ({"requests": 1, "queue": 4}, "conflict"),
        ({"requests": 1, "algorithm": "fixed_window", "burst": 4}, "conflict"),
        ({"requests": 1, "algorithm": "concurrency", "per": "1s"}, "conflict"),
        ({"requests": 2_000_000, "algorithm": "concurrency"}, "out_of_range"),
        ({"requests": 1001, "algorithm": "sliding_log"}, "out_of_range"),
        ({"requests": 40_000, "per": "1s", "algorithm": "sliding_window"}, "out_of_range"),
        ({"requests": 1, "overrides": [{"limits": ["1/s"]}]}, "missing_key"),
        ({"requests": 1, "cost": -1}, "out_of_range"),
        ({"requests": 1, "cost": "five"}, "out_of_range"),
        ({"requests": 1, "by": "${request.nothing}"}, "bad_template"),
        ({"requests": 1, "headers": ["y"]}, "literal_error"),
    ],
)
def test_what_excludes_each_other(options, code):
    with pytest.raises(ValidationError) as told:
        RateLimitOptions.model_validate(options)
    assert code in {one["type"] for one in told.value.errors()}


def test_identity_is_wanted_by_whatever_depends_on_who_calls():
    from fastgw.policies.rate_limit import RateLimit

    def needs(**options):
        return RateLimit.needs_identity(RateLimitOptions.model_validate({"requests": 1, **options}))

    assert needs(by="${consumer.plan}") and needs(cost="${claims.cost}") and needs(exempt={"groups": "a"})
    assert needs(overrides=[{"plans": "a", "limits": ["1/s"]}])
    assert not needs(overrides=[{"methods": "POST", "limits": ["1/s"]}], exempt={"addresses": ["10.0.0.0/8"]})
