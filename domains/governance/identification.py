"""Which identifiers a party is given: the MPxN, or its own for each meter, consent and so on.

A party that needs no MPxN for what it does can be given identifiers that no other party has
(`spine.identifiers`), so that what two such parties hold cannot be put together by them. It is a
fact for a party in a role. A supplier is told of the consents of its party as a data user is, and
reads by them, so a party is one or the other: an organisation that is both has two party ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from spine.domain import Actor
from spine.errors import Reason, Refused
from spine.policy import Role
from spine.trust import GovernanceState, Identifiers, IdentifiersSet, Participant, Standing

# Who cannot do without the MPxN, and why. A data user reads under a consent and can.
NEEDS_MPXN: Final = {
    Role.CONSUMER: "it knows its meters by the number on its bill",
    Role.SUPPLIER: "it is registered for a meter under its MPxN, and settles by it",
    Role.DATA_SERVICE: "it collects readings from a meter that it is appointed to by MPxN",
    Role.CONSENT_SERVICE: "it records who lives at which MPxN",
    Role.GOVERNANCE: "it looks into what was done at a meter",
    Role.AUDITOR: "it holds answers against the log, which names MPxNs",
    Role.COORDINATOR: "it is a server of the installation",
    Role.DSI: "it is a server of the installation",
}


@dataclass(frozen=True, slots=True)
class SetIdentifiers:
    """Give the party these identifiers (an `Identifiers`) in that role from now on."""

    by: Actor
    party: str
    role: str
    identifiers: str
    ground: str


def set_identifiers(state: GovernanceState, command: SetIdentifiers) -> tuple[IdentifiersSet, ...]:
    """The fact that sets them; none if it is already so.

    Refused  CODE_UNKNOWN: no such role, or no such identifiers;
             FIELD_INVALID: the role needs MPxNs;
             IDENTIFIERS_STATE: the subject is about something else
    """
    if command.role not in set(Role):
        raise Refused(Reason.CODE_UNKNOWN, "no such role", field="role")
    if command.identifiers not in set(Identifiers):
        message = f"identifiers are {' or '.join(Identifiers)}"
        raise Refused(Reason.CODE_UNKNOWN, message, field="identifiers")
    why = NEEDS_MPXN.get(Role(command.role))
    if why is not None and command.identifiers == Identifiers.PAIRWISE:
        message = f"a {command.role} needs the MPxN: {why}"
        raise Refused(Reason.FIELD_INVALID, message, field="role")
    if state != Standing() and not isinstance(state, Identifiers):
        raise Refused(Reason.IDENTIFIERS_STATE, "identifiers have a subject of their own")
    in_force = state if isinstance(state, Identifiers) else Identifiers.MPXN
    if in_force == command.identifiers:
        return ()
    return (IdentifiersSet(command.identifiers, command.ground),)


def check_can_be_set(participant: Participant | None, identifiers: str, now: datetime) -> None:
    """What the party's own subject says of it.

    Refused  PARTICIPANT_UNKNOWN: it was never admitted;
             IDENTIFIERS_STATE: it is a supplier, or will be, and could do nothing as such
    """
    if participant is None:
        raise Refused(Reason.PARTICIPANT_UNKNOWN, "no such participant was admitted")
    supplies = any(
        held.role == Role.SUPPLIER and (held.effective_to is None or now < held.effective_to)
        for held in participant.accreditations
    )
    if supplies and identifiers == Identifiers.PAIRWISE:
        message = "it is accredited as a supplier; as a data user it needs another party id"
        raise Refused(Reason.IDENTIFIERS_STATE, message, field="party")


def check_can_be_granted(role: str, as_data_user: Identifiers) -> None:
    """Refused(IDENTIFIERS_STATE) if a party with pairwise identifiers would become a supplier."""
    if role == Role.SUPPLIER and as_data_user is Identifiers.PAIRWISE:
        message = "it has pairwise identifiers; as a supplier it needs another party id"
        raise Refused(Reason.IDENTIFIERS_STATE, message, field="party")
