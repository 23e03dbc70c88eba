"""Units, addresses, secrets and templates: what is read is what was meant, and nothing else is read."""

import ipaddress
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic_core import PydanticCustomError

from fastgw.config.fields import (
    DURATION_UNITS,
    SIZE_UNITS,
    Secret,
    format_duration,
    format_size,
    parse_cidr,
    parse_duration,
    parse_ratio,
    parse_size,
)
from fastgw.config.templating import Template, Variable


@given(st.integers(1, 3_000_000), st.sampled_from(["ms", "s", "m"]))
def test_a_duration_survives_being_written(count, unit):
    seconds = parse_duration(f"{count}{unit}")
    assert seconds == pytest.approx(count * DURATION_UNITS[unit])
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.floats(0, 3600 * 24 * 365, allow_subnormal=False))
def test_any_number_of_seconds_survives_being_written(seconds):
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, abs=1e-11)


@given(st.integers(0, 2**50))
def test_a_size_survives_being_written(count):
    assert parse_size(format_size(count)) == count


@given(st.integers(0, 1000), st.sampled_from(sorted(SIZE_UNITS)))
def test_units_of_size_mean_what_they_say(count, unit):
    assert parse_size(f"{count}{unit}") == count * SIZE_UNITS[unit]


@pytest.mark.parametrize(
    ("text", "seconds"), [("250ms", 0.25), ("1h30m", 5400), ("1m", 60), (10, 10), ("10", 10), (0.5, 0.5), ("1.5s", 1.5)]
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "count"), [("32KiB", 32768), ("1MB", 10**6), ("1.5kb", 1500), (7, 7), ("10 MiB", 10 << 20)]
)
def test_sizes(text, count):
    assert parse_size(text) == count


@pytest.mark.parametrize(
    "value", ["", "-1s", "1 s 2", "10x", "s", True, None, [], float("nan"), float("inf"), "1e3", "9" * 70]
)
def test_what_is_no_duration(value):
    with pytest.raises(PydanticCustomError) as caught:
        parse_duration(value)
    assert caught.value.type in ("bad_value", "out_of_range")


@pytest.mark.parametrize("value", ["", "-1", "1.5", "10XB", "KiB", True, None, [], 1.5, "9" * 70, 2**51, -1])
def test_what_is_no_size(value):
    with pytest.raises(PydanticCustomError) as caught:
        parse_size(value)
    assert caught.value.type in ("bad_value", "out_of_range")


@given(st.one_of(st.text(max_size=70), st.integers(), st.floats(), st.none(), st.booleans()))
def test_no_value_breaks_a_parser(value):
    for parse in (parse_duration, parse_size, parse_ratio, parse_cidr):
        try:
            parse(value)
        except PydanticCustomError as error:
            assert error.context["expected"]


def test_ratios():
    assert parse_ratio("10%") == parse_ratio("0.1") == parse_ratio(0.1) == 0.1
    for value in ("110%", 1.1, -0.1, "x", True, float("nan")):
        with pytest.raises(PydanticCustomError):
            parse_ratio(value)


def test_a_range_with_host_bits_is_refused_with_what_was_meant():
    assert parse_cidr("10.0.0.1") == ipaddress.ip_network("10.0.0.1/32")
    with pytest.raises(PydanticCustomError) as caught:
        parse_cidr("10.0.0.1/8")
    assert caught.value.context["expected"] == "10.0.0.0/8"


# ---------------------------------------------------------------------------------------------------- secrets


class Options(BaseModel):
    secret: Secret


def test_a_secret_shows_itself_to_nobody():
    options = Options(secret="hunter2")
    secret = options.secret
    for text in (repr(options), str(secret), f"{secret}", f"{secret:>20}", repr([secret]), options.model_dump_json()):
        assert "hunter2" not in text
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    assert secret.reveal() == "hunter2"
    assert secret == Secret("hunter2")
    assert secret != Secret("hunter3")
    assert not Secret("")


def test_a_secret_from_a_file(tmp_path):
    (tmp_path / "jwt").write_text("hunter2\n\n")
    found = Options.model_validate({"secret": "file:jwt"}, context={"base": str(tmp_path)})
    assert found.secret.reveal() == "hunter2\n"
    found = Options.model_validate({"secret": f"file:{tmp_path}/jwt"}, context={"base": "/nowhere"})
    assert found.secret.reveal() == "hunter2\n"


# ---------------------------------------------------------------------------------------------------- templates


def test_a_template_is_taken_apart():
    template = Template("a ${request.header.X-Team} $${b} ${claims.org.id}!")
    assert template.parts == (
        "a ",
        Variable("request.header", "X-Team"),
        " ${b} ",
        Variable("claims", "org.id"),
        "!",
    )
    assert template.constant is None
    assert Template("plain").constant == "plain"
    assert Template("$${x}").constant == "${x}"
    assert Template("").constant == ""


@given(st.text(max_size=50).filter(lambda text: "${" not in text))
def test_text_without_variables_is_itself(text):
    assert Template(text).constant == text


@pytest.mark.parametrize(
    "text", ["${}", "${request}", "${request.header.}", "${request.header.a b}", "${consumer.nam}"]
)
def test_names_that_do_not_exist(text):
    with pytest.raises(PydanticCustomError) as caught:
        Template(text)
    assert caught.value.type == "bad_template"
