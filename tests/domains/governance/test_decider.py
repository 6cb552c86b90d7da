"""Governance: one row per refusal in order of precedence, then what each command brings about."""

from datetime import UTC, datetime
from typing import Any

import pytest

from domains.governance.commands import (
    AdmitParticipant,
    AdoptPolicyVersion,
    AuthoriseSigningKey,
    GrantAccreditation,
    ReinstateParticipant,
    RevokeSigningKey,
    SuspendParticipant,
    WithdrawAccreditation,
)
from domains.governance.decider import GOVERNANCE, subject_of, tightens
from domains.governance.equivalence import AdoptEquivalenceTable
from domains.governance.events import (
    AccreditationGranted,
    AccreditationWithdrawn,
    ParticipantAdmitted,
    ParticipantReinstated,
    ParticipantSuspended,
    PolicyVersionAdopted,
    SigningKeyAuthorised,
    SigningKeyRevoked,
)
from spine.domain import Actor
from spine.errors import Reason
from spine.policy_data import POLICY_DATA_V1, data_hash
from spine.trust import key_id
from tests.helpers.specification import given

RECCO = Actor("governance", "recco")
STRANGER = Actor("data_user", "adviser")
KEY = bytes(range(32))
START = datetime(2025, 1, 1, tzinfo=UTC)
END = datetime(2026, 1, 1, tzinfo=UTC)
NOW = datetime(2025, 6, 1, tzinfo=UTC)

AUTHORISED = SigningKeyAuthorised(KEY, "dsi", "dsi-1")
KEY_REVOKED = SigningKeyRevoked("compromised")
ADMITTED = ParticipantAdmitted("Adviser Ltd")
ACCREDITED = AccreditationGranted("data_user", "CCS", "1", ("ENERGY_ADVICE",), START, END)
SUSPENDED = ParticipantSuspended("breach")
ADOPTED = PolicyVersionAdopted(1, data_hash(POLICY_DATA_V1))
LATER_POLICY = PolicyVersionAdopted(2, bytes(32))


def authorise(by: Actor = RECCO, key: bytes = KEY, role: str = "dsi", holder: str = "dsi-1") -> Any:
    return AuthoriseSigningKey(by, key, role, holder)


def accredit(**changes: Any) -> GrantAccreditation:
    said: dict[str, Any] = {
        "by": RECCO,
        "party": "adviser",
        "role": "data_user",
        "scheme": "CCS",
        "tier": "1",
        "purposes": ("ENERGY_ADVICE",),
        "effective_from": START,
        "effective_to": END,
    }
    return GrantAccreditation(**(said | changes))


def withdraw(by: Actor = RECCO, scheme: str = "CCS") -> WithdrawAccreditation:
    return WithdrawAccreditation(by, "adviser", "data_user", scheme)


@pytest.mark.parametrize(
    ("events", "command", "reason"),
    [
        ((), authorise(by=STRANGER), Reason.ROLE_NOT_ALLOWED),
        ((), authorise(key=b"short"), Reason.FIELD_INVALID),
        ((), authorise(role="root"), Reason.CODE_UNKNOWN),
        ((), authorise(role="janitor"), Reason.CODE_UNKNOWN),
        ((), authorise(holder=""), Reason.FIELD_MISSING),
        ((AUTHORISED, KEY_REVOKED), authorise(), Reason.KEY_STATE),
        ((AUTHORISED,), authorise(role="metering"), Reason.KEY_EXISTS),
        ((), RevokeSigningKey(STRANGER, key_id(KEY), ""), Reason.ROLE_NOT_ALLOWED),
        ((), RevokeSigningKey(RECCO, key_id(KEY), ""), Reason.KEY_UNKNOWN),
        ((), AdmitParticipant(STRANGER, "adviser", "A"), Reason.ROLE_NOT_ALLOWED),
        ((), AdmitParticipant(RECCO, "ab", "A"), Reason.FIELD_INVALID),
        ((), AdmitParticipant(RECCO, "a" * 65, "A"), Reason.FIELD_INVALID),
        ((), AdmitParticipant(RECCO, "adviser/1", "A"), Reason.FIELD_INVALID),
        ((), AdmitParticipant(RECCO, "adviser\n", "A"), Reason.FIELD_INVALID),
        ((), AdmitParticipant(RECCO, "adviser", ""), Reason.FIELD_MISSING),
        ((ADMITTED,), AdmitParticipant(RECCO, "adviser", "B"), Reason.PARTICIPANT_EXISTS),
        ((ADMITTED,), accredit(by=STRANGER), Reason.ROLE_NOT_ALLOWED),
        ((), accredit(), Reason.PARTICIPANT_UNKNOWN),
        ((ADMITTED,), accredit(role="janitor"), Reason.CODE_UNKNOWN),
        ((ADMITTED,), accredit(scheme=""), Reason.FIELD_MISSING),
        ((ADMITTED,), accredit(scheme="CCS 1"), Reason.FIELD_INVALID),
        ((ADMITTED,), accredit(purposes=("SETTLEMENT",)), Reason.CODE_UNKNOWN),
        ((ADMITTED,), accredit(effective_to=START), Reason.INTERVAL_INVALID),
        ((ADMITTED, ACCREDITED), accredit(tier="2"), Reason.ACCREDITATION_EXISTS),
        ((ADMITTED, SUSPENDED), accredit(), Reason.PARTICIPANT_STATE),
        ((ADMITTED, ACCREDITED), withdraw(by=STRANGER), Reason.ROLE_NOT_ALLOWED),
        ((), withdraw(), Reason.PARTICIPANT_UNKNOWN),
        ((ADMITTED, ACCREDITED), withdraw(scheme="DSI"), Reason.ACCREDITATION_UNKNOWN),
        ((ADMITTED,), SuspendParticipant(STRANGER, "adviser", ""), Reason.ROLE_NOT_ALLOWED),
        ((), SuspendParticipant(RECCO, "adviser", ""), Reason.PARTICIPANT_UNKNOWN),
        ((), ReinstateParticipant(RECCO, "adviser", ""), Reason.PARTICIPANT_UNKNOWN),
        ((), AdoptPolicyVersion(STRANGER, 1), Reason.ROLE_NOT_ALLOWED),
        ((), AdoptPolicyVersion(RECCO, 99), Reason.POLICY_VERSION_STATE),
        ((LATER_POLICY,), AdoptPolicyVersion(RECCO, 1), Reason.POLICY_VERSION_STATE),
    ],
)
def test_refusals(events: Any, command: Any, reason: Reason) -> None:
    given(GOVERNANCE, *events).at(NOW).when(command).refused(reason)


def test_a_signing_key_is_authorised_once_and_revoked_for_good() -> None:
    key = given(GOVERNANCE).when(authorise()).then(AUTHORISED)
    key.when(authorise()).nothing()
    revoke = RevokeSigningKey(RECCO, key_id(KEY), "compromised")
    revoked = key.when(revoke).then(KEY_REVOKED)
    revoked.when(revoke).nothing()
    assert revoked.state.key.revoked


def test_a_participant_from_admission_to_reinstatement() -> None:
    admitted = given(GOVERNANCE).when(AdmitParticipant(RECCO, "adviser", "Adviser Ltd"))
    known = admitted.then(ADMITTED)
    known.when(AdmitParticipant(RECCO, "adviser", "Adviser Ltd")).nothing()
    accredited = known.when(accredit()).then(ACCREDITED)
    accredited.when(accredit()).nothing()
    suspended = accredited.when(SuspendParticipant(RECCO, "adviser", "breach")).then(SUSPENDED)
    suspended.when(SuspendParticipant(RECCO, "adviser", "breach")).nothing()
    assert suspended.state.participant.suspended
    back = suspended.when(ReinstateParticipant(RECCO, "adviser", "mended")).then(
        ParticipantReinstated("mended")
    )
    back.when(ReinstateParticipant(RECCO, "adviser", "mended")).nothing()
    back.when(withdraw()).then(AccreditationWithdrawn("data_user", "CCS"))


def test_an_accreditation_is_renewed_where_the_last_one_ends() -> None:
    renewed = AccreditationGranted("data_user", "CCS", "2", (), END, None)
    held = given(GOVERNANCE, ADMITTED, ACCREDITED)
    again = accredit(tier="2", purposes=(), effective_from=END, effective_to=None)
    held.when(again).then(renewed)


def test_a_policy_version_is_adopted_with_the_hash_of_its_data() -> None:
    adopted = given(GOVERNANCE).when(AdoptPolicyVersion(RECCO, 1)).then(ADOPTED)
    adopted.when(AdoptPolicyVersion(RECCO, 1)).nothing()


def test_every_command_has_one_subject() -> None:
    kid = key_id(KEY)
    assert subject_of(authorise()) == f"key:{kid.hex()}"
    assert subject_of(RevokeSigningKey(RECCO, kid, "")) == f"key:{kid.hex()}"
    assert subject_of(accredit()) == "party:adviser"
    assert subject_of(AdoptPolicyVersion(RECCO, 1)) == "policy"
    assert subject_of(AdoptEquivalenceTable(RECCO, 1, ())) == "equivalence"


def test_only_what_takes_rights_away_tightens() -> None:
    assert tightens(withdraw())
    assert tightens(SuspendParticipant(RECCO, "adviser", ""))
    assert tightens(RevokeSigningKey(RECCO, b"", ""))
    assert not tightens(accredit())
    assert not tightens(ReinstateParticipant(RECCO, "adviser", ""))
