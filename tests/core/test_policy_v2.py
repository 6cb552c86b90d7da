"""Version 2: the code keeps to its data, and it opens less than version 1, never more."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from domains.consumers.changes import Notice
from domains.consumers.record import GRANULARITY_OF, Granularity
from domains.metering.aggregates import METERS_MIN
from spine.gb import Interval
from spine.policies import POLICIES
from spine.policy import Basis, Category, Permit, Role
from spine.policy_data import POLICY_DATA, POLICY_HASHES, bases_of, purposes_of
from spine.policy_v2 import without
from tests.domains.consumers.test_changes import BEGUN, HOUR
from tests.domains.consumers.test_notices import LONG, lasting, said
from tests.rights.test_rights import Life

START = datetime(2025, 1, 1, tzinfo=UTC)
SAID = {
    *("roles", "purposes", "categories", "granularity", "opt_out", "objection_shuts", "opt_in"),
    *("aggregation_min", "reminder_months", "sure", "source", "not_applied"),
}
# What a record calls the finest data of a category, as the policy calls it.
FINEST_FIRST = ("HALF_HOUR", "DAY", "MONTH")
AS_THE_POLICY_SAYS = {
    Granularity.HALF_HOUR: "HALF_HOUR",
    Granularity.DAY: "DAY",
    Granularity.READING: "MONTH",
}


def test_each_version_has_its_function_its_data_and_their_hash() -> None:
    assert set(POLICIES) == set(POLICY_DATA) == set(POLICY_HASHES) == {1, 2}
    for version, data in POLICY_DATA.items():
        assert data["version"] == version


@pytest.mark.parametrize("basis", bases_of(2))
def test_each_basis_says_all_of_it_and_names_its_source(basis: str) -> None:
    terms = bases_of(2)[basis]
    assert set(terms) == SAID
    assert set(terms["roles"]) <= set(Role) and set(terms["categories"]) <= set(Category)
    assert set(terms["objection_shuts"]) <= set(terms["categories"])
    assert bool(terms["objection_shuts"]) is terms["opt_out"]
    assert terms["source"] and all(one["rule"] and one["instead"] for one in terms["not_applied"])


def test_the_roles_that_read_have_the_purposes_that_they_had() -> None:
    """So that an accreditation without purposes is for the same as before."""
    for role in Role:
        assert purposes_of(2, role) == purposes_of(1, role)
    assert set(bases_of(2)) == set(Basis)


def test_what_is_not_admitted_has_no_role() -> None:
    refused = POLICY_DATA[2]["not_admitted"]
    assert set(refused) == {"network_operator"} and not set(refused) & set(Role)
    assert all(no["source"] for no in refused.values())


def finest(categories: list[str]) -> str:
    """The finest that any of these categories holds."""
    held = (GRANULARITY_OF.get(Category(one)) for one in categories)
    return min((AS_THE_POLICY_SAYS[one] for one in held if one), key=FINEST_FIRST.index)


@pytest.mark.parametrize("basis", bases_of(2))
def test_a_basis_carries_data_as_fine_as_it_says_and_no_finer(basis: str) -> None:
    terms = bases_of(2)[basis]
    assert finest(terms["categories"]) == terms["granularity"]


def test_daily_values_under_the_contract_would_be_found_too_fine() -> None:
    assert finest(bases_of(1)["CONTRACT"]["categories"]) != bases_of(2)["CONTRACT"]["granularity"]


def test_a_reminder_comes_as_often_as_the_basis_says_and_of_consents_alone() -> None:
    due = {basis: terms["reminder_months"] for basis, terms in bases_of(2).items()}
    months = due.pop(Basis.CONSENT)
    assert set(due.values()) == {0}
    for number in (1, 2, 3):
        years, month = divmod(BEGUN.month - 1 + number * months, 12)
        at = BEGUN.replace(year=BEGUN.year + years, month=month + 1)
        this = ("c-1", Notice.REMINDER, at)
        assert this in said(lasting(LONG), now=at)
        assert this not in said(lasting(LONG), now=at - HOUR)
        just_before = {notice[2] for notice in said(lasting(LONG), now=at - HOUR)}
        assert len(just_before) == (number > 1), "the reminder before it, and none between"


def test_a_figure_is_published_about_as_many_meters_as_the_data_says() -> None:
    assert POLICY_DATA[2]["not_admitted"]["network_operator"]["aggregation_min"] == METERS_MIN
    assert {terms["aggregation_min"] for terms in bases_of(2).values()} == {1}, "reads are of one"


def test_version_2_opens_nothing_that_version_1_did_not() -> None:
    """But for daily values, which moved from the contract to a basis that can be objected to."""
    rng, less = random.Random(11), 0
    for _ in range(400):
        life = Life(rng, policy=2)
        life.live()
        for _ in range(10):
            asked, now = life.question(), life.moment()
            found = life.decide(asked, now)
            life.policy = 1
            if asked.basis == Basis.OPT_OUT:
                first = life.decide(replace(asked, basis=Basis.CONTRACT), now)
            else:
                first = life.decide(asked, now)
            life.policy = 2
            less += isinstance(first, Permit) and found != first
            if isinstance(found, Permit):
                assert isinstance(first, Permit)
                for part in found.covered:
                    assert any(whole.contains(part) for whole in first.covered)
    assert less > 20


def hours(*pairs: tuple[int, int]) -> list[Interval]:
    return [Interval(START + timedelta(hours=a), START + timedelta(hours=b)) for a, b in pairs]


@pytest.mark.parametrize(
    ("opened", "shut", "left"),
    [
        ([(0, 10)], [], [(0, 10)]),
        ([(0, 10)], [(0, 10)], []),
        ([(0, 10)], [(2, 3)], [(0, 2), (3, 10)]),
        ([(0, 10)], [(8, 20)], [(0, 8)]),
        ([(5, 10)], [(0, 6), (9, 30)], [(6, 9)]),
        ([(0, 4), (6, 9)], [(3, 7)], [(0, 3), (7, 9)]),
        ([(0, 4)], [(4, 6)], [(0, 4)]),
    ],
)
def test_what_is_left_of_an_interval(opened: Any, shut: Any, left: Any) -> None:
    assert without(hours(*opened), hours(*shut)) == hours(*left)
