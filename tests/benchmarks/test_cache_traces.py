"""The storage of the cache keeps what is asked for better than LRU does, with the same bytes."""

import pytest

from benchmarks.cache_traces import Row, Trace, as_table, bounds, run


@pytest.mark.parametrize("name", ["zipf-0.9", "scan"])
def test_five_points_above_lru(name):
    row = run(Trace.make(name, 50_000, 1), 0.05, with_bounds=False)
    assert row.fastgw >= row.lru + 0.05
    assert row.fastgw_bytes > row.lru_bytes


def test_the_bounds_of_a_trace_that_can_be_seen_through():
    # one block each: of four with room for two, the best set is the two that are asked for most
    trace = Trace("", [1, 2, 3, 4, 1, 2, 1, 3, 1, 2, 4, 1], [100])
    assert trace.footprint == 4 * 512
    best, bound = bounds(trace, 2 * 512)
    assert best == 6 / 8
    assert best < bound <= 1.0
    assert bounds(trace, 4 * 512) == (1.0, 1.0)


def test_the_table_of_results():
    row = Row("scan", 0.05, 4.0, 0.5, 0.4, 0.6, 0.7, 0.45, 0.35, 2)
    assert as_table([row]).splitlines()[2].split("|")[1:-1] == [
        *(" scan  ", "           5% ", " 4.0 ", "  50.0% ", " 40.0% ", "  +10.0 ", "    60.0% ", " 70.0% "),
        *(" 45.0% ", " 35.0% ", "  2% "),
    ]
