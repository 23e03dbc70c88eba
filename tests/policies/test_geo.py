"""`geo`, with databases that are written here."""

import mmdb_writer
import netaddr
import pytest
from pydantic import ValidationError

from fastgw.policies import PolicyError
from fastgw.policies.geo import Databases, Geo, GeoOptions
from fastgw.testing.policy import Trial

GERMAN, FRENCH, REGISTERED, PLAIN, NOWHERE = "192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "127.0.0.1"


def write(path, records):
    writer = mmdb_writer.MMDBWriter(6, "Test", ipv4_compatible=True)
    for network, record in records.items():
        writer.insert_network(netaddr.IPSet([network]), record)
    writer.to_db_file(str(path))
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("geo")
    countries = {
        "192.0.2.0/24": {"country": {"iso_code": "DE", "names": {"en": "Germany"}}},
        "198.51.100.0/24": {"country": {"iso_code": "FR"}},
        "203.0.113.0/24": {"registered_country": {"iso_code": "NO"}},
        "2001:db8::/32": {"country": "CH"},
    }
    operators = {
        "192.0.2.0/24": {"autonomous_system_number": 64496, "autonomous_system_organization": "Exämple\r\nNet"},
        "198.51.100.0/24": {"autonomous_system_number": 64511},
    }
    return {
        "country_file": write(folder / "country.mmdb", countries),
        "asn_file": write(folder / "asn.mmdb", operators),
    }


@pytest.mark.parametrize(
    "options, passing",
    [
        ({"deny_countries": ["DE"]}, {FRENCH, REGISTERED, PLAIN, NOWHERE}),
        ({"deny_countries": "no"}, {GERMAN, FRENCH, PLAIN, NOWHERE}),
        ({"allow_countries": ["DE", "CH"]}, {GERMAN, PLAIN}),
        ({"allow_countries": ["DE"], "unknown": "allow"}, {GERMAN, NOWHERE}),
        ({"allow_countries": ["DE", "FR"], "deny_countries": ["FR"]}, {GERMAN}),
        ({"deny_asns": ["AS64496"]}, {FRENCH, REGISTERED, PLAIN, NOWHERE}),
        ({"allow_asns": [64496, "64511"]}, {GERMAN, FRENCH}),
        ({"allow_asns": ["as64511"], "deny_countries": ["FR"]}, set()),
        ({"allow_countries": ["DE"], "mode": "log"}, {GERMAN, FRENCH, REGISTERED, PLAIN, NOWHERE}),
    ],
)
def test_who_may_come_in(files, options, passing):
    trial = Trial("geo", {**files, **options})
    for _ in range(2):                                  # found, then remembered
        outcomes = {address: trial.ask(client_ip=address) for address in (GERMAN, FRENCH, REGISTERED, PLAIN, NOWHERE)}
        assert {address for address, outcome in outcomes.items() if outcome.passed} == passing
        codes = {outcome.code for outcome in outcomes.values() if not outcome.passed}
        assert codes <= {"country_denied"}


def test_headers_are_the_gateways(files):
    names = {"country": "X-Country", "asn": "X-Asn", "operator": "X-Operator"}
    trial = Trial("geo", {**files, "headers": names})
    forged = {"x-country": "US", "X-ASN": "1", "X-Operator": "Evil"}
    told = [trial.ask("GET /", forged, client_ip=GERMAN).upstream_header(name) for name in names.values()]
    assert told == ["DE", "64496", "Ex?mple??Net"]
    told = [trial.ask("GET /", forged, client_ip=NOWHERE).upstream_header(name) for name in names.values()]
    assert told == [None, None, None]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"deny_countries": ["DE"]},
        {"country_file": "c.mmdb"},
        {"country_file": "c.mmdb", "deny_countries": ["Germany"]},
        {"country_file": "c.mmdb", "deny_countries": [False]},
        {"country_file": "c.mmdb", "deny_asns": [1]},
        {"asn_file": "a.mmdb", "deny_asns": ["AS0"]},
        {"asn_file": "a.mmdb", "deny_asns": ["x"]},
        {"country_file": "c.mmdb", "headers": {"country": "Host"}},
    ],
)
def test_wrong_options(options):
    with pytest.raises(ValidationError):
        GeoOptions.model_validate(options)


def test_what_is_no_database(tmp_path):
    file = tmp_path / "bad.mmdb"
    file.write_bytes(b"nonsense" * 100)
    options = GeoOptions(country_file=str(file), deny_countries=["DE"])
    with pytest.raises(PolicyError, match=r"bad\.mmdb is no database in MaxMind's format"):
        Geo.prepare(options)
    with pytest.raises(PolicyError, match=r"none\.mmdb can not be read"):
        Trial("geo", {"country_file": str(tmp_path / "none.mmdb"), "deny_countries": ["DE"]})


def test_a_new_database_is_taken_and_a_cut_one_changes_nothing(tmp_path, files):
    file = tmp_path / "country.mmdb"
    write(file, {"192.0.2.0/24": {"country": {"iso_code": "DE"}}})
    found = Databases(GeoOptions(country_file=str(file), deny_countries=["DE"]))
    assert found.place(GERMAN).country == "DE"
    whole = file.read_bytes()
    file.write_bytes(whole[:50])
    found.look()
    found.look()
    assert (found.place(GERMAN).country, found.place(FRENCH).country) == ("DE", "")
    write(file, {"192.0.2.0/24": {"country": {"iso_code": "AT"}}})
    found.look()
    found.look()
    assert found.place(GERMAN).country == "AT"
