"""Which class a request is of, and whose it is."""

import pytest

from fastgw._core.exchange import Consumer
from fastgw._core.priorities import Priorities, Tenants
from fastgw._core.probe import Probe

CLASSES = ("high", "normal", "low")


def asked(*headers, consumer=None, route="r", address="192.0.2.7"):
    head = "".join(f"{line}\r\n" for line in headers)
    probe = Probe(f"GET /x HTTP/1.1\r\nHost: h\r\n{head}\r\n".encode(), address, route=route)
    probe.exchange.consumer = consumer
    return probe


GOLD = Consumer("ada", groups=("staff", "ops"), plan="gold")
PLAIN = Consumer("bob")


@pytest.mark.parametrize(
    ("rule", "fits", "not_"),
    [
        ({"routes": ["r"]}, [asked()], [asked(route="other")]),
        ({"plans": ["gold"]}, [asked(consumer=GOLD)], [asked(), asked(consumer=PLAIN)]),
        ({"consumers": ["bob"]}, [asked(consumer=PLAIN)], [asked(), asked(consumer=GOLD)]),
        ({"groups": ["ops", "x"]}, [asked(consumer=GOLD)], [asked(), asked(consumer=PLAIN)]),
        ({"callers": ["192.0.2.0/24", "2001:db8::/32"]}, [asked(), asked(address="2001:db8::1")],
         [asked(address="192.0.3.1"), asked(address="2001:db9::1")]),
        ({"headers": ((b"x-a", b"1"),)}, [asked("X-A: 1")], [asked(), asked("X-A: 12"), asked("X-A: ")]),
        ({"headers": ((b"x-a", None),)}, [asked("x-a: any")], [asked()]),
        ({"routes": ["r"], "plans": ["gold"]}, [asked(consumer=GOLD)], [asked(), asked(route="s", consumer=GOLD)]),
    ],
)  # fmt: skip
def test_all_that_a_rule_says_has_to_hold(rule, fits, not_):
    priorities = Priorities(CLASSES, "low", [{"level": 0, **rule}])
    assert {priorities.find(one.exchange) for one in fits} == {"high"}
    assert {priorities.find(one.exchange) for one in not_} == {"low"}


def test_the_first_that_fits_then_the_route_then_the_default():
    said = {"words": (("request.header", b"X-Class"),), "callers": ["192.0.2.0/24"]}
    priorities = Priorities(CLASSES, "low", [said, {"level": 1, "plans": ["gold"]}], {"r": "high"})
    assert priorities.find(asked("X-Class: normal").exchange) == "normal"
    assert priorities.find(asked("X-Class: nonsense", consumer=GOLD).exchange) == "normal"
    assert priorities.find(asked("X-Class: normal", address="198.51.100.1").exchange) == "high"
    assert priorities.find(asked().exchange) == "high"
    assert priorities.find(asked(route="other").exchange) == "low"


def test_tenants():
    tenants = Tenants((("consumer.name", b""),), {"gold": 4})
    assert tenants.find(asked(consumer=GOLD).exchange) == (b"ada", 4)
    assert tenants.find(asked(consumer=PLAIN).exchange) == (b"bob", 1)
    assert tenants.find(asked().exchange) == (b"192.0.2.7", 1)
    by_address = Tenants()
    assert by_address.find(asked(consumer=GOLD).exchange) == (b"192.0.2.7", 1)
    # a customer has a /64 at least: all its addresses are one tenant
    assert by_address.find(asked(address="2001:db8:1:2:3::4").exchange)[0] == b"2001:0db8:0001:0002::/64"
    assert Tenants((("request.header", b"X-T"), b"/"), (), True).secret
