"""The public suites against a gateway started for them: `make conformance SUITE_DIR=...`.

sslyze comes from PyPI. The others are run when they are supplied in SUITE_DIR: `h2spec` (the program), `testssl.sh/`
(the folder of its repository), `wstest` (Autobahn's program; its fuzzing client goes through the gateway and straight
to the same echo server, and what fails in both is the server's), `cache-tests/` (the folder of its repository, after
`npm install`; what others passed of it is told beside). Ends with 1 when a suite found something.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastgw.testing import FakeUpstream, GatewayProcess, free_port
from fastgw.testing.certificates import Authority
from tests.conformance import cache_tests
from tests.e2e.test_websocket import Echo

ROOT = Path(__file__).resolve().parents[2]
OWN = ROOT / "build" / "conformance"
"""The environment of what comes from PyPI."""
SUITES = Path(os.environ.get("SUITE_DIR") or "nowhere")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nhello world\n"
# an invalid preface on a port that speaks HTTP/1.1 too is an invalid request of HTTP/1.1: 400, and closed
H2SPEC_DUAL = {"Sends invalid connection preface"}
# of a certificate that the test made; headers that are the application's; hybrid groups, which want OpenSSL 3.5
TESTSSL_ASIDE = {"cert_chain_of_trust", "cert_trust", "cert_notAfter", "overall_grade", "cert_expirationStatus",
                 "cert_revocation", "OCSP_stapling", "DNS_CAArecord", "certificate_transparency",
                 "security_headers", "FS_KEMs"}  # fmt: skip


def run(*command: object, timeout: float = 1800) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(one) for one in command], capture_output=True, text=True, timeout=timeout, check=False)


class World:
    def __init__(self, folder: Path, profile: str) -> None:
        authority = Authority(folder)
        pairs = [authority.leaf("localhost"), authority.leaf("localhost", kind="rsa", file="rsa")]
        self.plain, self.tls = free_port(), free_port()
        self.certificates = [{"cert": pair.cert, "key": pair.key} for pair in pairs]
        self.profile = profile

    def config(self, service: str, echo: int) -> dict[str, Any]:
        tls = {"certificates": self.certificates, "profile": self.profile, "hsts": {"max_age": "730d"}}
        return {
            "server": {"listeners": [f"127.0.0.1:{self.plain}", {"bind": f"127.0.0.1:{self.tls}", "tls": tls}]},
            "observability": {"access_log": {"enabled": False}},
            "services": {"up": service, "echo": f"http://127.0.0.1:{echo}"},
            "routes": [
                {"path": "/ws", "service": "echo", "websocket": True},
                {"path": "/*", "service": "up"},
            ],
        }


@contextmanager
def world(profile: str = "intermediate") -> Iterator[tuple[World, int]]:
    def play(connection: Any) -> None:
        while True:
            connection.read_request()
            connection.send(OK)

    with tempfile.TemporaryDirectory() as folder, FakeUpstream(play) as service, Echo() as echo:
        made = World(Path(folder), profile)
        with GatewayProcess(made.config(service.url, echo.port)):
            yield made, echo.port


def sslyze() -> list[str]:
    program = OWN / "bin" / "sslyze"
    if not program.exists():
        run(sys.executable, "-m", "venv", OWN)
        run(OWN / "bin" / "python", "-m", "pip", "install", "-q", "sslyze")
    found = []
    for profile in ("intermediate", "modern"):
        with world(profile) as (made, _):
            said = run(program, f"--mozilla_config={profile}", f"localhost:{made.tls}").stdout
        _, there, verdict = said.partition("COMPLIANCE AGAINST")
        if not there:
            return [f"sslyze said nothing: {said[-500:]}"]
        found += [
            f"{profile}: {line.strip()}"
            for line in verdict.splitlines()
            if line.strip().startswith("*") and "certificate_path_validation" not in line
        ]
    return found


def h2spec() -> list[str]:
    found = []
    with world() as (made, _):
        for name, options in (("h2", ("-p", made.tls, "-t", "-k")), ("h2c", ("-p", made.plain))):
            said = run(SUITES / "h2spec", "-h", "127.0.0.1", "--strict", "-o", "5", *options).stdout
            total = re.search(r"(\d+) tests, (\d+) passed", said)
            print(f"  {name}: {total.group() if total else said[-300:]}")
            if total is None:
                found.append(f"{name}: no result")
            _, _, failures = said.partition("Failures:")
            failed = re.findall(r"\u00d7 \d+: (.*)", failures)
            found += [f"{name}: {one}" for one in failed if not (name == "h2c" and one in H2SPEC_DUAL)]
    return found


def testssl() -> list[str]:
    with world() as (made, _), tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        run(SUITES / "testssl.sh" / "testssl.sh", "--quiet", "--color", "0", "--jsonfile", report, "--ip", "127.0.0.1",
            "--nodns", "none", f"localhost:{made.tls}")  # fmt: skip
        entries = json.loads(report.read_text())
    print(f"  {len(entries)} findings looked at")
    return [
        f"{one['severity']} {one['id']}: {one['finding']}"
        for one in entries
        if one["severity"] in ("LOW", "MEDIUM", "HIGH", "CRITICAL") and one["id"].split(" ")[0] not in TESTSSL_ASIDE
    ]


def autobahn() -> list[str]:
    with world() as (made, echo), tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / "spec.json"
        servers = [
            {"agent": "gateway", "url": f"ws://127.0.0.1:{made.plain}/ws"},
            {"agent": "direct", "url": f"ws://127.0.0.1:{echo}/"},
        ]
        cases = {"cases": ["*"], "exclude-cases": [], "exclude-agent-cases": {}}
        spec.write_text(json.dumps({"outdir": folder, "servers": servers, **cases}))
        run(SUITES / "wstest", "-m", "fuzzingclient", "-s", spec, timeout=7200)
        results = json.loads((Path(folder) / "index.json").read_text())
    fine = ("OK", "NON-STRICT", "INFORMATIONAL")
    return [
        f"{case}: {result['behavior']}"
        for case, result in results["gateway"].items()
        if result["behavior"] not in fine and results["direct"][case]["behavior"] in fine
    ]


def main() -> int:
    suites: dict[str, tuple[Path | None, Callable[[], list[str]]]] = {
        "sslyze": (None, sslyze),
        "h2spec": (SUITES / "h2spec", h2spec),
        "testssl.sh": (SUITES / "testssl.sh" / "testssl.sh", testssl),
        "Autobahn": (SUITES / "wstest", autobahn),
        "cache-tests": (SUITES / "cache-tests" / "node_modules", cache_tests.run),
    }
    bad = False
    for name, (program, suite) in suites.items():
        if program is not None and not program.exists():
            print(f"{name}: not supplied (SUITE_DIR has no {program.relative_to(SUITES)})")
            continue
        print(f"{name}:")
        found = suite()
        for one in found:
            print(f"  {one}")
        print(f"  {len(found)} findings")
        bad = bad or bool(found)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
