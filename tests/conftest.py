"""What holds for all tests."""

import os
import pathlib

import pytest
from hypothesis import settings

# Tests fork where other tests' gRPC clients live in the same process: its handlers at a fork end the child.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")

# The suite asks the same of the same tree each time: what it found broken yesterday and not today would help nobody.
# `make explore` looks for what nobody has seen yet.
settings.register_profile("same", derandomize=True)
settings.register_profile("explore", derandomize=False)
settings.load_profile(os.environ.get("FASTGW_HYPOTHESIS", "same"))

# Tests of whole processes that answer each other on a machine whose other users may stop any of them for a second. One
# that fails there is tried once more, and the run tells of it at its end, with the first failure whole: a test that
# needed its second try is a fault to mend, not one that holds up a release. What is computed, counted exactly or
# searched (core, config, fuzz, oracle, conformance and the others) has no second try.
PROCESSES = {
    *("admin", "benchmarks", "chaos", "cli", "deploy", "e2e"),
    *("observe", "policies", "server", "store", "upstreams"),
}
HERE = pathlib.Path(__file__).parent


def pytest_collection_modifyitems(config, items):
    if not config.pluginmanager.hasplugin("rerunfailures"):
        return
    for item in items:
        if item.path.is_relative_to(HERE) and item.path.relative_to(HERE).parts[0] in PROCESSES:
            item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_terminal_summary(terminalreporter):
    again = terminalreporter.stats.get("rerun", [])
    if again:
        terminalreporter.section(f"{len(again)} needed a second try: to be mended", sep="!", red=True)
    for report in again:
        terminalreporter.section(report.nodeid, sep="_")
        terminalreporter.line(report.longreprtext)
