"""One gateway per configuration for the whole folder, each before an upstream of its own."""

from contextlib import ExitStack

import pytest

from fastgw.testing import FakeUpstream, GatewayProcess

GATEWAYS = {
    "normalize": {},
    "strict": {"server": {"path_normalization": "strict"}},
    "raw": {"server": {"path_normalization": "raw"}},
    "small": {
        "server": {
            "limits": {"body_size": 1000},
            "timeouts": {"header": "1500ms", "body": "1500ms"},
        }
    },
}


def serve(connection):
    """Answers every whole request with 200, and asks for the body of those that wait to be asked."""
    while True:
        request = connection.read_head()
        if "100-continue" in (request.get("expect") or "").lower():
            connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        connection.read_body(request)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + (b"" if request.method == "HEAD" else b"ok"))


@pytest.fixture(scope="session")
def gateways():
    """gateways(name) starts the gateway of that name when it is first asked for: (gateway, upstream)."""
    running = {}
    with ExitStack() as stack:

        def get(name):
            if name not in running:
                upstream = stack.enter_context(FakeUpstream(serve))
                config = {
                    **GATEWAYS[name],
                    "services": {"up": upstream.url},
                    "routes": [{"path": "/*", "service": "up"}],
                }
                running[name] = (stack.enter_context(GatewayProcess(config)), upstream)
            return running[name]

        yield get
