"""`bot`: classes of User-Agents, own expressions, headers that are missing."""

import pytest
from pydantic import ValidationError

from fastgw.policies import PolicyError
from fastgw.policies._agents import CLASSES
from fastgw.policies._patterns import PatternSet
from fastgw.policies.bot import BotOptions
from fastgw.testing.policy import Trial

AGENTS = {
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36": "other",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile": "other",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:130.0) Gecko/20100101 Firefox/130.0": "other",
    "sqlmap/1.8#stable (https://sqlmap.org)": "scanners",
    "Mozilla/5.00 (Nikto/2.5.0) (Evasions:None) (Test:Port Check)": "scanners",
    "Fuzz Faster U Fool v2.1.0": "scanners",
    "Mozilla/5.0 (compatible; GPTBot/1.2; +https://openai.com/gptbot)": "ai",
    "Mozilla/5.0 (compatible; ClaudeBot/1.0)": "ai",
    "Mozilla/5.0 (compatible; AhrefsBot/7.0; +http://ahrefs.com/robot/)": "crawlers",
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)": "search",
    "curl/8.5.0": "scripts",
    "python-requests/2.32": "scripts",
    "Go-http-client/1.1": "scripts",
    "Mozilla/5.0 (X11; Linux x86_64) HeadlessChrome/140.0.0.0 Safari/537.36": "headless",
    "": "empty",
    "   ": "empty",
}


@pytest.mark.parametrize("agent, kind", AGENTS.items())
def test_classes(agent, kind):
    trial = Trial("bot", {"deny": [], "header": "X-Bot-Class"})
    for _ in range(2):
        outcome = trial.ask("GET /", {"User-Agent": agent, "X-Bot-Class": "forged"})
        assert outcome.passed and outcome.upstream_header("X-Bot-Class") == kind
    if kind != "other":
        outcome = Trial("bot", {"deny": kind}).ask("GET /", {"User-Agent": agent})
        assert (outcome.passed, outcome.status, outcome.code) == (False, 403, "bot_refused")
    others = [one for one in (*CLASSES, "empty") if one != kind]
    assert Trial("bot", {"deny": others}).ask("GET /", {"User-Agent": agent}).passed


def test_no_header_at_all_is_empty():
    assert not Trial("bot", {"deny": ["empty"]}).ask("GET /").passed
    assert Trial("bot").ask("GET /").passed


def test_own_expressions():
    trial = Trial("bot", {"deny": ["scripts"], "deny_agents": ["^evil"], "allow_agents": ["curl/.*monitoring"]})
    asked = {agent: trial.ask("GET /", {"User-Agent": agent}).passed for agent in (
        "curl/8", "curl/8 (Monitoring)", "Evil/1", "not evil/1")}  # fmt: skip
    assert list(asked.values()) == [False, True, False, True]


def test_missing_headers():
    trial = Trial("bot", {"deny": [], "require_headers": ["Accept", "Accept-Language"]})
    assert trial.ask("GET /", {"accept": "*/*", "ACCEPT-LANGUAGE": "de"}).passed
    assert trial.ask("GET /", {"accept": "*/*"}).code == "bot_refused"


def test_log_mode(caplog):
    assert Trial("bot", {"mode": "log"}).ask("GET /", {"User-Agent": "sqlmap/1"}).passed
    assert [record.getMessage() for record in caplog.records] == [
        "bot: would be refused: GET '/' of 127.0.0.1 on route probe: scanners"
    ]


def test_what_is_kept_is_bounded():
    trial = Trial("bot")
    for number in range(5000):
        trial.ask("GET /", {"User-Agent": f"agent-{number}"})
    assert len(trial.policy.known) <= 4096


@pytest.mark.parametrize(
    "options",
    [{"deny": []}, {"deny": ["nice"]}, {"deny_agents": ["("]}, {"deny_agents": ["(?=a)"]}, {"header": "Host"}],
)
def test_wrong_options(options):
    with pytest.raises(ValidationError):
        BotOptions.model_validate(options)


class GivesUp:
    """A set whose automaton has not enough memory: the library says then that nothing was found."""

    def Match(self, text):
        return None


def test_a_set_that_gives_up_finds_all_the_same():
    found = PatternSet(["sql", "x(y+)z", "[0-9]{3}"])
    assert found.match("a SQL 123") == [0, 2]
    assert found.match("nothing") == []
    found.set = GivesUp()
    assert found.match("a SQL 123") == [0, 2]
    assert found.match("nothing") == []


def test_expressions_that_do_not_compile_are_told():
    with pytest.raises(PolicyError, match="does not compile"):
        PatternSet(["("])
