"""Waiting for what another process or thread does."""

import time


def until(condition, what="it did not come to be", seconds=60):
    """Asks again and again; what `condition()` says when that is true. The deadline is a failure."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.01)
    return found
