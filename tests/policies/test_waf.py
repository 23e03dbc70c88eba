"""`waf`: its rules and their examples, what they look at, scores, exclusions, and what becomes of requests."""

import gzip
import json
import zlib
from urllib.parse import quote_plus

import pytest
from pydantic import ValidationError

from fastgw.policies import PolicyError
from fastgw.policies._waf import Engine, Part, read_rules, score, shipped
from fastgw.policies._waf_text import (
    Unreadable,
    arguments,
    body_parts,
    decoded,
    inflated,
    is_text,
    unquoted,
    variants,
)
from fastgw.policies.waf import Waf, WafOptions
from fastgw.testing.policy import Trial

RULES = shipped()
STRICT = Engine(RULES, 2)
FIRST = Engine(RULES)
INJECTION = "1' UNION SELECT password FROM users--"


def place_of(rule):
    return "query.q" if "query" in rule.places else rule.places[0]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_a_rule_finds_its_examples_and_leaves_what_is_ordinary(rule):
    assert rule.examples, "a rule has examples"
    for text in rule.examples:
        found = [one.rule for one in STRICT.inspect([Part(place_of(rule), text)])]
        assert rule.id in found, text
    for text in rule.ordinary:
        found = [one.rule for one in STRICT.inspect([Part(place_of(rule), text)])]
        assert rule.id not in found, text


ORDINARY = [
    "The union of workers selects its speakers tomorrow; where they meet is known.",
    "I'd like to order 3 by Friday - and 2 more (or 4) next week.",
    "Is it true that 1 + 1 = 2? He said 'yes' and she said \"no\".",
    "C++ & Java, R&D; see https://example.com/a/b?c=d#e",
    "select the best from our menu, drop by any time",
    "O'Reilly & Sons, 5'10\" tall, #1 of 10",
    "Use <b>bold</b>: 3 < 5 > 2",
    "price: $5.00 (50% off) -- today only!",
    "john.o'connor+test@example.com",
    "2026-11-21T10:00:00+01:00",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc-_123",
    "Grüße aus Köln, 東京, Δοκιμή",
    "{name}, your order {id} is ready",
    "on time = good",
    "file: report (final).pdf",
    "a/b/c.txt",
    "script writers and alert readers",
    "curl your hair; cat naps and echo chambers",
    "http://www.example.com/?q=union+station&lang=en",
]


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_texts_pass(text):
    assert score(FIRST.inspect([Part("body.text", text)])) < 5


@pytest.mark.parametrize(
    "text",
    [
        "1%27%20UNION%20SELECT%201%2C2--",
        "1%2527%2520UNION%2520SELECT%25201--",
        "1'/**/UNION/*!50000ALL*//**/SELECT 1",
        "1&#39; UNION&#x20;SELECT 1",
        "1'\tUNION\n\nSELECT 1",
        "1\\u0027 UNION SELECT 1",
        "1' %u0055NION SELECT 1",
        "\uff11\uff07 \uff35\uff2e\uff29\uff2f\uff2e \uff33\uff25\uff2c\uff25\uff23\uff34 1",
        "1' UNI\x00ON SEL\x00ECT 1",
    ],
)
def test_an_attack_that_is_encoded_is_found(text):
    assert "sqli-union" in {one.rule for one in FIRST.inspect(arguments("query", "q=" + quote_plus(text)))}


def test_texts_as_a_shell_reads_them():
    assert unquoted("c'a't${IFS}/etc/pa\\sswd") == "cat /etc/passwd"
    assert "rce-command" in {one.rule for one in FIRST.inspect([Part("query.q", ";w'h'oam\\i")])}


def test_decoding_is_bounded():
    text = "%25" * 50 + "41"
    assert len(variants(text)) <= 2
    assert decoded("%c0%ae%c0%ae%c0%af") == "../"


def test_parts_of_bodies():
    form = list(body_parts(b"a=1%2b1&b+c=d", "application/x-www-form-urlencoded; charset=UTF-8"))
    assert form == [("body.a", "1+1"), ("body.a", "a"), ("body.b c", "d"), ("body.b c", "b c")]
    document = {"a": {"b": ["x", {"c": "y"}]}, "n": 1}
    found = dict(body_parts(json.dumps(document).encode(), "application/problem+json"))
    assert found["body.a.b"] in ("x", "b") and found["body.a.b.c"] in ("y", "c")
    multipart = (
        b'--X\r\nContent-Disposition: form-data; name="t"\r\n\r\ntext\r\n'
        b'--X\r\nContent-Disposition: form-data; name="f"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
        b"\x89PNG\r\n"
        b"--X--\r\n"
    )
    found = list(body_parts(multipart, "multipart/form-data; boundary=X"))
    assert ("body.t", "text") in found
    assert not any("PNG" in text and "filename" not in text for _, text in found)
    assert list(body_parts(b"<a/>", "application/xml")) == [("body", "<a/>")]


@pytest.mark.parametrize(
    "body, content_type, fact",
    [
        (b"{", "application/json", "bad-json"),
        (b"[" * 100_000, "application/json", "bad-json"),
        (b"a=1", "application/x-www-form-urlencoded; charset=ibm037", "odd-charset"),
        (b"&" * 5000, "application/x-www-form-urlencoded", "too-many-arguments"),
        (b"x", "multipart/form-data", "bad-multipart"),
        (b"--X\r\n\r\nx", "multipart/form-data; boundary=X", "bad-multipart"),
    ],
)
def test_bodies_that_are_not_what_they_say(body, content_type, fact):
    with pytest.raises(Unreadable, match=fact):
        list(body_parts(body, content_type))
    assert score(FIRST.inspect([Part("facts", fact)])) >= 5


def test_encoded_bodies():
    assert inflated(gzip.compress(b"a" * 100), "gzip", 1000) == b"a" * 100
    assert inflated(zlib.compress(b"abc"), "deflate", 1000) == b"abc"
    assert inflated(b"abc", "identity", 1000) == b"abc"
    for body, encoding in ((gzip.compress(b"a" * 10_000), "gzip"), (b"abc", "gzip"), (b"abc", "br")):
        with pytest.raises(Unreadable, match="encoded-body"):
            inflated(body, encoding, 1000)


def test_what_is_looked_at():
    assert is_text("") and is_text("text/plain") and is_text("application/json") and is_text("what/ever")
    assert not any(map(is_text, ("image/png", "Application/Octet-Stream", "application/grpc+proto")))


@pytest.mark.parametrize(
    "line, headers",
    [
        ("GET /?q=" + quote_plus(INJECTION), {}),
        ("GET /?" + quote_plus(INJECTION) + "=1", {}),
        ("GET /a%2527%2520union%2520select%25201", {}),
        ("GET /", {"Cookie": "a=1; b=" + quote_plus(INJECTION)}),
        ("GET /", {"X-Anything": "${jndi:ldap://x/a}"}),
        ("GET /", {"Referer": "http://a/?<script>alert(1)</script>"}),
        ("GET /", {"User-Agent": "sqlmap/1.8"}),
        ("GET /", [("Content-Type", "a/b"), ("Content-Type", "c/d")]),
        ("GET /", {"Range": "bytes=" + ",".join("0-1" for _ in range(30))}),
        ("GET /?" + "&".join("a=1" for _ in range(2100)), {}),
    ],
)
def test_attacks_are_refused(line, headers, caplog):
    outcome = Trial("waf").ask(line, headers)
    assert (outcome.passed, outcome.status, outcome.code) == (False, 403, "attack_refused")
    assert b"sqli" not in outcome.body, "whoever attacks is not told what was found"
    assert any(record.getMessage().startswith("waf: refused: GET") for record in caplog.records)
    assert Trial("waf", {"mode": "log"}).ask(line, headers).passed


def test_a_part_between_others_is_found_by_rules_about_beginnings_and_ends():
    """All parts are searched together first."""
    for text in ("admin'--", "'='", "C:\\users"):
        alone = FIRST.inspect([Part("query.b", text)])
        among = FIRST.inspect([Part("query.a", "plain"), Part("query.b", text), Part("query.c", "a b")])
        assert alone and among == alone


def test_ordinary_requests_pass():
    agent = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36"
    headers = {
        "User-Agent": agent,
        "Accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8",
        "Cookie": "session=abc.def-123; theme=dark; _ga=GA1.2.3.4; json=%7B%22a%22%3A1%7D",
        "Referer": "https://www.example.com/search?q=union+square&page=2",
        "If-None-Match": 'W/"abc"',
        "X-Requested-With": "XMLHttpRequest",
    }
    for target in ("/", "/api/users/42?page=2&sort=-created_at&q=rock+%27n%27+roll", "/static/app.js?v=1.2.3"):
        line = f"GET {target}"
        assert Trial("waf").ask(line, headers).passed, line
    assert Trial("waf").ask("GET /").passed, "no User-Agent alone is not enough"


def test_threshold_and_level():
    line = "GET /?q=" + quote_plus("see <img src=x>")
    assert Trial("waf").ask(line, {"User-Agent": "a"}).passed
    assert not Trial("waf", {"threshold": 3}).ask(line, {"User-Agent": "a"}).passed
    inside = "GET /?q=http://127.0.0.1/"
    assert Trial("waf").ask(inside).passed
    assert not Trial("waf", {"level": 2}).ask(inside).passed


@pytest.mark.parametrize(
    "exclude, passes",
    [
        ([{"rules": ["sqli"], "places": ["query.q"]}], True),
        ([{"rules": "sqli"}], True),
        ([{"places": ["query"]}], True),
        ([{"places": ["query.other"]}], False),
        ([{"rules": ["xss"], "places": ["query.q"]}], False),
        ([{"rules": ["sqli"], "places": ["body"]}], False),
    ],
)
def test_exclusions(exclude, passes):
    assert Trial("waf", {"exclude": exclude}).ask("GET /?q=" + quote_plus(INJECTION)).passed is passes


def test_own_rules(tmp_path):
    file = tmp_path / "rules.yaml"
    file.write_text("- {id: own-word, about: a word, score: 5, in: [query], pattern: 'xyzzy[ ]please'}\n")
    trial = Trial("waf", {"rules": str(file)})
    assert trial.ask("GET /?q=xyzzy+please").code == "attack_refused"
    assert trial.ask("GET /xyzzy%20please").passed


@pytest.mark.parametrize(
    "text, words",
    [
        ("- {id: own-a, about: a, score: 5, pattern: '('}", "does not compile"),
        ("- {id: own-a, about: a, score: 5, pattern: '(?=a)'}", "does not compile"),
        ("- {id: sqli-union, about: a, score: 5, pattern: a}", "there is a shipped rule sqli-union"),
        ("- {id: A, about: a, score: 5, pattern: a}", "rule 1: id"),
        ("- {id: own-a, about: a, score: 5, pattern: a, what: 1}", "rule 1: what"),
        ("- {id: own-a, about: a, score: 5, pattern: a}\n" * 2, "rule 2: there is a rule own-a already"),
        ("{}", "not a list"),
        ("a: [", "is not YAML"),
    ],
)
def test_rules_that_are_wrong(tmp_path, text, words):
    file = tmp_path / "rules.yaml"
    file.write_text(text)
    with pytest.raises(PolicyError, match=words):
        Waf.prepare(WafOptions(rules=str(file)))
    with pytest.raises(PolicyError, match="can not be read"):
        read_rules(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    "options",
    [{"threshold": 0}, {"level": 3}, {"exclude": [{}]}, {"exclude": [{"places": ["nowhere"]}]}, {"mode": "off"}],
)
def test_wrong_options(options):
    with pytest.raises(ValidationError):
        WafOptions.model_validate(options)


def test_an_exclusion_of_nothing_is_told():
    with pytest.raises(PolicyError, match="no rule and no group 'sqi'"):
        Waf.prepare(WafOptions(exclude=[{"rules": ["sqi"]}]))


def post(client, body, content_type, extra=b""):
    head = b"POST /p HTTP/1.1\r\nHost: a\r\nUser-Agent: test\r\nContent-Type: %s\r\n%sContent-Length: %d\r\n\r\n"
    return client.request(head % (content_type, extra, len(body)) + body)


def test_bodies(gateway, upstream):
    running = gateway(
        f"services: {{up: '{upstream.url}'}}\n"
        "routes: [{path: /p, service: up, policies: [waf: {body_size: 64KiB}]}]"
    )
    form, document = b"application/x-www-form-urlencoded", b"application/json"
    attack = quote_plus(INJECTION).encode()
    large = b"a=" + b"word+" * 5000
    with running.client() as client:
        passing = [
            post(client, b"a=hello+world", form),
            post(client, b'{"a": "hello"}', document),
            post(client, large, form),
            post(client, INJECTION.encode(), b"application/octet-stream"),
            post(client, gzip.compress(b"a=hello"), form, b"Content-Encoding: gzip\r\n"),
        ]
        refused = [
            post(client, b"a=" + attack, form),
            post(client, json.dumps({"a": [INJECTION]}).encode(), document),
            post(client, large + b"&b=" + attack, form),
            post(client, gzip.compress(b"a=" + attack), form, b"Content-Encoding: gzip\r\n"),
            post(client, b"not json", document),
        ]
    with running.client() as client:
        too_large = post(client, b"a" * 70_000, form)
    assert [answer.status for answer in passing] == [200] * 5
    assert [answer.status for answer in refused] == [403] * 5
    assert too_large.status == 413
    assert [bytes(request.body) for request in upstream.requests][2] == large
