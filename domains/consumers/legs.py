"""The legs of an order: what each meter is sent, by whichever coordinator, however often."""

from __future__ import annotations

from datetime import datetime

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
from domains.consumers.tightenings import TighteningOrdered
from spine.domain import Actor
from spine.errors import Bug

Ordered = FanOutOrdered | TighteningOrdered


def open_orders(state: FanOut) -> tuple[Ordered, ...]:
    """The orders whose legs may be missing, in the order in which they are to be sent."""
    return tuple(order.ordered for order in state.every if order.is_open)


def legs(state: FanOut, order: Ordered) -> tuple[tuple[str, ConsumersCommand], ...]:
    """What to send to each meter of the order: exactly this, whoever sends it and however often.

    `state` is any that the order is part of: nothing later changes what stands before it.
    """
    return tuple((mpxn, _leg(state, order)) for mpxn in order.mpxns)


def _leg(state: FanOut, order: Ordered) -> ConsumersCommand:
    by, consent_id = Actor(order.actor_role, order.actor_party), order.consent_id
    if order.action == Action.NARROW:
        return NarrowConsent(by, consent_id, *_left(state, order))
    if isinstance(order, FanOutOrdered):
        record = state.record(order.number)
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


def _left(
    state: FanOut, order: Ordered
) -> tuple[tuple[str, ...] | None, datetime | None, datetime | None]:
    """What a narrowing says of the scope. Of the terms of the whole consent only what it changed:
    a meter that was narrowed further, by itself, would refuse the rest as wider.
    """
    if isinstance(order, TighteningOrdered):
        return order.categories or None, order.history_from, order.expires
    new, old = order.terms, state.terms_before(order.number)
    return (
        None if new.categories == old.categories else new.categories,
        None if new.history_from == old.history_from else new.history_from,
        None if new.expires == old.expires else new.expires,
    )
