"""The equivalence table: how a version is adopted, and what a file of one may look like."""

from dataclasses import replace

import pytest

from domains.governance.commands import AdmitParticipant
from domains.governance.decider import GOVERNANCE
from domains.governance.equivalence import ROWS_MAX, AdoptEquivalenceTable, parse_table
from domains.governance.events import ParticipantAdmitted
from spine.codec import pack, unpack
from spine.domain import Actor
from spine.errors import Invalid, Reason, Refused
from spine.trust import Equivalence, EquivalenceRow, EquivalenceTableAdopted, Standing, evolve
from tests.helpers.specification import given

BOARD = Actor("governance", "board")
ADVICE = EquivalenceRow("CCS", "2", "ENERGY_ADVICE", "DSI", "1", "ENERGY_ADVICE")
FLEXIBILITY = EquivalenceRow("CCS", "1", "FLEXIBILITY", "DSI", "", "FLEXIBILITY")
FIRST = EquivalenceTableAdopted(1, (ADVICE,))
SECOND = EquivalenceTableAdopted(2, ())


def adopt(version: int, *rows: EquivalenceRow, by: Actor = BOARD) -> AdoptEquivalenceTable:
    return AdoptEquivalenceTable(by, version, rows)


def test_versions_follow_one_another_and_each_is_the_whole_table() -> None:
    first = given(GOVERNANCE).when(adopt(1, ADVICE)).then(FIRST)
    first.when(adopt(1, ADVICE)).nothing()
    second = first.when(adopt(2)).then(SECOND)
    assert second.state == Equivalence(2, ())
    second.when(adopt(3, ADVICE, FLEXIBILITY)).then(
        EquivalenceTableAdopted(3, (FLEXIBILITY, ADVICE))
    )


MANY = tuple(replace(ADVICE, from_tier=str(n)) for n in range(ROWS_MAX + 1))


@pytest.mark.parametrize(
    ("events", "command", "reason"),
    [
        ((), adopt(9, *MANY, by=Actor("data_user", "adviser")), Reason.ROLE_NOT_ALLOWED),
        ((), adopt(9, *MANY), Reason.FIELD_INVALID),
        ((), adopt(9, ADVICE, ADVICE), Reason.FIELD_INVALID),
        ((), adopt(9, replace(ADVICE, from_scheme="free text")), Reason.FIELD_INVALID),
        ((), adopt(9, replace(ADVICE, from_scheme="")), Reason.FIELD_INVALID),
        ((), adopt(9, replace(ADVICE, to_tier="\n")), Reason.FIELD_INVALID),
        ((), adopt(9, replace(ADVICE, to_scheme="CCS")), Reason.FIELD_INVALID),
        ((), adopt(9, replace(ADVICE, from_purpose="WORLD_PEACE")), Reason.CODE_UNKNOWN),
        ((), adopt(9, replace(ADVICE, to_purpose="")), Reason.CODE_UNKNOWN),
        ((), adopt(2, ADVICE), Reason.EQUIVALENCE_STATE),
        ((), adopt(0, ADVICE), Reason.EQUIVALENCE_STATE),
        ((FIRST,), adopt(1, FLEXIBILITY), Reason.EQUIVALENCE_STATE),
        ((FIRST,), adopt(3, ADVICE), Reason.EQUIVALENCE_STATE),
        ((FIRST,), AdmitParticipant(BOARD, "adviser", "A"), Reason.EQUIVALENCE_STATE),
    ],
)
def test_refusals(events: tuple[object, ...], command: object, reason: Reason) -> None:
    given(GOVERNANCE, *events).when(command).refused(reason)


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (Standing(), SECOND),
        (Equivalence(1, ()), FIRST),
        (Equivalence(1, ()), EquivalenceTableAdopted(3, ())),
        (Equivalence(1, ()), ParticipantAdmitted("A")),
        (evolve(Standing(), ParticipantAdmitted("A")), FIRST),
    ],
)
def test_no_fold_takes_a_table_out_of_turn_or_on_another_subject(
    state: object, event: object
) -> None:
    with pytest.raises(Refused):
        GOVERNANCE.evolve(state, event)


def test_a_table_is_kept_beside_standings_whose_rows_keep_their_shape() -> None:
    """An older store holds rows without it, and is read as it is."""
    row = (7, 0, Equivalence(2, (ADVICE,)))
    assert unpack(pack(row), GOVERNANCE.row_type) == row
    standing = (7, 0, Standing())
    assert unpack(pack(standing), GOVERNANCE.row_type) == standing
    assert pack(standing) == pack((7, 0, {"key": None, "participant": None, "policy": None}))


FILE = """# What our board holds equal.
to_scheme,to_tier,to_purpose,from_scheme,from_tier,from_purpose

DSI,1,ENERGY_ADVICE,CCS,2,ENERGY_ADVICE
DSI, ,FLEXIBILITY,CCS,1, FLEXIBILITY
"""
HEADER = "from_scheme,from_tier,from_purpose,to_scheme,to_tier,to_purpose\n"


def test_a_file_is_read_whatever_the_order_of_its_columns() -> None:
    assert parse_table(FILE) == (ADVICE, FLEXIBILITY)
    assert parse_table(HEADER) == ()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", Reason.FILE_EMPTY),
        ("# nothing\n\n", Reason.FILE_EMPTY),
        ("a,b\n1,2\n", Reason.FILE_UNRECOGNISED),
        (HEADER + "CCS,2,ENERGY_ADVICE,DSI,1\n", Reason.FILE_UNRECOGNISED),
        (HEADER + 'CCS,2,"ENERGY_ADVICE,DSI,1,X\n', Reason.FILE_UNRECOGNISED),
    ],
)
def test_what_is_no_table_is_told_so(text: str, reason: Reason) -> None:
    with pytest.raises(Invalid) as told:
        parse_table(text)
    assert told.value.reason is reason
