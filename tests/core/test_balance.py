"""Which endpoint is chosen, against models of each way to choose that are written the obvious way."""

import asyncio
import hashlib
import time

import pytest
from fastgw._core.reactor import Reactor

from fastgw._core.balance import Cookie, Load, LoadBalancer, StickyCookie
from fastgw._core.pool import Endpoint, Limits, Service
from fastgw._core.probe import Probe, count_picks
from fastgw._core.template import Compiled

SECOND = 1_000_000_000
BY_USER = [("request.header", b"x-user")]


@pytest.fixture
def reactor():
    loop = asyncio.new_event_loop()
    reactor = Reactor(loop, print)
    yield reactor
    reactor.close()
    loop.close()


def endpoints(reactor, count, **given):
    made = []
    for i in range(count):
        endpoint = Endpoint(reactor, None, f"e{i}", f"http://10.0.{i // 250}.{i % 250}:80", b"e", (), Limits())
        endpoint.since = 0                           # as old as the machine: nothing starts slowly
        for name, values in given.items():
            setattr(endpoint, name, values[i])
        made.append(endpoint)
    return tuple(made)


def probe(user="1"):
    return Probe(b"GET /a HTTP/1.1\r\nHost: a\r\nX-User: %s\r\n\r\n" % user.encode())


def filled(service):
    while not service.balancer.fill():
        pass
    return service


def names(service, count, request=None):
    request = request or probe()
    return [request.pick(service).name for _ in range(count)]


# ---------------------------------------------------------------- round robin


def smooth(weights, count):
    """nginx's smooth weighted round robin, as its author describes it."""
    current = [0] * len(weights)
    for _ in range(count):
        current = [have + weight for have, weight in zip(current, weights, strict=True)]
        best = current.index(max(current))
        current[best] -= sum(weights)
        yield f"e{best}"


def test_equal_weights_take_turns(reactor):
    service = Service("s", endpoints(reactor, 3), [7, 7, 7])
    assert names(service, 7) == ["e0", "e1", "e2", "e0", "e1", "e2", "e0"]


@pytest.mark.parametrize("weights", [[5, 1, 1], [1, 2], [3, 3, 3, 1], [1000, 1, 1], list(range(1, 33))])
def test_few_weighted_endpoints_are_nginxs_smooth_ones(reactor, weights):
    service = Service("s", endpoints(reactor, len(weights)), weights)
    assert names(service, 2 * sum(weights)) == list(smooth(weights, 2 * sum(weights)))


@pytest.mark.parametrize("count", [33, 100, 1000])
def test_many_weighted_endpoints_never_leave_their_share(reactor, count):
    """After any number of picks each has its share of them, give or take two turns: smooth, and not only in the end."""
    weights = [1 + i * i % 10 for i in range(count)]
    service = Service("s", endpoints(reactor, count), weights)
    total, request = sum(weights), probe()
    got = dict.fromkeys((f"e{i}" for i in range(count)), 0)
    for picks in range(1, 2 * total + 1):
        got[request.pick(service).name] += 1
        if picks % 97 == 0:
            for i, weight in enumerate(weights):
                assert abs(got[f"e{i}"] - picks * weight / total) < 2
    assert max(abs(got[f"e{i}"] - 2 * weight) for i, weight in enumerate(weights)) <= 1


def test_those_that_stay_keep_their_turn(reactor):
    made = endpoints(reactor, 3)
    service = Service("s", made, [5, 1, 1])
    before = names(service, 3)
    service.set_endpoints(made[:2], [5, 1])
    after = names(service, 6)
    assert before == ["e0", "e0", "e1"] and after.count("e1") == 1


# ---------------------------------------------------------------- by chance, by load, by latency


def fits(counts, weights, picks):
    """Pearson's chi-squared, bounded far beyond what chance gives (the mean is the degrees of freedom, n - 1; with
    200 endpoints more than 1.6 times that comes once in ten million runs)."""
    total = sum(weights)
    chi = 0.0
    for i, weight in enumerate(weights):
        wanted = picks * weight / total
        chi += (counts.get(f"e{i}", 0) - wanted) ** 2 / wanted
    return chi < 1.6 * (len(weights) - 1) + 40


@pytest.mark.parametrize("kind", ["random", "least_requests", "ewma"])
@pytest.mark.parametrize("even", [True, False])
def test_an_idle_service_is_asked_by_weight(reactor, kind, even):
    weights = [1] * 200 if even else [1 + i % 10 for i in range(200)]
    service = Service("s", endpoints(reactor, 200), weights, balancer=LoadBalancer(kind))
    assert fits(count_picks(service, probe(), 400_000), weights, 400_000)


def test_the_alias_table_is_exact_for_extreme_weights(reactor):
    weights = [1000] + [1] * 999
    service = Service("s", endpoints(reactor, 1000), weights, balancer=LoadBalancer("random"))
    counts = count_picks(service, probe(), 1_000_000)
    assert counts["e0"] == pytest.approx(1_000_000 * 1000 / 1999, rel=0.02)


def two_choices(load, weights):
    """The chance of each endpoint under "the less loaded of two different ones, drawn by weight"."""
    n, total = len(load), sum(weights)
    chance = [0.0] * n
    for a in range(n):
        for b in range(n):
            # the second is drawn by weight as well; when it is the first again, it is any other
            p = weights[a] / total * (weights[b] / total + weights[a] / total / (n - 1)) if a != b else 0.0
            chance[b if load[b] * weights[a] < load[a] * weights[b] else a] += p
    return chance


@pytest.mark.parametrize("weights", [[1, 1, 1, 1], [4, 1, 2, 1]])
def test_least_requests_is_the_power_of_two_choices(reactor, weights):
    load = [4, 0, 2, 9]
    service = Service("s", endpoints(reactor, 4, in_flight=load), weights, balancer=LoadBalancer("least_requests"))
    counts = count_picks(service, probe(), 200_000)
    for i, chance in enumerate(two_choices(load, weights)):
        assert counts.get(f"e{i}", 0) / 200_000 == pytest.approx(chance, abs=0.006)


def test_requests_under_way_are_counted_until_they_end(reactor):
    load = Load()
    service = Service("s", endpoints(reactor, 2), balancer=LoadBalancer("least_requests", load=load))
    requests = [probe() for _ in range(50)]
    for request in requests:
        request.begin(service, request.pick(service))
    assert [endpoint.in_flight for endpoint in service.endpoints] == [25, 25]
    assert load.in_flight == 50
    for request in requests:
        request.end(service, 200)
    assert [endpoint.in_flight for endpoint in service.endpoints] == [0, 0]
    assert load.in_flight == 0


def test_heavier_endpoints_hold_more_requests(reactor):
    service = Service("s", endpoints(reactor, 2), [3, 1], balancer=LoadBalancer("least_requests"))
    for _ in range(400):
        request = probe()
        request.begin(service, request.pick(service))
    assert [endpoint.in_flight for endpoint in service.endpoints] == [300, 100]


def test_ewma_prefers_the_fast_and_asks_the_slow_again(reactor):
    made = endpoints(reactor, 2, latency=[50e6, 5e6], latency_at=[reactor.now] * 2)
    service = Service("s", made, balancer=LoadBalancer("ewma", decay_ns=SECOND))
    assert set(names(service, 200)) == {"e1"}
    made[1].in_flight = 20                           # 5 ms * 21 is more than 50 ms
    assert set(names(service, 200)) == {"e0"}
    made[1].in_flight = 0
    made[0].latency_at -= 5 * SECOND                 # what it was five decays ago counts for next to nothing
    assert set(names(service, 200)) == {"e0"}


def test_an_endpoint_that_fails_at_once_is_not_fast(reactor):
    made = endpoints(reactor, 2, latency=[20e6, 20e6], latency_at=[reactor.now] * 2)
    service = Service("s", made, balancer=LoadBalancer("ewma"))
    request = probe()
    for outcome in ({"code": "upstream_connect_failed"}, {"status": 503}):
        made[0].latency = 20e6
        request.begin(service, made[0])
        request.end(service, **outcome)
        assert made[0].latency >= SECOND
        assert set(names(service, 100)) == {"e1"}


def test_the_latency_of_a_client_that_left_is_not_known(reactor):
    made = endpoints(reactor, 2, latency=[20e6, 20e6], latency_at=[reactor.now] * 2)
    service = Service("s", made, balancer=LoadBalancer("ewma"))
    request = probe()
    request.begin(service, made[0])
    request.end(service)
    assert made[0].latency == 20e6 and made[0].in_flight == 0


# ---------------------------------------------------------------- consistent hash


def hashing(service_endpoints, weights=None, **options):
    balancer = LoadBalancer("consistent_hash", Compiled(BY_USER), **options)
    return filled(Service("s", service_endpoints, weights, balancer=balancer))


def chosen(service, keys):
    return {key: probe(key).pick(service).name for key in keys}


KEYS = [hashlib.sha1(str(i).encode()).hexdigest()[:12] for i in range(5000)]


def test_the_same_key_finds_the_same_endpoint_whatever_their_order(reactor):
    made = endpoints(reactor, 20)
    first = chosen(hashing(made), KEYS[:500])
    assert chosen(hashing(made), KEYS[:500]) == first
    assert len(set(first.values())) == 20


@pytest.mark.parametrize("count", [3, 100, 1000])
def test_keys_are_spread_evenly(reactor, count):
    service = hashing(endpoints(reactor, count))
    counts: dict[str, int] = {}
    picks = 40_000
    for i in range(picks):
        name = probe(f"user-{i}").pick(service).name
        counts[name] = counts.get(name, 0) + 1
    assert fits(counts, [1] * count, picks)


def test_keys_are_spread_by_weight(reactor):
    weights = [1, 2, 5, 12]
    service = hashing(endpoints(reactor, 4), weights)
    counts: dict[str, int] = {}
    for i in range(40_000):
        name = probe(f"user-{i}").pick(service).name
        counts[name] = counts.get(name, 0) + 1
    assert fits(counts, weights, 40_000)


def test_one_endpoint_less_moves_its_keys_and_few_others(reactor):
    """Maglev, 5.3: with a table much larger than the number of endpoints few keys move without need."""
    made = endpoints(reactor, 50)
    before = chosen(hashing(made), KEYS)
    after = chosen(hashing(made[:-1]), KEYS)
    moved = sum(1 for key in KEYS if before[key] != after[key] and before[key] != "e49")
    assert moved / len(KEYS) < 0.04
    assert "e49" not in after.values()


def test_one_that_is_down_moves_its_keys_only_and_they_are_spread(reactor):
    made = endpoints(reactor, 50)
    service = hashing(made)
    before = chosen(service, KEYS)
    made[7].down = True
    service.balancer.refresh()
    after = chosen(service, KEYS)
    moved = {key for key in KEYS if before[key] != after[key]}
    assert moved == {key for key in KEYS if before[key] == "e7"}
    assert len({after[key] for key in moved}) > 25
    made[7].down = False
    service.balancer.refresh()
    assert chosen(service, KEYS) == before


def test_most_of_them_down_and_a_key_still_finds_one(reactor):
    made = endpoints(reactor, 500)
    service = hashing(made)
    for endpoint in made[1:]:
        endpoint.down = True
    service.balancer.refresh()
    assert set(chosen(service, KEYS[:300]).values()) == {"e0"}


def test_bounded_load_sends_a_hot_key_elsewhere(reactor):
    """V. Mirrokni et al., 2016: nobody has more than the factor times the mean, rounded up."""
    service = hashing(endpoints(reactor, 10), bounded=1.25)
    requests = [probe("hot") for _ in range(100)]
    for request in requests:
        request.begin(service, request.pick(service))
    loads = sorted(endpoint.in_flight for endpoint in service.endpoints)
    assert sum(loads) == 100 and loads[-1] <= 13
    for request in requests:
        request.end(service, 200)
    assert probe("hot").pick(service) is probe("hot").pick(service)


def test_without_a_value_it_is_by_chance(reactor):
    service = hashing(endpoints(reactor, 4))
    bare = Probe(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert len({bare.pick(service).name for _ in range(200)}) == 4


def test_a_new_set_is_taken_in_while_the_old_table_answers(reactor):
    """Filling is cut in slices that a timer runs; none takes long, and until the last one the old table is asked."""
    made = endpoints(reactor, 1000)
    service = hashing(made[:999])
    before = chosen(service, KEYS[:200])
    start = time.thread_time()                   # the processor may be busy with others
    service.set_endpoints(made)
    assert time.thread_time() - start < 0.05
    assert chosen(service, KEYS[:200]) == before
    slices = []
    done = False
    while not done:
        start = time.thread_time()
        done = service.balancer.fill()
        slices.append(time.thread_time() - start)
    slices.sort()
    assert len(slices) > 10 and slices[len(slices) * 9 // 10] < 0.001
    assert chosen(service, KEYS[:200]) == chosen(hashing(made), KEYS[:200])


def test_the_first_set_of_discovery_is_hashed_before_its_table_is_there(reactor):
    service = Service("s", endpoints(reactor, 50), balancer=LoadBalancer("consistent_hash", Compiled(BY_USER)))
    first = chosen(service, KEYS[:300])
    assert first == chosen(service, KEYS[:300]) and len(set(first.values())) > 40


def test_a_plan_with_the_same_endpoints_takes_the_table_over(reactor):
    load = Load()
    made = endpoints(reactor, 5)
    hashing(made, load=load)
    again = Service("s", made, balancer=LoadBalancer("consistent_hash", Compiled(BY_USER), load=load))
    assert again.balancer.fill()


# ---------------------------------------------------------------- further attempts


@pytest.mark.parametrize("kind", ["round_robin", "random", "least_requests", "ewma", "consistent_hash"])
@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_a_further_attempt_goes_elsewhere_as_long_as_there_is_elsewhere(reactor, kind, count):
    key = Compiled(BY_USER) if kind == "consistent_hash" else None
    service = filled(Service("s", endpoints(reactor, count), balancer=LoadBalancer(kind, key)))
    for _ in range(20):
        request = probe()
        tried = [request.pick(service, attempt).name for attempt in range(count)]
        assert len(set(tried)) == count
        assert request.pick(service, count) is not None


# ---------------------------------------------------------------- groups


def shares(service, count=20_000):
    counts = count_picks(service, probe(), count)
    return {name: round(got / count, 2) for name, got in counts.items()}


def test_the_next_priority_takes_what_the_first_cannot(reactor):
    made = endpoints(reactor, 12, priority=[0] * 10 + [1] * 2)
    service = Service("s", made, balancer=LoadBalancer(min_healthy=0.7, live=True))

    def first_priority():
        counts = count_picks(service, probe(), 50_000)
        return sum(got for name, got in counts.items() if int(name[1:]) < 10) / 50_000

    assert first_priority() == 1
    for down, wanted in ((3, 1), (5, 5 / 7), (9, 1 / 7), (10, 0)):
        for endpoint in made[:down]:
            endpoint.down = True
        service.balancer.refresh()
        assert first_priority() == pytest.approx(wanted, abs=0.02)


def test_what_nobody_is_healthy_enough_for_is_shared_out(reactor):
    made = endpoints(reactor, 4, priority=[0, 0, 1, 1], down=[True, False, False, True])
    service = Service("s", made, balancer=LoadBalancer(min_healthy=1.0))
    assert shares(service) == {"e1": pytest.approx(0.5, abs=0.03), "e2": pytest.approx(0.5, abs=0.03)}


def test_the_own_zone_first(reactor):
    made = endpoints(reactor, 6, zone=["a", "a", "b", "b", "", "c"])
    service = Service("s", made, balancer=LoadBalancer(zone="a", live=True))
    assert shares(service) == {"e0": 0.5, "e1": 0.5}
    made[0].down = True
    service.balancer.refresh()
    found = shares(service)
    assert found.pop("e1") == pytest.approx(0.5 / 0.7, abs=0.02)
    assert set(found) == {"e2", "e3", "e4", "e5"}
    assert set(shares(Service("s", made, balancer=LoadBalancer(zone="nowhere")))) == {f"e{i}" for i in range(1, 6)}


def test_a_keys_group_is_the_keys(reactor):
    made = endpoints(reactor, 8, priority=[0] * 4 + [1] * 4, down=[True, True] + [False] * 6)
    service = hashing(made, min_healthy=1.0)
    before = chosen(service, KEYS[:1000])
    assert chosen(service, KEYS[:1000]) == before
    first = sum(1 for name in before.values() if int(name[1:]) < 4)
    assert first == pytest.approx(500, abs=80)


@pytest.mark.parametrize("kind", ["round_robin", "least_requests", "consistent_hash"])
def test_when_all_are_down(reactor, kind):
    key = Compiled(BY_USER) if kind == "consistent_hash" else None
    made = endpoints(reactor, 3, down=[True] * 3)
    service = filled(Service("s", made, balancer=LoadBalancer(kind, key, panic=True)))
    assert service.balancer.panicking and probe().pick(service) is not None
    service = filled(Service("s", made, balancer=LoadBalancer(kind, key, panic=False)))
    assert probe().pick(service) is None


def test_without_endpoints_there_is_nothing_to_pick(reactor):
    for kind in ("round_robin", "ewma"):
        assert probe().pick(Service("s", (), balancer=LoadBalancer(kind))) is None
    assert probe().pick(hashing(())) is None


def test_labels(reactor):
    made = endpoints(reactor, 4, labels=[{"v": "1"}, {"v": "2", "x": "y"}, {}, {"v": "2"}])
    service = Service("s", made, balancer=LoadBalancer(labels={"v": "2"}))
    assert set(names(service, 10)) == {"e1", "e3"}
    assert service.endpoints == made                 # all of them belong to it, and are kept


def test_a_subset_is_stable_and_differs_from_host_to_host(reactor):
    made = endpoints(reactor, 100, priority=[i % 2 for i in range(100)])

    def subset(seed, given=made):
        service = Service("s", given, balancer=LoadBalancer("random", subset=10, seed=seed))
        return set(count_picks(service, probe(), 3000))

    one, other = subset(b"host-1"), subset(b"host-2")
    assert len(one) == len(other) == 10 and one != other     # ten of priority 0: those of 1 wait
    assert subset(b"host-1") == one
    gone = next(endpoint for endpoint in made if endpoint.name in one)
    after = subset(b"host-1", tuple(endpoint for endpoint in made if endpoint is not gone))
    assert len(after) == 10 and one - after == {gone.name}


def test_slow_start_gives_the_share_by_and_by(reactor):
    made = endpoints(reactor, 4)
    balancer = LoadBalancer("random", slow_start_ns=3600 * SECOND)
    service = Service("s", made, balancer=balancer)
    assert shares(service)["e3"] == pytest.approx(0.25, abs=0.02)
    for age, wanted in ((0, 0.1), (900, 0.25), (1800, 0.5), (3600, 1)):
        made[3].since = time.monotonic_ns() - age * SECOND
        balancer.refresh()
        assert shares(service)["e3"] == pytest.approx(wanted / (3 + wanted), abs=0.015)


def test_the_first_endpoints_of_a_service_do_not_start_slowly(reactor):
    made = endpoints(reactor, 4)
    for endpoint in made:
        endpoint.since = time.monotonic_ns()
    service = Service("s", made[:3], balancer=LoadBalancer("random", slow_start_ns=3600 * SECOND))
    service.set_endpoints(made)
    assert shares(service)["e3"] == pytest.approx(0.1 / 3.1, abs=0.015)


# ---------------------------------------------------------------- the cookie


def test_the_cookie_brings_a_client_back(reactor):
    made = endpoints(reactor, 10)
    service = Service("s", made, balancer=LoadBalancer(cookie=Cookie(b"lb")))
    request = probe()
    request.pick(service)
    request.respond(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    request.response(StickyCookie())
    (line,) = [value for name, value in request.exchange.response.pairs() if name.lower() == "set-cookie"]
    value, _, attributes = line.encode().partition(b"; ")
    assert value.startswith(b"lb=") and attributes == b"Path=/; HttpOnly; SameSite=Lax"
    assert request.exchange.endpoint.name.encode() not in value

    back = Probe(b"GET / HTTP/1.1\r\nHost: a\r\nCookie: a=b; %s\r\n\r\n" % value)
    assert {back.pick(service).name for _ in range(30)} == {request.exchange.endpoint.name}
    back.respond(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    back.response(StickyCookie())
    assert "set-cookie" not in {name.lower() for name, _ in back.exchange.response.pairs()}

    request.exchange.endpoint.down = True
    service.balancer.refresh()
    assert request.exchange.endpoint not in {back.pick(service) for _ in range(30)}
    back.respond(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    back.response(StickyCookie())
    assert "set-cookie" in {name.lower() for name, _ in back.exchange.response.pairs()}


@pytest.mark.parametrize("cookie", [b"lb=", b"lb=0123456789abcdef", b"lb=" + b"f" * 4000, b"lb=../../e1", b'lb="e1"'])
def test_a_cookie_that_names_nobody_is_as_none(reactor, cookie):
    service = Service("s", endpoints(reactor, 3), balancer=LoadBalancer(cookie=Cookie(b"lb")))
    request = Probe(b"GET / HTTP/1.1\r\nHost: a\r\nCookie: %s\r\n\r\n" % cookie)
    assert {request.pick(service).name for _ in range(9)} == {"e0", "e1", "e2"}
