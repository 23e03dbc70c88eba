"""`fastgw apply`, where there is no gateway; with one it is tested in tests/server/test_canary.py."""

import pytest

from fastgw.cli import main
from fastgw.testing import free_port


@pytest.mark.parametrize(
    "words",
    [
        [], ["a.yaml", "--status"], ["a.yaml", "--abort"], ["--status", "--canary", "10%"],
        ["--promote", "--watch", "1s"],
        ["a.yaml", "--watch", "1s"], ["a.yaml", "--max-p99", "+20%"], ["a.yaml", "--min-requests", "5"],
    ],
)  # fmt: skip
def test_words_that_do_not_go_together(words, capsys):
    assert main(["apply", *words]) == 2
    assert "fastgw apply: " in capsys.readouterr().err


@pytest.mark.parametrize("words", [["a.yaml"], ["a.yaml", "--canary", "10%"], ["--status"], ["--promote"], ["--abort"]])
def test_nobody_answers(words, capsys):
    assert main(["apply", *words, "--admin", f"127.0.0.1:{free_port()}"]) == 3
    assert "does not answer" in capsys.readouterr().err
