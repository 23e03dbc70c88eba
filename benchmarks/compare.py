"""fastgw beside nginx, HAProxy and Envoy, on this machine, in one go.

    python -m benchmarks.compare                      everything, under 15 minutes
    python -m benchmarks.compare --quick              fewer and shorter rounds, about 3 minutes
    python -m benchmarks.compare --only plain,policy --peers nginx,haproxy

benchmarks/README.md says how it measures and why.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .macro import checks, facts, instructions, memory, reload, report, routing, stats
from .macro.backend import Backend
from .macro.gateways import GATEWAYS, Gateway
from .macro.load import Figures, measure
from .macro.process import BenchError, Child, say
from .macro.setups import Setup
from .macro.tokens import token
from .macro.workloads import TARGETS, WORKLOADS, Workload

PARTS = (*WORKLOADS, "reload", "routes", "memory", "instructions")
RESULTS = Path(__file__).resolve().parent / "results"
OURS = ("fastgw", "fastgw-no-token-cache")
LOW_RATE = 5


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__.split("\n")[0])

    def names(known: Sequence[str]) -> Any:
        def read(text: str) -> list[str]:
            wanted = [name.strip() for name in text.split(",") if name.strip()]
            if unknown := sorted(set(wanted) - set(known)):
                raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)} (there are {', '.join(known)})")
            return wanted

        return read

    default = [name for name, gateway in GATEWAYS.items() if gateway.by_default and name not in OURS]
    peers = [name for name in GATEWAYS if name not in OURS]
    parser.add_argument("--quick", action="store_true", help="2 rounds of 1 s, smaller memory and instruction runs")
    parser.add_argument("--rounds", type=int, help="rounds for each gateway and workload (5)")
    parser.add_argument("--seconds", type=int, help="seconds of a round, whole (2)")
    parser.add_argument("--only", type=names(PARTS), default=list(PARTS), metavar="PART,...", help=", ".join(PARTS))
    parser.add_argument("--peers", type=names(peers), default=default, metavar="NAME,...", help=", ".join(peers))
    parser.add_argument(
        "--calm",
        type=float,
        default=1.0,
        metavar="SHARE",
        help="repeat rounds in which others used more of the cores",
    )
    parser.add_argument("--no-fastgw", action="store_true", help="the peers alone")
    parser.add_argument("--backend", choices=("c", "nginx"), default="c", help="nginx has no bodies and no checks")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help="default: %(default)s")
    parser.add_argument("--name", default="latest", help="name of the result files (%(default)s)")
    args = parser.parse_args(argv)
    args.rounds = args.rounds or (2 if args.quick else 5)
    args.seconds = args.seconds or (1 if args.quick else 2)
    if args.rounds < 1 or args.seconds < 1:
        parser.error("--rounds and --seconds are at least 1")
    return args


class Run:
    """One run: what there is, what was measured so far, what was left out and why."""

    def __init__(self, args: argparse.Namespace, folder: Path, backend: Backend) -> None:
        self.args, self.folder, self.backend = args, folder, backend
        self.left_out: list[str] = []
        self.versions: dict[str, str] = {}
        self.measured: dict[str, dict[str, Any]] = {}
        self.memory: dict[str, dict[str, float]] = {}
        self.instructions: dict[str, dict[str, float]] = {}
        self.routes: dict[str, float] = {}
        self.reload: dict[str, float] = {}
        wanted = [*args.peers, *(() if args.no_fastgw else OURS)]
        self.gateways = [GATEWAYS[name] for name in wanted if self.there(GATEWAYS[name])]

    def leave_out(self, what: str, why: object) -> None:
        self.left_out.append(f"{what}: {why}")
        say(f"  left out: {what}: {why}")

    def there(self, gateway: Gateway) -> bool:
        try:
            version = gateway.version()
        except BenchError as error:
            self.leave_out(gateway.name, error)
            return False
        if version is None:
            self.leave_out(gateway.name, "not installed (benchmarks/setup.sh)")
            return False
        self.versions[gateway.name] = version
        return True

    # Timed workloads.

    def workload(self, workload: Workload) -> None:
        say(f"{workload.name}: {workload.title}")
        with contextlib.ExitStack() as stack:
            backend = self.backend
            if workload.backend:
                backend = stack.enter_context(Backend(workload.backend, self.folder / f"{workload.name}-backend"))
            running: list[tuple[str, Child | None, int]] = []
            if workload.direct:
                running.append(("direct", None, self.backend.port))
            for gateway in self.gateways:
                if workload.name in gateway.workloads:
                    try:
                        running.append((gateway.name, *self.checked(gateway, workload, stack, backend)))
                    except (BenchError, OSError) as error:
                        self.leave_out(f"{gateway.name} in {workload.name}", error)
            rounds = self.rounds(workload, running, backend)
        direct = rounds.pop("direct", None)
        if direct and workload.metric == "added_us":
            rounds = stats.add_latency(rounds, direct)
        if direct:
            rounds = {"direct": direct, **rounds}
        self.measured[workload.name] = {
            name: {"median": stats.medians(its), "rounds": its} for name, its in rounds.items() if its
        }

    def checked(
        self, gateway: Gateway, workload: Workload, stack: contextlib.ExitStack, backend: Backend
    ) -> tuple[Child, int]:
        """The gateway, started and seen to answer rightly."""
        place = self.folder / workload.name / gateway.name
        if workload.name == "policy":
            limited = Setup(workload.name, backend.port, place / "limited", rate=LOW_RATE)
            with gateway.start(limited):
                checks.limit(limited.port, LOW_RATE)
        setup = Setup(workload.name, backend.port, place / "timed")
        child = gateway.start(setup)
        stack.enter_context(child)
        if backend.kind != "nginx":
            workload.check(setup.port)
        return child, setup.port

    def rounds(
        self, workload: Workload, running: list[tuple[str, Child | None, int]], backend: Backend
    ) -> dict[str, list[dict[str, float]]]:
        """A B C, B C A, C A B, ...: what disturbs the machine for a while disturbs all of them."""
        bearer = token()
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name, _, _ in running}
        for number in range(-1, self.args.rounds):  # the first is to warm up and is not kept
            shift = number % len(running) if running else 0
            for name, child, port in (*running[shift:], *running[:shift]):
                seconds = 1 if number < 0 else self.args.seconds
                try:
                    figures = self.calm_round(child, port, workload, bearer, seconds, backend)
                except BenchError as error:
                    raise BenchError(f"{name} in {workload.name}: {error}") from None
                if number >= 0:
                    rounds[name].append(figures.as_dict())
        for name, its in rounds.items():
            middle = stats.medians(its)
            say(
                f"  {name:<22} {middle['cpu_us']:7.1f} µs CPU  {middle['requests_per_s']:9,.0f} requests/s"
                f"  p50 {middle['p50_us']:6,.0f}  p99 {middle['p99_us']:6,.0f} µs"
                f"  {middle['bytes_per_s'] / (1 << 20):7,.0f} MiB/s  others {middle['others']:.0%}"
            )
        return rounds

    def calm_round(
        self, child: Child | None, port: int, workload: Workload, bearer: str, seconds: int, backend: Backend
    ) -> Figures:
        """A round; another one, at most twice, while others use more of the cores than --calm allows."""
        for _ in range(3):
            figures = measure(child, backend, port, workload.load, bearer, seconds)
            if figures.others <= self.args.calm:
                break
        return figures

    # Counted and weighed.

    def attempt(self, what: str, into: dict[str, float], work: Any) -> None:
        try:
            figures = work()
        except (BenchError, OSError) as error:
            self.leave_out(what, error)
            return
        into.update(figures)
        for name, value in figures.items():
            say(f"  {what:<32} {name:<28} {report.number(value, name)}")

    def route_table(self) -> None:
        say("routes")
        if any(gateway.name == "fastgw" for gateway in self.gateways):
            self.attempt("look-up", self.routes, routing.look_ups)
            self.attempt("compile", self.routes, routing.compile_figures)

    def reload_latency(self) -> None:
        say("reload")
        if any(gateway.name == "fastgw" for gateway in self.gateways):
            seconds = 3 if self.args.quick else 10
            folder = self.folder / "reload"
            rounds, calm = self.args.rounds, self.args.calm
            self.attempt("reload", self.reload, lambda: reload.figures(self.backend, folder, rounds, seconds, calm))

    def weigh(self) -> None:
        say("memory")
        count = 2_000 if self.args.quick else memory.IDLE_CONNECTIONS
        size = memory.SLOW_BYTES // (4 if self.args.quick else 1)
        for gateway in self.gateways:
            # HAProxy and Envoy take no more than half the open-file limit: no 10,000 where that is 20,000
            if gateway.name not in ("nginx", "fastgw"):
                continue
            its: dict[str, float] = {}
            place = self.folder / "memory" / gateway.name
            self.attempt(
                f"{gateway.name}, idle connections",
                its,
                lambda g=gateway, p=place: memory.idle_connections(g, self.backend, p / "idle", count),
            )
            self.attempt(
                f"{gateway.name}, idle TLS connections",
                its,
                lambda g=gateway, p=place: memory.idle_connections(
                    g, self.backend, p / "idle-tls", memory.IDLE_TLS_CONNECTIONS, tls=True
                ),
            )
            self.attempt(
                f"{gateway.name}, slow reader",
                its,
                lambda g=gateway, p=place: memory.slow_reader(g, self.backend, p / "slow", size),
            )
            if gateway.name == "fastgw":
                self.attempt("fastgw, example config", its, lambda p=place: memory.worker_memory(p / "example"))
            self.memory[gateway.name] = its

    def count(self) -> None:
        say("instructions (callgrind)")
        requests = 1_000 if self.args.quick else 3_000
        for workload in instructions.WORKLOADS:
            its: dict[str, float] = {}
            for gateway in self.gateways:
                # valgrind does not run Envoy
                if workload in gateway.workloads and not gateway.name.startswith("envoy"):
                    place = self.folder / "instructions" / workload / gateway.name

                    def work(g: Gateway = gateway, w: str = workload, p: Path = place) -> dict[str, float]:
                        return {g.name: instructions.per_request(g, w, self.backend, p, requests)}

                    self.attempt(f"{gateway.name}, {workload}", its, work)
            self.instructions[workload] = its

    def result(self, machine: dict[str, object]) -> dict[str, Any]:
        args = self.args
        return {
            "facts": machine | {"load_average_at_end": os.getloadavg()[0]},
            "settings": {
                "rounds": args.rounds,
                "seconds": args.seconds,
                "backend": args.backend,
                "quick": args.quick,
            },
            "versions": self.versions,
            "workloads": self.measured,
            "instructions": self.instructions,
            "memory": self.memory,
            "routes": self.routes,
            "reload": self.reload,
            "left_out": self.left_out,
        }

    def verdicts(self) -> list[stats.Verdict]:
        medians = {w: {g: its["median"] for g, its in gateways.items()} for w, gateways in self.measured.items()}
        medians |= {"memory": self.memory, "routes": {"fastgw": self.routes}}
        medians["reload"] = {"fastgw": self.reload}
        wanted = {*self.args.only}
        return [stats.judge(target, medians) for target in TARGETS if target.workload in wanted]


@contextlib.contextmanager
def ends_on_term() -> Iterator[None]:
    """TERM ends the run as Ctrl-C does: by an exception, so that every child is stopped on the way out."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    if len(os.sched_getaffinity(0)) < 2:
        say("compare: two cores are needed: one for the gateway, one for load and backend")
        return 2
    if not shutil.which("wrk"):
        say("compare: wrk is not installed (benchmarks/setup.sh)")
        return 2
    machine = facts.gather()
    folder = Path(tempfile.mkdtemp(prefix="fastgw-bench-"))
    folder.chmod(0o755)
    try:
        with ends_on_term(), Backend(args.backend, folder / "backend") as backend:
            run = Run(args, folder, backend)
            for workload in WORKLOADS.values():
                if workload.name in args.only:
                    run.workload(workload)
            if "reload" in args.only:
                run.reload_latency()
            if "routes" in args.only:
                run.route_table()
            if "memory" in args.only:
                run.weigh()
            if "instructions" in args.only:
                run.count()
    except BenchError as error:
        say(f"compare: {error}")
        return 1
    except KeyboardInterrupt:
        say("compare: stopped, nothing written")
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    verdicts = run.verdicts()
    print(report.verdict_table(verdicts))
    for path in report.write(run.result(machine), verdicts, args.results, args.name):
        say(f"wrote {os.path.relpath(path)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
