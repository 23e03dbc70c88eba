"""The table of states, the page that draws it, and the table of codes."""

from pathlib import Path

from fastgw._core.codes import CODES, INDEX, NAMES, SIDES
from fastgw._core.exchange import STATE_NAMES, TRANSITIONS, Problem, Reply

PAGE = Path(__file__).parents[2] / "docs" / "life-of-a-request.md"


def test_the_table_is_closed():
    assert set(TRANSITIONS) == set(STATE_NAMES)
    assert {after for targets in TRANSITIONS.values() for after in targets} <= set(STATE_NAMES)


def test_every_state_comes_to_its_end():
    for state in STATE_NAMES:
        seen, queue = set(), [state]
        while queue:
            here = queue.pop()
            if here not in seen:
                seen.add(here)
                queue += TRANSITIONS[here]
        assert "done" in seen


def test_the_page_draws_the_table():
    drawn = {tuple(line.split(" --> ")) for line in map(str.strip, PAGE.read_text().splitlines()) if " --> " in line}
    assert drawn == {(state, after) for state, targets in TRANSITIONS.items() for after in targets}


def test_the_page_has_every_code():
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    expected = [f"| `{name}` | {code.status} | {SIDES[code.side]} | {code.title} |" for name, code in CODES.items()]
    assert rows == expected


def test_codes_have_one_status_and_one_side():
    assert [NAMES[INDEX[name]] for name in NAMES] == list(NAMES)
    assert all(400 <= code.status <= 599 and code.side in (1, 2, 3) for code in CODES.values())
    # 502: the upstream misbehaved. 504: time ran out. 503: nobody could take it.
    assert all(code.side == 3 for code in CODES.values() if code.status == 502)
    # RFC 9111 5.2.1.7 gives 504 to only-if-cached too
    assert all("timeout" in name or name == "not_cached" for name, code in CODES.items() if code.status == 504)


def test_replies_and_problems_refuse_what_is_no_status():
    for make in (lambda: Reply(99), lambda: Reply(101), lambda: Problem(200, "x"), lambda: Problem(600, "x")):
        try:
            make()
        except ValueError:
            continue
        raise AssertionError("it was taken")
