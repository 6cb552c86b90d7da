"""What a party is given as identifiers: who can do without MPxNs, and how it is set."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from domains.governance.commands import AdmitParticipant, subject_of
from domains.governance.decider import GOVERNANCE
from domains.governance.events import ParticipantAdmitted
from domains.governance.identification import (
    NEEDS_MPXN,
    SetIdentifiers,
    check_can_be_granted,
    check_can_be_set,
)
from spine.codec import pack, unpack
from spine.domain import Actor
from spine.errors import Reason, Refused
from spine.governance.v1 import governance_pb2
from spine.identity import Caller
from spine.policy import Role
from spine.server import act_for
from spine.services.governance import GovernanceService
from spine.trust import (
    Accreditation,
    Equivalence,
    Identifiers,
    IdentifiersSet,
    Participant,
    Standing,
    evolve,
)
from tests.helpers.specification import given

BOARD = Actor("governance", "board")
PAIRWISE = IdentifiersSet("PAIRWISE", "NO_NEED_OF_MPXN")


def setting(
    identifiers: str, ground: str = "NO_NEED_OF_MPXN", role: str = "data_user", by: Actor = BOARD
) -> SetIdentifiers:
    return SetIdentifiers(by, "adviser", role, identifiers, ground)


def test_they_are_set_and_set_back_and_the_same_again_is_no_fact() -> None:
    given(GOVERNANCE).when(setting("MPXN")).nothing()
    first = given(GOVERNANCE).when(setting("PAIRWISE")).then(PAIRWISE)
    assert first.state is Identifiers.PAIRWISE
    first.when(setting("PAIRWISE", "ANOTHER_GROUND")).nothing()
    back = first.when(setting("MPXN", "APPEALED")).then(IdentifiersSet("MPXN", "APPEALED"))
    back.when(setting("PAIRWISE")).then(PAIRWISE)


@pytest.mark.parametrize(
    ("events", "command", "reason"),
    [
        ((), setting("PAIRWISE", by=Actor("data_user", "adviser")), Reason.ROLE_NOT_ALLOWED),
        ((), setting("PAIRWISE", role="landlord"), Reason.CODE_UNKNOWN),
        ((), setting("UPRN"), Reason.CODE_UNKNOWN),
        ((), setting(""), Reason.CODE_UNKNOWN),
        ((ParticipantAdmitted("A"),), setting("PAIRWISE"), Reason.IDENTIFIERS_STATE),
        ((PAIRWISE,), AdmitParticipant(BOARD, "adviser", "A"), Reason.EQUIVALENCE_STATE),
        *(((), setting("PAIRWISE", role=role), Reason.FIELD_INVALID) for role in NEEDS_MPXN),
    ],
)
def test_refusals(events: tuple[object, ...], command: object, reason: Reason) -> None:
    given(GOVERNANCE, *events).when(command).refused(reason)


def test_every_role_but_that_of_a_data_user_needs_the_number_and_says_why() -> None:
    assert set(NEEDS_MPXN) == set(Role) - {Role.DATA_USER}
    assert all(NEEDS_MPXN.values())
    given(GOVERNANCE).when(setting("MPXN", role="supplier")).nothing()


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (Identifiers.PAIRWISE, ParticipantAdmitted("A")),
        (Equivalence(1, ()), PAIRWISE),
        (evolve(Standing(), ParticipantAdmitted("A")), PAIRWISE),
        (Standing(), IdentifiersSet("UPRN", "WHO_KNOWS")),
    ],
)
def test_no_fold_takes_it_on_another_subject_or_of_another_kind(
    state: object, event: object
) -> None:
    with pytest.raises((Refused, ValueError)):
        GOVERNANCE.evolve(state, event)


def test_it_is_kept_beside_standings_and_of_each_role_apart() -> None:
    row = (7, 0, Identifiers.PAIRWISE)
    assert unpack(pack(row), GOVERNANCE.row_type) == row
    assert subject_of(setting("PAIRWISE")) == "identifiers:data_user/adviser"
    assert subject_of(setting("MPXN", role="supplier")) == "identifiers:supplier/adviser"


NOW = datetime(2026, 1, 1, tzinfo=UTC)


def accredited(role: str, ends: datetime | None = None, start: datetime = NOW) -> Participant:
    return Participant("A", False, (Accreditation(role, "SEC", "", (), start, ends),))


@pytest.mark.parametrize(
    ("participant", "identifiers", "reason"),
    [
        (None, "PAIRWISE", Reason.PARTICIPANT_UNKNOWN),
        (accredited("supplier"), "PAIRWISE", Reason.IDENTIFIERS_STATE),
        (accredited("supplier", None, NOW + timedelta(1)), "PAIRWISE", Reason.IDENTIFIERS_STATE),
        (accredited("supplier", NOW + timedelta(1)), "PAIRWISE", Reason.IDENTIFIERS_STATE),
        (accredited("supplier", NOW, NOW - timedelta(1)), "PAIRWISE", None),
        (accredited("supplier"), "MPXN", None),
        (accredited("data_user"), "PAIRWISE", None),
        (Participant("A"), "PAIRWISE", None),
    ],
)
def test_who_is_a_supplier_or_will_be_is_given_no_identifiers_of_its_own(
    participant: Participant | None, identifiers: str, reason: Reason | None
) -> None:
    if reason is None:
        check_can_be_set(participant, identifiers, NOW)
        return
    with pytest.raises(Refused) as refused:
        check_can_be_set(participant, identifiers, NOW)
    assert refused.value.reason is reason


def test_who_has_identifiers_of_its_own_becomes_no_supplier() -> None:
    check_can_be_granted("supplier", Identifiers.MPXN)
    check_can_be_granted("data_user", Identifiers.PAIRWISE)
    with pytest.raises(Refused) as refused:
        check_can_be_granted("supplier", Identifiers.PAIRWISE)
    assert refused.value.reason is Reason.IDENTIFIERS_STATE


@pytest.mark.parametrize("identifiers", list(Identifiers))
async def test_the_service_looks_at_both_subjects_before_it_says_anything(
    identifiers: Identifiers,
) -> None:
    """Each decider sees one of them only."""

    class Home:
        async def handle(self, order: Any) -> None:
            raise LookupError(order.method)

    known = SimpleNamespace(
        participant=lambda party: accredited("supplier"),
        identifiers=lambda role, party: identifiers,
    )
    live: Any = SimpleNamespace(stored=SimpleNamespace(fold=known))
    home: Any = Home()
    service = GovernanceService(home, home, live, live, b"", 1)
    grant = governance_pb2.GrantAccreditationRequest(
        idempotency_key="k", party="adviser", role="supplier", scheme="SEC"
    )
    grant.effective_from.FromDatetime(NOW)
    setting = governance_pb2.SetIdentifiersRequest(
        idempotency_key="k", party="adviser", identifiers=identifiers, ground="NO_NEED_OF_MPXN"
    )
    token = act_for(Caller(Role.GOVERNANCE, "board", b""))
    try:
        for method, request in (
            (service.GrantAccreditation, grant),
            (service.SetIdentifiers, setting),
        ):
            with pytest.raises((Refused, LookupError)) as stopped:
                await method(request, None)
            if identifiers is Identifiers.MPXN:
                assert isinstance(stopped.value, LookupError), "it goes on to be decided"
            else:
                assert isinstance(stopped.value, Refused)
                assert stopped.value.reason is Reason.IDENTIFIERS_STATE
    finally:
        token.var.reset(token)
