"""deploy/fastgw.service and .socket, by systemd's own check and against what the program does."""

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

DEPLOY = Path(__file__).parents[2] / "deploy"


def read(name="fastgw.service"):
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read(DEPLOY / name)
    return unit


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
def test_systemd_has_nothing_to_say(tmp_path):
    """With the command where it is here; a directive that is misspelt or unknown is told, and told only."""
    command = tmp_path / "fastgw"
    command.write_text(f"#!/bin/sh\nexec {sys.executable} -m fastgw \"$@\"\n")
    command.chmod(0o755)
    units = [tmp_path / "fastgw.service", tmp_path / "fastgw.socket"]
    for unit in units:
        unit.write_text((DEPLOY / unit.name).read_text().replace("/usr/local/bin/fastgw", str(command)))
    told = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, units)],
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


def test_the_supervisor_alone_may_tell_who_it_is():
    """All that it says by sd_notify counts for the main process only, and a MAINPID of a successor is among it."""
    service = read()["Service"]
    assert (service["Type"], service["NotifyAccess"]) == ("notify", "main")
    assert int(service["WatchdogSec"]) > 10
    assert service["Restart"] == "on-failure"


def test_the_sockets_are_addresses_as_listeners_write_them():
    """Two that differ by a letter are two: the gateway would open its own, where systemd's is already."""
    lines = (DEPLOY / "fastgw.socket").read_text().splitlines()
    addresses = [line.partition("=")[2] for line in lines if line.startswith("ListenStream=")]
    assert len(addresses) == 2
    tree = {"server": {"listeners": addresses}, "routes": [{"path": "/x", "policies": [{"respond": {}}]}]}
    config, problems = check(tree, resolver=RESOLVER)
    assert config is not None, problems
    assert [str(bind) for bind in config.server.binds] == addresses
    assert read("fastgw.socket")["Socket"]["BindIPv6Only"] == "ipv6-only"
