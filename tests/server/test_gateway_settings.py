"""Settings that are looked at in the gateway and not in its parts: error pages, metrics, trusted proxies."""

import asyncio

import pytest

from fastgw import Gateway
from fastgw._core.settings import Settings


async def ask(port, path):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    data = await reader.read()
    writer.close()
    return data


def tree(**more):
    return {
        "server": {"listeners": ["127.0.0.1:0"], **more.pop("server", {})},
        "admin": {"bind": "127.0.0.1:0"},
        "observability": {"access_log": {"enabled": False}, **more.pop("observability", {})},
        "routes": [{"path": "/x", "policies": [{"respond": {"body": "x"}}]}],
    }


@pytest.mark.parametrize(
    ("pages", "body"),
    [
        ({"4xx": "class {status}"}, b"class 404"),
        ({"4xx": "class", "404": "status {code}"}, b"status not_found"),
        ({"4xx": "class", "404": "status", "not_found": "code"}, b"code"),
        ({"5xx": "other", "404": {"body": "t", "content_type": "text/plain"}}, b"t"),
    ],
)
def test_the_most_exact_error_page_is_taken(pages, body):
    async def live():
        async with Gateway(tree(server={"error_pages": pages})) as gateway:
            return await ask(gateway.ports[0], "/nowhere")

    assert asyncio.run(live()).partition(b"\r\n\r\n")[2] == body


@pytest.mark.parametrize(("enabled", "status"), [(True, b"200"), (False, b"404")])
def test_metrics_can_be_switched_off(enabled, status):
    async def live():
        settings = {"metrics": {"enabled": enabled, "endpoint": "/m"}}
        async with Gateway(tree(observability=settings), admin=True) as gateway:
            return await ask(gateway.admin_port, "/m")

    assert asyncio.run(live()).split(b" ")[1] == status


def test_many_trusted_proxies():
    settings = Settings(trusted_proxies=[f"10.{i}.0.0/16" for i in range(200)] + ["2001:db8::/33"])
    assert settings.trusts("10.199.3.4")
    assert not settings.trusts("10.200.3.4")
    assert settings.trusts("2001:db8:7fff::1")
    assert not settings.trusts("2001:db8:8000::1")
    assert not Settings().trusts("127.0.0.1")
