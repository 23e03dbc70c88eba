"""How long the fuzzers run: some seconds in the suite, FASTGW_FUZZ_SECONDS each when that is set (`make fuzz`)."""

import errno
import os
import socket
import time

import pytest
from hypothesis import HealthCheck, Phase, settings

SECONDS = float(os.environ.get("FASTGW_FUZZ_SECONDS", "0"))
CHECKS = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]


def pytest_collection_modifyitems(items):
    for item in items:
        if SECONDS and "/fuzz/" in str(item.path):
            item.add_marker(pytest.mark.timeout(SECONDS * 2 + 120))


def run(given, short):
    """Runs a hypothesis test: `short` fixed examples, or new ones until the time is up."""
    common = {"deadline": None, "database": None, "suppress_health_check": CHECKS}
    if not SECONDS:
        settings(max_examples=short, derandomize=True, **common)(given)()
        return
    test = settings(max_examples=2000, phases=[Phase.explicit, Phase.generate, Phase.shrink], **common)(given)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        test()


def leave(sock):
    """Nothing more will be sent. Who was cut off already has nothing to end."""
    try:
        sock.shutdown(socket.SHUT_WR)
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise
