"""One vocabulary: all that the policy knows, each category with the class of what is given out."""

from __future__ import annotations

from typing import Any

import pytest

from domains.governance.catalogue import policy_bases, policy_codes
from spine.catalogue import Label
from spine.installation import CATALOGUE
from spine.policy_data import POLICY_DATA
from spine.vocabulary import SENSITIVITY, vocabulary


@pytest.mark.parametrize("version", POLICY_DATA)
def test_it_holds_every_code_of_its_policy_and_no_other(version: int) -> None:
    known = vocabulary(version)
    assert known is not None
    bases: Any = POLICY_DATA[version]["bases"]
    for basis in known.bases:
        terms = bases[basis.code]
        assert set(basis.roles) == set(terms["roles"])
        assert set(basis.purposes) == set(terms["purposes"])
        assert set(basis.categories) == set(terms["categories"])
    assert {basis.code for basis in known.bases} == set(bases)
    assert set(known.purposes) == {p for terms in bases.values() for p in terms["purposes"]}
    assert {code for code, _ in known.categories} == set(SENSITIVITY[version])
    assert set(known.sensitivities) == set(Label)


def test_the_lists_of_standing_data_describe_the_newest() -> None:
    known = vocabulary(max(POLICY_DATA))
    assert known is not None
    assert set(known.purposes) == policy_codes("purposes")
    assert {code for code, _ in known.categories} == policy_codes("categories")
    assert {basis.code for basis in known.bases} == policy_bases()


def test_a_category_has_the_label_of_the_data_set_it_opens() -> None:
    known = vocabulary(max(POLICY_DATA))
    assert known is not None
    labels = dict(known.categories)
    sets = [data_set for domain in CATALOGUE for data_set in domain.data_sets]
    opened = {code: one.label for one in sets for code in one.categories}
    assert opened
    assert {code: labels[code] for code in opened} == opened


def test_a_version_that_nobody_knows_has_none() -> None:
    assert vocabulary(99) is None
    assert set(SENSITIVITY) == set(POLICY_DATA)
