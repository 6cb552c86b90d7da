"""The catalogue of data domains, its DCAT form, and the standing data shipped with each domain."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

import pytest

from domains.btm_assets.events import Agreement, AssetClass, Scheme, VerificationLevel
from domains.governance.catalogue import policy_bases, policy_codes
from domains.metering.events import MeasurementQuantity
from spine import trust
from spine.catalogue import Appointment, DataDomain, Label, Personal, dcat
from spine.codelist import CodeListed, problems
from spine.console.reference import coordinators
from spine.gb import GspGroup, host_gsp_group, periods_in
from spine.installation import CATALOGUE, DOMAINS
from spine.policy import Role
from spine.policy_data import POLICY_DATA
from spine.services.reference import shipped
from tests.helpers.standing import BOARD, shipped_file, shipped_list

BY_NAME = {domain.name: domain for domain in CATALOGUE}
LISTS = [(domain.name, name) for domain in CATALOGUE for name in domain.code_lists]
BY_ID = "-".join


# Data sets


def test_every_topic_of_the_log_is_in_a_data_set() -> None:
    held = {topic for d in CATALOGUE for each in d.data_sets for topic in each.topics}
    assert held == set(trust.TOPICS)


def test_every_category_of_the_policy_that_is_served_belongs_to_one_data_set() -> None:
    said = [c for d in CATALOGUE for each in d.data_sets for c in each.categories]
    assert len(said) == len(set(said))
    served = {"HH_CONSUMPTION", "EXPORT", "METERING_POINT", "CONSENTS", "ASSET"}
    assert set(said) == served <= policy_codes("categories")


def test_what_is_about_people_is_never_open_and_what_is_open_names_a_licence() -> None:
    for domain in CATALOGUE:
        for each in domain.data_sets:
            if each.label is Label.OPEN:
                assert each.personal is Personal.NONE and each.licence
            assert each.methods == () if each.label is Label.CLOSED else each.methods


def test_the_appointment_for_assets_is_shown_as_provisional() -> None:
    assets = BY_NAME["btm_assets"]
    assert (assets.coordinator, assets.appointment) == ("Elexon", Appointment.PROVISIONAL)
    found = {d["@id"]: d["energyos:appointment"] for d in dcat(CATALOGUE)["dcat:catalog"]}
    assert found["urn:energyos:domain:btm_assets"] == "PROVISIONAL"
    assert found["urn:energyos:domain:metering"] == "APPOINTED"


# DCAT: the fields that we require of each class, and nothing that points nowhere

REQUIRED = {
    "dcat:Catalog": {"dct:title", "dct:description", "dct:publisher"},
    "dcat:Dataset": {
        "dct:identifier",
        "dct:title",
        "dct:description",
        "dct:publisher",
        "dct:rightsHolder",
        "dct:accessRights",
        "dcat:theme",
        "dcat:keyword",
        "energyos:sensitivityLabel",
        "energyos:personalData",
    },
    "dcat:DataService": {"dct:title", "dct:description", "dcat:servesDataset"},
    "dcat:Distribution": {"dct:title", "dcat:accessService"},
    "foaf:Organization": {"foaf:name"},
    "dct:RightsStatement": {"rdfs:label"},
    "dct:LicenseDocument": {"rdfs:label"},
    "skos:Concept": {"skos:prefLabel"},
}


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every object of a JSON document."""
    if isinstance(value, dict):
        yield value
    for child in value.values() if isinstance(value, dict) else value:
        if isinstance(child, dict | list):
            yield from nodes(child)


def flaws(document: dict[str, Any]) -> list[str]:
    """What a reader of DCAT would miss."""
    context = document["@context"]
    found = [node for node in nodes(document) if node is not context]
    ids = [node["@id"] for node in found if "@type" in node and "@id" in node]
    wrong = [f"{i} is used twice" for i in set(ids) if ids.count(i) > 1]
    for node in found:
        kind = node.get("@type", "")
        if not kind:
            wrong += [f"{node} points nowhere"] if node.get("@id") not in ids else []
        missing = REQUIRED.get(kind, set()) - {k for k, v in node.items() if v}
        wrong += [f"{kind} without {name}" for name in sorted(missing)]
        wrong += [
            f"no prefix for {k}" for k in node if k[0] != "@" and k.split(":")[0] not in context
        ]
        wrong += [f"unknown class {kind}"] if kind and kind not in REQUIRED else []
    return wrong


def test_the_catalogue_is_whole_as_dcat() -> None:
    document = json.loads(json.dumps(dcat(CATALOGUE)))
    assert flaws(document) == []
    data_sets = [n for n in nodes(document) if n.get("@type") == "dcat:Dataset"]
    assert len(data_sets) == sum(len(domain.data_sets) for domain in CATALOGUE)


def test_the_command_prints_the_catalogue_as_a_table_as_json_and_as_dcat(
    capsys: pytest.CaptureFixture[str],
) -> None:
    coordinators()
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if "  Assets behind the meter " in line]
    assert "Elexon (provisional)" in line and "SHARED" in line and "the owner of each asset" in line
    coordinators(as_json=True)
    said = {d["domain"]: d for d in json.loads(capsys.readouterr().out)}
    assert said["btm_assets"]["appointment"] == "PROVISIONAL"
    assert said["metering"]["data_sets"][1]["categories"] == ["HH_CONSUMPTION", "EXPORT"]
    coordinators(as_dcat=True)
    assert flaws(json.loads(capsys.readouterr().out)) == []


def test_the_check_of_the_catalogue_bites() -> None:
    document = dcat(CATALOGUE)
    first = document["dcat:catalog"][0]
    first["dcat:dataset"][0]["dct:rightsHolder"] = ""
    first["dcat:service"][0]["@id"] = "urn:elsewhere"
    first["other:word"] = 1
    said = flaws(document)
    assert "dcat:Dataset without dct:rightsHolder" in said
    assert "no prefix for other:word" in said
    assert any("points nowhere" in flaw for flaw in said)


# Shipped standing data


def test_every_list_has_a_file_and_every_file_a_list() -> None:
    names = [name for _, name in LISTS]
    assert len(names) == len(set(names))
    for domain in CATALOGUE:
        if domain.code_lists:
            files = {name.removesuffix(".csv") for name in shipped(domain.name)}
            assert files == set(domain.code_lists)
            assert domain.reference_topic in DOMAINS.by_topic


@pytest.mark.parametrize(("domain", "name"), LISTS, ids=[BY_ID(each) for each in LISTS])
def test_a_shipped_file_is_right(domain: str, name: str) -> None:
    file, spec = shipped_file(domain, name), BY_NAME[domain].code_lists[name]
    assert (file.domain, file.list_name) == (domain, name)
    assert list(problems(spec, file.command(BOARD))) == []
    assert shipped_list(domain, name).entries


def codes(domain: str, name: str) -> set[str]:
    return {entry.code for entry in shipped_list(domain, name).entries}


def test_lists_that_describe_what_the_code_decides_say_the_same() -> None:
    """One truth: the policy data and the enumerations. The lists add labels and no code."""
    assert codes("governance", "purposes") == policy_codes("purposes")
    assert codes("governance", "categories") == policy_codes("categories")
    assert codes("governance", "lawful_bases") == policy_bases()
    assert codes("governance", "roles") == set(Role)
    assert codes("governance", "sensitivity_labels") == set(Label)
    assert codes("metering", "gsp_groups") == set(GspGroup)
    assert codes("metering", "measurement_quantities") == set(MeasurementQuantity)
    assert codes("btm_assets", "asset_classes") == set(AssetClass)
    assert codes("btm_assets", "link_schemes") == set(Scheme)
    assert codes("btm_assets", "connection_agreements") == set(Agreement)
    assert codes("btm_assets", "verification_levels") == set(VerificationLevel)
    bases: Any = POLICY_DATA[max(POLICY_DATA)]["bases"]
    assert {p for terms in bases.values() for p in terms["purposes"]} <= policy_codes("purposes")


def test_host_distributors_are_those_that_tell_the_gsp_group() -> None:
    entries = shipped_list("metering", "distributors").entries
    assert [e.code for e in entries] == [str(n) for n in range(10, 39)]
    for entry in entries:
        host = host_gsp_group(entry.code)
        assert entry.attribute("kind") == ("INDEPENDENT" if host is None else "HOST")
        assert entry.attribute("gsp_group") == (host or "")


def test_clock_changes_are_those_of_the_time_zone_rules_in_use() -> None:
    entries = shipped_list("metering", "clock_changes").entries
    listed = {date.fromisoformat(e.code): int(e.attribute("periods")) for e in entries}
    day, last = date(2000, 1, 1), date(2040, 12, 31)
    while day <= last:
        assert listed.get(day, 48) == periods_in(day)
        day += timedelta(days=1)


CALENDARS = ("bank_holidays_england_and_wales", "bank_holidays_scotland", "clock_changes")


@pytest.mark.parametrize("name", CALENDARS)
def test_an_entry_of_a_calendar_holds_on_its_own_day_only(name: str) -> None:
    def own_day(entry: CodeListed) -> bool:
        day = date.fromisoformat(entry.code)
        return (entry.effective_from, entry.effective_to) == (day, day + timedelta(days=1))

    assert all(own_day(entry) for entry in shipped_list("metering", name).entries)


def test_bank_holidays_differ_between_england_and_scotland() -> None:
    england = shipped_list("metering", "bank_holidays_england_and_wales")
    scotland = shipped_list("metering", "bank_holidays_scotland")
    easter_monday, st_andrew = date(2026, 4, 6), date(2026, 11, 30)
    assert (len(england.on(easter_monday)), len(scotland.on(easter_monday))) == (1, 0)
    assert (len(england.on(st_andrew)), len(scotland.on(st_andrew))) == (0, 1)
    for calendar in (england, scotland):
        assert all(date.fromisoformat(e.code).weekday() < 5 for e in calendar.entries)
        assert {date.fromisoformat(e.code).year for e in calendar.entries} == set(range(2012, 2028))


def test_a_domain_without_lists_says_so() -> None:
    nothing = DataDomain("x", "X", "nobody", Appointment.NONE, ())
    assert nothing.code_lists == {} and not BY_NAME["consumers"].code_lists
