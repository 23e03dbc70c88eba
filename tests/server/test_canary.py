"""Gradual rollouts, as users begin them: real processes, two workers, real requests."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from fastgw.testing import FakeUpstream, GatewayProcess, Incomplete

USERS = [f"user-{number}" for number in range(400)]


def serve(name, status=200, seconds=0.0):
    """A service that says who it is."""

    def play(connection):
        while True:
            connection.read_request()
            if seconds:
                time.sleep(seconds)
            connection.send(f"HTTP/1.1 {status} X\r\nContent-Length: {len(name)}\r\n\r\n{name}".encode())

    return play


@pytest.fixture(scope="module")
def old():
    with FakeUpstream(serve("old")) as found:
        yield found


@pytest.fixture(scope="module")
def new():
    with FakeUpstream(serve("new")) as found:
        yield found


@pytest.fixture(scope="module")
def running(old):
    config = {
        "server": {"workers": 2, "timeouts": {"drain": "5s"}, "trusted_proxies": ["127.0.0.0/8"]},
        "observability": {"access_log": {"enabled": False}},
        "services": {"up": old.url},
        "routes": [{"path": "/*", "service": "up"}],
    }
    with GatewayProcess(config) as found:
        yield found


@pytest.fixture
def gateway(running):
    """With its own file in force, and nothing that is tried."""
    yield running
    post(running, "/config/apply/abort")
    assert post(running, body={"file": str(running.file)})[0] == 200


def other(gateway, name="new.yaml", **rooms):
    """Another file beside the one in force."""
    tree = {**yaml.safe_load(gateway.file.read_text()), **rooms}
    file = gateway.folder / name
    file.write_text(yaml.safe_dump(tree, sort_keys=False))
    return file


def post(gateway, path="/config/apply", body=None):
    import http.client

    connection = http.client.HTTPConnection(gateway.host, gateway.admin_port, timeout=60)
    connection.request("POST", path, None if body is None else json.dumps(body))
    answer = connection.getresponse()
    found = answer.status, json.loads(answer.read())
    connection.close()
    return found


def begin(gateway, file, **canary):
    rules = {"share": "30%", "watch": "1h", "by": "header:X-User", **canary}
    status, facts = post(gateway, body={"file": str(file), "canary": rules})
    assert status == 202, facts
    return facts


def report(gateway):
    return json.loads(gateway.admin("/config/apply")[1])


def metrics(gateway):
    lines = [line.rpartition(" ") for line in gateway.admin("/metrics")[1].splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def who(gateway, users=USERS, header="X-User", connections=4):
    """user → who answered, over several connections: both workers are asked."""
    found = {}
    for part in range(connections):
        with gateway.client() as client:
            for user in users[part::connections]:
                answer = client.request(f"GET /a HTTP/1.1\r\nHost: a\r\n{header}: {user}\r\n\r\n".encode())
                found[user] = bytes(answer.body).decode() if answer.status == 200 else answer.status
    return found


class Load:
    """Requests of many users, until the block ends."""

    def __init__(self, gateway, clients=3):
        self.gateway = gateway
        self.stop = threading.Event()
        self.statuses = set()
        self.threads = [threading.Thread(target=self.run, args=(n,), daemon=True) for n in range(clients)]

    def run(self, number):
        count = 0
        while not self.stop.is_set():
            try:
                with self.gateway.client(30) as client:
                    for _ in range(500):
                        if self.stop.is_set():
                            return
                        count += 1
                        user = f"{number}-{count % 1000}"
                        answer = client.request(f"GET /a HTTP/1.1\r\nHost: a\r\nX-User: {user}\r\n\r\n".encode())
                        self.statuses.add(answer.status)
            except (Incomplete, OSError) as error:
                self.statuses.add(str(error))

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join(60)


def ended(gateway, eventually):
    return eventually(lambda: (found := report(gateway))["state"] != "watching" and found, "it is decided", 60)


def apply(gateway, *words):
    return subprocess.run(
        [sys.executable, "-m", "fastgw", "apply", *map(str, words), "--admin", f"127.0.0.1:{gateway.admin_port}"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


# ---------------------------------------------------------------------- at once


def test_without_a_canary_it_is_in_force_at_once_and_reloads_read_it(gateway, new):
    file = other(gateway, services={"up": new.url})
    done = apply(gateway, file)
    assert done.returncode == 0, done.stderr
    assert "~ service up" in done.stdout and f"A start reads {gateway.file}" in done.stdout
    assert set(who(gateway, USERS[:8]).values()) == {"new"}
    assert post(gateway, "/config/reload")[0] == 200
    assert set(who(gateway, USERS[:8]).values()) == {"new"}


def test_a_file_with_problems_changes_nothing(gateway):
    file = other(gateway, routes=[{"path": "/*", "service": "nobody"}])
    done = apply(gateway, file, "--canary", "10%")
    assert done.returncode == 1
    assert f"{file}:" in done.stdout and "nobody" in done.stdout
    assert report(gateway)["state"] != "watching"


def test_only_files_beside_the_one_in_force_are_read(gateway, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("not: [yours")
    link = gateway.folder / "link.yaml"
    link.symlink_to(secret)
    for file in (secret, link, "/etc/hostname", gateway.folder / "none.yaml"):
        status, facts = post(gateway, body={"file": str(file)})
        assert (status, facts["problems"][0]["code"] in ("not_beside", "no_such_file")) == (400, True)
        assert "yours" not in json.dumps(facts)


@pytest.mark.parametrize(
    "body",
    [
        {}, {"file": "x", "canary": {}}, {"file": "x", "canary": {"share": "0%"}}, [],
        {"file": "x", "canary": {"share": "100%"}}, {"file": "x", "canary": {"share": "1%", "watch": "2h"}},
        {"file": "x", "canary": {"share": "1%", "max_p99": "+x%"}},
        {"file": "x", "canary": {"share": "1%", "by": "me"}},
        {"file": "x", "canary": {"share": "1%", "max_error_rate": "200%"}}, {"file": "x", "speed": 1},
    ],
)  # fmt: skip
def test_wishes_that_mean_nothing_are_refused(shared, body):
    status, facts = post(shared, body=body)
    assert (status, facts["code"], len(facts["problems"])) == (400, "bad_request", 1)


def test_a_wish_that_means_nothing_is_told_what_would(shared):
    problem = post(shared, body={"file": "x", "canary": {"share": "130%"}})[1]["problems"][0]
    assert (problem["path"], problem["code"]) == ("canary.share", "out_of_range")
    assert (problem["message"], problem["expected"]) == ("'130%' is out of range", "0 to 1 (or 0% to 100%)")


@pytest.fixture(scope="module")
def shared(old):
    """For what changes nothing."""
    config = {"services": {"up": old.url}, "routes": [{"path": "/*", "service": "up"}]}
    with GatewayProcess(config) as found:
        yield found


def test_what_cannot_be_tried_says_why(shared):
    server = {**yaml.safe_load(shared.file.read_text())["server"], "timeouts": {"drain": "7s"}}
    file = other(shared, "settings.yaml", server=server)
    for wanted, said in ((file, "listeners and settings"), (shared.file, "it changes nothing")):
        status, facts = post(shared, body={"file": str(wanted), "canary": {"share": "10%"}})
        assert (status, facts["problems"][0]["code"]) == (400, "cannot_be_tried")
        assert said in facts["problems"][0]["message"]
    for path in ("promote", "abort"):
        assert post(shared, f"/config/apply/{path}")[0] == 409


def test_one_process_alone_applies_at_once_and_refuses_canaries(old, new):
    config = {"services": {"up": old.url}, "routes": [{"path": "/*", "service": "up"}]}
    with GatewayProcess({**config, "server": {"workers": 0}}) as gateway:
        file = other(gateway, services={"up": new.url})
        status, facts = post(gateway, body={"file": str(file), "canary": {"share": "10%"}})
        assert (status, facts["problems"][0]["code"]) == (400, "cannot_be_tried")
        assert post(gateway, body={"file": str(file)})[0] == 200
        assert set(who(gateway, USERS[:4]).values()) == {"new"}


# ---------------------------------------------------------------------- to a share of the clients


def test_a_share_of_the_clients_always_the_same_ones(gateway, new, eventually):
    begin(gateway, other(gateway, services={"up": new.url}))
    first = who(gateway)
    share = list(first.values()).count("new")
    # 400 drawn with 0.3: 120 expected, six standard deviations are 55
    assert 65 < share < 175 and share + list(first.values()).count("old") == len(USERS)
    for _ in range(3):
        assert who(gateway, connections=5) == first
    seen = report(gateway)
    assert (seen["state"], seen["new"]["requests"]) == ("watching", 4 * share)
    assert seen["old"]["requests"] == 4 * (len(USERS) - share)
    families = metrics(gateway)
    assert families['fastgw_canary_requests_total{plan="new"}'] == 4 * share
    eventually(lambda: metrics(gateway)["fastgw_plans_alive"] == 2, "both")
    # while it goes on nothing else is taken
    assert post(gateway, "/config/reload")[1]["code"] == "canary_running"
    assert post(gateway, body={"file": str(gateway.file)})[0] == 409
    gateway.signal(signal.SIGHUP)
    eventually(lambda: "a configuration is being tried" in gateway.stderr, "the refusal")
    done = apply(gateway, "--abort")
    assert done.returncode == 0 and "Aborted after" in done.stdout
    assert set(who(gateway).values()) == {"old"}
    eventually(lambda: metrics(gateway)["fastgw_plans_alive"] == 1, "the other one is gone")
    assert post(gateway, "/config/reload")[0] == 200


def test_clients_are_told_apart_by_address_too(gateway, new):
    begin(gateway, other(gateway, services={"up": new.url}), by="address", share="50%")
    users = [f"10.{number % 7}.{number // 7}.{number}" for number in range(200)]
    first = who(gateway, users, "X-Forwarded-For")
    # 200 drawn with 0.5: 100 expected, six standard deviations are 42
    assert 58 < list(first.values()).count("new") < 142
    assert who(gateway, users, "X-Forwarded-For", connections=3) == first
    # without the header that is trusted they are all one client
    assert len(set(who(gateway, USERS[:50]).values())) == 1


def test_and_by_cookie(gateway, new):
    begin(gateway, other(gateway, services={"up": new.url}), by="cookie:sid", share="50%")
    cookies = {user: f"sidx=1; sid={user}; other=2" for user in USERS[:200]}
    first = who(gateway, list(cookies.values()), "Cookie")
    assert 58 < list(first.values()).count("new") < 142
    # what else there is among the cookies makes no difference
    again = who(gateway, [f"sid={user}" for user in cookies], "Cookie")
    assert {user: first[cookie] for user, cookie in cookies.items()} == {
        user: again[f"sid={user}"] for user in cookies
    }
    # who has none is known by the address
    assert len(set(who(gateway, ["a=1", "b=2", "sidx=3"], "Cookie").values())) == 1


def test_a_good_one_is_promoted(gateway, new):
    file = other(gateway, services={"up": new.url})
    counted = metrics(gateway)['fastgw_canaries_total{result="promoted"}']
    with Load(gateway) as load:
        done = apply(gateway, file, "--canary", "50%", "--watch", "2s", "--by", "header:X-User",
                     "--max-error-rate", "1%", "--min-requests", "5")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Promoted after" in done.stdout and "~ service up" in done.stdout
    assert load.statuses == {200}
    assert set(who(gateway, USERS[:50]).values()) == {"new"}
    assert metrics(gateway)['fastgw_canaries_total{result="promoted"}'] == counted + 1
    assert apply(gateway, "--status").returncode == 0


def test_one_that_fails_is_returned_before_its_time(gateway):
    with FakeUpstream(serve("bad", 503)) as bad:
        file = other(gateway, services={"up": bad.url})
        begun = time.monotonic()
        with Load(gateway) as load:
            done = apply(gateway, file, "--canary", "20%", "--watch", "10m", "--by", "header:X-User",
                         "--max-error-rate", "1%", "--min-requests", "20", "--json")  # fmt: skip
        assert time.monotonic() - begun < 100
    found = json.loads(done.stdout)
    assert (done.returncode, found["state"]) == (4, "returned")
    assert "100.00% of its requests failed" in found["reason"]
    assert found["new"]["errors"] >= 20 and found["old"]["errors"] == 0
    assert load.statuses == {200, 503}
    assert set(who(gateway, USERS[:50]).values()) == {"old"}
    assert apply(gateway, "--status").returncode == 4


def test_a_slow_one_is_returned(gateway, eventually):
    with FakeUpstream(serve("slow", seconds=0.5)) as slow:
        file = other(gateway, services={"up": slow.url})
        begin(gateway, file, watch="10m", max_p99="200ms", min_requests=3, share="50%")
        with Load(gateway) as load:
            found = ended(gateway, eventually)
        assert found["state"] == "returned" and "p50" in found["reason"]
        assert found["new"]["p50"] >= 0.5 and found["new"]["errors"] == 0
        assert load.statuses == {200}


def test_one_that_nobody_asked_is_returned(gateway, new, eventually):
    begin(gateway, other(gateway, services={"up": new.url}), watch="200ms")
    found = ended(gateway, eventually)
    assert found["state"] == "returned" and "asked 0 times" in found["reason"]


def test_what_is_under_way_on_a_returned_one_comes_to_its_end(gateway, eventually):
    go = threading.Event()

    def hold(connection):
        connection.read_request()
        connection.wait(go)
        connection.send(b"HTTP/1.1 200 X\r\nContent-Length: 4\r\n\r\nheld")

    with FakeUpstream(hold) as held:
        begin(gateway, other(gateway, services={"up": held.url}), share="99.9999%")
        with gateway.client() as client:
            client.send(b"GET /a HTTP/1.1\r\nHost: a\r\nX-User: 1\r\n\r\n")
            eventually(lambda: held.requests, "the request")
            assert post(gateway, "/config/apply/abort")[0] == 200
            eventually(lambda: metrics(gateway)["fastgw_plans_alive"] == 2, "both")
            go.set()
            assert bytes(client.response().body) == b"held"
        assert who(gateway, ["1"]) == {"1": "old"}
        eventually(lambda: metrics(gateway)["fastgw_plans_alive"] == 1, "the other one is gone")


def test_promoted_by_hand_listeners_come_with_it(gateway, new, tmp_path):
    path = tmp_path / "more.sock"
    tree = yaml.safe_load(gateway.file.read_text())
    tree["server"]["listeners"].append({"bind": f"unix:{path}"})
    facts = begin(gateway, other(gateway, server=tree["server"], services={"up": new.url}))
    assert facts["at_promotion"] == [f"listener unix:{path}"]
    assert not path.exists()
    status, found = post(gateway, "/config/apply/promote")
    assert (status, found["state"], found["reason"]) == (200, "promoted", "an operator wished it")
    assert path.is_socket() and set(who(gateway, USERS[:20]).values()) == {"new"}


def test_a_promotion_that_cannot_be_done_leaves_what_was(gateway, new):
    tree = yaml.safe_load(gateway.file.read_text())
    tree["server"]["listeners"].append({"bind": "unix:/no/such/folder/at.all"})
    begin(gateway, other(gateway, server=tree["server"], services={"up": new.url}))
    status, found = post(gateway, "/config/apply/promote")
    assert (status, found["state"]) == (200, "returned") and "to be promoted, but" in found["reason"]
    assert set(who(gateway, USERS[:50]).values()) == {"old"}
    assert post(gateway, "/config/reload")[0] == 200


def test_a_gateway_that_drains_aborts_it(old, eventually):
    go = threading.Event()

    def hold(connection):
        connection.read_request()
        connection.wait(go)
        connection.send(b"HTTP/1.1 200 X\r\nContent-Length: 4\r\n\r\nheld")

    config = {"services": {"up": old.url}, "routes": [{"path": "/*", "service": "up"}]}
    with FakeUpstream(hold) as held, GatewayProcess({**config, "server": {"timeouts": {"drain": "60s"}}}) as gateway:
        begin(gateway, other(gateway, services={"up": held.url}), share="99.9999%")
        with gateway.client(60) as client:
            client.send(b"GET /a HTTP/1.1\r\nHost: a\r\nX-User: 1\r\n\r\n")
            eventually(lambda: held.requests, "the request")
            assert gateway.admin("/drain", "POST")[0] == 202
            assert ended(gateway, eventually)["reason"] == "the gateway goes"
            assert post(gateway, body={"file": str(gateway.file)})[1]["problems"][0]["code"] == "draining"
            go.set()
            assert bytes(client.response().body) == b"held"


# ---------------------------------------------------------------------- processes that die meanwhile


def named(gateway, name):
    for pid in gateway.processes():
        try:
            if Path(f"/proc/{pid}/comm").read_text().strip() == name:
                return pid
        except OSError:
            continue
    return 0


def test_a_worker_that_is_replaced_serves_with_both(gateway, new, eventually):
    begin(gateway, other(gateway, services={"up": new.url}))
    first = who(gateway)
    killed = named(gateway, "fastgw-0"), named(gateway, "fastgw-1")
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: (two := {named(gateway, f"fastgw-{n}") for n in (0, 1)}) and 0 not in two
               and not two & set(killed), "their successors")  # fmt: skip
    # until it has built the other plan, a new worker serves with the one in force
    eventually(lambda: who(gateway) == first, "the same ones as before")
    assert report(gateway)["state"] == "watching"
    assert post(gateway, "/config/apply/abort")[1]["state"] == "aborted"


def test_an_agent_that_is_replaced_returns_what_was_tried(gateway, new, eventually):
    begin(gateway, other(gateway, services={"up": new.url}))
    assert set(who(gateway).values()) == {"old", "new"}
    os.kill(named(gateway, "fastgw-agent"), signal.SIGKILL)
    eventually(lambda: set(who(gateway).values()) == {"old"}, "it is returned")

    def asked():
        try:
            return report(gateway)
        except OSError:
            return None

    assert eventually(asked, "its successor") == {"state": "none"}
