"""Load with random kills on both sides; at the end memory and descriptors are where they were.

A short form runs with the suite; FASTGW_SOAK_SECONDS=600 is `make soak`.
"""

import os
import random
import threading
import time
from collections import Counter

import pytest

from fastgw.testing import FakeUpstream, GatewayProcess, Incomplete, chunked
from fastgw.testing.process import descriptors, private_bytes

SECONDS = float(os.environ.get("FASTGW_SOAK_SECONDS", "12"))
CLIENTS = 6
MEMORY_GROWTH = 3 * 1024 * 1024
"""Bytes by which the gateway may be larger at the end than after the warm-up, however long it ran."""


def content(target):
    """The answer that belongs to a target: its name and length are in it, so that no other can pass for it."""
    size = int(target.rsplit("/", 1)[1])
    return (target.encode() * (size // len(target) + 1))[:size]


def play(connection):
    """Answers by the target's first segment; some answers are cut, late, or end the connection."""
    while True:
        request = connection.read_request()
        kind = request.target.split("/")[1]
        body = content(request.target)
        if kind == "chunks":
            pieces = [body[at : at + 7000] for at in range(0, len(body), 7000)]
            connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(pieces))
        elif kind == "cut":
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(body) + 1) + body)
            connection.reset()
            return
        elif kind == "last":
            connection.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            return
        elif kind == "bad":
            connection.send(b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n")
            return
        else:
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


class Load:
    """One client: random requests, random ends."""

    def __init__(self, gateway, seed):
        self.gateway = gateway
        self.random = random.Random(seed)
        self.outcomes = Counter()
        self.errors = []
        self.stop = threading.Event()
        self.pause = threading.Event()
        self.idle = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        while not self.stop.is_set():
            if self.pause.is_set():
                self.idle.set()
                time.sleep(0.01)
                continue
            self.idle.clear()
            try:
                with self.gateway.client(timeout=20) as client:
                    for _ in range(self.random.randint(1, 30)):
                        if not self.one(client):
                            break
            except (Incomplete, OSError) as error:
                self.outcomes[f"cut:{getattr(error, 'how', type(error).__name__)}"] += 1
            except Exception as error:
                self.errors.append(error)
                return

    def one(self, client):
        """One request and its answer; False when the connection is used up."""
        choose = self.random
        kind = choose.choices(["plain", "chunks", "cut", "last", "bad"], [60, 20, 3, 5, 2])[0]
        target = f"/{kind}/{choose.randint(0, 10**9)}/{choose.choice([0, 10, 1000, 60_000, 400_000])}"
        what = choose.randint(0, 99)
        if what < 3:
            client.send(b"GET / HTTP/1.1\r\nBad header\r\n\r\n")
            assert client.response().status == 400
            self.outcomes["400"] += 1
            return False
        if what < 40:
            body = content(f"/{choose.choice([1, 5000, 300_000])}")
            head = f"POST {target} HTTP/1.1\r\nHost: h\r\n"
            if what < 20:
                data = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
            else:
                data = f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunked([body])
        else:
            data = f"GET {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode()
        if what in (10, 50):
            # leaves in the middle of what it says, or before the answer
            client.send(data[: choose.randint(1, len(data))])
            client.reset()
            self.outcomes["left"] += 1
            return False
        client.send(data)
        if what in (11, 51):
            client.head()
            client.reset()
            self.outcomes["left"] += 1
            return False
        response = client.response()
        self.outcomes[str(response.status)] += 1
        if response.status == 200:
            assert bytes(response.body) == content(target), f"not the answer to {target}"
        else:
            assert response.status in (502, 503, 504), bytes(response.raw)
        return response.keeps_alive


class Soak:
    def __init__(self, gateway, upstreams):
        self.gateway = gateway
        self.upstreams = upstreams
        self.loads = [Load(gateway, seed) for seed in range(CLIENTS)]
        self.kills = 0

    def quiet(self):
        """Stops the clients, ends all upstream connections; (memory, descriptors) of a gateway without work."""
        for load in self.loads:
            load.pause.set()
        for load in self.loads:
            assert load.errors or load.idle.wait(60), "a client does not come to its end"
        for upstream in self.upstreams:
            upstream.kill_connections(with_reset=False)
        last, since = None, time.monotonic()
        end = since + 10
        while time.monotonic() < end and time.monotonic() - since < 0.5:
            now = self.descriptors()
            if now != last:
                last, since = now, time.monotonic()
            time.sleep(0.05)
        figures = self.memory(), self.descriptors()
        for load in self.loads:
            load.pause.clear()
            load.idle.clear()
        return figures

    def memory(self):
        return sum(map(private_bytes, self.gateway.processes()))

    def descriptors(self):
        return sum(map(descriptors, self.gateway.processes()))

    def under_load(self, seconds):
        choose = random.Random(1)
        end = time.monotonic() + seconds
        while time.monotonic() < end and not any(load.errors for load in self.loads):
            time.sleep(choose.uniform(0.05, 0.4))
            upstream = choose.choice(self.upstreams)
            self.kills += upstream.kill_connections(with_reset=choose.random() < 0.7)
            for each in self.upstreams:
                each.forget()

    def outcomes(self):
        return sum((load.outcomes for load in self.loads), Counter())


@pytest.mark.timeout(SECONDS * 2 + 120)
def test_memory_and_descriptors_stay_flat(capsys):
    with FakeUpstream(play) as a, FakeUpstream(play) as b, FakeUpstream(play) as c:
        config = {
            "observability": {"access_log": {"enabled": False}},
            "services": {"up": {"endpoints": [a.url, b.url, c.url], "pool": {"max_connections": 4}}},
            "routes": [{"path": "/*", "service": "up"}],
        }
        with GatewayProcess(config) as gateway:
            soak = Soak(gateway, [a, b, c])
            for load in soak.loads:
                load.thread.start()
            soak.under_load(SECONDS / 3)
            memory, fds = soak.quiet()
            marks = [(memory, fds)]
            for _ in range(4):
                soak.under_load(SECONDS / 6)
                marks.append(soak.quiet())
            for load in soak.loads:
                load.stop.set()
            for load in soak.loads:
                load.thread.join(30)
            outcomes = soak.outcomes()
            with capsys.disabled():
                print(f"\nsoak of {SECONDS:.0f} s: {sum(outcomes.values())} ends {dict(outcomes)}, kills {soak.kills}")
                for index, (size, open_now) in enumerate(marks):
                    print(f"  mark {index}: {size / 2**20:6.2f} MiB private, {open_now} descriptors")
            assert not [error for load in soak.loads for error in load.errors]
            assert outcomes["200"] > 20 * SECONDS, "there was hardly any load"
            assert soak.kills > 0
            assert marks[-1][1] <= fds, "descriptors are left behind"
            assert marks[-1][0] - memory < MEMORY_GROWTH, "memory grows"
