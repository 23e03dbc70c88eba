"""`idempotency`, through sockets: who gets the first answer again, who waits, and what is never done twice."""

import re
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import ValidationError

from fastgw import Policy
from fastgw.config import load
from fastgw.plan.resilience_words import resilience_words
from fastgw.policies import RESOLVER
from fastgw.policies.idempotency import IdempotencyOptions, key_of
from fastgw.testing import FakeUpstream
from fastgw.testing.policy import Trial
from tests.patience import until
from tests.store.redis_server import RedisServer, needed

CONFIG = """
stores: {stores}
services:
  things:
    endpoints: ["{url}"]
    retry: {{retry_on: [reset, 5xx], backoff: 1ms, budget: {{ratio: 1, per_second: 100}}}}
routes:
  - {{path: /small/*, service: things, policies: [{{idempotency: {{{common}, max_answer: 100, max_request: 100}}}}]}}
  - {{path: /must/*, service: things, policies: [{{idempotency: {{{common}, required: true}}}}]}}
  - {{path: /wait/*, service: things, policies: [{{idempotency: {{{common}, wait: 60s}}}}]}}
  - {{path: /once/*, service: things, policies: [{{idempotency: {{{common}, after_failure: refuse}}}}]}}
  - {{path: /open/*, service: things, policies: [{{idempotency: {{store: {store}, on_failure: open}}}}]}}
  - path: /filtered/*
    service: things
    policies: ["tests.policies.test_idempotency:Louder", {{idempotency: {{{common}}}}},
               "tests.policies.test_idempotency:Longer"]
  - {{path: /key/*, service: things, policies: [key_auth, {{idempotency: {{{common}}}}}]}}
  - {{path: /plain/*, service: things}}
  - {{path: /*, service: things, policies: [request_id, {{idempotency: {{{common}, lock: {lock}}}}}]}}
consumers:
  - {{name: ann, keys: ["sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"]}}
  - {{name: bob, keys: ["sha256:3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d"]}}
"""


class Louder(Policy):
    name = "louder"

    def response_body(self, exchange, chunk, end):
        return chunk.upper()


class Longer(Policy):
    name = "longer"

    def response_body(self, exchange, chunk, end):
        return chunk + b"!" * end


class Service:
    """Numbers its answers. The last part of a path says how it behaves."""

    def __init__(self):
        self.done = 0
        self.gate = threading.Event()
        self.failures = 0

    def __call__(self, connection):
        while True:
            request = connection.read_request()
            how = request.target.partition("?")[0].rpartition("/")[2]
            self.done = number = self.done + 1
            if how == "held":
                connection.wait(self.gate)
            if how in ("reset", "busy") and self.failures:
                self.failures -= 1
                if how == "reset":
                    return
                connection.send(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
                continue
            body = b"number %d" % number
            if how == "long":
                body = body.ljust(500)
            if how in ("chunked", "long_chunked", "cut"):
                body = body.ljust(500) if how == "long_chunked" else body
                connection.send(b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\nX-Own: a\r\n\r\n")
                connection.send(b"%x\r\n%s\r\n" % (len(body), body))
                if how == "cut":
                    return
                connection.send(b"0\r\n\r\n")
                continue
            status = b"402 No" if how == "refused" else b"429 Slow" if how == "slow" else b"201 Created"
            connection.send(b"HTTP/1.1 %s\r\nX-Own: a\r\nSet-Cookie: s=1\r\nContent-Length: %d\r\n\r\n%s"
                            % (status, len(body), body))  # fmt: skip


@contextmanager
def world(gateway, store="memory", stores="{}", lock="30s"):
    service = Service()
    with FakeUpstream(service) as upstream:
        common = f"store: {store}, on_failure: closed"
        text = CONFIG.format(url=upstream.url, store=store, stores=stores, common=common, lock=lock)
        yield service, gateway(text)


def ask(client, path="/a", key=b"k1", body=b"hello", method=b"POST", extra=b""):
    client.send(raw(path, key, body, method, extra))
    return client.response(method.decode())


def raw(path, key=b"k1", body=b"hello", method=b"POST", extra=b""):
    head = b"Idempotency-Key: %s\r\n" % key if key is not None else b""
    return b"%s %s HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n%s%s\r\n%s" % (
        method, path.encode(), len(body), head, extra, body)  # fmt: skip


def until_settled(client, *arguments, **more):
    """Asks until the key is not locked any more: the answer is written down after the client has it."""
    deadline = time.monotonic() + 30
    while True:
        answer = ask(client, *arguments, **more)
        if answer.status != 409 or b"idempotency_running" not in answer.body:
            return answer
        assert time.monotonic() < deadline, "the key stays locked"
        time.sleep(0.005)


def test_in_memory(gateway):
    with world(gateway) as (service, running):
        client = running.client()
        first = ask(client)
        again = until_settled(client)
        assert (first.status, again.status, service.done) == (201, 201, 1)
        assert bytes(first.body) == bytes(again.body) == b"number 1"
        assert (first.get("X-Own"), again.get("X-Own")) == ("a", "a") and again.get("Set-Cookie") == "s=1"
        assert first.get("Idempotent-Replayed") is None and again.get("Idempotent-Replayed") == "true"
        assert first.get("X-Request-Id") != again.get("X-Request-Id"), "policies before it work anew"
        until(lambda: running.stats.read_counters()["idempotency_replayed"] == 1)
        for quoted in (b'"k1"', b"k1"):
            assert bytes(until_settled(client, key=quoted).body) == b"number 1", "a String of RFC 8941, or bare"

        # other requests with the key
        for path, body, method in (("/a?b", b"hello", b"POST"), ("/b", b"hello", b"POST"), ("/a", b"other", b"POST"),
                                   ("/a", b"", b"POST"), ("/a", b"hello", b"PATCH")):  # fmt: skip
            answer = ask(client, path, body=body, method=method)
            assert answer.status == 422 and b'"idempotency_mismatch"' in answer.body
        assert service.done == 1
        # other keys, other routes, and who does not use it
        assert bytes(ask(client, key=b"k2").body) == b"number 2"
        assert bytes(ask(client, "/must/a").body) == b"number 3"
        assert bytes(ask(client, method=b"PUT").body) == b"number 4"
        assert bytes(ask(client, key=None).body) == b"number 5"
        for header in (b"Authorization: Bearer x\r\n", b"Cookie: s=2\r\n"):
            number = service.done + 1
            assert bytes(ask(client, extra=header).body) == b"number %d" % number, "keys belong to who calls"


def test_what_is_not_a_key(gateway):
    with world(gateway) as (service, running):
        client = running.client()
        assert b"idempotency_key_wrong" in ask(client, "/must/a", key=None).body
        assert ask(client, "/must/a", key=None, method=b"PUT").status == 201
        for extra in (b"", b"Idempotency-Key: k2\r\n"):
            for key in (b"", b"x" * 256, b'"a"b"', b"\xff") if not extra else (b"k1",):
                answer = ask(client, key=key, extra=extra)
                assert answer.status == 400 and b"idempotency_key_wrong" in answer.body
        assert service.done == 1
        assert ask(client, "/small/a", body=b"x" * 101).status == 413
    assert key_of('"a\\"b\\\\c"') == 'a"b\\c' and key_of("x" * 255) == "x" * 255


def test_a_key_belongs_to_the_consumer(gateway):
    with world(gateway) as (_, running):
        client = running.client()
        ann, bob = b"X-API-Key: a\r\n", b"X-API-Key: b\r\n"
        assert bytes(ask(client, "/key/a", extra=ann + b"Authorization: 1\r\n").body) == b"number 1"
        assert bytes(until_settled(client, "/key/a", extra=ann + b"Authorization: 2\r\n").body) == b"number 1"
        assert bytes(ask(client, "/key/a", extra=bob + b"Authorization: 1\r\n").body) == b"number 2"


def test_while_the_first_is_under_way(gateway):
    with world(gateway) as (service, running):
        first, second, third = (running.client() for _ in range(3))
        first.send(raw("/held"))
        until(lambda: service.done == 1, "the first is with the service")
        answer = ask(second, "/held")
        assert answer.status == 409 and b'"idempotency_running"' in answer.body and answer.get("Retry-After") == "1"
        assert ask(second, "/held", body=b"else").status == 422, "known before there is an answer"
        third.send(raw("/wait/held"))
        until(lambda: service.done == 2, "likewise")
        second.send(raw("/wait/held"))
        service.gate.set()
        assert [bytes(client.response().body) for client in (first, third)] == [b"number 1", b"number 2"]
        waited = second.response()
        assert bytes(waited.body) == b"number 2" and waited.get("Idempotent-Replayed") == "true"
        assert service.done == 2


def test_which_answers_are_kept(gateway):
    with world(gateway) as (service, running):
        client = running.client()
        assert ask(client, "/refused").status == 402
        assert bytes(until_settled(client, "/refused").body) == b"number 1"
        assert ask(client, "/slow", key=b"s").status == 429
        assert bytes(until_settled(client, "/slow", key=b"s").body) == b"number 3", "429 is none that is kept"
        assert bytes(ask(client, "/chunked", key=b"c").body) == b"number 4"
        assert bytes(until_settled(client, "/chunked", key=b"c").body) == b"number 4"
        # too large: passed on, told, and not done again
        assert service.done == 4
        for path, told in (("/small/long", "no"), ("/small/long_chunked", None)):
            big = ask(client, path, key=path.encode())
            assert len(big.body) == 500 and big.get("Idempotency-Kept") == told
            answer = until_settled(client, path, key=path.encode())
            assert answer.status == 409 and b'"idempotency_not_kept"' in answer.body
        assert service.done == 6
        until(lambda: running.stats.read_counters()["idempotency_unkept"] == 2)


def test_bodies_that_a_policy_changes(gateway):
    with world(gateway) as (service, running):
        client = running.client()
        for path in ("/filtered/a", "/filtered/chunked"):
            number = service.done + 1
            answers = [ask(client, path, key=path.encode()), until_settled(client, path, key=path.encode())]
            assert [bytes(answer.body) for answer in answers] == [b"NUMBER %d!" % number] * 2
            assert service.done == number


def test_retries_and_failures(gateway):
    with world(gateway) as (service, running):
        client = running.client()
        for path, done in (("/reset", 2), ("/busy", 2), ("/once/reset", 1), ("/once/busy", 1), ("/plain/reset", 1)):
            before, service.failures = service.done, 1
            key = None if path.startswith("/plain") else path.encode()
            answer = ask(client, path, key=key)
            assert service.done - before == done, path
            assert answer.status == (201 if done == 2 else 502 if path.endswith("reset") else 503)
            service.failures = 0
        # the service may have had it: not once more. 503 was an answer that is not kept.
        before = service.done
        answer = until_settled(client, "/once/reset", key=b"/once/reset")
        assert answer.status == 409 and b"idempotency_not_kept" in answer.body
        assert until_settled(client, "/once/busy", key=b"/once/busy").status == 201 and service.done == before + 1
        # an answer that was cut short is none
        for path in ("/cut", "/once/cut"):
            cut = running.client()
            cut.send(raw(path, key=b"cut"))
            assert cut.head().status == 201
            cut.rest()
        number = service.done
        again = running.client()
        again.send(raw("/cut", key=b"cut"))
        assert again.head().status == 201
        until(lambda: service.done == number + 1, "after a failure it is made again")
        assert until_settled(running.client(), "/once/cut", key=b"cut").status == 409


@pytest.mark.parametrize("path", ["/held", "/held?2"])
def test_a_client_that_leaves(gateway, path):
    with world(gateway) as (service, running):
        client = running.client()
        client.send(raw(path))
        until(lambda: service.done == 1, "the service has it")
        if path == "/held":
            client.close()
        else:
            client.half_close()
        until(lambda: running.call(lambda: running.engine.connections) == 0, "the gateway knows")
        other = running.client()
        assert ask(other, path).status == 409, "it goes on"
        service.gate.set()
        answer = until_settled(other, path)
        assert bytes(answer.body) == b"number 1" and answer.get("Idempotent-Replayed") == "true"
        assert service.done == 1
        until(lambda: (201, "client_closed") in running.records, "the log says that nobody got it")


def test_without_a_gateway():
    trial = Trial("idempotency", {"store": "memory", "on_failure": "closed", "required": True})
    assert trial.ask("POST /a", {"Idempotency-Key": "x"}).passed
    assert trial.ask("POST /a").code == "idempotency_key_wrong"
    for wrong in ({}, {"store": "memory"}, {"on_failure": "open"},
                  {"store": "memory", "on_failure": "open", "statuses": ["200-299"]}):  # fmt: skip
        with pytest.raises(ValidationError):
            IdempotencyOptions.model_validate(wrong)


def locks(server):
    """The keys of Redis that hold a lock."""
    words = server.command("KEYS", "*idempotency*").split(b"\r\n")
    names = [word.decode() for word in words if b"idempotency" in word]
    return [name for name in names if server.command("GETRANGE", name, 0, 0).endswith(b"R\r\n")]


@needed
def test_in_redis(gateway, tmp_path):
    stores = "{{redis: {{url: '{}', deadline: 5s, timeout: 5s, breaker: {{failures: 1000}}}}}}"
    with RedisServer(tmp_path) as server:
        stores = stores.format(server.url)
        near = world(gateway, "redis", stores, "6s")
        with near as (service, running), world(gateway, "redis", stores) as (far, other):
            here, there = running.client(), other.client()
            assert bytes(ask(here).body) == b"number 1"
            again = until_settled(there)
            assert bytes(again.body) == b"number 1" and again.get("Idempotent-Replayed") == "true" and far.done == 0
            assert ask(there, body=b"other").status == 422
            # a lock is renewed while somebody works, and ends when he is gone
            here.send(raw("/held", key=b"h"))
            until(lambda: service.done == 2, "the service has it")
            assert ask(there, "/held", key=b"h").status == 409
            (lock,) = locks(server)
            left = [int(server.command("PTTL", lock)[1:])]
            until(lambda: left.append(int(server.command("PTTL", lock)[1:])) or left[-1] > left[-2], "it is renewed")
            running.stop()
            assert 0 < int(server.command("PTTL", lock)[1:]) <= 6000
            server.command("PEXPIRE", lock, 1)
            far.gate.set()
            answer = until_settled(there, "/held", key=b"h")
            assert bytes(answer.body) == b"number 1" and far.done == 1
            server.kill()
            answer = ask(there, key=b"new")
            assert answer.status == 503 and b"store_unavailable" in answer.body
            assert ask(there, "/open/a", key=b"new").status == 201
            service.gate.set()


def test_the_page():
    """Its example is one that loads, and `explain` says what the policy does to retries."""
    page = (Path(__file__).parents[2] / "docs" / "idempotency.md").read_text()
    (block,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    for options, said in (("", True), (", after_failure: refuse", False)):
        config = load(block.replace(", required: true", options), resolver=RESOLVER, env={})
        (retry,) = resilience_words(config, config.routes[0])["retry"]
        assert ("any method with a key of the policy `idempotency`" in retry) is said
