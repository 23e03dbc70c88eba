"""A renewed certificate goes from its file to every process of a gateway by itself; a bad one does not."""

import json
import os
import re
import signal

import pytest

from fastgw.gateway import Gateway
from fastgw.testing import GatewayProcess
from fastgw.testing.certificates import Authority
from tests.server.test_processes import comm


@pytest.fixture
def pki(tmp_path):
    return Authority(tmp_path / "pki")


def with_tls(config, pair, **more):
    tls = {"certificates": [{"cert": pair.cert, "key": pair.key, **more}]}
    return {**config, "server": {**config["server"], "listeners": [{"bind": "127.0.0.1:0", "tls": tls}]}}


def end_of(text):
    found = re.search(r'^fastgw_certificate_not_after_seconds\{.*name="a.example"\} (\S+)$', text, re.MULTILINE)
    return int(float(found[1]))


def failures(text):
    return float(re.search(r"^fastgw_certificate_reload_failures_total (\S+)$", text, re.MULTILINE)[1])


def ends(pair):
    return int(pair.certificate.not_valid_after_utc.timestamp())


def agent_of(gateway):
    return next(pid for pid in gateway.processes() if comm(pid) == "fastgw-agent")


def test_a_renewal_needs_no_reload(config, pki, eventually):
    pair = pki.leaf("a.example", days=30, passphrase="open sesame")
    with GatewayProcess(with_tls(config, pair, passphrase="open sesame")) as gateway:
        assert end_of(gateway.admin("/metrics")[1]) == ends(pair)
        renewed = pki.leaf("a.example", days=80, file="new", passphrase="open sesame")
        pair.replace(renewed)
        eventually(lambda: end_of(gateway.admin("/metrics")[1]) == ends(renewed), "the renewed one is served")
        ready = json.loads(gateway.admin("/ready")[1])
        assert (ready["generation"], ready["workers"]) == (2, 2)
        pair.replace(pki.expired("a.example"))
        eventually(lambda: failures(gateway.admin("/metrics")[1]) == 1, "the bad one is counted")
        assert end_of(gateway.admin("/metrics")[1]) == ends(renewed)
        os.kill(agent_of(gateway), signal.SIGKILL)   # its successor knows what is in force, not what it was born with
        eventually(lambda: successor_answers(gateway, ends(renewed)), "another agent")
        shown = gateway.admin("/config")[1]
        assert '"passphrase":"***"' in shown
        everything = shown + gateway.stdout + gateway.stderr
    assert "what was in use stays" in everything
    assert "sesame" not in everything
    assert "PRIVATE" not in everything


def successor_answers(gateway, end):
    try:
        return end_of(gateway.admin("/metrics")[1]) == end
    except OSError:
        return False


async def looks(gateway):
    """What happens every few seconds, twice: a file must have been still."""
    return [await gateway.refresh_certificates() for _ in range(2)]


def test_in_one_process(config, pki):
    import asyncio

    pair = pki.leaf("a.example", days=30)

    async def scenario():
        async with Gateway(with_tls(config, pair)) as gateway:
            assert await looks(gateway) == [False, False]
            renewed = pki.leaf("a.example", days=80, file="new")
            pair.replace(renewed)
            assert await looks(gateway) == [False, True]
            text = (await gateway.metrics())[1].decode()
            assert end_of(text) == ends(renewed)
            assert gateway.compiled.spec.generation == 2
            assert gateway.plane.engine.snapshot()["generation"] == 2

    asyncio.run(scenario())


def test_a_renewal_that_the_workers_can_not_take_is_tried_again(config, pki, monkeypatch):
    import asyncio

    pair = pki.leaf("a.example", days=30)

    async def scenario():
        async with Gateway(with_tls(config, pair)) as gateway:
            await looks(gateway)
            pair.replace(pki.leaf("a.example", days=80, file="new"))
            prepare = gateway.plane.prepare

            async def fails(*_):
                raise OSError("no memory")

            gateway.plane.prepare = fails
            assert not await gateway.refresh_certificates()
            with pytest.raises(OSError, match="no memory"):
                await gateway.refresh_certificates()
            gateway.plane.prepare = prepare
            assert await gateway.refresh_certificates()

    asyncio.run(scenario())
