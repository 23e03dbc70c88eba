"""Gateways with two workers in front of a scripted upstream."""

import pytest

from fastgw.testing import FakeUpstream
from tests.patience import until


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
    return until
