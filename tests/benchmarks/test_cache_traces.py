"""The storage of the cache keeps what is asked for better than LRU does, with the same bytes."""

import pytest

from benchmarks.cache_traces import run


@pytest.mark.parametrize("trace", ["zipf-0.9", "scan"])
def test_five_points_above_lru(trace):
    ours, lru, _ = run(trace, 0.0, 60_000, 1)
    assert ours >= lru + 0.05
