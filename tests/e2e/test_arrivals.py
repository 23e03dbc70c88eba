"""Connections that come too fast, from whom is banned, and the queue of those that wait."""

import json
import re
import socket
import ssl

import pytest
import yaml

from fastgw.testing import GatewayProcess
from fastgw.testing.certificates import Authority
from fastgw.testing.process import free_port
from tests.patience import until

ASK = b"GET %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def ask(gateway, path=b"/", port=None):
    """The answer's status; 0: the connection was closed without one."""
    try:
        with socket.create_connection((gateway.host, port or gateway.port), timeout=60) as sock:
            sock.sendall(ASK % path)
            answer = b""
            while piece := sock.recv(65536):
                answer += piece
    except (ConnectionResetError, BrokenPipeError):
        answer = b""
    return int(answer.split()[1]) if answer else 0


def bans(gateway):
    return {row["address"]: row["status"] for row in json.loads(gateway.admin("/bans")[1])["bans"]}


def change(gateway, limits, **more):
    tree = yaml.safe_load(gateway.file.read_text())
    tree["server"]["limits"] = limits
    tree["server"] |= more
    gateway.file.write_text(yaml.safe_dump(tree))
    assert gateway.admin("/config/reload", "POST")[0] == 200


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    authority = Authority(tmp_path_factory.mktemp("pki"))
    pair = authority.leaf("localhost")
    port = free_port()
    config = {
        "server": {"workers": 2, "listeners": [
            {"bind": "127.0.0.1:${FASTGW_PORT}"},
            {"bind": f"127.0.0.1:{port}", "tls": {"certificates": [{"cert": pair.cert, "key": pair.key}]}},
        ]},
        "policies": [{"ban": {"statuses": [404], "events": 5, "per": "1h", "length": "1h"}}],
        "routes": [{"path": "/", "policies": [{"respond": {"body": "a"}}]}],
    }
    with GatewayProcess(config) as gateway:
        yield gateway, port


def test_a_rate(world):
    gateway, _ = world
    assert {ask(gateway) for _ in range(30)} == {200}
    change(gateway, {"connection_rate": {"rate": 1, "per": "1h", "burst": 5}})
    # over both workers together; who is refused may see the end before the 503
    found = [ask(gateway) for _ in range(20)]
    assert found.count(200) == 5 and set(found) <= {200, 503, 0}
    change(gateway, {"connection_rate": {"rate": 1, "per": "1h", "burst": 5}}, trusted_proxies=["127.0.0.0/8"])
    assert {ask(gateway) for _ in range(20)} == {200}, "not for proxies that bring others"
    change(gateway, {}, trusted_proxies=[])
    assert {ask(gateway) for _ in range(20)} == {200}


def test_handshakes_that_fail_ban(world):
    gateway, port = world
    change(gateway, {"connection_ban": {"failures": 4, "per": "1h", "length": "1h"}})
    context = ssl.create_default_context()               # which does not know the authority
    for _ in range(4):
        with pytest.raises((ssl.SSLError, OSError)), socket.create_connection((gateway.host, port), timeout=60) as sock:
            context.wrap_socket(sock, server_hostname="localhost")
    assert until(lambda: bans(gateway)) == {"127.0.0.1": 0}
    assert ask(gateway) == 0 and ask(gateway, port=port) == 0
    assert "banned for connections that came to nothing" in until(lambda: gateway.stderr)
    refused = re.search(r"^fastgw_connections_refused_total (\S+)$", gateway.admin("/metrics")[1], re.MULTILINE)
    assert refused is None or float(refused[1]) >= 2
    assert gateway.admin("/bans/127.0.0.1", "DELETE")[0] == 200
    assert ask(gateway) == 200
    change(gateway, {})


def test_requests_without_a_route_count_for_the_policy(world):
    gateway, _ = world
    change(gateway, {"connection_ban": {}})
    for _ in range(5):
        assert ask(gateway, b"/nothing") in (404, 0)
    assert until(lambda: bans(gateway)) == {"127.0.0.1": 404}
    assert ask(gateway) == 0, "at the door"
    change(gateway, {})
    assert ask(gateway) == 403, "by the policy"
    assert gateway.admin("/bans/127.0.0.1", "DELETE")[0] == 200


def test_who_says_nothing_waits_in_the_kernel(world):
    gateway, _ = world
    change(gateway, {"defer_accept": "60s", "backlog": 100})

    def accepted():
        return float(re.search(r"^fastgw_connections_accepted_total (\S+)$", gateway.admin("/metrics")[1], re.M)[1])

    before = accepted()
    with socket.create_connection((gateway.host, gateway.port), timeout=60) as quiet:
        assert ask(gateway) == 200
        until(lambda: accepted() == before + 1)
        quiet.sendall(ASK % b"/")
        assert quiet.recv(100).startswith(b"HTTP/1.1 200")
    until(lambda: accepted() == before + 2)
    change(gateway, {})
