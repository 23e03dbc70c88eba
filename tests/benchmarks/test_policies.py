"""`python -m benchmarks.policies` measures what it says, on a few requests."""

from benchmarks.policies import main, measure


def test_it_measures():
    names = ["hmac", "mtls", "opa", "openapi"]
    rows = list(measure(names, 1, 20))
    assert {row["policy"] for row in rows} == set(names)
    assert all(row["apart"] >= 0 and -1000 < row["microseconds"] < 100_000 for row in rows)


def test_it_prints_and_writes_nothing_for_some(capsys):
    assert main(["ban", "--rounds", "1", "--requests", "20"]) == 0
    assert "| `ban` | nobody is banned |" in capsys.readouterr().out
