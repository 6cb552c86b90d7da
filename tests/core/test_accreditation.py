"""An accreditation counts in its own scheme, and in another by a row of the table alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spine.accreditation import CCS, DSI, accreditation_refusal, row_for, table_digest
from spine.errors import Reason
from spine.trust import Accreditation, Equivalence, EquivalenceRow, Participant

START = datetime(2025, 1, 1, tzinfo=UTC)
NOW = datetime(2025, 6, 1, tzinfo=UTC)
ADVICE, FLEXIBILITY = "ENERGY_ADVICE", "FLEXIBILITY"
ROW = EquivalenceRow(CCS, "2", ADVICE, DSI, "1", ADVICE)
HELD = Accreditation("data_user", CCS, "2", (ADVICE,), START, None)
ADVISER = Participant("Adviser", accreditations=(HELD,))

Judge = Callable[..., Reason | None]


def judged(
    held: Accreditation = HELD,
    *rows: EquivalenceRow,
    role: str = "data_user",
    purpose: str = ADVICE,
    scheme: str = DSI,
    suspended: bool = False,
    by: Judge = accreditation_refusal,
) -> Reason | None:
    """The answer of one side to one who holds one accreditation, with these rows in force."""
    who = Participant("Adviser", suspended, (held,))
    return by(who, role, NOW, purpose, Equivalence(1, rows), scheme)


def test_before_the_first_table_every_scheme_counts_as_it_always_did() -> None:
    for scheme in (CCS, DSI, "REC"):
        held = Participant("A", accreditations=(replace(HELD, scheme=scheme),))
        assert accreditation_refusal(held, "data_user", NOW, ADVICE) is None
        assert accreditation_refusal(held, "data_user", NOW) is None
        refusal = accreditation_refusal(held, "data_user", NOW, FLEXIBILITY)
        assert refusal is Reason.ACCREDITATION_MISSING


def test_with_a_table_another_scheme_counts_by_its_row_and_no_other() -> None:
    assert judged(HELD, ROW) is None
    assert judged(replace(HELD, scheme=DSI)) is None
    for changed in (
        replace(ROW, from_scheme="REC"),
        replace(ROW, from_tier="1"),
        replace(ROW, from_tier=""),
        replace(ROW, from_purpose=FLEXIBILITY),
        replace(ROW, to_scheme="REC"),
        replace(ROW, to_purpose=FLEXIBILITY),
        EquivalenceRow(DSI, "1", ADVICE, CCS, "2", ADVICE),
    ):
        assert judged(HELD, changed) is Reason.ACCREDITATION_NOT_EQUIVALENT, changed
    assert judged(HELD) is Reason.ACCREDITATION_NOT_EQUIVALENT
    assert judged(HELD, ROW, role="supplier") is Reason.ACCREDITATION_MISSING
    assert judged(replace(HELD, effective_to=NOW), ROW) is Reason.ACCREDITATION_MISSING


def test_a_row_within_a_scheme_widens_nothing() -> None:
    """No board can adopt one, and whoever signed one all the same has opened nothing by it."""
    own = replace(HELD, scheme=DSI, tier="1")
    within = EquivalenceRow(DSI, "1", ADVICE, DSI, "1", FLEXIBILITY)
    assert judged(own, within, purpose=FLEXIBILITY) is Reason.ACCREDITATION_MISSING
    assert row_for(own, FLEXIBILITY, Equivalence(1, (within,)), DSI) is None


def test_rows_are_not_chained() -> None:
    steps = (replace(ROW, to_scheme="REC"), replace(ROW, from_scheme="REC", from_tier="1"))
    assert judged(HELD, *steps) is Reason.ACCREDITATION_NOT_EQUIVALENT


def test_a_row_from_a_purpose_that_is_none_of_the_role_leads_nowhere() -> None:
    """An accreditation that names no purposes is held for those that the policy allows its role."""
    every = replace(HELD, purposes=())
    assert judged(every, ROW) is None
    settlement = replace(ROW, from_purpose="SETTLEMENT")
    assert judged(every, settlement) is Reason.ACCREDITATION_NOT_EQUIVALENT
    assert judged(replace(every, role="data_service"), settlement, role="data_service") is None


def test_each_side_judges_in_its_own_scheme() -> None:
    back = EquivalenceRow(DSI, "1", ADVICE, CCS, "2", ADVICE)
    member = replace(HELD, scheme=DSI, tier="1")
    assert judged(HELD, scheme=CCS) is None
    assert judged(member, scheme=CCS) is Reason.ACCREDITATION_NOT_EQUIVALENT
    assert judged(member, back, scheme=CCS) is None


def test_a_suspension_blocks_on_both_sides_and_what_a_row_rests_on_falls_with_it() -> None:
    for scheme in (CCS, DSI):
        refusal = judged(HELD, ROW, scheme=scheme, suspended=True)
        assert refusal is Reason.PARTICIPANT_SUSPENDED
    withdrawn = Participant("Adviser")
    table = Equivalence(1, (ROW,))
    for scheme in (CCS, DSI):
        refusal = accreditation_refusal(withdrawn, "data_user", NOW, ADVICE, table, scheme)
        assert refusal is Reason.ACCREDITATION_MISSING


def a_missing_row_is_a_yes(
    who: Participant, role: str, now: datetime, purpose: str, table: Equivalence, scheme: str
) -> Reason | None:
    """The naive judge, who knows of no table."""
    return accreditation_refusal(who, role, now, purpose)


codes = st.sampled_from((CCS, DSI, "REC"))
tiers = st.sampled_from(("", "1", "2"))
purposes = st.sampled_from((ADVICE, FLEXIBILITY))
rows = st.builds(EquivalenceRow, codes, tiers, purposes, codes, tiers, purposes)
accreditations = st.builds(
    Accreditation,
    st.sampled_from(("data_user", "supplier")),
    codes,
    tiers,
    st.sampled_from(((ADVICE,), (FLEXIBILITY,), (ADVICE, FLEXIBILITY))),
    st.just(START),
    st.sampled_from((None, NOW)),
)
tables = st.lists(rows, max_size=6, unique=True).map(tuple)


def says_yes_only_by_a_row(
    held: Accreditation, table: tuple[EquivalenceRow, ...], purpose: str, scheme: str, by: Judge
) -> bool:
    """Whether a yes of this judge is backed by the scheme itself or a row, each part compared."""
    if judged(held, *table, role=held.role, purpose=purpose, scheme=scheme, by=by) is not None:
        return True
    own = held.scheme == scheme and purpose in held.purposes
    parts = {
        (held.scheme, held.tier, from_purpose, scheme, to_tier, purpose)
        for from_purpose in held.purposes
        for to_tier in ("", "1", "2")
    }
    return own or not parts.isdisjoint(map(astuple, table))


@given(accreditations, tables, purposes, st.sampled_from((CCS, DSI)))
def test_no_yes_without_scheme_or_row(
    held: Accreditation, table: tuple[EquivalenceRow, ...], purpose: str, scheme: str
) -> None:
    assert says_yes_only_by_a_row(held, table, purpose, scheme, accreditation_refusal)


def test_the_naive_judge_says_yes_without_a_row() -> None:
    assert not says_yes_only_by_a_row(HELD, (), ADVICE, DSI, a_missing_row_is_a_yes)


@given(accreditations, tables, rows, purposes)
def test_a_further_row_never_takes_anything_away(
    held: Accreditation, table: tuple[EquivalenceRow, ...], row: EquivalenceRow, purpose: str
) -> None:
    if judged(held, *table, role=held.role, purpose=purpose) is None:
        assert judged(held, *table, row, role=held.role, purpose=purpose) is None


def test_the_row_that_counts_is_named_and_tables_are_told_apart() -> None:
    table = Equivalence(1, (replace(ROW, from_tier="1"), ROW))
    assert row_for(HELD, ADVICE, table, DSI) == ROW
    assert row_for(HELD, ADVICE, table, CCS) is None
    digests = {
        table_digest(one)
        for one in (table, Equivalence(2, table.rows), Equivalence(1, ()), Equivalence(1, (ROW,)))
    }
    assert len(digests) == 4


@pytest.mark.parametrize("scheme", [CCS, DSI])
def test_a_consumer_or_stranger_is_no_participant(scheme: str) -> None:
    refusal = accreditation_refusal(None, "data_user", NOW, ADVICE, Equivalence(1, (ROW,)), scheme)
    assert refusal is Reason.PARTICIPANT_UNKNOWN
