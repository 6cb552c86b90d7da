"""Parties that are held: who held them, and the two people it takes to let them go on.

A server that sees a party go past an anomaly threshold (`spine.limits`; after section G6 of the
Smart Energy Code) has it held. From then on every server answers nothing of the party until two
different people of governance approve. That it takes two is not only decided here: a release that
two have not approved breaks the rules of `evolve`, and every fold quarantines it.

These facts stand on `quarantine.v1`, one chain for each party.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from spine import trust
from spine.domain import Actor, Domain
from spine.errors import NotPermitted, Reason, Refused
from spine.event import SignerRole
from spine.policy import Role

PEOPLE: Final = 2
MANUAL: Final = "MANUAL"
HOLDERS: Final = frozenset({Role.DSI, Role.COORDINATOR, Role.GOVERNANCE})


@dataclass(frozen=True, slots=True)
class PartyHeld:
    """Servers answer nothing of the party from here on. `hold` counts its holds from 1."""

    hold: int
    kind: str
    counted: int
    threshold: int
    held_by: str
    held_at: datetime


@dataclass(frozen=True, slots=True)
class ReleaseApproved:
    """One person says that the party may go on."""

    hold: int
    approved_by: str
    reason: str
    approved_at: datetime


@dataclass(frozen=True, slots=True)
class PartyReleased:
    """Two people have said so: it may."""

    hold: int
    released_at: datetime


HoldEvent = PartyHeld | ReleaseApproved | PartyReleased


@dataclass(frozen=True, slots=True)
class Hold:
    """The last hold of a party, and who approved its release; `number` 0: it was never held."""

    number: int = 0
    held: bool = False
    kind: str = ""
    counted: int = 0
    threshold: int = 0
    held_by: str = ""
    held_at: datetime | None = None
    approved_by: tuple[str, ...] = ()
    released_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class HoldParty:
    """Hold a party for what it did."""

    by: Actor
    party: str
    kind: str
    counted: int = 0
    threshold: int = 0


@dataclass(frozen=True, slots=True)
class ApproveRelease:
    """Say that this hold of the party may end."""

    by: Actor
    party: str
    hold: int
    reason: str


HoldCommand = HoldParty | ApproveRelease


def tightens(command: object) -> bool:
    """Whether the command can only take something away."""
    return isinstance(command, HoldParty)


def decide(state: Hold, command: HoldCommand, now: datetime) -> tuple[HoldEvent, ...]:
    """The facts of an accepted command, none if it is already so.

    NotPermitted  ROLE_NOT_ALLOWED: only servers and governance hold, only governance releases
    Refused       HOLD_UNKNOWN: the party is not held, or by a later hold than was meant;
                  RELEASE_NEEDS_ANOTHER: the person approved before, or is the party itself
    """
    match command:
        case HoldParty():
            if command.by.role not in HOLDERS:
                raise NotPermitted(Reason.ROLE_NOT_ALLOWED, "a party is held by servers")
            if state.held:
                return ()
            by = f"{command.by.role}/{command.by.party}"
            kind = command.kind or MANUAL
            return (PartyHeld(state.number + 1, kind, command.counted, command.threshold, by, now),)
        case ApproveRelease():
            if command.by.role != Role.GOVERNANCE:
                raise NotPermitted(Reason.ROLE_NOT_ALLOWED, "only governance releases")
            return _approve(state, command, now)


def _approve(state: Hold, command: ApproveRelease, now: datetime) -> tuple[HoldEvent, ...]:
    person = command.by.party
    if not state.held or command.hold != state.number:
        raise Refused(Reason.HOLD_UNKNOWN, "there is no such hold of this party now")
    if person in (command.party, *state.approved_by):
        message = "the second approval comes from another person, and never from the party"
        raise Refused(Reason.RELEASE_NEEDS_ANOTHER, message)
    approved = ReleaseApproved(state.number, person, command.reason, now)
    if len(state.approved_by) + 1 < PEOPLE:
        return (approved,)
    return approved, PartyReleased(state.number, now)


def evolve(state: Hold, event: HoldEvent) -> Hold:
    """The hold after one more fact; Refused for one that the rules do not allow here."""
    match event:
        case PartyHeld():
            if state.held or event.hold != state.number + 1:
                raise Refused(Reason.HOLD_UNKNOWN, "holds of a party come one after another")
            return Hold(
                event.hold,
                True,
                event.kind,
                event.counted,
                event.threshold,
                event.held_by,
                event.held_at,
            )
        case ReleaseApproved():
            _check_current(state, event.hold)
            if event.approved_by in state.approved_by:
                raise Refused(Reason.RELEASE_NEEDS_ANOTHER, "nobody approves twice")
            return replace(state, approved_by=(*state.approved_by, event.approved_by))
        case PartyReleased():
            _check_current(state, event.hold)
            if len(state.approved_by) < PEOPLE:
                raise Refused(Reason.RELEASE_NEEDS_ANOTHER, "two people release a party")
            return replace(state, held=False, released_at=event.released_at)


def _check_current(state: Hold, hold: int) -> None:
    if not state.held or hold != state.number:
        raise Refused(Reason.HOLD_UNKNOWN, "there is no such hold of this party")


PARTY_HOLDS: Final = Domain(
    name="governance",
    topic=trust.QUARANTINE_TOPIC,
    signer=SignerRole.GOVERNANCE,
    version=1,
    events={
        "governance.PartyHeld": PartyHeld,
        "governance.ReleaseApproved": ReleaseApproved,
        "governance.PartyReleased": PartyReleased,
    },
    state_type=Hold,
    initial=Hold,
    evolve=evolve,
    decide=decide,
)
