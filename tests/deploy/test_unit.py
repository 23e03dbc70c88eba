"""deploy/fastgw.service, by systemd's own check and against what the program does."""

import configparser
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastgw.config import check
from fastgw.policies import RESOLVER
from fastgw.server.supervisor import GRACE

UNIT = Path(__file__).parents[2] / "deploy" / "fastgw.service"


def read():
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read(UNIT)
    return unit


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
def test_systemd_has_nothing_to_say(tmp_path):
    """With the command where it is here; a directive that is misspelt or unknown is told, and told only."""
    command = tmp_path / "fastgw"
    command.write_text(f"#!/bin/sh\nexec {sys.executable} -m fastgw \"$@\"\n")
    command.chmod(0o755)
    unit = tmp_path / "fastgw.service"
    unit.write_text(UNIT.read_text().replace("/usr/local/bin/fastgw", str(command)))
    told = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "SYSTEMD_LOG_LEVEL": "info"},
    )
    assert (told.returncode, told.stdout, told.stderr) == (0, "", "")


def test_it_waits_longer_than_the_longest_stop_of_the_defaults():
    config, _ = check({"routes": [{"path": "/x", "policies": [{"respond": {}}]}]}, resolver=RESOLVER)
    longest = config.server.timeouts.drain + 2 * GRACE
    assert int(read()["Service"]["TimeoutStopSec"]) > longest


def test_it_names_verbs_and_signals_that_there_are():
    service = read()["Service"]
    for line, verb in ((service["ExecStartPre"], "check"), (service["ExecStart"], "run")):
        assert line.split()[:2] == ["/usr/local/bin/fastgw", verb]
        helped = subprocess.run(
            [sys.executable, "-m", "fastgw", verb, "--help"], capture_output=True, timeout=30, check=False
        )
        assert helped.returncode == 0
    assert service["ExecReload"].endswith("-HUP $MAINPID")
    assert service["OOMPolicy"] == "continue"
