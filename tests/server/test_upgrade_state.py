"""What goes on over a binary upgrade: requests under way, limits, health, TLS sessions, files; and who is told."""

import json
import os
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time

import pytest
import yaml

from fastgw.testing import GatewayProcess, free_port
from fastgw.testing.certificates import Authority
from tests.server.upgrading import GET, alive, closes, handshake, local, rewrite, status


def test_what_is_under_way_ends_with_the_old_one_and_kept_connections_are_told(config, upstream, eventually):
    release = threading.Event()

    def slow(connection):
        request = connection.read_request()
        if request.target == "/slow":
            connection.wait(release)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")

    upstream.script(slow, slow, slow)
    config["server"]["timeouts"]["drain"] = "60s"
    with GatewayProcess(config) as gateway, gateway.client(60) as client, gateway.client(60) as kept:
        old = gateway.pid
        assert kept.request(GET).status == 200
        client.send(GET.replace(b"/load", b"/slow"))
        upstream.wait_requests(2)
        gateway.upgrade()
        assert gateway.pid != old
        # the workers hear of it a moment after the new one serves
        closing = eventually(lambda: closes(kept.request(GET)), "a kept connection is told to go", 60)
        assert closing
        assert kept.sock.recv(1) == b""
        kept.close()                                 # else the gateway waits a moment for that
        assert alive(old)
        release.set()
        answer = client.response()
        assert (answer.status, answer.body) == (200, b"late")
        client.close()
        assert gateway.leaving.wait(60) == 0
        assert status(gateway) == 200


def test_limits_and_health_and_tls_sessions_go_on(config, tmp_path, eventually):
    authority = Authority(tmp_path)
    pair = authority.leaf("a.example")
    secure = free_port()
    dead = free_port()
    config["routes"] = [
        {"name": "few", "path": "/few", "service": "up",
         "policies": [{"rate_limit": {"requests": 5, "per": "1h", "burst": 5, "by": "global"}}]},
        {"path": "/down", "service": "down"},
        {"path": "/*", "service": "up"},
    ]  # fmt: skip
    config["services"]["down"] = {
        "endpoints": [config["services"]["up"], f"http://127.0.0.1:{dead}"],
        "outliers": {"consecutive_failures": 1, "ejection_time": "1h", "max_ejection_time": "1h"},
    }
    with GatewayProcess(config) as gateway:

        def add(tree):
            tree["server"]["listeners"] = [
                f"127.0.0.1:{gateway.port}",
                {"bind": f"127.0.0.1:{secure}", "tls": {"certificates": [{"cert": pair.cert, "key": pair.key}]}},
            ]

        rewrite(gateway, add)
        assert gateway.admin("/config/reload", "POST")[0] == 200
        few = GET.replace(b"/load", b"/few")
        assert [status(gateway, few) for _ in range(6)] == [200] * 5 + [429]
        down = GET.replace(b"/load", b"/down")
        eventually(lambda: status(gateway, down) and ejected(gateway), "the dead endpoint is ejected")
        context = ssl.create_default_context(cafile=authority.cert)
        session = handshake(context, secure)[1]
        for _ in range(2):
            gateway.upgrade()
            assert gateway.leaving.wait(60) == 0
            assert status(gateway, few) == 429
            assert ejected(gateway)
            resumed, session = handshake(context, secure, session)
            assert resumed
        assert "begins empty" not in gateway.stderr


def ejected(gateway):
    one = json.loads(gateway.admin("/services/down/endpoints")[1])[1]
    return one["ejections"] == 1 and one.get("ejected_for", 0) > 3000


def test_listeners_may_come_and_go_with_it_and_files_of_unix_sockets_stay(config, tmp_path):
    kept, gone, new = (str(tmp_path / name) for name in ("kept", "gone", "new"))
    with GatewayProcess(config) as gateway:
        first = f"127.0.0.1:{gateway.port}"
        rewrite(gateway, lambda tree: tree["server"].update(listeners=[first, f"unix:{kept}", f"unix:{gone}"]))
        assert gateway.admin("/config/reload", "POST")[0] == 200
        inode = os.stat(kept).st_ino
        rewrite(gateway, lambda tree: tree["server"].update(listeners=[f"unix:{kept}", first, f"unix:{new}"]))
        gateway.upgrade()
        assert gateway.leaving.wait(60) == 0
        assert os.stat(kept).st_ino == inode
        assert [local(path) for path in (kept, new)] == [200, 200]
        with pytest.raises(OSError):
            local(gone)
    assert not os.path.exists(kept)
    assert not os.path.exists(new)


def test_the_service_manager_and_the_pid_file_know_who_it_is(config, tmp_path):
    """With NotifyAccess=main, systemd hears the main process only: the old one names the new one, then that speaks."""
    pid_file = tmp_path / "pid"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        manager.settimeout(60)

        def hear():
            data, ancillary, _, _ = manager.recvmsg(4096, socket.CMSG_SPACE(12))
            lines = data.decode().split("\n")
            return struct.unpack("iII", ancillary[0][2])[0], dict(line.split("=", 1) for line in lines)

        env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "600000000"}
        with GatewayProcess(config, env=env, args=("--pid-file", str(pid_file))) as gateway:
            old = gateway.pid
            assert int(pid_file.read_text()) == old
            heard = [hear()]
            while "READY" not in heard[-1][1]:
                heard.append(hear())
            gateway.adopt_orphans()
            gateway.signal(signal.SIGUSR2)
            heard = [hear()]
            while "MAINPID" not in heard[-1][1]:
                heard.append(hear())
            assert {pid for pid, _ in heard} == {old}
            new = int(heard[-1][1]["MAINPID"])
            assert new != old
            heard = [hear()]
            while "READY" not in heard[-1][1]:
                heard.append(hear())
            assert {pid for pid, _ in heard} == {new}
            assert heard[-1][1]["STATUS"] == "serving with 2 workers, configuration 2"
            gateway.follow(new)
            assert gateway.leaving.wait(60) == 0
            assert int(pid_file.read_text()) == new
        assert not pid_file.exists()


def test_the_command(config):
    with GatewayProcess(config) as gateway:
        gateway.adopt_orphans()
        command = [sys.executable, "-m", "fastgw", "upgrade", "--admin", f"127.0.0.1:{gateway.admin_port}"]
        told = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert told.returncode == 0, told.stderr
        gateway.follow(int(yaml.safe_load(told.stdout)["pid"]))
        assert gateway.leaving.wait(60) == 0
        gateway.file.write_text("routes: 7\n")
        told = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert told.returncode == 1
        assert yaml.safe_load(told.stdout)["code"] == "not_upgraded"
        assert "routes" in yaml.safe_load(told.stdout)["detail"]


def test_one_process_has_nobody_who_takes_over(config):
    config["server"]["workers"] = 0
    with GatewayProcess(config) as gateway:
        code, text = gateway.admin("/upgrade", "POST")
        assert (code, "no supervisor" in text) == (409, True)
        gateway.signal(signal.SIGUSR2)
        time.sleep(0)
        assert status(gateway) == 200
