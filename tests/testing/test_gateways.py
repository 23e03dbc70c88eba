"""The gateway as a process and in a thread, as tests start it."""

import pytest

from fastgw.config import ConfigError
from fastgw.testing import FakeUpstream, GatewayProcess
from fastgw.testing.inprocess import GatewayThread
from fastgw.testing.process import descriptors, private_bytes

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def config(upstream):
    return {"services": {"up": upstream.url}, "routes": [{"path": "/*", "service": "up"}]}


def test_in_a_thread():
    with FakeUpstream() as upstream:
        with GatewayThread(config(upstream)) as gateway:
            with gateway.client() as client:
                assert client.request(GET).body == b"ok"
            assert gateway.call(lambda: gateway.gateway.plane.engine.active) == 0
        upstream.wait_for(lambda: upstream.open_connections() == 0, "the gateway to close")


def test_a_bad_configuration_is_an_error_of_the_test():
    with pytest.raises(ConfigError), GatewayThread({"routes": [{"path": "/", "service": "nobody"}]}):
        pass


def test_as_a_process():
    with FakeUpstream() as upstream, GatewayProcess(config(upstream)) as gateway:
        with gateway.client() as client:
            assert client.request(GET).body == b"ok"
        assert gateway.admin("/ready")[0] == 200
        assert gateway.processes()[0] == gateway.pid
        assert all(private_bytes(pid) > 0 and descriptors(pid) > 2 for pid in gateway.processes())
        folder = gateway.folder
    assert not folder.exists()


def test_as_a_process_from_text():
    text = """
    server: {listeners: ["127.0.0.1:${FASTGW_PORT}"], workers: 0}
    admin: {bind: "127.0.0.1:${FASTGW_ADMIN_PORT}"}
    services: {up: "${UP}"}
    routes: [{path: "/*", service: up}]
    """
    with (
        FakeUpstream() as upstream,
        GatewayProcess(text, env={"UP": upstream.url}) as gateway,
        gateway.client() as client,
    ):
        assert client.request(GET).body == b"ok"


def test_a_process_that_does_not_start_says_why():
    with pytest.raises(RuntimeError, match="nobody"), GatewayProcess({"routes": [{"path": "/", "service": "nobody"}]}):
        pass
