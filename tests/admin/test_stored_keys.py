"""Keys, consumers and plans that several gateways share in Redis: what one does holds for the others."""

import json
import time
from contextlib import ExitStack

import pytest

from fastgw.config import check
from fastgw.policies import RESOLVER
from fastgw.testing import GatewayProcess
from tests.admin.test_keys import TOKEN, admin, ask, fastgw
from tests.patience import until
from tests.store.redis_server import RedisServer, needed

pytestmark = needed
WHO = "${consumer.name} ${consumer.credential} ${consumer.plan} ${consumer.scopes}"


def config(url, **more):
    keys = {"store": "redis", "on_failure": "closed", "poll": "0.1s", "max_stale": "20s", **more}
    return {
        "admin": {"token": TOKEN},
        "stores": {"redis": {"url": url, "timeout": "5s", "breaker": {"pause": "50ms", "max_pause": "100ms"}}},
        "api_keys": keys,
        "plans": {"free": {"scopes": ["read"]}},
        "consumers": [{"name": "ada"}, {"name": "own", "keys": [
            "sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"]}],
        "routes": [{"path": "/x", "policies": ["key_auth", {"respond": {"headers": {"X-Who": WHO}}}]}],
    }  # fmt: skip


def becomes(gateway, key, status):
    end = time.monotonic() + 60
    while (answer := ask(gateway, key)).status != status:
        assert time.monotonic() < end, (answer.status, answer.body)
        time.sleep(0.02)
    return answer


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with RedisServer(tmp_path_factory.mktemp("redis")) as server, ExitStack() as stack:
        near, far = (stack.enter_context(GatewayProcess(config(server.url))) for _ in range(2))
        yield server, near, far


def create(gateway, **body):
    status, made = admin(gateway, "POST", "/keys", body)
    assert status == 201, made
    return made


def test_what_one_host_does_holds_for_the_other(world):
    server, near, far = world
    made = create(near, consumer="ada", scopes=["b"])
    assert becomes(near, made["key"], 200).get("X-Who") == f"ada {made['id']}  b"
    becomes(far, made["key"], 200)
    assert ask(far, made["key"] + "x").status == 401
    second = admin(far, "POST", f"/keys/{made['id']}/rotate", {"overlap": 3600})[1]
    becomes(near, second["key"], 200)
    assert {row["id"]: row["state"] for row in admin(near, "GET", "/keys")[1]}[made["id"]] == "replaced"
    assert admin(far, "DELETE", f"/keys/{made['id']}")[0] == 200
    becomes(near, made["key"], 401)
    becomes(far, second["key"], 200)
    # by command, and nothing by which a key could be used is anywhere
    listed = fastgw(near, "list")
    assert listed.returncode == 0 and second["id"] in listed.stdout
    stored = server.command("HGETALL", "fastgw:{api_keys}:records")
    assert second["id"].encode() in stored
    for key in (made["key"], second["key"]):
        assert key.split("_", 2)[2].encode() not in stored


def test_uses_are_those_of_all_hosts(world):
    _, near, far = world
    made = create(near, consumer="ada")
    for gateway in (near, far):
        becomes(gateway, made["key"], 200)
    for _ in range(5):
        assert ask(far, made["key"]).status == 200

    def uses():
        return {row["id"]: row["uses"] for row in admin(near, "GET", "/keys")[1]}[made["id"]]

    until(lambda: uses() == 7, "six of the other host, one of this")


def test_consumers_and_plans(world):
    _, near, far = world
    assert admin(near, "POST", "/plans", {"name": "gold", "scopes": ["write"], "metadata": {"price": 7}})[0] == 201
    status, one = admin(near, "POST", "/consumers", {"name": "eve", "groups": ["staff"], "plan": "gold"})
    assert status == 201 and one["source"] == "store"
    made = create(far, consumer="eve")
    assert becomes(far, made["key"], 200).get("X-Who") == f"eve {made['id']} gold write"
    becomes(near, made["key"], 200)
    assert admin(near, "POST", "/consumers", {"name": "eve", "plan": "free", "scopes": ["x"]})[0] == 201
    until(lambda: ask(far, made["key"]).get("X-Who") == f"eve {made['id']} free read x", "another plan")
    people = {row["name"]: row for row in admin(far, "GET", "/consumers")[1]}
    assert people["eve"]["plan"] == "free" and people["eve"]["keys"] == 1 and people["ada"]["source"] == "configuration"
    assert {plan["name"]: plan["source"] for plan in admin(far, "GET", "/plans")[1]} == {
        "free": "configuration", "gold": "store"}  # fmt: skip
    for method, path, body, status, code in (
        ("POST", "/consumers", {"name": "ada"}, 409, "consumer_of_configuration"),
        ("POST", "/plans", {"name": "free"}, 409, "plan_of_configuration"),
        ("POST", "/consumers", {"name": "x", "plan": "none"}, 404, "unknown_plan"),
        ("POST", "/consumers", {"name": "x", "scopes": ["a b"]}, 400, "bad_request"),
        ("POST", "/consumers", {"name": "x", "password": "y"}, 400, "bad_request"),
        ("POST", "/keys", {"consumer": "nobody"}, 404, "unknown_consumer"),
        ("DELETE", "/consumers/nobody", None, 404, "unknown_consumer"),
        ("DELETE", "/consumers", None, 405, "method_not_allowed"),
    ):
        told = admin(near, method, path, body)
        assert (path, told[0], told[1]["code"]) == (path, status, code)
    admin(near, "POST", "/consumers", {"name": "eve", "plan": "gold"})
    assert admin(far, "DELETE", "/plans/gold")[1]["code"] == "plan_in_use"
    assert admin(far, "DELETE", "/consumers/eve")[0] == 200
    becomes(near, made["key"], 401)
    assert admin(far, "DELETE", "/plans/gold")[0] == 200
    # by command
    assert fastgw(near, "plan", "silver", "--scope", "s").returncode == 0
    assert json.loads(fastgw(near, "consumer", "max", "--plan", "silver", "--group", "g").stdout)["groups"] == ["g"]
    refused = fastgw(far, "remove", "plan", "silver")
    assert refused.returncode == 1 and "max" in refused.stderr
    assert fastgw(far, "remove", "consumer", "max").returncode == 0
    assert fastgw(far, "remove", "plan", "silver").returncode == 0


def test_changes_at_the_same_time_are_all_made(world):
    from concurrent.futures import ThreadPoolExecutor

    _, near, far = world
    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(lambda n: create((near, far)[n % 2], consumer="ada", note=str(n)), range(12)))
    known = {row["id"] for row in admin(near, "GET", "/keys")[1]}
    assert {one["id"] for one in made} <= known


def test_without_redis(world):
    server, closed, loose = world
    made = create(closed, consumer="ada")
    for gateway, words in ((closed, "closed"), (loose, "open")):
        becomes(gateway, made["key"], 200)
        text = gateway.file.read_text().replace("max_stale: 20s", "max_stale: 1s")
        gateway.file.write_text(text.replace("on_failure: closed", f"on_failure: {words}"))
        assert admin(gateway, "POST", "/config/reload")[0] == 200
    # a moment for the new settings to be in force: the store is asked anew with them
    until(lambda: admin(loose, "GET", "/keys")[0] == 200 and ask(loose, made["key"]).status == 200, "as before")
    server.kill()
    answer = becomes(closed, made["key"], 503)
    assert b"policy_unavailable" in answer.body
    assert ask(loose, made["key"]).status == 200, "what was known last"
    assert ask(closed, "a").status == 200, "a key of the configuration"
    assert admin(closed, "POST", "/keys", {"consumer": "ada"})[1]["code"] == "keys_unreadable"
    # and who decides otherwise now need not wait for Redis
    text = loose.file.read_text()
    loose.file.write_text(text.replace("on_failure: open", "on_failure: closed").replace("poll: 0.1s", "poll: 0.9s"))
    assert admin(loose, "POST", "/config/reload")[0] == 200
    assert b"policy_unavailable" in becomes(loose, made["key"], 503).body
    loose.file.write_text(text)
    assert admin(loose, "POST", "/config/reload")[0] == 200
    becomes(loose, made["key"], 200)
    # a gateway that never could ask knows nobody, and lets nobody in
    with GatewayProcess(config(server.url, on_failure="open")) as late:
        assert ask(late, made["key"]).status == 503 and ask(late, "a").status == 200
        server.start()                               # with nothing in it
        becomes(closed, made["key"], 401)
        becomes(loose, made["key"], 401)
        made = create(closed, consumer="ada")
        becomes(late, made["key"], 200)


def test_where_keys_are_can_change():
    """Without a restart; and so can the file, by somebody else."""
    first = {**config("redis://127.0.0.1:1/0"), "api_keys": {"file": "a.json", "poll": "0.1s"}}
    with GatewayProcess(first) as gateway:
        made = create(gateway, consumer="ada")
        becomes(gateway, made["key"], 200)
        text = gateway.file.read_text()
        assert "  file: a.json\n" in text
        gateway.file.write_text(text.replace("  file: a.json\n", ""))
        assert admin(gateway, "POST", "/config/reload")[0] == 200
        becomes(gateway, made["key"], 401)            # there are none but those of the configuration
        gateway.file.write_text(text)
        assert admin(gateway, "POST", "/config/reload")[0] == 200
        becomes(gateway, made["key"], 200)
        gateway.file.write_text(text.replace("  file: a.json\n", "  store: redis\n  on_failure: open\n"))
        assert admin(gateway, "POST", "/config/reload")[0] == 200
        becomes(gateway, made["key"], 503)            # the store does not answer; the file's keys are none of it
        gateway.file.write_text(text)
        assert admin(gateway, "POST", "/config/reload")[0] == 200
        becomes(gateway, made["key"], 200)
        (gateway.folder / "a.json").rename(gateway.folder / "b.json")
        becomes(gateway, made["key"], 401)
        gateway.file.write_text(gateway.file.read_text().replace("a.json", "b.json"))
        assert admin(gateway, "POST", "/config/reload")[0] == 200
        becomes(gateway, made["key"], 200)
        written = json.loads((gateway.folder / "b.json").read_text())
        written["keys"][0]["revoked"] = "2026-01-01T00:00:00Z"
        (gateway.folder / "b.json").write_text(json.dumps(written))
        becomes(gateway, made["key"], 401)


@pytest.mark.parametrize(
    "keys, code",
    [
        ("{store: redis}", "missing_key"),
        ("{store: redis, on_failure: closed, file: a.json}", "conflict"),
        ("{store: redis, on_failure: closed, max_stale: 1s, poll: 1s}", "bad_value"),
        ("{store: redis, on_failure: closed}", "missing_key"),
    ],
)
def test_what_is_no_configuration(keys, code):
    _, problems = check(f"api_keys: {keys}\nroutes: []", resolver=RESOLVER, env={})
    assert code in [problem.code for problem in problems]
