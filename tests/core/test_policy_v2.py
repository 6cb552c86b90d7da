"""Version 2: its data, and what it opens less than version 1, never more."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from spine.gb import Interval
from spine.policies import POLICIES
from spine.policy import Basis, Category, Permit, Role
from spine.policy_data import POLICY_DATA, POLICY_HASHES, bases_of, purposes_of
from spine.policy_v2 import without
from tests.rights.test_rights import Life

START = datetime(2025, 1, 1, tzinfo=UTC)
SAID = {
    *("roles", "purposes", "categories", "granularity", "opt_out", "objection_shuts", "opt_in"),
    *("aggregation_min", "reminder_months", "sure", "source", "not_applied"),
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
