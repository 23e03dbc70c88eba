"""`ip`: lists in the file and beside it, and files that change."""

import time

import pytest
from pydantic import ValidationError

from fastgw.config import check
from fastgw.policies import RESOLVER, PolicyError
from fastgw.policies.ip import Ip, IpOptions, Ranges
from fastgw.testing import GatewayProcess
from fastgw.testing.policy import Trial

INSIDE, OUTSIDE = "10.1.2.3", "192.0.2.1"
ASK = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: %s\r\n\r\n"


@pytest.mark.parametrize(
    "options, address, passes",
    [
        ({"deny": ["10.0.0.0/8"]}, INSIDE, False),
        ({"deny": ["10.0.0.0/8"]}, OUTSIDE, True),
        ({"deny": "10.1.2.3"}, INSIDE, False),
        ({"allow": ["10.0.0.0/8"]}, INSIDE, True),
        ({"allow": ["10.0.0.0/8"]}, OUTSIDE, False),
        ({"allow": ["10.0.0.0/8"]}, "::1", False),
        ({"allow": ["10.1.0.0/16"], "deny": ["10.0.0.0/8"]}, INSIDE, True),
        ({"allow": ["10.1.0.0/16"], "deny": ["10.0.0.0/8"]}, "10.2.0.1", False),
        ({"allow": ["10.0.0.0/8"], "deny": ["10.0.0.0/8"]}, INSIDE, False),
        ({"deny": ["2001:db8::/32"]}, "2001:db8::7", False),
        ({"allow": ["10.0.0.0/8"], "mode": "log"}, OUTSIDE, True),
    ],
)
def test_who_may_come_in(options, address, passes):
    outcome = Trial("ip", options).ask(client_ip=address)
    assert (outcome.passed, outcome.code) == (passes, None if passes else "ip_denied")
    assert passes or outcome.status == 403


def test_log_mode_says_who_and_is_bounded(caplog):
    trial = Trial("ip", {"deny": ["10.0.0.0/8"], "mode": "log"})
    for _ in range(100):
        assert trial.ask("GET /a", client_ip=INSIDE).passed
    lines = [record.getMessage() for record in caplog.records]
    assert "ip: would be refused: GET '/a' of 10.1.2.3 on route probe" in lines
    assert len(lines) < 60


@pytest.mark.parametrize("options", [{}, {"deny": ["10.0.0.1/8"]}, {"deny": ["x"]}, {"deny": ["::/0"], "mode": "no"}])
def test_wrong_options(options):
    with pytest.raises(ValidationError):
        IpOptions.model_validate(options)


def test_a_file_that_is_not_there_or_bad(tmp_path):
    missing = str(tmp_path / "none.txt")
    with pytest.raises(PolicyError, match=r"none\.txt can not be read: No such file"):
        Trial("ip", {"deny_files": [missing]})
    bad = tmp_path / "bad.txt"
    bad.write_text("10.0.0.0/8\nnonsense\n")
    with pytest.raises(PolicyError, match=r"bad\.txt:2: 'nonsense' is not an address"):
        Ip.prepare(IpOptions(deny_files=str(bad)))


def test_files_are_looked_for_beside_the_configuration(tmp_path):
    (tmp_path / "block.txt").write_text("10.0.0.0/8\n")
    file = tmp_path / "gateway.yaml"
    file.write_text("routes: [{path: /, policies: [{ip: {deny_files: [block.txt]}}, {respond: {body: hi}}]}]")
    config, problems = check(file, resolver=RESOLVER, env={})
    assert [str(problem) for problem in problems] == []
    assert config.routes[0].policies[0].options.deny_files == (str(tmp_path / "block.txt"),)


def test_a_change_is_taken_when_it_is_whole(tmp_path, caplog):
    file = tmp_path / "block.txt"
    file.write_text("10.0.0.0/8\n")
    ranges = Ranges(IpOptions(deny_files=str(file)))
    assert ranges.table.look_up(INSIDE) == 2
    file.write_text("10.0.0.0/8\n192.0.2.0/24\n")
    ranges.look()
    assert ranges.table.look_up(OUTSIDE) == 0, "it was seen to change: perhaps it is still being written"
    ranges.look()
    assert ranges.table.look_up(OUTSIDE) == 2
    for content in ("nonsense\n", None):
        if content is None:
            file.unlink()
        else:
            file.write_text(content)
        caplog.clear()
        ranges.look()
        ranges.look()
        ranges.look()
        assert ranges.table.look_up(OUTSIDE) == 2, "what cannot be used changes nothing"
        (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        assert "what was there before stays in force" in line
    file.write_text("198.51.100.1\n")
    ranges.look()
    ranges.look()
    assert (ranges.table.look_up(OUTSIDE), ranges.table.look_up("198.51.100.1")) == (0, 2)


def ask(gateway, address):
    with gateway.client() as client:
        return client.request(ASK % address.encode()).status


def wait_for(gateway, address, status):
    deadline = time.monotonic() + 60
    while ask(gateway, address) != status:
        assert time.monotonic() < deadline, gateway.stderr
        time.sleep(0.05)


def test_a_running_gateway_takes_a_new_list_and_refuses_without_one(tmp_path):
    file, other = tmp_path / "block.txt", tmp_path / "other.txt"
    file.write_text("10.0.0.0/8\n")
    hello = {"respond": {"body": "hi"}}
    config = {
        "server": {"trusted_proxies": ["127.0.0.1"]},
        "routes": [
            {"path": "/", "policies": [{"ip": {"deny_files": [str(file)]}}, hello]},
            {"path": "/closed", "policies": [{"ip": {"deny_files": [str(other)]}}, hello]},
        ],
    }
    with GatewayProcess(config) as gateway:
        assert (ask(gateway, INSIDE), ask(gateway, OUTSIDE)) == (403, 200)
        with gateway.client() as client:
            answer = client.request(b"GET /closed HTTP/1.1\r\nHost: a\r\n\r\n")
            assert answer.status == 503 and b"policy_unavailable" in answer.body
        new = tmp_path / "new.txt"
        new.write_text("192.0.2.0/24\n")
        new.rename(file)
        wait_for(gateway, OUTSIDE, 403)
        assert ask(gateway, INSIDE) == 200
