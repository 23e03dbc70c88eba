"""Gateways with two workers in front of a scripted upstream."""

import time

import pytest

from fastgw.testing import FakeUpstream


@pytest.fixture
def upstream():
    with FakeUpstream() as found:
        yield found


@pytest.fixture
def config(upstream):
    return {
        "server": {"workers": 2, "timeouts": {"drain": "5s"}},
        "observability": {"access_log": {"enabled": False}},
        "services": {"up": upstream.url},
        "routes": [{"path": "/*", "service": "up"}],
    }


@pytest.fixture
def eventually():
    def wait(condition, what, seconds=60):
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline, f"not in {seconds} s: {what}"
            time.sleep(0.02)
        return found

    return wait
