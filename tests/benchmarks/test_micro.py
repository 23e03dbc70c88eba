"""The timer, the ratios, and the kernels built against this tree."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.micro import compare_commits, measure

STEP_NS = 1000
ROOT = Path(__file__).parents[2]


def busy(n):
    end = time.perf_counter_ns() + n * STEP_NS
    while time.perf_counter_ns() < end:
        pass


def test_calibration_finds_how_many_fill_the_time():
    n = measure.calibrate(busy, least_ns=2_000_000)
    assert 2_000 <= n <= 20_000


def test_an_operation_of_a_known_length_is_timed_right():
    figures = measure.time_operation(busy, repeats=3, least_ns=2_000_000)
    assert STEP_NS <= figures["best_ns"] <= figures["median_ns"]
    assert figures["best_ns"] < STEP_NS * 1.5


def test_ratios_are_of_what_both_commits_have():
    rows = compare_commits.ratios({"x": 10.0, "only a": 1.0}, {"only b": 1.0, "x": 15.0})
    assert rows == [["x", "10.0", "15.0", "1.50"]]


@pytest.mark.parametrize("words, said", [(["nope"], "unknown: nope"), (["--repeats", "x"], "invalid int")])
def test_wrong_arguments_are_named(words, said, capsys):
    with pytest.raises(SystemExit):
        measure.main(words)
    assert said in capsys.readouterr().err


def test_a_kernel_that_does_not_build_says_why(tmp_path):
    broken = tmp_path / "broken.pyx"
    broken.write_text("from fastgw._core.nowhere cimport Nothing\n")
    with pytest.raises(RuntimeError, match="nowhere"):
        measure.build(broken, tmp_path)


def test_a_kernel_runs_against_this_tree():
    words = [sys.executable, str(measure.HERE / "measure.py"), "clock", "--repeats", "1", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100, cwd=measure.ROOT)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)["figures"]
    assert figures["clock: arm and cancel a deadline"]["best_ns"] > 0


def test_the_page_says_how_each_module_is_measured():
    page = (ROOT / "benchmarks" / "README.md").read_text().partition("## Micro-benchmarks")[2]
    told = [name for row in re.findall(r"^\| [^|]+ \| ([a-z0-9_, ]+) \|$", page, re.M) for name in row.split(", ")]
    assert sorted(told) == sorted(path.stem for path in (ROOT / "fastgw" / "_core").glob("*.pyx"))
    own = re.search(r"^\| a kernel of its own[^|]+ \| ([a-z0-9_, ]+) \|$", page, re.M).group(1).split(", ")
    kernels = {path.stem for path in (ROOT / "benchmarks" / "micro" / "kernels").glob("*.pyx")}
    assert kernels == {*own, "probe"}
