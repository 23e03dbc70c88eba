"""Binary upgrades under load: another supervisor takes the sockets over, and no request of any client fails."""

from fastgw.testing import GatewayProcess, free_port
from fastgw.testing.certificates import Authority
from tests.server.upgrading import Fresh, Kept, Loads, Streams, listening, rewrite, trusting, workers_of


def test_no_request_fails_over_upgrades_to_other_numbers_of_workers(config, tmp_path, capsys):
    """Clients by HTTP/1.1, kept and new connections, TLS and HTTP/2, over three upgrades: from 2 workers to 3, 1, 2."""
    authority = Authority(tmp_path)
    pair = authority.leaf("a.example")
    secure = free_port()
    # a client that is not given the processor for half of it would find its idle connection closed
    config["server"]["timeouts"]["drain"] = "100s"
    with GatewayProcess(config) as gateway:
        plain, tls = gateway.address, ("127.0.0.1", secure)

        def add(tree):
            tree["server"]["listeners"] = [
                f"127.0.0.1:{gateway.port}",
                {"bind": f"127.0.0.1:{secure}", "tls": {"certificates": [{"cert": pair.cert, "key": pair.key}]}},
            ]

        rewrite(gateway, add)
        assert gateway.admin("/config/reload", "POST")[0] == 200
        wrap = trusting(authority.cert)
        loads = Loads(
            Kept(plain, 1), Kept(plain, 2), Fresh(plain, 3), Kept(tls, 4, wrap), Fresh(tls, 5, wrap),
            Streams(plain, 6), Streams(plain, 7),
        )  # fmt: skip
        with loads:
            sockets = listening(gateway.port) | listening(secure)
            assert len(sockets) == 4
            pids = {gateway.pid}
            for workers in (3, 1, 2):
                rewrite(gateway, lambda tree, n=workers: tree["server"].update(workers=n))
                answer = gateway.upgrade()
                pids.add(answer["pid"])
                loads.more(3)
                assert gateway.leaving.wait(60) == 0
                loads.more(3)
                now = listening(gateway.port) | listening(secure)
                assert sockets <= now, "what waits in the queue of a socket is lost with it"
                sockets = now
                assert len(workers_of(gateway)) == workers
            assert len(pids) == 4
            assert len(sockets) == 6, "as many per listener as there ever were workers"
        with capsys.disabled():
            print(f"\n3 upgrades, 0 failed: {loads.numbers()}")
