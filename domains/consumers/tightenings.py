"""Less is allowed at several meters: ordered once at home, whoever's consent it is there (rule 12).

A revocation, withdrawal, refusal, suspension or narrowing may name some of the meters of a consent,
or meters at which the same consent id was given one by one. It is ordered at home like any other,
so that what a crash leaves unsent is sent at the next start. It says nothing of terms: each meter
judges its own leg, whose consent it is and what is left of its scope.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeGuard

from domains.consumers.actions import COMMANDS, Action, check_meters
from domains.consumers.commands import (
    DeclineConsent,
    NarrowConsent,
    RevokeConsent,
    SuspendConsent,
    WithdrawConsent,
    check_named,
    check_role,
)
from spine.domain import Actor
from spine.errors import Reason, Refused

Tightens = DeclineConsent | NarrowConsent | RevokeConsent | SuspendConsent | WithdrawConsent
_ACTIONS: Final = {command: Action(action) for action, command in COMMANDS.items()}


@dataclass(frozen=True, slots=True)
class TighteningOrdered:
    """It was decided at home that less shall be allowed at each of these meters.

    `number` counts the orders of the consent from 1, of whatever kind. `categories`, `history_from`
    and `expires` are those of a narrowing; what is left out stays at each meter as it is.
    """

    number: int
    consent_id: str
    action: str
    mpxns: tuple[str, ...]
    categories: tuple[str, ...]
    history_from: datetime | None
    expires: datetime | None
    reason: str
    actor_role: str
    actor_party: str
    ordered_at: datetime


@dataclass(frozen=True, slots=True)
class OrderTightening:
    """Give the command, as it is, to each of the meters."""

    by: Actor
    command: Tightens
    mpxns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tightening:
    """An order to tighten and how far it came. No other order stands above it."""

    ordered: TighteningOrdered
    completed_at: datetime | None = None

    @property
    def is_open(self) -> bool:
        """Whether legs of it may still have to be sent."""
        return self.completed_at is None


def tightens(command: object) -> TypeGuard[Tightens]:
    """Whether it can be ordered so."""
    return isinstance(command, Tightens)


def ordered(command: OrderTightening, number: int, now: datetime) -> TighteningOrdered:
    """The order, which each meter judges for itself; Refused if it names no such command."""
    leg = command.command
    if not tightens(leg) or leg.by != command.by:
        raise Refused(Reason.CODE_UNKNOWN, "no such action")
    check_role(type(leg), command.by)
    check_named(leg.consent_id)
    check_meters(command.mpxns)
    left = leg if isinstance(leg, NarrowConsent) else NarrowConsent(leg.by, leg.consent_id)
    return TighteningOrdered(
        number,
        leg.consent_id,
        _ACTIONS[type(leg)],
        command.mpxns,
        left.categories or (),
        left.history_from,
        left.expires,
        leg.reason if isinstance(leg, SuspendConsent) else "",
        command.by.role,
        command.by.party,
        now,
    )
