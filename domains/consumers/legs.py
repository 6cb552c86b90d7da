"""The legs of an order: what each meter is sent, by whichever coordinator, however often."""

from __future__ import annotations

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
from domains.consumers.fan_out import Action, FanOut, FanOutOrdered
from domains.consumers.record import RecordTerms
from spine.domain import Actor
from spine.errors import Bug


def open_orders(state: FanOut) -> tuple[FanOutOrdered, ...]:
    """The orders whose legs may be missing, in the order in which they are to be sent."""
    return tuple(order.ordered for order in state.orders if order.is_open)


def legs(
    order: FanOutOrdered, record: RecordTerms | None = None
) -> tuple[tuple[str, ConsumersCommand], ...]:
    """What to send to each meter of the order: exactly this, whoever sends it and however often.

    `record` is the order's, as `FanOut.record` has it.
    """
    return tuple((mpxn, _leg(order, record)) for mpxn in order.mpxns)


def _leg(order: FanOutOrdered, record: RecordTerms | None) -> ConsumersCommand:
    by = Actor(order.actor_role, order.actor_party)
    consent_id, terms = order.consent_id, order.terms
    match order.action:
        case Action.REQUEST:
            assert order.answer_by is not None
            return RequestConsent(by, consent_id, terms, order.answer_by, record)
        case Action.GRANT:
            return GrantConsent(by, consent_id, terms, order.channel, order.evidence, record)
        case Action.NARROW:
            return NarrowConsent(
                by, consent_id, terms.categories, terms.history_from, terms.expires
            )
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
