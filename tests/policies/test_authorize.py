"""`authorize`, `acl` and `abac`: what who calls may do, and which rule says no."""

import pytest
from pydantic import ValidationError

from fastgw._core.exchange import Consumer
from fastgw.policies import resolve
from fastgw.testing.policy import Trial


def as_(consumer=None, claims=None):
    def prepare(exchange):
        exchange.consumer, exchange.claims = consumer, claims

    return prepare


ADA = Consumer("ada", ("staff", "sales"), {"desk": 7}, "k1", "gold", ("orders:read", "users:read"))
BARE = Consumer("bob", (), {}, "k2")


@pytest.mark.parametrize(
    "options, who, code",
    [
        ({"scopes": "orders:read"}, {"consumer": ADA}, None),
        ({"scopes": ["orders:read", "users:read"]}, {"consumer": ADA}, None),
        ({"scopes": ["orders:read", "x"]}, {"consumer": ADA}, "insufficient_scope"),
        ({"scopes": ["orders:read"]}, {"consumer": BARE}, "insufficient_scope"),
        ({"scopes": ["orders:read"]}, {}, "unauthorized"),
        ({"any_scope": ["x", "users:read"]}, {"consumer": ADA}, None),
        ({"any_scope": ["x", "y"]}, {"consumer": ADA}, "insufficient_scope"),
        ({"scopes": ["a"]}, {"claims": {"scope": "b a"}}, None),
        ({"scopes": ["a"]}, {"claims": {"scp": ["a"]}}, None),
        ({"scopes": ["a"]}, {"claims": {"scope": "b", "scp": ["a"]}}, "insufficient_scope"),
        ({"scopes": ["a"]}, {"claims": {"scope": {"a": 1}}}, "insufficient_scope"),
        ({"scopes": ["a"]}, {"consumer": ADA, "claims": {"scope": "a"}}, "insufficient_scope"),
        ({"roles": ["sales", "x"]}, {"consumer": ADA}, None),
        ({"roles": ["x"]}, {"consumer": ADA}, "missing_role"),
        ({"roles": ["x"]}, {"consumer": ADA, "claims": {"roles": ["x"]}}, None),
        ({"roles": ["x"], "role_claim": "realm.roles"}, {"claims": {"realm": {"roles": "y x"}}}, None),
        ({"roles": ["x"], "role_claim": "realm.roles"}, {"claims": {"realm": "x"}}, "missing_role"),
        ({"scopes": ["orders:read"], "roles": ["x"]}, {"consumer": ADA}, "missing_role"),
    ],
)
def test_scopes_and_roles(options, who, code):
    outcome = Trial("authorize", {**options, "rule": "mine"}).ask(prepare=as_(**who))
    assert (outcome.passed, outcome.code) == (code is None, code)
    if code == "unauthorized":
        assert outcome.status == 401 and outcome.header("WWW-Authenticate") == "Bearer"
    elif code:
        assert outcome.status == 403 and outcome.problem["rule"] == "mine"


TABLE = {"admin": ["*"], "sales": ["orders.*"], "guest": ["orders.read"]}


@pytest.mark.parametrize(
    "permission, role, passes",
    [
        ("orders.read", "sales", True),
        ("orders.read", "guest", True),
        ("orders.delete", "guest", False),
        ("orders.delete", "admin", True),
        ("users.read", "sales", False),
        ("ordersx.read", "sales", False),
        ("orders.read", "nobody", False),
    ],
)
def test_the_table_of_roles(permission, role, passes):
    trial = Trial("authorize", {"permissions": permission, "role_permissions": TABLE})
    outcome = trial.ask(prepare=as_(claims={"roles": [role]}))
    assert outcome.passed is passes and outcome.code == (None if passes else "missing_role")


@pytest.mark.parametrize(
    "options", [{}, {"permissions": ["x"], "role_permissions": {"a": ["y"]}}, {"scopes": ["a b"]}, {"roles": [""]}]
)
def test_what_authorize_does_not_take(options):
    with pytest.raises(ValidationError):
        resolve("authorize").Options.model_validate(options)


@pytest.mark.parametrize(
    "options, who, code",
    [
        ({"allow": {"consumers": ["ada"]}}, ADA, None),
        ({"allow": {"consumers": "ada"}}, BARE, "acl_refused"),
        ({"allow": {"groups": ["x", "staff"]}}, ADA, None),
        ({"allow": {"plans": ["gold"]}}, ADA, None),
        ({"allow": {"plans": ["gold"]}}, BARE, "acl_refused"),
        ({"allow": {"groups": ["staff"]}, "deny": {"consumers": ["ada"]}}, ADA, "acl_refused"),
        ({"deny": {"groups": ["sales"]}}, ADA, "acl_refused"),
        ({"deny": {"groups": ["sales"]}}, BARE, None),
        ({"deny": {"groups": ["sales"]}}, None, "unauthorized"),
    ],
)
def test_lists(options, who, code):
    outcome = Trial("acl", options).ask(prepare=as_(who))
    assert (outcome.passed, outcome.code) == (code is None, code)


def test_a_list_names_somebody():
    with pytest.raises(ValidationError):
        resolve("acl").Options.model_validate({"allow": {"groups": []}})


def rule(text, line="GET /a?x=1", headers=(), **who):

    def prepare(exchange):
        as_(**who)(exchange)

    options = resolve("abac").Options.model_validate([text])
    trial = Trial("abac", {"rules": options.rules})
    return trial.ask(line, headers=headers, prepare=prepare, route="r", client_ip="10.1.2.3")


@pytest.mark.parametrize(
    "text, passes",
    [
        ('claims.tenant == "t1" && request.method in ["GET", "HEAD"]', True),
        ('request.method == "POST"', False),
        ('request.path == "/a" && request.query == "x=1" && request.host == "example.com"', True),
        ('request.headers["x-a"] == "1"', True),
        ('request.headers["x-b"] == "1"', False),                    # not there: not true
        ('!has(request.headers.nothing)', True),
        ('client.ip.startsWith("10.")', True),
        ('consumer.name == "ada" && "staff" in consumer.groups && consumer.plan == "gold"', True),
        ('consumer.metadata.desk == 7 && "orders:read" in consumer.scopes', True),
        ('route.name == "r"', True),
        ('now > timestamp("2020-01-01T00:00:00Z")', True),
        ('claims.age > 17', True),
        ('claims.age > "17"', False),                                # two kinds: not true
        ('claims.missing == "x"', False),
        ('!(claims.missing == "x")', False),                         # nor is its opposite
        ('claims["tenant"] == "t1" && consumer["name"] == "ada" && size(claims) == 2', True),
        ('claims.tenant.startsWith("t") && claims . age == 18 && has(claims.tenant)', True),
        ('claims.age', False),                                       # not a truth
        ('"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!".matches("^(a+)+$")', False),
    ],
)  # fmt: skip
def test_rules(text, passes):
    outcome = rule(text, headers={"X-A": "1"}, consumer=ADA, claims={"tenant": "t1", "age": 18})
    assert outcome.passed is passes
    if not passes:
        assert (outcome.status, outcome.code, outcome.problem["rule"]) == (403, "rule_refused", "rule-1")


def test_nobody_has_no_name():
    assert rule('consumer.name == "" && size(consumer.groups) == 0 && size(claims) == 0').passed


@pytest.mark.parametrize(
    "text, words",
    [
        ("claims.tenant ==", "no expression"),
        ("claim.tenant == 1", "'claim'"),
        ("open(claims.x) == 1", "'open'"),
        ("x" * 5000, "4096"),
        ("(" * 2000 + "1" + ")" * 2000, "no expression"),
        ("", "1"),
    ],
)
def test_rules_that_are_none(text, words):
    with pytest.raises(ValidationError, match=words):
        resolve("abac").Options.model_validate([text])


def test_a_rule_has_a_name():
    options = {"rules": [{"rule": "never", "allow": "false"}, "true"]}
    assert Trial("abac", options).ask().problem["rule"] == "never"
