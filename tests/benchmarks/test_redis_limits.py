"""`python -m benchmarks.redis_limits` measures what it says, on a few requests."""

from benchmarks.redis_limits import main
from tests.store.redis_server import needed


@needed
def test_it_measures(tmp_path, capsys):
    assert main(["--rounds", "1", "--requests", "5", "--seconds", "0.2", "--results", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "| exact, one limit        |             1.000 |" in text
    assert "of at most 8 (4 for each worker)" in text and "(10 for each of 2 workers, 4 keys)" in text
    assert (tmp_path / "redis_limits.md").read_text() == text.removesuffix("\n")
