"""What the upstream is told about the client, and whom of those who tell it the gateway believes."""

import pytest

from fastgw.testing import FakeUpstream, GatewayProcess


@pytest.fixture(scope="module")
def trusting():
    """A gateway that believes some proxies; the upstream that `/who` reaches tells who the client is."""
    with FakeUpstream() as up, FakeUpstream() as known:
        config = {
            "server": {
                "trusted_proxies": ["127.0.0.0/8", "10.0.0.0/8", "2001:db8::/32"],
                "forwarded": {"forwarded": True},
            },
            "services": {"up": up.url, "known": known.url},
            "routes": [
                {"name": "known", "path": "/who", "client_ip": ["203.0.113.0/24"], "service": "known"},
                {"name": "known6", "path": "/who", "client_ip": ["2001:db9::/32"], "service": "known"},
                {"path": "/*", "service": "up"},
            ],
        }
        with GatewayProcess(config) as gateway:
            yield gateway, up, known


def get(path="/up/", headers=""):
    return f"GET {path} HTTP/1.1\r\nHost: example.com:81\r\n{headers}\r\n".encode()


def names(value):
    return [part.strip() for part in value.split(",")]


def test_an_untrusted_client_is_told_about_and_not_believed(world):
    lies = (
        "X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\n"
        "Forwarded: for=203.0.113.9;proto=https\r\nX-Forwarded-For: 203.0.113.10\r\n"
    )
    with world.client() as client:
        assert client.request(get(headers=lies)).status == 200
    request = world.up.requests[0]
    assert request.all("x-forwarded-for") == ["127.0.0.1"]
    assert request.all("x-forwarded-proto") == ["http"]
    assert request.all("x-forwarded-host") == ["example.com:81"]
    assert not [value for value in request.all("forwarded") if "203.0.113.9" in value]


def test_via_names_the_gateway_in_both_directions(world):
    with world.client() as client:
        response = client.request(get(headers="Via: 1.0 fred\r\n"))
    sent = names(", ".join(world.up.requests[0].all("via")))
    assert sent[0] == "1.0 fred"
    assert len(sent) == 2
    assert sent[1].startswith("1.1 ")
    assert names(response.get("via"))[-1].startswith("1.1 ")


def test_a_trusted_proxy_is_believed_and_appended_to(trusting):
    gateway, up, _ = trusting
    up.forget()
    told = "X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: shop.example\r\n"
    with gateway.client() as client:
        assert client.request(get(headers=told)).status == 200
    request = up.requests[0]
    assert names(", ".join(request.all("x-forwarded-for"))) == ["203.0.113.9", "127.0.0.1"]
    assert request.all("x-forwarded-proto") == ["https"]
    assert request.all("x-forwarded-host") == ["shop.example"]
    assert "127.0.0.1" in request.all("forwarded")[-1]


@pytest.mark.parametrize(
    ("chain", "is_known"),
    [
        ("203.0.113.9", True),
        ("203.0.113.9, 10.1.2.3", True),
        ("198.51.100.1, 203.0.113.9, 10.1.2.3, 10.9.9.9", True),
        ("203.0.113.9, 198.51.100.1", False),
        ("203.0.113.9, 198.51.100.1, 10.1.2.3", False),
        ("203.0.113.9, unknown, 10.1.2.3", False),
        ("203.0.113.9, , 198.51.100.1", False),
        ("203.0.113.9:4711", True),
        ("2001:db9::1", True),
        ("[2001:db9::1]:4711, 2001:db8::1", True),
        ("10.1.2.3", False),
        ("", False),
        ("203.0.113.9.evil", False),
        ("0xcb.0x00.0x71.0x09", False),
        ("203.000.113.009", False),
    ],
)
def test_the_chain_is_walked_from_the_right(trusting, chain, is_known):
    """The client is the last address that is not a trusted proxy; what stands left of it is hearsay."""
    gateway, up, known = trusting
    up.forget()
    known.forget()
    with gateway.client() as client:
        assert client.request(get("/who", f"X-Forwarded-For: {chain}\r\n")).status == 200
    assert (len(known.requests), len(up.requests)) == ((1, 0) if is_known else (0, 1))


def test_the_chain_may_come_in_several_lines(trusting):
    gateway, up, known = trusting
    up.forget()
    known.forget()
    lines = "X-Forwarded-For: 203.0.113.9\r\nX: y\r\nX-Forwarded-For: 198.51.100.1\r\n"
    with gateway.client() as client:
        assert client.request(get("/who", lines)).status == 200
    assert (len(known.requests), len(up.requests)) == (0, 1)


def test_an_endless_chain_is_bounded(trusting):
    gateway, up, known = trusting
    known.forget()
    up.forget()
    chain = ", ".join(["203.0.113.9"] + ["10.1.2.3"] * 2500)
    with gateway.client() as client:
        assert client.request(get("/who", f"X-Forwarded-For: {chain}\r\n")).status in (200, 400, 431)


@pytest.mark.parametrize("proto", ["https, http", "ftp", "evil\tvalue", "HTTPS"])
def test_a_strange_proto_of_a_trusted_proxy_stays_one_word(trusting, proto):
    gateway, up, _ = trusting
    up.forget()
    with gateway.client() as client:
        assert client.request(get(headers=f"X-Forwarded-Proto: {proto}\r\n")).status == 200
    assert [value.lower() for value in up.requests[0].all("x-forwarded-proto")] in (["http"], ["https"])
