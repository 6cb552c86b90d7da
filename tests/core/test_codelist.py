"""Standing data: the rules of a load, one row per refusal, and what a list says as of when."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import pytest

from domains.governance.catalogue import GOVERNANCE_STANDING
from domains.metering.catalogue import METERING_STANDING
from spine import trust
from spine.codelist import (
    NOT_LOADED,
    ROWS_MAX,
    Attribute,
    CodeList,
    CodeListed,
    CodeWithdrawn,
    ListSpec,
    LoadCodes,
    check_listed,
    day_of,
    evolve,
    specs_by_name,
    standing_data,
)
from spine.domain import Actor, fold
from spine.errors import Invalid, NotPermitted, Reason, Refused, SpineError
from spine.event import SignerRole
from spine.rows import Applied
from tests.helpers.records import (
    BY_CONSUMERS,
    BY_DSI,
    BY_GOVERNANCE,
    BY_METERING,
    Scene,
    command,
    digest,
    refold,
)
from tests.helpers.specification import given
from tests.helpers.standing import BOARD, shipped_list

SPEC = ListSpec("areas", "Areas", re.compile("_[A-Z]"), ("host",), ("note",))
STANDING = standing_data(
    trust.METERING_REFERENCE,
    SignerRole.METERING,
    specs_by_name(SPEC, ListSpec("told", "Told elsewhere", only=frozenset({"A"}))),
)
SPRING, SUMMER, AUTUMN = date(2025, 3, 1), date(2025, 6, 1), date(2025, 9, 1)
HOST = (Attribute("host", "10"),)
EAST = CodeListed("areas", "_A", "Eastern", HOST, SPRING, None, "a document", "CC-BY-4.0")
EAST_UNTIL = replace(EAST, effective_to=SUMMER)
EAST_AGAIN = replace(EAST, label="East", effective_from=SUMMER)
SOUTH = replace(EAST, code="_H", label="Southern")
GONE = CodeWithdrawn("areas", "_A", SPRING, "a slip of the pen")


def load(*rows: CodeListed | CodeWithdrawn, by: Actor = BOARD, name: str = "areas") -> LoadCodes:
    listed = tuple(row for row in rows if isinstance(row, CodeListed))
    return LoadCodes(by, name, listed, tuple(r for r in rows if isinstance(r, CodeWithdrawn)))


# What follows from a load


def test_a_load_lists_what_is_new_and_the_same_again_records_nothing() -> None:
    first = given(STANDING).when(load(EAST, SOUTH)).then(EAST, SOUTH)
    first.when(load(EAST, SOUTH)).nothing()
    first.when(load(SOUTH)).nothing()
    renamed = replace(SOUTH, label="South")
    first.when(load(EAST, renamed)).then(renamed)


def test_a_code_that_changes_its_meaning_has_two_entries_side_by_side() -> None:
    after = given(STANDING, EAST).when(load(EAST_AGAIN, EAST_UNTIL)).then(EAST_AGAIN, EAST_UNTIL)
    state: CodeList = after.state
    assert state.find("_A", SPRING) == EAST_UNTIL
    assert state.find("_A", date(2025, 5, 31)) == EAST_UNTIL
    assert state.find("_A", SUMMER) == EAST_AGAIN
    assert state.on(AUTUMN) == (EAST_AGAIN,)


def test_what_was_withdrawn_is_a_no_on_every_day_until_it_is_listed_again() -> None:
    after = given(STANDING, EAST, SOUTH).when(load(GONE)).then(GONE)
    assert after.state.find("_A", SUMMER) is None
    after.when(load(GONE)).nothing()
    assert after.when(load(EAST)).then(EAST).state.withdrawn == ()


def test_a_list_that_nobody_loaded_knows_no_code() -> None:
    assert NOT_LOADED.find("_A", SUMMER) is None and not NOT_LOADED.loaded
    with pytest.raises(Invalid) as refusal:
        check_listed(NOT_LOADED, "_A", SUMMER, "area", "area")
    assert refusal.value.reason == Reason.CODE_UNKNOWN
    assert check_listed(CodeList((EAST,)), "_A", SUMMER, "area", "area") == EAST
    assert (EAST.attribute("host"), EAST.attribute("note")) == ("10", "")


def test_a_day_is_a_day_in_london() -> None:
    assert day_of(datetime(2025, 6, 30, 23, tzinfo=UTC)) == date(2025, 7, 1)
    assert day_of(datetime(2025, 1, 31, 23, tzinfo=UTC)) == date(2025, 1, 31)


def entry(**changes: Any) -> LoadCodes:
    return load(replace(EAST, **changes))


MANY = tuple(replace(EAST, effective_from=date.fromordinal(735_000 + n)) for n in range(ROWS_MAX))
TWO_NOTES = (*HOST, Attribute("note", "x"), Attribute("note", "y"))


@pytest.mark.parametrize(
    ("command", "error", "reason"),
    [
        (load(EAST, by=Actor("supplier", "s")), NotPermitted, "ROLE_NOT_ALLOWED"),
        (load(EAST, by=Actor("auditor", "a"), name="?"), NotPermitted, "ROLE_NOT_ALLOWED"),
        (load(EAST, name="purposes"), Invalid, "LIST_UNKNOWN"),
        (load(), Invalid, "FIELD_MISSING"),
        (load(SOUTH, *MANY), Invalid, "REQUEST_TOO_LARGE"),
        (load(EAST, replace(EAST, label="x")), Invalid, "FIELD_INVALID"),
        (load(EAST, GONE), Invalid, "FIELD_INVALID"),
        (entry(effective_from=date(1989, 12, 31)), Invalid, "TIME_INVALID"),
        (entry(code="A"), Invalid, "FIELD_INVALID"),
        (entry(code=""), Invalid, "FIELD_INVALID"),
        (load(replace(EAST, code="B"), name="told"), Invalid, "CODE_UNKNOWN"),
        (entry(effective_to=SPRING), Invalid, "INTERVAL_INVALID"),
        (entry(label=""), Invalid, "FIELD_MISSING"),
        (entry(label="x" * 201), Invalid, "FIELD_INVALID"),
        (entry(label="bell \a"), Invalid, "FIELD_INVALID"),
        (entry(source=""), Invalid, "FIELD_MISSING"),
        (entry(licence=""), Invalid, "FIELD_MISSING"),
        (entry(attributes=()), Invalid, "FIELD_MISSING"),
        (entry(attributes=(*HOST, Attribute("other", "x"))), Invalid, "FIELD_INVALID"),
        (entry(attributes=TWO_NOTES), Invalid, "FIELD_INVALID"),
        (entry(attributes=(Attribute("host", ""),)), Invalid, "FIELD_MISSING"),
        (load(replace(GONE, why="")), Invalid, "FIELD_MISSING"),
        (load(GONE), Refused, "CODE_UNKNOWN"),
        (load(EAST, EAST_AGAIN), Refused, "CODE_OVERLAPS"),
    ],
)
def test_refusals(command: LoadCodes, error: type[SpineError], reason: str) -> None:
    with pytest.raises(error) as refusal:
        STANDING.decide(NOT_LOADED, command, datetime(2025, 1, 1, tzinfo=UTC))
    assert refusal.value.reason == reason


def test_a_fact_of_another_list_or_without_a_day_does_not_fold() -> None:
    with pytest.raises(Refused):
        evolve(CodeList((EAST,)), replace(SOUTH, list_name="others"))
    with pytest.raises(Refused):
        evolve(NOT_LOADED, replace(EAST, effective_to=SPRING))


# In the log: whose list it is


def outcome(applied: Applied) -> Reason | None:
    return applied.refusals[0].reason if applied.refusals else None


def test_only_the_coordinator_of_its_domain_can_put_a_code_into_a_list() -> None:
    """The topic is the list's domain; a key of any other role is void there, for every fold."""
    said = command("areas", EAST, domain=STANDING)
    for topic, domain, owner in (
        (trust.METERING_REFERENCE, METERING_STANDING, BY_METERING),
        (trust.GOVERNANCE_REFERENCE, GOVERNANCE_STANDING, BY_GOVERNANCE),
    ):
        scene = Scene(topic=topic, partition=0, domain=domain)
        others = {BY_METERING, BY_GOVERNANCE, BY_CONSUMERS, BY_DSI} - {owner}
        for other in others:
            assert outcome(scene.facts(said, by=other)) == Reason.VOID_ROLE
        assert scene.fold.subject("areas").state == NOT_LOADED
        assert outcome(scene.facts(said, by=owner)) is None
        assert scene.fold.subject("areas").state == CodeList((EAST,))


def test_naive_a_fold_that_asks_no_role_takes_a_code_from_anybody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = (trust.METERING_REFERENCE, "f")
    monkeypatch.setitem(trust.MAY_WRITE, place, frozenset(SignerRole))  # type: ignore[misc]
    scene = Scene(topic=trust.METERING_REFERENCE, partition=0, domain=METERING_STANDING)
    assert outcome(scene.facts(command("areas", EAST, domain=STANDING), by=BY_DSI)) is None


def test_of_two_loads_that_race_the_later_is_void_and_the_same_one_twice_is_a_duplicate() -> None:
    scene = Scene(topic=trust.METERING_REFERENCE, partition=0, domain=METERING_STANDING)
    first = command("areas", EAST, domain=STANDING)
    assert outcome(scene.facts(first, by=BY_METERING)) is None
    assert scene.facts(first, by=BY_METERING).duplicates == 1
    raced = scene.facts(command("areas", SOUTH, domain=STANDING), by=BY_METERING)
    assert outcome(raced) == Reason.VOID_CHAIN
    other = scene.facts(command("others", replace(SOUTH, list_name="others")), by=BY_METERING)
    assert outcome(other) == Reason.VOID_ROLE  # a fact typed as one of the consumers domain
    assert digest(refold(scene.log.records, METERING_STANDING)) == scene.digest()


def test_all_facts_of_a_load_apply_or_none() -> None:
    scene = Scene(topic=trust.METERING_REFERENCE, partition=0, domain=METERING_STANDING)
    broken = replace(SOUTH, effective_to=SPRING)
    applied = scene.facts(command("areas", EAST, broken, domain=STANDING), by=BY_METERING)
    assert outcome(applied) == Reason.RECORD_OUT_OF_RANGE
    assert scene.fold.subject("areas").state == NOT_LOADED


def test_the_shipped_lists_fold_from_their_events() -> None:
    groups = shipped_list("metering", "gsp_groups")
    assert fold(METERING_STANDING, groups.entries) == groups
