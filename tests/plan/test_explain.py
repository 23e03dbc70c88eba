"""`explain` and `routes`, over the example and small tables."""

import re
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import orjson
import pytest

from fastgw.config import load
from fastgw.plan.explain import as_data, ask, explain
from fastgw.policies import RESOLVER

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "routing.md"


def verb(*args):
    return subprocess.run([sys.executable, "-m", "fastgw", *args], capture_output=True, text=True, cwd=ROOT)


def explained(*args):
    return orjson.loads(verb("explain", "config.example.yaml", *args, "--json").stdout)


def test_the_chosen_route_and_why_not_the_others():
    found = explained("POST http://localhost/api/orders/7?x=1")
    assert [(c["route"], c["failed"], c["chosen"]) for c in found["candidates"]] == [
        ("order", "method POST is none of GET", False),
        ("orders", None, True),
    ]
    assert found["service"] == "orders"
    assert [use["name"] for use in found["policies"]] == ["request_id", "cors", "jwt", "idempotency"]


def test_the_target_that_goes_to_the_service():
    assert explained("GET http://localhost/api/orders/7?x=1")["target"] == "/orders/7?x=1"
    assert explained("/api/products/a&b?c=d")["target"] == "/api/catalog?id=a%26b&c=d"


def test_predicates_are_named():
    request = "GET http://a.beta.example.com/api/v2/me?beta=true"
    assert explained(request, "-H", "X-Version: 3")["candidates"][0]["failed"] == "header x-version is not '2'"
    headers = ["-H", "X-Version: 2", "-H", "User-Agent: Mozilla/5.0 (X11)"]
    assert explained(request, *headers)["candidates"][0]["failed"] == "cookie session is not there"
    found = explained(request, *headers, "-H", "Cookie: session=1")
    assert (found["route"], found["target"]) == ("beta", "/users/me?beta=true")
    refused = explained(request, *headers, "-H", "Cookie: session=1", "--client-ip", "10.0.0.1")
    assert refused["candidates"][0]["failed"].startswith("client_ip 10.0.0.1")


def test_where_kept_answers_come_from():
    text = """
    stores: {redis: {url: 'redis://h'}}
    cache: {purges: redis, second_level: {store: redis}}
    services: {a: 'http://127.0.0.1:1'}
    routes: [{path: /x, service: a, policies: [cache]}, {path: /y, service: a, policies: [{cache: {wait: 0s}}]}]
    """
    config = load(text, resolver=RESOLVER, env={})
    asked = [ask(config, "GET", path, [], "127.0.0.1") for path in ("/x", "/y")]
    shared, own = (as_data(config, explain(config, each))["cache"][0] for each in asked)
    assert shared.endswith("; fresh answers leave from memory, or come from Redis, where all hosts keep them")
    assert own.endswith("; fresh answers leave from memory")


def test_where_copies_go():
    assert explained("/api/products/7")["mirror"] == [
        "5% of the requests to products-next; at most 100 at a time in each worker; answers are compared"
    ]
    assert "mirror" not in explained("/api/users")
    assert "\nmirror    5% of the requests" in verb("explain", "config.example.yaml", "/api/products/7").stdout


def test_how_an_endpoint_is_chosen():
    assert explained("/api/users")["endpoint"] == ["users: round_robin"]
    assert explained("POST http://localhost/api/orders/7")["endpoint"] == [
        "orders: ewma; with version=v1; checked by GET /health every 5s; outliers are ejected; "
        "any of them when none is healthy"
    ]
    config = load(
        "services:\n  a: {endpoints: ['http://127.0.0.1:1'], balance: {type: ip_hash, sticky: lb, panic: fail},"
        " health_check: {type: tcp}}\n"
        "  b: {endpoints: ['http://127.0.0.1:2'], balance: {type: ip_hash, algorithm: ring}}\n"
        "routes: [{path: /x, split: [{service: a, weight: 1}, {service: b, weight: 1}]}]\n",
        resolver=RESOLVER,
    )
    assert as_data(config, explain(config, ask(config, "GET", "/x", [], "127.0.0.1")))["endpoint"] == [
        "a: consistent_hash on ${client.ip}; cookie lb; checked by a TCP connection every 5s; 503 when none is healthy",
        "b: consistent_hash (ring) on ${client.ip}",
    ]


def test_what_is_spoken_who_knows_the_endpoints_and_what_answers_instead(tmp_path):
    file = tmp_path / "gateway.yaml"
    file.write_text("""
services:
  plain: http://127.0.0.1:1
  grpc: {endpoints: ["http://127.0.0.1:2"], protocol: h2c}
  tls: {endpoints: ["https://127.0.0.1:3"], protocol: auto}
  lax: {endpoints: ["https://127.0.0.1:3"], protocol: h2, tls: {verify: false}}
  found: {discovery: {type: consul, address: "consul:8500", service: users, keep: 1h}}
  named: {endpoints: ["http://127.0.0.1:4"], discovery: {type: dns, service: a.example}}
routes:
  - {path: /plain, service: plain}
  - {path: /tls, split: [{service: grpc, weight: 1}, {service: tls, weight: 1}, {service: lax, weight: 1}]}
  - {path: /found, split: [{service: found, weight: 1}, {service: named, weight: 1}]}
  - path: /other
    service: plain
    policies: [{fallback: {when: [failed, 503], service: grpc, timeout: 2s, reply: {json: []}}}]
""")

    def words(path, *keys):
        data = orjson.loads(verb("explain", str(file), f"GET http://h{path}", "--json").stdout)
        return [data.get(key) for key in keys]

    assert words("/plain", "speaks", "discovery", "fallback") == [None, None, None]
    assert words("/tls", "speaks") == [[
        "grpc: HTTP/2",
        "tls: HTTP/2 or HTTP/1.1 (ALPN) over TLS; its certificate is checked for the endpoint's host by the system's "
        "authorities",
        "lax: HTTP/2 over TLS; its certificate is not checked",
    ]]
    assert words("/found", "discovery") == [[
        "found: consul, users at consul:8500; before it answers, and 1h after it last did: none",
        "named: dns, a.example at this host's resolver; before it answers, and 1d after it last did: those of the file",
    ]]
    assert words("/other", "fallback") == [
        ["after failed, 503: grpc is asked, for 2s, then the answer 200 of the file"]
    ]
    text = verb("explain", str(file), "GET http://h/tls").stdout
    assert "\nspeaks    grpc: HTTP/2\nspeaks    tls: HTTP/2 or" in text


def test_what_holds_for_its_sockets(tmp_path):
    file = tmp_path / "gateway.yaml"
    file.write_text("""
services: {a: http://127.0.0.1:9001}
routes:
  - {path: /none, service: a}
  - {path: /off, service: a, websocket: false}
  - {path: /plain, service: a, websocket: true}
  - path: /all
    service: a
    websocket: {idle_timeout: 90s, max_age: 12h, max_frame: 1KiB, max_message: 1MiB, recheck: true,
                messages: {rate: 20, per: 2s, direction: both}, ping: {interval: 30s, to: both}}
    policies: [{jwt: {secret: "0123456789012345678901234567890123"}}]
  - {path: /feed, service: a, websocket_broadcast: {path: /events, source: sse}}
""")

    def words(path):
        return orjson.loads(verb("explain", str(file), f"GET http://h{path}", "--json").stdout).get("websocket")

    assert words("/none") is None and words("/off") is None
    assert words("/plain") == ["closed when quiet for 5m (1001)"]
    assert words("/all") == [
        "closed when quiet for 90s (1001)",
        "closed when open for 12h (1001)",
        "frames of 1KiB at most (1009)",
        "messages of 1MiB at most (1009)",
        "each side's messages: 20 in 2s, 20 at once (1008)",
        "pings for both sides after 30s of silence, 10s to answer (1011)",
        "closed when the token expires (1008)",
    ]
    assert words("/feed") == [
        "all listen to one stream of the service: GET /events, Server-Sent Events; those that are slow lose the oldest "
        "messages",
        "closed when quiet for 5m (1001)",
    ]
    assert "websocket frames of 1KiB at most (1009)\n" in verb("explain", str(file), "GET http://h/all").stdout


def test_what_holds_when_a_service_fails(tmp_path):
    file = tmp_path / "failing.yaml"
    file.write_text(
        """
server: {workers: 4}
services:
  a:
    endpoints: ['http://127.0.0.1:1']
    timeouts: {header: X-Left, honour_client: true}
    retry: {attempts: 2, retry_on: [connect, 503], per_try: 2s}
    hedge: p95
    concurrency: {max: 10, queue: {max: 5, timeout: 2s}}
  b: {endpoints: ['http://127.0.0.1:2'], concurrency: {adaptive: {min: 2, max: 9}}}
  c: 'http://127.0.0.1:3'
routes:
  - {path: /a, service: a}
  - {path: /own, service: a, retry: {attempts: 1}, hedge: {delay: 50ms, percentile: p99, max_extra: 2}, concurrency: 1}
  - {path: /split, split: [{service: a, weight: 1}, {service: b, weight: 1}]}
  - {path: /c, service: c}
"""
    )

    def words(path):
        return orjson.loads(verb("explain", str(file), path, "--json").stdout)["resilience"]

    budget = "at most 10% of the requests and 1 a second"
    limit = "10 at once, 3 in each of 4 workers; 5 may wait for 2s"
    hedge = f"a: another endpoint after the p95 of the route, once it is known, by GET, HEAD, OPTIONS; {budget}"
    retry = (
        "a: 2 tries for connect, 503 by GET, HEAD, OPTIONS, PUT, DELETE; each of 2s at most; waits up to 25ms, "
        "doubling to 1s; bodies of 64KiB; at most 20% of the requests and 3 a second"
    )
    told = "told by X-Left, a client's own is an upper bound"
    assert words("/a") == {
        "retry": [retry],
        "hedge": [hedge],
        "concurrency": [f"a: {limit}"],
        "remaining": [f"each service: {told}"],
    }
    own = words("/own")
    assert own["retry"] == ["none (the route's own)"]
    assert own["hedge"] == [
        "up to 2 other endpoints after the p99 of the route, 50ms at least, by GET, HEAD, OPTIONS; "
        f"{budget} (the route's own)"
    ]
    assert own["concurrency"] == ["the route: 1 at once, 1 in each of 4 workers; no queue", f"a: {limit}"]
    assert words("/split") == {
        "retry": [retry],
        "hedge": [hedge],
        "concurrency": [f"a: {limit}", "b: as many at once as each worker learns, 2 to 9; no queue"],
        "remaining": [f"a: {told}"],
    }
    assert words("/c") == {}
    assert f"hedge     {hedge}\n" in verb("explain", str(file), "/a").stdout


def test_the_class_and_the_tenant_of_a_request(tmp_path):
    file = tmp_path / "gateway.yaml"
    file.write_text(
        """
priorities: {classes: [high, low], default: low, rules: [{priority: high, plans: [gold]}]}
plans: {gold: {}}
consumers:
  - name: ada
    plan: gold
    keys: ["sha256:8a8bcebb1d3dbf3b1d5b1ba5ff3d4ed5e42d0bd06ec5a3d4a8a2c0b2d4f4a9a1"]
services:
  a:
    endpoints: ['http://127.0.0.1:1']
    concurrency:
      max: 10
      shares: {low: 50%}
      queue: {max: 5, fair: {by: consumer, weights: {gold: 3}}, codel: {}}
  b: {endpoints: ['http://127.0.0.1:2'], concurrency: {max: 10, queue: {max: 5, fair: '${request.header.X-T}'}}}
routes:
  - {path: /a, service: a, policies: [{key_auth: {}}]}
  - {path: /b, service: b}
""".replace("8a8bcebb1d3dbf3b1d5b1ba5ff3d4ed5e42d0bd06ec5a3d4a8a2c0b2d4f4a9a1", sha256(b"ada-key").hexdigest())
    )

    def told(*request):
        return orjson.loads(verb("explain", str(file), *request, "--json").stdout)

    with_key = told("/a", "-H", "X-API-Key: ada-key")
    verdicts = [row["verdict"] for row in with_key["verdicts"][1:]]
    assert verdicts == ["high", "at a it waits as tenant ada, with weight 3"]
    assert "50% of them for low" in with_key["resilience"]["concurrency"][0]
    assert with_key["resilience"]["concurrency"][0].endswith(
        "5 may wait for 1s, high before low, in fair shares by ${consumer.name}, "
        "shed when waits stay above 20ms for 100ms"
    )
    assert [row["verdict"] for row in told("/a")["verdicts"]] == ["refuses"]
    assert [row["verdict"] for row in told("/b", "-H", "X-T: secret")["verdicts"]] == [
        "low",
        "at b it waits as tenant that it names itself",
    ]


def test_exit_codes():
    assert verb("explain", "config.example.yaml", "/api/users").returncode == 0
    assert verb("explain", "config.example.yaml", "/nowhere").returncode == 1
    assert verb("explain", "config.example.yaml", "/a%00").returncode == 1
    assert verb("explain", "config.example.yaml", "/api/users", "-H", "nonsense").returncode == 2


def test_routes_are_listed_in_matching_order():
    rows = orjson.loads(verb("routes", "config.example.yaml", "--json").stdout)
    names = [row["name"] for row in rows]
    assert names.index("order") < names.index("orders")
    assert names[0] == "beta"
    assert len(verb("routes", "config.example.yaml").stdout.splitlines()) == len(rows) + 1


def test_a_route_is_listed_by_its_most_exact_host(tmp_path):
    file = tmp_path / "hosts.yaml"
    file.write_text(
        "services: {s: 'http://127.0.0.1:1'}\nroutes:\n"
        "  - {name: none, path: /a, service: s}\n"
        "  - {name: short, path: /a, service: s, host: ['*.com', '*.b.com']}\n"
        "  - {name: long, path: /a, service: s, host: '*.a.b.com'}\n"
        "  - {name: exact, path: /a, service: s, host: ['*.com', x.com]}\n"
    )
    rows = orjson.loads(verb("routes", str(file), "--json").stdout)
    assert [row["name"] for row in rows] == ["exact", "long", "short", "none"]


def test_captures_that_lie_within_each_other_are_rewritten(tmp_path):
    file = tmp_path / "nested.yaml"
    file.write_text(
        "services: {s: 'http://127.0.0.1:1'}\nroutes:\n"
        "  - {path: '~ /(?P<all>x(?P<part>[0-9]+))', service: s, rewrite: '/{part}/{all}'}\n"
    )
    assert orjson.loads(verb("explain", str(file), "/x12", "--json").stdout)["target"] == "/12/x12"


@pytest.mark.parametrize("example", re.findall(r"```yaml\n(.*?)```\n\n((?:\| `[^\n]*\n)+)", PAGE.read_text(), re.S))
def test_the_examples_of_the_page_are_true(example, tmp_path):
    text, rows = example
    file = tmp_path / "page.yaml"
    names = set(re.findall(r"service: (\w+)", text))
    file.write_text("services:\n" + "".join(f"  {n}: http://127.0.0.1:1\n" for n in sorted(names)) + text)
    for row in rows.strip().splitlines():
        request, wanted = re.findall(r"`([^`]*)`", row)
        url, *headers = request.split(" -H ")
        args = [part for header in headers for part in ("-H", header)]
        found = orjson.loads(verb("explain", str(file), url, *args, "--json").stdout)
        got = f"{found['service']} {found['target']}" if "service" in found else str(found["status"])
        assert got == wanted, request


@pytest.mark.parametrize(("headers", "words"), [
    ([("Accept-Encoding", "gzip;q=0.5, br")], "br at level 4, where the answer is not encoded yet, its type is one of "
     "text/*, application/json, application/*+json, …, and it has 256 bytes or more"),
    ([("Accept-Encoding", "x-gzip")], "gzip at level 6, where"),
    ([], "plain: no Accept-Encoding, and gzip, br are offered"),
    ([("Accept-Encoding", "zstd")], "plain: Accept-Encoding 'zstd', and gzip, br are offered"),
    ([("Accept-Encoding", "gzip;q=0.5, identity")], "plain: Accept-Encoding"),
    ([("Accept-Encoding", "gzip"), ("Cache-Control", "max-age=0, no-transform")], "plain: the client says no-trans"),
    ([("Accept-Encoding", "gzip"), ("Cookie", "a=b"), ("Sec-Fetch-Site", "cross-site")],
     "plain: the request has credentials, and `credentials` is same_site"),
    ([("Accept-Encoding", "gzip"), ("Cookie", "a=b"), ("Referer", "http://x")], "plain: the request has credentials"),
    ([("Accept-Encoding", "gzip"), ("Cookie", "a=b"), ("Sec-Fetch-Site", "same-origin")], "gzip at level 6"),
])  # fmt: skip
def test_what_compress_would_do(headers, words):
    config = load(
        """
        services: {things: "http://127.0.0.1:9001"}
        routes:
          - {path: /x, service: things, policies: [{compress: {encodings: [gzip, br], credentials: same_site}}]}
        """,
        resolver=RESOLVER,
    )
    asked = ask(config, "GET", "http://a/x", headers, "127.0.0.1")
    [found] = as_data(config, explain(config, asked))["compress"]
    assert found.startswith(words)


def test_the_limits_that_would_hold():
    config = load(
        """
        routes:
          - path: /x
            name: x
            policies:
              - rate_limit:
                  limits: [50/s, {requests: 9, algorithm: concurrency}]
                  overrides:
                    - {methods: POST, limits: [5/s]}
                    - {methods: GET, routes: x, limits: [{requests: 6, per: 1m, algorithm: leaky_bucket, queue: 3}]}
              - respond: {body: a}
        """,
        resolver=RESOLVER,
    )
    found = as_data(config, explain(config, ask(config, "GET", "/x", [], "127.0.0.1")))["limits"]
    assert found == [
        "by client_ip: 6 in 1m (leaky_bucket, 1 at once, 3 may wait for 10s), where method GET and route x",
        "by client_ip: 50 in 1s (token_bucket); 9 under way at once",
    ]
