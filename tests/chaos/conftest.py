"""Endpoints that things happen to."""

import pytest

from tests.chaos.world import three_endpoints


@pytest.fixture
def world():
    with three_endpoints() as found:
        yield found
