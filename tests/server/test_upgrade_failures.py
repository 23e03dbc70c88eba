"""Binary upgrades that come to nothing, and what comes while one is under way."""

import os
import signal
import socket
import threading

import pytest

from fastgw.testing import GatewayProcess
from tests.server.upgrading import (
    Fresh,
    Kept,
    Loads,
    alive,
    caught,
    fault_environment,
    rewrite,
    status,
)


def fails(gateway, match):
    with pytest.raises(RuntimeError, match=match):
        gateway.upgrade()
    assert status(gateway) == 200


def test_one_that_cannot_serve_changes_nothing_and_says_why(config, tmp_path, eventually):
    with GatewayProcess(config, env=fault_environment(tmp_path)) as gateway:
        before = gateway.processes()
        good = gateway.file.read_text()
        with Loads(Kept(gateway.address, 1), Fresh(gateway.address, 2)) as loads:
            gateway.file.write_text(good.replace("services:", "servizi:"))
            fails(gateway, "servizi")
            gateway.file.unlink()
            fails(gateway, "there is no file")
            with socket.socket() as taken:
                taken.bind(("127.0.0.1", 0))
                taken.listen()
                more = f"127.0.0.1:{taken.getsockname()[1]}"
                gateway.file.write_text(good)
                rewrite(gateway, lambda tree: tree["server"]["listeners"].append({"bind": more}))
                fails(gateway, f"cannot listen at {more}")
            gateway.file.write_text(good)
            fault = tmp_path / "fault"
            fault.write_text("import os; os._exit(7)")
            fails(gateway, "ended with exit code 7")
            fault.write_text("import os; os.kill(os.getpid(), 11)")
            fails(gateway, "ended with SIGSEGV")
            # the supervisor comes up, and no child of it does
            fault.write_text("import os; os.register_at_fork(after_in_child=lambda: os._exit(9))")
            fails(gateway, "fastgw-[a-z0-9]+ ended with exit code 9")
            fault.unlink()
            loads.more(3)
        eventually(lambda: gateway.processes() == before, "all that was begun is gone")
        gateway.upgrade()
        assert gateway.leaving.wait(60) == 0
        assert status(gateway) == 200


def test_what_comes_while_one_is_under_way(config, tmp_path, eventually):
    """A reload is refused, a SIGHUP waits for whoever serves afterwards, a second upgrade is refused."""
    gate = tmp_path / "gate"
    (tmp_path / "fault").write_text(
        f"import os, time\nopen({str(tmp_path / 'there')!r}, 'w').write(str(os.getpid()))\n"
        f"while not os.path.exists({str(gate)!r}): time.sleep(0.01)\n"
    )
    with GatewayProcess(config, env=fault_environment(tmp_path)) as gateway:
        gateway.adopt_orphans()
        answers = []
        asking = threading.Thread(target=lambda: answers.append(gateway.admin("/upgrade", "POST", timeout=120)))
        asking.start()
        eventually(lambda: (tmp_path / "there").exists() and (tmp_path / "there").read_text(), "the new one", 60)
        code, text = gateway.admin("/config/reload", "POST")
        assert (code, "binary upgrade is under way" in text) == (400, True)
        gateway.signal(signal.SIGUSR2)
        eventually(lambda: "no upgrade: an upgrade is under way" in gateway.stderr, "refused", 60)
        gateway.signal(signal.SIGHUP)
        gateway.signal(signal.SIGUSR1)
        eventually(lambda: not caught(gateway.pid), "the signals have arrived", 60)
        gate.touch()
        asking.join(120)
        assert answers[0][0] == 200, answers
        gateway.follow(int((tmp_path / "there").read_text()))
        assert gateway.leaving.wait(60) == 0
        # the hang-up was done by the new one: generation 2 by the upgrade, 3 by the reload
        eventually(lambda: '"generation":3' in gateway.admin("/ready")[1], "the reload", 60)


def test_a_stop_while_one_is_under_way_ends_both(config, tmp_path, eventually):
    (tmp_path / "fault").write_text(
        f"import os, time\nopen({str(tmp_path / 'there')!r}, 'w').close()\ntime.sleep(600)\n"
    )
    with GatewayProcess(config, env=fault_environment(tmp_path)) as gateway:
        gateway.signal(signal.SIGUSR2)
        eventually(lambda: (tmp_path / "there").exists(), "the new one begins", 60)
        everybody = gateway.processes()
        gateway.signal(signal.SIGTERM)
        assert gateway.wait(60) == 0
        eventually(lambda: not any(map(alive, everybody)), "both have ended")


def test_the_old_one_may_die_meanwhile(config, tmp_path, eventually):
    """kill -9 of the one that hands over: its workers drain, and the new one takes over all the same."""
    gate = tmp_path / "gate"
    (tmp_path / "fault").write_text(
        f"import os, time\nopen({str(tmp_path / 'there')!r}, 'w').write(str(os.getpid()))\n"
        f"while not os.path.exists({str(gate)!r}): time.sleep(0.01)\n"
    )
    with GatewayProcess(config, env=fault_environment(tmp_path)) as gateway:
        gateway.adopt_orphans()
        old = gateway.pid
        gateway.signal(signal.SIGUSR2)
        eventually(lambda: (tmp_path / "there").exists() and (tmp_path / "there").read_text(), "the new one", 60)
        gateway.follow(int((tmp_path / "there").read_text()))
        os.kill(old, signal.SIGKILL)
        gateway.leaving.wait(60)
        gate.touch()
        eventually(lambda: "the old supervisor" in gateway.stderr, "the new one has taken over", 60)
        assert status(gateway) == 200
