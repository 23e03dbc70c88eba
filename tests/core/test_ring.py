"""Consistent hashing on a ring, against a model of it that is written the obvious way."""

import asyncio
from bisect import bisect_left
from collections import Counter

import pytest
from fastgw._core.reactor import Reactor

from fastgw._core.balance import Load, LoadBalancer
from fastgw._core.pool import Endpoint, Limits, Service
from fastgw._core.probe import Probe
from fastgw._core.template import Compiled

WORD = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
KEYS = [f"user-{i}" for i in range(4000)]


@pytest.fixture
def reactor():
    loop = asyncio.new_event_loop()
    reactor = Reactor(loop, print)
    yield reactor
    reactor.close()
    loop.close()


def endpoints(reactor, count):
    return tuple(
        Endpoint(reactor, None, f"e{i}", f"http://10.0.{i // 250}.{i % 250}:80", b"e", (), Limits())
        for i in range(count)
    )


def hashing(made, weights=None, fill=True, **options):
    balancer = LoadBalancer("consistent_hash", Compiled([("request.header", b"x-user")]), ring=True, **options)
    service = Service("s", made, weights, balancer=balancer)
    while fill and not balancer.fill():
        pass
    return service


def probe(key):
    return Probe(b"GET /a HTTP/1.1\r\nHost: a\r\nX-User: %s\r\n\r\n" % key.encode())


def chosen(service, keys=KEYS):
    return {key: probe(key).pick(service).name for key in keys}


# ---------------------------------------------------------------- the model


def mix(x):
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & WORD
    return x ^ (x >> 31)


def hash_of(data):
    h = GOLDEN ^ len(data)
    for at in range(0, len(data), 8):
        h = mix(h ^ int.from_bytes(data[at : at + 8].ljust(8, b"\0"), "little"))
    return mix((h + GOLDEN) & WORD)


class Model:
    """All points in one sorted list."""

    def __init__(self, made, weights=None):
        weights = weights or [1] * len(made)
        scale = 1
        while scale * 2 * len(made) <= sum(weights):
            scale *= 2
        self.points = []
        for endpoint, weight in zip(made, weights, strict=True):
            own = hash_of(endpoint.url.encode())
            for k in range(1, max(weight * 160 // scale, 1) + 1):
                self.points.append((mix((own + GOLDEN * k) & WORD) >> 32, own, endpoint.name))
        self.points.sort()

    def walk(self, key):
        """The names that a key meets on its way round."""
        at = bisect_left(self.points, (hash_of(key.encode()) >> 32,))
        return (self.points[(at + i) % len(self.points)][2] for i in range(len(self.points)))

    def pick(self, key):
        return next(self.walk(key))


@pytest.mark.parametrize(
    "weights", [[1], [1, 1], [1, 2, 5, 12], [1000, 1, 1], [100] * 7, [1 + i % 3 for i in range(200)]]
)
def test_it_is_the_model(reactor, weights):
    made = endpoints(reactor, len(weights))
    service = hashing(made, weights)
    model = Model(made, weights)
    assert service.balancer.groups[0].count == len(model.points)
    assert chosen(service) == {key: model.pick(key) for key in KEYS}


def test_the_order_in_which_endpoints_are_told_does_not_matter(reactor):
    made = endpoints(reactor, 30)
    weights = [1 + i % 4 for i in range(30)]
    assert chosen(hashing(made, weights)) == chosen(hashing(made[::-1], weights[::-1]))


def test_shares_of_a_thousand_endpoints(reactor):
    """With 160 points the standard deviation of a share is 1/√160, 8 %; the worst of a thousand may have 4 of it."""
    made = endpoints(reactor, 1000)
    model = Model(made)
    share = Counter()
    last = model.points[-1][0] - (1 << 32)
    for at, _, name in model.points:
        share[name] += at - last
        last = at
    mean = (1 << 32) / 1000
    worst = max(abs(one / mean - 1) for one in share.values())
    deviation = (sum((one / mean - 1) ** 2 for one in share.values()) / 1000) ** 0.5
    assert deviation < 0.1 and worst < 0.4
    service = hashing(made)
    assert chosen(service, KEYS[:1000]) == {key: model.pick(key) for key in KEYS[:1000]}


def test_shares_by_weight(reactor):
    weights = [1, 2, 5, 12]
    made = endpoints(reactor, 4)
    counts = Counter(chosen(hashing(made, weights)).values())
    for endpoint, weight in zip(made, weights, strict=True):
        assert counts[endpoint.name] / len(KEYS) == pytest.approx(weight / 20, rel=0.4)


def test_one_that_comes_or_goes_moves_its_keys_and_no_others(reactor):
    made = endpoints(reactor, 50)
    whole = chosen(hashing(made))
    less = chosen(hashing(made[:-1]))
    moved = {key for key in KEYS if whole[key] != less[key]}
    assert moved == {key for key in KEYS if whole[key] == "e49"} and moved
    assert len({less[key] for key in moved}) > 20


def test_another_weight_moves_keys_of_that_endpoint_only(reactor):
    made = endpoints(reactor, 20)
    before = chosen(hashing(made, [10] * 20))
    after = chosen(hashing(made, [5] + [10] * 19))
    moved = {key for key in KEYS if before[key] != after[key]}
    assert moved and all(before[key] == "e0" for key in moved)
    assert any(after[key] == "e0" for key in KEYS)


def test_one_that_is_down_hands_its_keys_on_round_the_ring(reactor):
    made = endpoints(reactor, 50)
    service = hashing(made)
    before = chosen(service)
    made[7].down = made[8].down = True
    service.balancer.refresh()
    model = Model(made)
    assert chosen(service) == {key: next(name for name in model.walk(key) if name not in ("e7", "e8")) for key in KEYS}
    made[7].down = made[8].down = False
    service.balancer.refresh()
    assert chosen(service) == before


def test_one_left_of_many_is_found(reactor):
    made = endpoints(reactor, 500)
    service = hashing(made)
    for endpoint in made[1:]:
        endpoint.down = True
    service.balancer.refresh()
    assert set(chosen(service, KEYS[:300]).values()) == {"e0"}


def test_bounded_load(reactor):
    """V. Mirrokni et al., 2016: nobody has more than the factor times the mean, rounded up; who is full is left out."""
    made = endpoints(reactor, 10)
    service = hashing(made, bounded=1.25)
    model = Model(made)
    loads = Counter()
    requests = [probe("hot" if i % 2 else f"cold-{i}") for i in range(200)]
    for i, request in enumerate(requests):
        picked = request.pick(service)
        key = "hot" if i % 2 else f"cold-{i}"
        bound = 1.25 * (i + 1) / 10
        assert picked.name == next(name for name in model.walk(key) if loads[name] < bound)
        request.begin(service, picked)
        loads[picked.name] += 1
    assert max(loads.values()) <= 25
    for request in requests:
        request.end(service, 200)


def test_a_heavy_endpoint_that_is_full_does_not_hide_the_others(reactor):
    """Its points stand by the hundred between two of the others'."""
    made = endpoints(reactor, 3)
    service = hashing(made, [1000, 1, 1], bounded=1.01)
    made[0].in_flight = 10_000
    assert set(chosen(service, KEYS[:100]).values()) == {"e1", "e2"}
    made[0].in_flight = 0


def test_a_further_attempt_goes_on_round_the_ring(reactor):
    made = endpoints(reactor, 8)
    service = hashing(made)
    model = Model(made)
    for key in KEYS[:50]:
        request = probe(key)
        asked = [request.pick(service, attempts).name for attempts in range(8)]
        assert asked == list(dict.fromkeys(model.walk(key)))


def test_a_bound_on_points(reactor):
    made = endpoints(reactor, 7000)
    service = hashing(made)
    assert service.balancer.groups[0].count == 7000 * 80
    assert len(set(chosen(service).values())) > 1500


def test_a_new_set_is_taken_in_while_the_old_ring_answers(reactor):
    made = endpoints(reactor, 1000)
    service = hashing(made[:999])
    before = chosen(service, KEYS[:200])
    service.set_endpoints(made)
    assert not service.balancer.groups[0].ready and chosen(service, KEYS[:200]) == before
    slices = 1
    while not service.balancer.fill():
        slices += 1
    assert slices > 20
    assert chosen(service, KEYS[:200]) == chosen(hashing(made), KEYS[:200])


def test_without_a_table_and_with_the_other_one_before_it(reactor):
    load = Load()
    made = endpoints(reactor, 40)
    first = hashing(made, fill=False, load=load)
    assert chosen(first, KEYS[:300]) == chosen(first, KEYS[:300]) and len(set(chosen(first).values())) == 40
    while not first.balancer.fill():
        pass
    ring = chosen(first)
    # a plan with the other algorithm does not take this table for its own, but asks it meanwhile
    key = Compiled([("request.header", b"x-user")])
    other = Service("s", made, balancer=LoadBalancer("consistent_hash", key, load=load))
    assert "Maglev" in repr(other.balancer) and chosen(other) == ring
    while not other.balancer.fill():
        pass
    assert chosen(other) != ring
    again = hashing(made, load=load)
    assert "Ring" in repr(again.balancer) and chosen(again) == ring
    same = Service("s", made, balancer=LoadBalancer("consistent_hash", key, load=load, ring=True))
    assert same.balancer.fill()
