"""What decides what a figure says: parsing, medians, targets, templates, tables, processes."""

import contextlib
import http.client
import io
import itertools
import json
import math
import operator
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import jwt
import pytest
import yaml

from benchmarks.macro import backend as backend_module
from benchmarks.macro import (
    checks,
    client,
    fastgw_config,
    gateways,
    instructions,
    memory,
    process,
    reload,
    report,
    setups,
    sockets,
    stats,
)
from benchmarks.macro.backend import JSON, Backend
from benchmarks.macro.load import parse
from benchmarks.macro.process import BenchError, Child
from benchmarks.macro.tokens import KINDS, SECRET, token
from benchmarks.macro.workloads import TARGETS, WORKLOADS, Target
from fastgw.testing import FakeUpstream
from fastgw.testing.certificates import Authority

WRK_LINE = (
    "Running 2s test\n"
    "BENCH requests=1000 duration_us=2000000 bytes=400000 mean_us=12.50 p50_us=11 p99_us=40"
    " status_errors=%d socket_errors=%d\n"
)


def test_the_line_of_wrk_becomes_figures():
    figures = parse(WRK_LINE % (0, 0))
    assert (figures.requests, figures.requests_per_s, figures.bytes_per_s) == (1000, 500.0, 200_000.0)
    assert (figures.mean_us, figures.p50_us, figures.p99_us) == (12.5, 11, 40)


@pytest.mark.parametrize("said", [WRK_LINE % (3, 0), WRK_LINE % (0, 1), "unable to connect", ""])
def test_a_run_with_any_failed_request_is_no_measurement(said):
    with pytest.raises(BenchError):
        parse(said)


def test_the_line_of_sockets_becomes_figures():
    said = "SOCKETS messages=100 duration_us=2000000 bytes=12800 mean_us=12.5 p50_us=11 p99_us=40\n"
    assert sockets.parse(said) == (100, 2_000_000, 12_800, 12.5, 11, 40)
    for wrong in ("", said.replace("messages=100", "messages=0"), "sockets: no 101: Success"):
        with pytest.raises(BenchError):
            sockets.parse(wrong)


def test_medians_and_spread():
    rounds = [{"a": 1.0, "b": 10.0}, {"a": 3.0, "b": 10.0}, {"a": 2.0, "b": 40.0}]
    assert stats.medians(rounds) == {"a": 2.0, "b": 10.0}
    assert stats.spread(rounds, "a") == 1.0
    assert stats.spread([{"a": 0.0}], "a") == 0.0
    with pytest.raises(ValueError, match="no round"):
        stats.medians([])


def test_added_latency_is_taken_round_by_round():
    direct = [{"requests_per_s": 50_000.0}, {"requests_per_s": 25_000.0}]
    rounds = {"g": [{"requests_per_s": 20_000.0}, {"requests_per_s": 20_000.0}]}
    added = [its["added_us"] for its in stats.add_latency(rounds, direct)["g"]]
    assert added == [pytest.approx(30.0), pytest.approx(10.0)]


@pytest.mark.parametrize(
    "ours, peer, better, factor, reached",
    [
        (10.0, 12.0, operator.le, 1 / 1.2, True),
        (10.1, 12.0, operator.le, 1 / 1.2, False),
        (0.9, 1.0, operator.ge, 0.9, True),
        (0.89, 1.0, operator.ge, 0.9, False),
    ],
)
def test_a_target_is_judged_against_its_peer(ours, peer, better, factor, reached):
    target = Target("w", "cpu_us", "peer", factor, "", better)
    measured = {"w": {"fastgw": {"cpu_us": ours}, "peer": {"cpu_us": peer}}}
    verdict = stats.judge(target, measured)
    assert verdict.reached is reached
    assert math.isclose(verdict.limit, peer * factor)


def test_what_was_not_measured_is_not_reached_and_not_missed():
    target = Target("w", "cpu_us", "peer", 1.0, "")
    assert stats.judge(target, {}).reached is None
    assert stats.judge(target, {"w": {"fastgw": {"cpu_us": 1.0}}}).reached is None
    absolute = Target("memory", "bytes", None, 100.0, "")
    assert stats.judge(absolute, {"memory": {"fastgw": {"bytes": 101.0}}}).reached is False


def test_targets_name_workloads_and_gateways_that_exist():
    for target in TARGETS:
        assert target.workload in (*WORKLOADS, "memory", "routes", "reload")
        for name in filter(None, (target.peer, target.subject)):
            assert target.workload in (*gateways.GATEWAYS[name].workloads, "routes", "reload")


CASES = [
    (gateway, workload)
    for gateway in gateways.GATEWAYS.values()
    for workload in gateway.workloads
    if gateway.find() is not None or gateway.name.startswith("fastgw")
]


@pytest.mark.parametrize("gateway, workload", CASES, ids=[f"{g.name}-{w}" for g, w in CASES])
def test_configurations_render_with_no_name_left_over(gateway, workload, tmp_path):
    setup = setups.Setup(workload, upstream=21_999, folder=tmp_path, routes=3, port=21_998)
    command = gateway.write(setup)
    assert all(isinstance(part, str) for part in command)
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".pb"]
    texts = {path.name: path.read_text() for path in written}
    assert texts
    assert not [name for name, text in texts.items() if re.search(r"@[A-Z]+@", text)]
    whole = "\n".join([*texts.values(), *command])  # Varnish is told its port by its command
    assert "21998" in whole
    assert ("21999" in whole) or workload == "static"
    if workload == "policy":
        assert "/api/svc0002/" in whole and "/api/svc0003/" not in whole


def test_a_template_with_a_name_too_many_or_too_few_is_an_error():
    with pytest.raises(ValueError, match="has no @NOPE@"):
        setups.fill("nginx-plain.conf", NOPE=1)
    with pytest.raises(ValueError, match="not filled in"):
        setups.fill("nginx-static.conf")


def test_fastgw_configurations_are_yaml_with_one_worker_and_no_access_log():
    for workload in ("plain", "policy", "static"):
        text = fastgw_config.render(workload, port=1, upstream=2, routes=2, rate=9, token_cache=False)
        config = yaml.safe_load(text)
        assert config["server"]["workers"] == 1
        assert config["observability"]["access_log"]["enabled"] is False


def test_tokens_are_what_their_names_say():
    claims = jwt.decode(token("good"), SECRET, algorithms=["HS256"], audience="benchmarks")
    assert (claims["tenant"], claims["sub"]) == ("acme", "user-0001")
    refused = 0
    for kind in KINDS[1:]:
        try:
            claims = jwt.decode(token(kind), SECRET, algorithms=["HS256"], audience="benchmarks")
            assert kind == "other_tenant" and claims["tenant"] == "other"
        except jwt.InvalidTokenError:
            refused += 1
    assert refused == len(KINDS) - 2


def test_tables_are_markdown_of_even_width():
    lines = report.table(["a", "b"], [["x", "1"], ["long", "22"]]).splitlines()
    assert lines[1] == "| ---- | -: |"
    assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize(
    "value, metric, shown",
    [
        (12.345, "cpu_us", "12.3 µs"),
        (3 << 20, "bytes_per_s", "3 MiB/s"),
        (1536.0, "bytes_per_idle_connection", "1.5 KiB"),
        (25 << 20, "private_bytes_per_worker", "25.0 MiB"),
        (1.899, "look_up_ratio", "1.90 x"),
        (1.3, "compile_s", "1.30 s"),
        (5_000.0, "requests_per_s", "5,000/s"),
        (10_000, "requests", "10,000"),
        (None, "cpu_us", "-"),
    ],
)
def test_figures_have_their_unit(value, metric, shown):
    assert report.number(value, metric) == shown


def a_result():
    figures = {
        "requests": 10,
        "requests_per_s": 5.0,
        "bytes_per_s": 50.0,
        "mean_us": 9.0,
        "p50_us": 9.0,
        "p99_us": 20.0,
        "cpu_us": 12.0,
        "cpu_user_share": 0.25,
        "busy": 0.5,
        "others": 0.01,
    }
    its = {"median": figures, "rounds": [figures]}
    facts = {
        "when": "now",
        "commit": "abc",
        "cpu": "a <fast> one",
        "cores": 2,
        "memory_gib": 1.0,
        "kernel": "6",
        "system": "Linux",
        "python": "3.11",
        "libraries": {"uvloop": "0"},
        "load_average_at_start": 0.0,
        "load_average_at_end": 1.0,
    }
    return {
        "facts": facts,
        "settings": {"rounds": 1, "seconds": 1, "backend": "c", "quick": True},
        "versions": {"nginx": "1.2.3"},
        "workloads": {"plain": {"fastgw": its, "nginx": {**its, "median": {**figures, "cpu_us": 18.0}}}},
        "instructions": {"plain": {"nginx": 42_000.0}},
        "memory": {"fastgw": {"private_bytes_per_worker": 20 << 20}},
        "routes": {"look_up_ratio": 1.9},
        "left_out": ["envoy: not installed"],
    }


def test_a_result_is_written_as_json_markdown_and_a_plot(tmp_path):
    result = a_result()
    measured = {"plain": {name: its["median"] for name, its in result["workloads"]["plain"].items()}}
    verdicts = [stats.judge(target, measured) for target in TARGETS]
    files = report.write(result, verdicts, tmp_path, "r")
    assert [path.name for path in files] == ["r.json", "r.md", "r.svg"]
    assert json.loads(files[0].read_text())["workloads"]["plain"]["nginx"]["median"]["cpu_us"] == 18.0
    text = files[1].read_text()
    assert "| nginx 1.2.3" in text and "42,000" in text and "envoy: not installed" in text
    assert re.search(r"nginx ÷ 1\.2 +\| +plain \| +12\.0 µs \| +15\.0 µs \| +yes", text)
    assert text.count("not measured") == len(TARGETS) - 1
    bars = [e for e in ElementTree.parse(files[2]).iter() if e.tag.endswith("rect") and e.get("rx")]
    assert [float(bar.get("width")) for bar in bars] == [pytest.approx(520 * 12 / 18, abs=0.1), 520.0]


def test_the_total_of_a_callgrind_file():
    assert instructions.total("events: Ir\nfn=(1)\n1 2\ntotals: 123456\n") == 123456
    with pytest.raises(BenchError):
        instructions.total("nothing")


def test_the_example_configuration_is_moved_to_free_ports():
    text = "server: {listeners: [{bind: 0.0.0.0:8080}]}\nservices: {users: http://127.0.0.1:9001, x: http://localhost:90010}\n"
    moved, port = memory.example_config(text, {9001: 5001})
    config = yaml.safe_load(moved)
    assert config["server"]["listeners"] == [{"bind": f"127.0.0.1:{port}"}]
    assert config["services"] == {"users": "http://127.0.0.1:5001", "x": "http://localhost:90010"}


# With real processes.


def test_a_child_that_ends_is_reported_with_what_it_said():
    child = Child("failing", [sys.executable, "-c", "import sys; sys.exit('no such thing')"])
    with child, pytest.raises(BenchError, match="no such thing"):
        child.wait_for_port(process.free_port(), 60)


STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
inner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(inner.pid, flush=True)
time.sleep(60)
"""


def test_a_child_that_ignores_term_is_killed_with_all_it_started():
    with subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, text=True) as outer:
        inner = int(outer.stdout.readline())
        assert process.tree(outer.pid) == [outer.pid, inner]
        child = Child.__new__(Child)
        child.name, child.process, child._errors = "stubborn", outer, io.BytesIO()
        assert child.stop(seconds=0.2) == -9
        deadline = process.time.monotonic() + 60
        while is_running(inner):
            assert process.time.monotonic() < deadline
            process.time.sleep(0.01)


def is_running(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_cpu_time_counts_what_was_burnt():
    burn = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\ninput()"
    with subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE) as burning:
        deadline = process.time.monotonic() + 60
        while (used := process.cpu_time([burning.pid])).seconds < 0.3:
            assert process.time.monotonic() < deadline
            process.time.sleep(0.01)
        assert used.seconds < 2
        assert 0 <= used.user_share <= 1
        assert process.memory(burning.pid).private > 1 << 20
        burning.communicate(b"\n", timeout=60)


needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


@pytest.fixture
def backend(tmp_path, monkeypatch):
    monkeypatch.setattr(backend_module, "HOME", tmp_path / "home")
    monkeypatch.setattr(backend_module, "LOAD_CORE", None)
    with Backend("c", tmp_path / "backend") as running:
        yield running


@needs_compiler
def test_the_backend_answers_json_bytes_and_echo(backend):
    assert checks.ask(backend.port, "/api/item").text == JSON
    assert len(JSON) == 154
    assert checks.ask(backend.port, "/api/bytes/1000000").body == b"x" * 1_000_000
    echo = checks.ask(backend.port, "/api/echo", {"X-Seen": "yes"}).text
    assert echo.startswith("GET /api/echo HTTP/1.1\r\n") and "X-Seen: yes\r\n" in echo


@needs_compiler
@pytest.mark.parametrize("size", [100, 128, 65_536])
def test_the_backend_sends_messages_back_and_the_load_counts_them(backend, monkeypatch, size):
    monkeypatch.setattr(sockets, "LOAD_CORE", None)
    messages, micros, total, _, p50, p99 = sockets.load(backend.port, 3, size, 1)
    assert messages > 10 and total == messages * size and 900_000 < micros < 60_000_000 and p50 <= p99
    with pytest.raises(BenchError):
        sockets.load(1, 1, size, 1)


@needs_compiler
def test_the_backend_throws_bodies_away_and_keeps_the_connection(backend):
    connection = http.client.HTTPConnection("127.0.0.1", backend.port, timeout=60)
    for size in (0, 10, 300_000):
        connection.request("POST", "/api/item", body=b"b" * size)
        answer = connection.getresponse()
        assert (answer.status, answer.read().decode()) == (200, JSON)
    connection.close()


@needs_compiler
def test_the_client_sends_exactly_so_many_and_reads_slowly(backend):
    client.exactly(backend.port, 25, [client.request("/api/item"), client.request("/api/bytes/70000")], connections=4)
    deadline = process.time.monotonic() + 60
    *_, total = client.read_slowly(backend.port, "/api/bytes/2000000", 2_000_000, 1e9, deadline)
    assert total >= 2_000_000


def test_the_client_speaks_tls_with_whoever_answers(tmp_path):
    pair = Authority(tmp_path).leaf("a.example")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.cert, pair.key)
    seen = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            for _ in range(2):
                line = context.wrap_socket(listener.accept()[0], server_side=True)
                with line, contextlib.suppress(OSError):      # how the client leaves is not what is looked at
                    while piece := line.recv(65536):
                        seen.append((line.version(), piece))
                        line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

        # a connection is served when the one before it has ended
        server = threading.Thread(target=serve, daemon=True)
        server.start()
        for count in (3, 1):
            port = listener.getsockname()[1]
            client.exactly(port, count, [client.request("/api/item")], connections=1, tls=True)
        server.join(30)
    assert seen == [("TLSv1.3", client.request("/api/item"))] * 4


@needs_compiler
def test_the_checks_refuse_an_upstream_without_a_gateway(backend):
    with pytest.raises(BenchError, match="X-Forwarded-For"):
        checks.plain(backend.port)
    with pytest.raises(BenchError, match="X-Gateway"):
        checks.policy(backend.port)


PACED_LINE = "PACED requests=%d errors=%d p50_ns=80000 p99_ns=200000 p999_ns=900000 max_ns=1000000 late_p99_ns=40000\n"


def test_the_line_of_paced_becomes_figures():
    figures = reload.parse(PACED_LINE % (1000, 0))
    assert (figures["requests"], figures["p50"], figures["p99"], figures["late_p99"]) == (1000, 80e3, 200e3, 40e3)
    for said in (PACED_LINE % (1000, 1), PACED_LINE % (0, 0), "paced: connect: Connection refused", ""):
        with pytest.raises(BenchError):
            reload.parse(said)


@pytest.fixture
def paced(tmp_path, monkeypatch):
    monkeypatch.setattr(backend_module, "HOME", tmp_path / "home")
    program = str(backend_module.compiled("paced"))

    def run(upstream, seconds):
        """100 requests a second on one connection, over 7 routes."""
        return process.run([program, upstream.url.rpartition(":")[2], "100", str(seconds), "1", "7"], 30)

    return run


@needs_compiler
def test_paced_sends_what_it_says_and_counts_from_the_due_time(paced):
    def serve(connection):
        for number in itertools.count():
            connection.read_request()
            if number == 150:                        # past the warm-up: five others are due meanwhile
                time.sleep(0.05)
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with FakeUpstream(serve) as upstream:
        figures = reload.parse(paced(upstream, 2))
        paths = {request.target for request in upstream.requests}
    assert figures["requests"] == 200
    assert figures["max"] > 45e6
    # one connection: those that were due in the stall left late, and that counts
    assert figures["late_p99"] > 30e6
    assert figures["p99"] > 30e6
    assert len(paths) == 7


@needs_compiler
def test_paced_counts_what_is_refused_or_broken(paced):
    def serve(connection):
        for _ in range(3):                           # then it closes
            connection.read_request()
            connection.send(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")

    with FakeUpstream(serve) as upstream:
        output = paced(upstream, 1)
    with pytest.raises(BenchError, match="errors"):
        reload.parse(output)


@needs_compiler
def test_reloading_without_an_error_is_measured(backend, tmp_path, monkeypatch):
    monkeypatch.setattr(reload, "ROUTES", 50)
    monkeypatch.setattr(reload, "RATE", 200)
    monkeypatch.setattr(reload, "LOAD_CORE", None)
    figures = reload.figures(backend, tmp_path / "reload", 1, 1)
    assert figures["reloads"] >= 1
    assert figures["requests"] == 2 * 200
    assert figures["reload_p99_ratio"] > 0
