"""What a route takes: its own limits of headers, over both protocols."""

import httpx
import pytest

from fastgw.testing import GatewayProcess

CONFIG = {
    "server": {"listeners": [{"bind": "127.0.0.1:${FASTGW_PORT}", "http2": {}}], "limits": {"header_size": "16KiB"}},
    "routes": [
        {"path": "/size", "limits": {"header_size": "1KiB"}, "policies": [{"respond": {"body": "in"}}]},
        {"path": "/count", "limits": {"header_count": 12}, "policies": [{"respond": {"body": "in"}}]},
        {"path": "/any", "policies": [{"respond": {"body": "in"}}]},
    ],
}


@pytest.fixture(scope="module", params=["HTTP/1.1", "HTTP/2"])
def ask(request):
    with GatewayProcess(CONFIG) as gateway:
        two = request.param == "HTTP/2"
        with httpx.Client(base_url=f"http://127.0.0.1:{gateway.port}", http1=not two, http2=two, timeout=60) as client:
            yield lambda path, headers: client.get(path, headers=headers)


@pytest.mark.parametrize(
    "path, headers, status",
    [
        ("/size", {"X-A": "a" * 500}, 200),
        ("/size", {"X-A": "a" * 1024}, 431),
        ("/any", {"X-A": "a" * 1024}, 200),
        ("/count", {"X-A": "1"}, 200),
        ("/count", {f"X-{n}": "1" for n in range(12)}, 431),
        ("/any", {f"X-{n}": "1" for n in range(12)}, 200),
        ("/any", {"X-A": "a" * 17_000}, 431),
    ],
)
def test_headers_of_a_request(ask, path, headers, status):
    answer = ask(path, headers)
    assert answer.status_code == status
    assert answer.text == "in" if status == 200 else answer.json()["code"] == "headers_too_large"
