"""The legs of an order: what each meter is sent, by whichever coordinator, however often."""

from __future__ import annotations

from domains.consumers.actions import Action
from domains.consumers.commands import (
    ConsumersCommand,
    DeclineConsent,
    GrantConsent,
    NarrowConsent,
    RequestConsent,
    ResumeConsent,
    RevokeConsent,
    SuspendConsent,
    WithdrawConsent,
)
from domains.consumers.fan_out import FanOut, FanOutOrdered
from domains.consumers.record import RecordTerms
from domains.consumers.tightenings import TighteningOrdered
from spine.domain import Actor
from spine.errors import Bug

Ordered = FanOutOrdered | TighteningOrdered


def open_orders(state: FanOut) -> tuple[Ordered, ...]:
    """The orders whose legs may be missing, in the order in which they are to be sent."""
    return tuple(order.ordered for order in state.every if order.is_open)


def legs(
    order: Ordered, record: RecordTerms | None = None
) -> tuple[tuple[str, ConsumersCommand], ...]:
    """What to send to each meter of the order: exactly this, whoever sends it and however often.

    `record` is the order's, as `FanOut.record` has it.
    """
    return tuple((mpxn, _leg(order, record)) for mpxn in order.mpxns)


def _leg(order: Ordered, record: RecordTerms | None) -> ConsumersCommand:
    by, consent_id = Actor(order.actor_role, order.actor_party), order.consent_id
    if order.action == Action.NARROW:
        scope = order if isinstance(order, TighteningOrdered) else order.terms
        left = scope.categories or None, scope.history_from, scope.expires
        return NarrowConsent(by, consent_id, *left)
    if isinstance(order, FanOutOrdered):
        terms = order.terms
        if order.action == Action.REQUEST:
            assert order.answer_by is not None
            return RequestConsent(by, consent_id, terms, order.answer_by, record)
        if order.action == Action.GRANT:
            return GrantConsent(by, consent_id, terms, order.channel, order.evidence, record)
    match order.action:
        case Action.SUSPEND:
            return SuspendConsent(by, consent_id, order.reason)
        case Action.DECLINE:
            return DeclineConsent(by, consent_id)
        case Action.RESUME:
            return ResumeConsent(by, consent_id)
        case Action.REVOKE:
            return RevokeConsent(by, consent_id)
        case Action.WITHDRAW:
            return WithdrawConsent(by, consent_id)
        case _:
            raise Bug(f"no leg for {order.action}")
