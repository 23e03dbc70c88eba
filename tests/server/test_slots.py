"""The slots of metrics: bounded, stable over generations, and free again when their routes are gone."""

import pytest
import yaml

from fastgw._core.record import Stats
from fastgw.server.shared import SharedMemory, Slots
from fastgw.testing import FakeUpstream, GatewayProcess

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def slots(limit, *generations):
    """After these generations, each a text of one-letter names."""
    found = Slots(limit)
    for number, names in enumerate(generations, 1):
        found = found.next(number, names)
    return found


def test_a_name_keeps_its_slot_and_what_comes_beyond_the_limit_is_other():
    found = slots(2, "abc", "cba")
    assert (found("a"), found("b"), found("c"), found("never")) == (1, 2, 0, 0)


def test_a_removed_name_keeps_its_slot_while_there_are_others():
    found = slots(3, "a", "b", "bc", "abc")
    assert found.names == {"a": 1, "b": 2, "c": 3}
    assert found.reused == []


def test_a_slot_is_used_again_from_the_second_generation_on_without_its_name():
    first = slots(1, "a", "b")
    assert (first("a"), first("b"), first.reused) == (1, 0, [])   # requests of generation 1 may be under way
    then = first.next(3, "b")
    assert (then("a"), then("b"), then.reused) == (0, 1, [1])
    assert then.next(4, "b").reused == []
    assert (first("a"), first("b")) == (1, 0)                     # a generation that fails changes nothing


def test_those_removed_first_go_first():
    found = slots(3, "abc", "bc", "b", "b").next(5, "bx")
    assert (found("x"), found("c"), found("a")) == (1, 3, 0)


def test_one_that_comes_back_is_no_longer_free():
    found = slots(2, "ab", "b", "ab", "abc")
    assert (found("a"), found("b"), found("c")) == (1, 2, 0)


def test_thousands_of_generations_stay_within_the_limit():
    found = Slots(5)
    for number in range(1, 2000):
        found = found.next(number, [f"route-{number}", f"route-{number - 1}"])
        assert found(f"route-{number}")
        assert sorted(found.names.values()) == list(range(1, len(found.names) + 1))
    assert len(found.names) == 5


HEADER, COUNTERS, CODES, CODINGS, ROUTE, SERVICE = 16, 64, 96, 15, 96, 40
"""Words of the parts of the shared memory, as `_core/record.pyx` lays them out."""


def test_resetting_a_slot_zeroes_it_and_nothing_else():
    buffer = bytearray(Stats.size(4, 3))
    stats = Stats(buffer, 4, 3)
    words = memoryview(buffer).cast("Q")
    words[HEADER:] = memoryview(b"\x09".ljust(8, b"\0") * (len(words) - HEADER)).cast("Q")
    stats.reset_route(2)
    stats.reset_service(1)
    assert [stats.read_route(slot) is None for slot in range(4)] == [False, False, True, False]
    assert [stats.read_service(slot) for slot in range(3)] == [9, 0, 9]
    assert sum(word == 0 for word in words[HEADER:]) == ROUTE + SERVICE
    assert len(words) == HEADER + COUNTERS + CODES + CODINGS + 4 * ROUTE + 3 * SERVICE
    for wrong in (-1, 4):
        with pytest.raises(IndexError):
            stats.reset_route(wrong)
        with pytest.raises(IndexError):
            stats.reset_service(wrong)


def test_adopting_resets_what_is_used_again_for_every_worker(monkeypatch):
    memory = SharedMemory(2, 3)
    memory.adopt(slots(3, "abc", "bc"), slots(3, "abc", "ab"))
    reset = []

    class Recorder:
        def reset_route(self, slot):
            reset.append(("route", slot))

        def reset_service(self, slot):
            reset.append(("service", slot))

    monkeypatch.setattr(memory, "stats", [Recorder(), Recorder()])
    memory.adopt(slots(3, "abc", "bc", "bcd"), slots(3, "abc", "ab", "abd"))
    assert sorted(reset) == [("route", 1)] * 2 + [("service", 3)] * 2
    assert (memory.route_slots("d"), memory.service_slots("d")) == (1, 3)


def counted(gateway):
    """Route → requests."""
    lines = gateway.admin("/metrics")[1].splitlines()
    found = {}
    for line in lines:
        if line.startswith("fastgw_requests_total{"):
            route = line.partition('route="')[2].partition('"')[0]
            found[route] = found.get(route, 0) + int(float(line.rpartition(" ")[2]))
    return found


def ask(gateway, name, times):
    with gateway.client() as client:
        for _ in range(times):
            client.send(f"GET /{name} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            assert client.response().status == 200


def test_a_new_route_begins_at_zero_in_the_slot_of_one_that_is_gone(config, eventually):
    config["observability"]["metrics"] = {"max_label_values": 2}

    def routes(*names):
        return [{"name": name, "path": f"/{name}", "service": "up"} for name in names]

    def serve(connection):
        while True:
            connection.read_request()
            connection.send(OK)

    with FakeUpstream(serve) as upstream:
        config["services"] = {"up": upstream.url}
        config["routes"] = routes("first", "second")
        with GatewayProcess(config) as gateway:

            def reload(*names):
                tree = yaml.safe_load(gateway.file.read_text())
                tree["routes"] = routes(*names)
                gateway.file.write_text(yaml.safe_dump(tree))
                assert gateway.admin("/config/reload", "POST")[0] == 200

            ask(gateway, "first", 20)
            ask(gateway, "second", 3)
            eventually(lambda: counted(gateway) == {"first": 20, "second": 3}, "both counted")
            reload("second", "third")
            ask(gateway, "third", 2)                 # its slot may still be counted in: it is one of the others
            eventually(lambda: counted(gateway) == {"first": 20, "second": 3, "other": 2}, "the third among others")
            reload("second", "third")
            assert counted(gateway) == {"second": 3, "other": 2}
            ask(gateway, "third", 4)
            eventually(lambda: counted(gateway) == {"second": 3, "other": 2, "third": 4}, "the third by itself")
            text = gateway.admin("/metrics")[1]
            assert 'fastgw_request_seconds_count{route="third"} 4.0' in text
            assert 'route="first"' not in text
