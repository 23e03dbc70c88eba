"""The cache-tests suite (github.com/http-tests/cache-tests) through a gateway with the policy `cache`.

SUITE_DIR/cache-tests is its repository, with `npm install` done; node and npm are needed. `python -m
tests.conformance.cache_tests [id …]` runs it alone, or single tests of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastgw.testing import GatewayProcess, free_port

SUITE = Path(os.environ.get("SUITE_DIR") or "nowhere") / "cache-tests"
PEERS = ("nginx", "varnish", "trafficserver")
KINDS = ("required", "optimal", "check")
OPTIONS = {"heuristic": 0.1, "set_cookie": "store", "stale_if_error": "60s", "keep_stale": "1d"}
"""What the suite is run with: all that its optional parts ask for, see docs/caching.md."""
ASIDE = {"headers-store-Transfer-Encoding"}
"""Its answer has a transfer coding that does not exist: 502, as RFC 9112 6.1 asks."""
JUDGE = """
import fs from 'fs'
import { determineTestResult } from './test-engine/lib/results.mjs'
import tests from './tests/index.mjs'
const told = JSON.parse(fs.readFileSync(process.argv[2]))
const found = []
tests.forEach(suite => suite.tests.forEach(test => {
  if (test.browser_only) return
  const result = determineTestResult(tests, test.id, told)
  found.push([test.id, test.kind || 'required', result[2], JSON.stringify(told[test.id])])
}))
console.log(JSON.stringify(found))
"""

Verdicts = dict[str, tuple[str, bool, str]]


def node(*command: str, **settings: str) -> subprocess.CompletedProcess[str]:
    made = {f"npm_{kind}_{name}": value for name, value in settings.items() for kind in ("config", "package_config")}
    return subprocess.run(
        ["node", "--no-warnings", *command], cwd=SUITE, env=os.environ | made, capture_output=True, text=True,
        timeout=1800, check=False,
    )  # fmt: skip


def judged(results: Path) -> Verdicts:
    """By id: the kind, whether it passed (dependencies included), and what the suite said."""
    script = SUITE / f"judge-{os.getpid()}.mjs"
    script.write_text(JUDGE)
    try:
        said = node(str(script), str(results))
    finally:
        script.unlink()
    rows = json.loads(said.stdout)
    return {name: (kind, sign in ("\u2705", "Y"), f"{sign} {told}") for name, kind, sign, told in rows}


@contextmanager
def world() -> Iterator[str]:
    origin, front = free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        settings = {"port": str(origin), "protocol": "http", "pidfile": str(Path(folder) / "pid")}
        server = subprocess.Popen(
            ["node", "test-engine/server/server.mjs"], cwd=SUITE,
            env=os.environ | {f"npm_config_{name}": value for name, value in settings.items()},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            until = time.monotonic() + 60
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{origin}/", timeout=5)
                    break
                except OSError:
                    if time.monotonic() > until:
                        raise
                    time.sleep(0.05)
            config: dict[str, Any] = {
                "server": {"listeners": [f"127.0.0.1:{front}"]},
                "observability": {"access_log": {"enabled": False}},
                "services": {"origin": f"http://127.0.0.1:{origin}"},
                "routes": [{"path": "/*", "service": "origin", "policies": [{"cache": OPTIONS}]}],
            }
            with GatewayProcess(config):
                yield f"http://127.0.0.1:{front}"
        finally:
            server.kill()
            server.wait()


def totals(verdicts: Verdicts) -> str:
    found = []
    for kind in KINDS:
        those = [passed for each, passed, _ in verdicts.values() if each == kind]
        found.append(f"{kind} {sum(those)}/{len(those)}")
    return ", ".join(found)


def run() -> list[str]:
    """Prints how many of each kind passed, beside the peers; gives the required ones that did not."""
    with world() as base, tempfile.TemporaryDirectory() as folder:
        said = node("test-engine/cli.mjs", base=base, id="")
        results = Path(folder) / "fastgw.json"
        results.write_text(said.stdout)
        ours = judged(results)
    print(f"  fastgw: {totals(ours)}")
    for peer in PEERS:
        print(f"  {peer}: {totals(judged(SUITE / 'results' / f'{peer}.json'))}")
    if "-v" in sys.argv:
        for name, (kind, passed, told) in ours.items():
            if not passed:
                print(f"    {kind} {name} {told}")
    return [
        f"{name} {told}"
        for name, (kind, passed, told) in ours.items()
        if kind == "required" and not passed and name not in ASIDE
    ]


def main() -> int:
    names = [name for name in sys.argv[1:] if not name.startswith("-")]
    if not names:
        return 1 if run() else 0
    with world() as base:
        for name in names:
            print(node("test-engine/cli.mjs", base=base, id=name).stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
