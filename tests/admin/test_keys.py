"""Keys that are created, rotated and revoked while the gateway runs: by the admin API and by `fastgw keys`."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from fastgw.testing import GatewayProcess

TOKEN = "planted-admin-token"
WHO = "${consumer.name} ${consumer.credential} ${consumer.scopes}"
RESPOND = {"respond": {"body": "ok", "headers": {"X-Who": WHO}}}
CONFIG = {
    "admin": {"token": TOKEN},
    "api_keys": {"file": "keys.json", "prefix": "acme"},
    "consumers": [{"name": "ada", "groups": ["staff"]}, {"name": "bob"}],
    "server": {"workers": 2},
    "routes": [
        {
            "path": "/x",
            "policies": ["key_auth", RESPOND],
        }
    ],
}


def admin(gateway, method, path, body=None, token=TOKEN):
    connection = http.client.HTTPConnection(gateway.host, gateway.admin_port, timeout=60)
    try:
        raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, raw, {"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def fastgw(gateway, *words):
    place = f"127.0.0.1:{gateway.admin_port}"
    return subprocess.run(
        [sys.executable, "-m", "fastgw", "keys", *words, "--admin", place, "--token", TOKEN],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def ask(gateway, key):
    with gateway.client() as client:
        return client.request(f"GET /x HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nConnection: close\r\n\r\n".encode())


def becomes(gateway, key, status):
    """Every worker answers so, in the end: each connection may come to another one."""
    end = time.monotonic() + 60
    in_a_row = 0
    while in_a_row < 12:
        answer = ask(gateway, key)
        in_a_row = in_a_row + 1 if answer.status == status else 0
        assert time.monotonic() < end, (answer.status, answer.body)
    return answer


def test_the_life_of_a_key():
    with GatewayProcess(CONFIG) as gateway:
        status, made = admin(gateway, "POST", "/keys", {"consumer": "ada", "scopes": ["b", "a"], "note": "phone"})
        assert status == 201 and made["key"].startswith(f"acme_{made['id']}_")
        assert becomes(gateway, made["key"], 200).get("X-Who") == f"ada {made['id']} a b"
        assert becomes(gateway, made["key"] + "x", 401)
        # who is born later knows it
        for pid in gateway.processes()[1:]:
            with contextlib.suppress(OSError):          # it may have ended by itself
                if Path(f"/proc/{pid}/comm").read_text().strip() in ("fastgw-0", "fastgw-1"):
                    os.kill(pid, signal.SIGKILL)
        end = time.monotonic() + 60
        while True:
            try:
                becomes(gateway, made["key"], 200)
                break
            except (OSError, EOFError):
                assert time.monotonic() < end
        status, second = admin(gateway, "POST", f"/keys/{made['id']}/rotate", {"overlap": 3600})
        assert status == 201 and second["replaces"] == made["id"]
        becomes(gateway, second["key"], 200)
        becomes(gateway, made["key"], 200)
        rows = {row["id"]: row for row in admin(gateway, "GET", "/keys")[1]}
        assert rows[made["id"]]["state"] == "replaced" and rows[made["id"]]["uses"] >= 24
        assert rows[second["id"]]["uses"] >= 12 and rows[second["id"]]["last_used"]
        people = {one["name"]: one for one in admin(gateway, "GET", "/consumers")[1]}
        assert people["ada"]["keys"] == 2 and people["ada"]["uses"] >= 36 and people["bob"]["keys"] == 0
        metrics = gateway.admin("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})[1]
        assert f'fastgw_key_requests_total{{consumer="ada",key="{made["id"]}"}}' in metrics
        assert admin(gateway, "DELETE", f"/keys/{made['id']}")[1]["state"] == "revoked"
        becomes(gateway, made["key"], 401)
        becomes(gateway, second["key"], 200)
        # nothing but the one answer ever had it
        shown = json.dumps([rows, people, admin(gateway, "GET", "/config")[1]]) + metrics
        shown += gateway.stdout + gateway.stderr + (gateway.folder / "keys.json").read_text()
        for key in (made["key"], second["key"]):
            assert key.split("_", 2)[2] not in shown


def test_what_is_refused():
    with GatewayProcess(CONFIG) as gateway:
        cases = [
            ("POST", "/keys", {"consumer": "eve"}, 404, "unknown_consumer"),
            ("POST", "/keys", {}, 400, "bad_request"),
            ("POST", "/keys", {"consumer": "ada", "lifetime": -1}, 400, "bad_request"),
            ("POST", "/keys", {"consumer": "ada", "scopes": ["a b"]}, 400, "bad_request"),
            ("POST", "/keys", {"consumer": "ada", "more": 1}, 400, "bad_request"),
            ("POST", "/keys", b"{", 400, "bad_request"),
            ("POST", "/keys", b"[]", 400, "bad_request"),
            ("PUT", "/keys", None, 405, "method_not_allowed"),
            ("GET", "/keys/x", None, 405, "method_not_allowed"),
            ("DELETE", "/keys/x", None, 404, "unknown_key"),
            ("POST", "/keys/x/rotate", None, 404, "unknown_key"),
            ("POST", "/keys/x/other", None, 404, "not_found"),
        ]
        for method, path, body, status, code in cases:
            told = admin(gateway, method, path, body)
            assert (path, body, told[0], told[1]["code"]) == (path, body, status, code)
        assert admin(gateway, "POST", "/keys", {"consumer": "ada"}, token="wrong")[0] == 401


def test_by_command():
    with GatewayProcess(CONFIG) as gateway:
        made = fastgw(gateway, "create", "bob", "--scope", "a", "--lifetime", "1h", "--note", "n")
        assert made.returncode == 0, made.stderr
        key = made.stdout.strip()
        assert key.startswith("acme_") and key not in made.stderr
        becomes(gateway, key, 200)
        name = json.loads(made.stderr)["id"]
        rotated = fastgw(gateway, "rotate", name, "--overlap", "0s")
        assert rotated.returncode == 0, rotated.stderr
        assert b"key_expired" in becomes(gateway, key, 401).body
        listed = fastgw(gateway, "list")
        assert "expired" in listed.stdout and "active" in listed.stdout and "bob" in listed.stdout
        assert fastgw(gateway, "revoke", json.loads(rotated.stderr)["id"]).returncode == 0
        becomes(gateway, rotated.stdout.strip(), 401)
        refused = fastgw(gateway, "create", "eve")
        assert refused.returncode == 1 and "eve" in refused.stderr
        assert json.loads(fastgw(gateway, "consumers").stdout)[1]["name"] == "bob"


def test_hashes_for_the_file():
    done = subprocess.run(
        [sys.executable, "-m", "fastgw", "keys", "hash"], input="demo-key\n", capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "sha256:c48a01f49fd0f2cc404bc3cbbc80e91457a3d41bb429a695243de4c61794155c"


def test_a_broken_file_refuses_and_does_not_open():
    config = {**CONFIG, "api_keys": {"file": "/proc/self/mem"}}
    with GatewayProcess(config) as gateway:
        answer = ask(gateway, "acme_x_y")
        assert answer.status == 503 and b"policy_unavailable" in answer.body
        assert admin(gateway, "POST", "/keys", {"consumer": "ada"})[1]["code"] == "keys_unreadable"


def test_without_a_file():
    config = {name: value for name, value in CONFIG.items() if name != "api_keys"}
    with GatewayProcess(config, args=("--single",)) as gateway:
        assert admin(gateway, "POST", "/keys", {"consumer": "ada"})[1]["code"] == "no_key_file"
        assert admin(gateway, "GET", "/keys") == (200, [])


def test_in_one_process():
    with GatewayProcess(CONFIG, args=("--single",)) as gateway:
        made = admin(gateway, "POST", "/keys", {"consumer": "ada"})[1]
        becomes(gateway, made["key"], 200)
        assert f'key="{made["id"]}"' in gateway.admin("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})[1]
        admin(gateway, "DELETE", f"/keys/{made['id']}")
        becomes(gateway, made["key"], 401)
