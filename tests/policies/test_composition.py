"""`any_of`, `all_of` and `identity`: who calls, in several ways, and what the service is told of it."""

import hashlib

import jwt
import pytest
from pydantic import ValidationError

from fastgw.config import check
from fastgw.config.schema.consumers import Consumer, Plan
from fastgw.policies import RESOLVER, BuildContext, resolve
from fastgw.testing.policy import Trial

SECRET, OTHER = "s" * 32, "o" * 32
KEY = "key-1"
CONSUMERS = [
    Consumer(
        name="ada", plan="gold", groups=["staff", "eu"], metadata={"desk": 7},
        keys=["sha256:" + hashlib.sha256(KEY.encode()).hexdigest()],
    ),
]  # fmt: skip
CONTEXT = BuildContext(consumers=CONSUMERS, plans={"gold": Plan(scopes=["b", "a"])})
JWT = {"jwt": {"secret": SECRET}}


def token(secret=SECRET, **claims):
    return {"Authorization": "Bearer " + jwt.encode({"sub": "eve", **claims}, secret, "HS256")}


def trial(name, options):
    return Trial(name, options, CONTEXT) if isinstance(options, dict) else Listed(name, options)


class Listed(Trial):
    """Options that are a list, as the file may have them."""

    def __init__(self, name, options):
        given = resolve(name).Options.model_validate(options)
        super().__init__(name, {key: getattr(given, key) for key in type(given).model_fields}, CONTEXT)


def test_one_of_them_is_enough():
    either = trial("any_of", [JWT, "key_auth"])
    assert either.ask(headers=token()).exchange.consumer.name == "eve"
    outcome = either.ask(headers={"X-API-Key": KEY})
    assert outcome.passed and outcome.exchange.consumer.name == "ada" and outcome.code is None
    assert outcome.got == []                                 # nothing is left of the first refusal
    assert either.ask(headers={"X-API-Key": KEY, **token()}).exchange.consumer.name == "eve"


def test_all_refuse():
    either = trial("any_of", [JWT, "key_auth"])
    outcome = either.ask()
    assert (outcome.status, outcome.code) == (401, "unauthorized")
    assert [value for name, value in outcome.got if name == "WWW-Authenticate"] == [
        "Bearer", 'ApiKey header="X-API-Key"',
    ]  # fmt: skip
    outcome = either.ask(headers={"X-API-Key": "nope"})
    assert (outcome.status, outcome.code) == (401, "invalid_key")
    assert outcome.problem["code"] == "invalid_key" and outcome.header("Content-Type") == "application/problem+json"
    # whoever is known and may not is told so
    scoped = trial("any_of", [{"jwt": {"secret": SECRET, "required_scopes": ["x"]}}, "key_auth"])
    assert scoped.ask(headers=token()).code == "insufficient_scope"
    assert scoped.ask(headers={**token(), "X-API-Key": KEY}).passed


def test_a_bad_token_does_not_go_on_beside_a_good_key():
    either = trial("any_of", [JWT, "key_auth"])
    outcome = either.ask(headers={"X-API-Key": KEY, **token(OTHER)})
    assert outcome.passed and outcome.upstream_header("Authorization") is None
    outcome = either.ask(headers={"X-API-Key": KEY, "Authorization": "Custom x"})
    assert outcome.upstream_header("Authorization") == "Custom x"    # no token of ours: the service's own affair
    both = trial("any_of", [JWT, {"jwt": {"secret": OTHER, "forward_token": True}}])
    assert both.ask(headers=token(OTHER)).upstream_header("Authorization")


def test_none_at_all_may_pass():
    either = trial("any_of", {"policies": [JWT, "key_auth"], "optional": True, "excluded_paths": ["/health"]})
    assert either.ask().passed and either.ask().exchange.consumer is None
    assert either.ask(headers={"X-API-Key": "nope"}).code == "invalid_key"
    assert either.ask(headers=token(OTHER)).status == 401
    assert either.ask("GET /health", token(OTHER)).passed


def test_nothing_is_left_of_a_way_in_that_was_refused_half_way():
    scoped = trial("any_of", [{"jwt": {"secret": SECRET, "required_scopes": ["x"]}}, "key_auth"])
    exchange = scoped.ask(headers={**token(tenant="t"), "X-API-Key": KEY}).exchange
    assert exchange.consumer.name == "ada" and exchange.claims is None
    both = {"policies": [{"all_of": ["key_auth", JWT]}], "optional": True}
    outcome = trial("any_of", both).ask(headers={"X-API-Key": KEY})      # no token: nobody in particular
    assert outcome.passed and outcome.exchange.consumer is None


def test_all_of_them():
    both = trial("all_of", [JWT, "key_auth"])
    outcome = both.ask(headers={"X-API-Key": KEY, **token(tenant="t")})
    assert outcome.exchange.consumer.name == "ada" and outcome.exchange.claims["tenant"] == "t"
    assert both.ask(headers={"X-API-Key": KEY}).header("WWW-Authenticate") == "Bearer"
    assert both.ask(headers=token()).code == "unauthorized"


def test_compositions_within_compositions():
    nested = trial("any_of", [{"all_of": [JWT, "key_auth"]}, {"key_auth": {"header": "X-Other"}}])
    assert nested.ask(headers={"X-API-Key": KEY, **token()}).exchange.consumer.name == "ada"
    assert nested.ask(headers={"X-Other": KEY}).passed
    assert nested.ask(headers=token()).status == 401


@pytest.mark.parametrize(
    "options", [[], ["cors"], ["key_aut"], [{"key_auth": {"heder": 1}}], [{"jwt": {}}], "key_auth", [{"a": 1, "b": 2}]]
)
def test_what_cannot_be_composed(options):
    with pytest.raises(ValidationError):
        resolve("any_of").Options.model_validate(options)


def test_mistakes_within_are_told_where_they_are():
    text = """
services: {a: http://127.0.0.1:9001}
policies:
  - any_of:
      - key_auth
      - jwt:
          secrt: x
          secret: hidden-secret-value
routes: [{path: /x, service: a}]
"""
    config, problems = check(text, resolver=RESOLVER, env={})
    assert config is None
    told = str(problems[0])
    assert "secrt" in told and "hidden-secret-value" not in " ".join(map(str, problems))
    assert problems[0].code == "unknown_key" and problems[0].line in (4, 5, 6, 7)


def test_scopes_of_tokens_are_told_too():
    exchange = trial("any_of", [JWT, "key_auth"]).ask(headers=token(scope="b a")).exchange
    assert exchange.consumer.scopes == {"a", "b"}
    told = Trial("identity", {}, CONTEXT).ask(prepare=lambda other: setattr(other, "consumer", exchange.consumer))
    assert told.upstream_header("X-User-Id") == "eve" and told.upstream_header("X-User-Scopes") == "a b"


def test_identity_is_told_and_cannot_be_forged():
    forged = {"X-User-Id": "root", "x-user-scopes": "all", "X-Internal": "1"}
    told = Trial("identity", {"remove": ["X-Internal"]}, CONTEXT).ask(headers=forged)
    assert [name for name, _ in told.sent if name.lower().startswith("x-")] == []

    def known(exchange):
        assert exchange.consumer is None
        composed = trial("key_auth", {})
        exchange.consumer = composed.ask(headers={"X-API-Key": KEY}).exchange.consumer
        exchange.claims = {"tenant": {"id": "t\r\nX-Evil: 1"}}

    told = Trial("identity", {}, CONTEXT).ask(headers=forged, prepare=known)
    assert told.upstream_header("X-User-Id") == "ada" and told.upstream_header("X-User-Scopes") == "a b"
    assert [name for name, _ in told.sent].count("X-User-Id") == 1
    headers = {
        "X-Tenant": "${claims.tenant.id}", "X-Plan": "${consumer.plan}", "X-Key": "${consumer.credential}",
        "X-Desk": "${consumer.metadata.desk}", "X-None": "${consumer.metadata.none}",
    }  # fmt: skip
    told = Trial("identity", {"headers": headers}, CONTEXT).ask(prepare=known)
    assert told.upstream_header("X-Plan") == "gold" and told.upstream_header("X-Key") == "ada/0"
    assert told.upstream_header("X-Desk") == "7" and told.upstream_header("X-None") is None
    assert told.upstream_header("X-Evil") is None and "X-Evil" in told.upstream_header("X-Tenant")


MODULE = '''
import asyncio
from fastgw import Policy, Problem, WholeBody


class Slow(Policy):
    """Knows those who say `yes`, after a while, and those whose body does."""

    name = "slow"
    identifies = True

    async def request(self, exchange):
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        given = exchange.request.get("x-slow")
        if given == "body":
            if exchange.request_body is None:
                return WholeBody(100)
            given = exchange.request_body.decode()
        if given == "raise":
            raise RuntimeError("a bug")
        if given != "yes":
            return Problem(401, "unauthorized" if given is None else "invalid_token",
                           headers={"WWW-Authenticate": "Slow"})
        exchange.vars["slow"] = exchange.vars.get("slow", 0) + 1
        exchange.request.set("X-Known", "slow" + str(exchange.vars["slow"]))
'''


def test_members_that_wait(gateway, upstream, tmp_path, monkeypatch):
    (tmp_path / "slowly.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    running = gateway(f"""
services: {{up: "{upstream.url}"}}
consumers: [{{name: ada, keys: ["sha256:{digest}"]}}]
routes:
  - {{path: /any, service: up, policies: [any_of: ["slowly:Slow", key_auth]]}}
  - {{path: /last, service: up, policies: [any_of: [key_auth, "slowly:Slow"]]}}
  - {{path: /all, service: up, policies: [all_of: ["slowly:Slow", key_auth, "slowly:Slow"]]}}
  - {{path: /deep, service: up, policies: [any_of: [all_of: [key_auth, "slowly:Slow"], "slowly:Slow"]]}}
""")
    key = f"X-API-Key: {KEY}\r\n"
    yes, no = "X-Slow: yes\r\n", "X-Slow: no\r\n"
    cases = [
        ("/any", yes, 200), ("/any", key, 200), ("/any", no + key, 200), ("/any", no, 401), ("/any", "", 401),
        ("/last", yes, 200), ("/last", key, 200), ("/last", no, 401),
        ("/all", yes + key, 200), ("/all", yes, 401), ("/all", key, 401),
        ("/deep", yes + key, 200), ("/deep", yes, 200), ("/deep", key, 401),
        ("/any", "X-Slow: raise\r\n", 500), ("/any", "X-Slow: raise\r\n" + key, 200),
    ]  # fmt: skip
    with running.client() as client:
        for path, headers, status in cases:
            answer = client.request(f"GET {path} HTTP/1.1\r\nHost: a\r\n{headers}\r\n".encode())
            assert (path, headers, answer.status) == (path, headers, status)
        for path in ("/any", "/last"):
            head = f"POST {path} HTTP/1.1\r\nHost: a\r\nX-Slow: body\r\nContent-Length: 3\r\n\r\n"
            assert client.request(head.encode() + b"yes").status == 200
            assert client.request(head.encode() + b"nay").status == 401
