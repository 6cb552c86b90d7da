"""A consent over several meters: ordered once at home, then spread as one leg per meter (rule 12).

Home is `consumers.reference.v1`, subject the consent id. An order is complete when every leg has
been decided at its meter, yes or no. Any coordinator may send the missing legs of the open orders,
in their order; a repeated leg changes nothing. What ends the consent overtakes all that is under
way, and a suspension what would loosen, so no leg loosens after a tightening order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, TypeVar

from domains.consumers import tightenings
from domains.consumers.actions import COMMANDS, Action, check_meters
from domains.consumers.commands import ConsentTerms, check_own, check_role
from domains.consumers.consent import check_may_resume, check_terms, is_wider, outranks
from domains.consumers.events import ConsentTermsRecorded
from domains.consumers.record import RecordTerms, check_record, record_is_wider, says_the_same
from domains.consumers.tightenings import OrderTightening, Tightening, TighteningOrdered
from spine import trust
from spine.domain import Actor, Domain
from spine.errors import NotPermitted, Reason, Refused
from spine.event import SignerRole
from spine.policy import Role
from spine.policy_data import FIRST_POLICY

_LOOSENING: Final = frozenset({Action.REQUEST, Action.GRANT, Action.RESUME})
_FINAL: Final = {
    Action.DECLINE: Reason.CONSENT_DECLINED,
    Action.REVOKE: Reason.CONSENT_REVOKED,
    Action.WITHDRAW: Reason.CONSENT_WITHDRAWN,
}
_GRANTED: Final = (Action.GRANT, Action.RESUME)
Kept = TypeVar("Kept", "Order", Tightening)


@dataclass(frozen=True, slots=True)
class FanOutOrdered:
    """It was decided at home what shall become of a consent at each of these meters.

    `terms` are those in force from this order on; `number` counts the orders of the consent from 1.
    """

    number: int
    consent_id: str
    action: str
    mpxns: tuple[str, ...]
    terms: ConsentTerms
    answer_by: datetime | None
    channel: str
    evidence: str
    reason: str
    actor_role: str
    actor_party: str
    ordered_at: datetime


@dataclass(frozen=True, slots=True)
class FanOutCompleted:
    """Every leg of the order has been decided at its meter."""

    number: int
    action: str
    completed_at: datetime


@dataclass(frozen=True, slots=True)
class OrderFanOut:
    """Do this to the consent at all its meters; a first request or grant names meters and terms."""

    by: Actor
    consent_id: str
    action: str
    mpxns: tuple[str, ...] = ()
    terms: ConsentTerms | None = None
    answer_by: datetime | None = None
    channel: str = ""
    evidence: str = ""
    reason: str = ""
    record: RecordTerms | None = None
    policy_version: int = FIRST_POLICY


@dataclass(frozen=True, slots=True)
class CompleteFanOut:
    """Record that every leg of the order has been decided."""

    by: Actor
    number: int


@dataclass(frozen=True, slots=True)
class Order:
    """An order and how far it came; a superseded one is sent no further.

    `record` is what a request or a grant says besides its terms.
    """

    ordered: FanOutOrdered
    completed_at: datetime | None = None
    superseded: bool = False
    record: RecordTerms | None = None

    @property
    def is_open(self) -> bool:
        """Whether legs of it may still have to be sent."""
        return self.completed_at is None and not self.superseded


@dataclass(frozen=True, slots=True)
class FanOut:
    """Everything ordered for one consent, first to last, and apart what tightens without terms."""

    orders: tuple[Order, ...] = ()
    tightenings: tuple[Tightening, ...] = ()

    @property
    def every(self) -> tuple[Order | Tightening, ...]:
        """All orders by number."""
        return tuple(sorted((*self.orders, *self.tightenings), key=lambda o: o.ordered.number))

    @property
    def last(self) -> FanOutOrdered | None:
        """The order that says how the consent stands; narrowing leaves it standing as it was."""
        standing = [o.ordered for o in self.orders if o.ordered.action != Action.NARROW]
        return standing[-1] if standing else None

    @property
    def terms(self) -> ConsentTerms:
        """The terms in force."""
        return self.orders[-1].ordered.terms

    @property
    def mpxns(self) -> tuple[str, ...]:
        """Every meter that the consent was ever asked for."""
        return self.orders[0].ordered.mpxns

    def terms_before(self, number: int) -> ConsentTerms:
        """The terms in force when the order of that number was made; it is not the first."""
        return [o.ordered.terms for o in self.orders if o.ordered.number < number][-1]

    def record(self, number: int) -> RecordTerms | None:
        """What the record says besides the terms, by the order of that number."""
        return next((o.record for o in self.orders if o.ordered.number == number), None)


FanOutCommand = OrderFanOut | OrderTightening | CompleteFanOut
FanOutEvent = FanOutOrdered | TighteningOrdered | FanOutCompleted | ConsentTermsRecorded


def tightens(command: FanOutCommand) -> bool:
    """Whether the order can only take access away, so that a lost race may be run again."""
    return not isinstance(command, OrderFanOut) or command.action not in _LOOSENING


def evolve(state: FanOut, event: FanOutEvent) -> FanOut:
    """The orders of a consent after one more fact."""
    match event:
        case ConsentTermsRecorded():
            last = state.orders[-1] if state.orders else None
            beside = last is not None and last.ordered.ordered_at == event.decided_at
            if last is None or not beside or last.record is not None:
                raise Refused(Reason.CONSENT_STATE, "the record is of the order beside it")
            return replace(state, orders=(*state.orders[:-1], replace(last, record=event.terms)))
        case FanOutOrdered():
            kept = tuple(_overtaken(order, event.action) for order in state.orders)
            return replace(state, orders=(*kept, Order(event)))
        case TighteningOrdered():
            return replace(state, tightenings=(*state.tightenings, Tightening(event)))
        case FanOutCompleted():
            return FanOut(
                tuple(_completed(order, event) for order in state.orders),
                tuple(_completed(order, event) for order in state.tightenings),
            )


def _completed(order: Kept, event: FanOutCompleted) -> Kept:
    if order.ordered.number != event.number:
        return order
    return replace(order, completed_at=event.completed_at)


def _overtaken(order: Order, action: str) -> Order:
    loosens = order.ordered.action in _LOOSENING
    overtakes = action in _FINAL or (action == Action.SUSPEND and loosens)
    return replace(order, superseded=True) if order.is_open and overtakes else order


def decide(state: FanOut, command: FanOutCommand, now: datetime) -> tuple[FanOutEvent, ...]:
    """The order that a command makes at home at `now`; raises `Refused` with the reason."""
    if isinstance(command, CompleteFanOut):
        return _complete(state, command, now)
    if isinstance(command, OrderTightening):
        return (tightenings.ordered(command, len(state.every) + 1, now),)
    if command.action not in COMMANDS:
        raise Refused(Reason.CODE_UNKNOWN, "no such action")
    check_role(COMMANDS[command.action], command.by)
    if state.last is None:
        _check_first(command, now)
    else:
        check_own(command.by, state.terms)
        if state.last.action in _FINAL:
            if command.action in _FINAL or command.action == Action.SUSPEND:
                return ()
            raise Refused(_FINAL[Action(state.last.action)], "the consent is over")
        if not _changes(state, state.last, command, now):
            return ()
    ordered = _order(state, command, now)
    if command.record is None:
        return (ordered,)
    return (ordered, ConsentTermsRecorded(command.consent_id, command.record, now))


def _complete(state: FanOut, command: CompleteFanOut, now: datetime) -> tuple[FanOutCompleted, ...]:
    if command.by.role != Role.COORDINATOR:
        raise NotPermitted(Reason.ROLE_NOT_ALLOWED, "only a coordinator completes an order")
    order = next((o for o in state.every if o.ordered.number == command.number), None)
    if order is None:
        raise Refused(Reason.CONSENT_UNKNOWN, "there is no such order")
    if not order.is_open:
        return ()
    return (FanOutCompleted(command.number, order.ordered.action, now),)


def _check_first(command: OrderFanOut, now: datetime) -> None:
    """A consent begins at home with a request or a grant that names its meters and terms."""
    if command.action not in (Action.REQUEST, Action.GRANT):
        raise Refused(Reason.CONSENT_UNKNOWN, "no consent of that id was ordered")
    terms = _terms_of(command)
    check_own(command.by, terms)
    check_terms(command.consent_id, terms, command.policy_version, now)
    check_record(terms, command.record)
    check_meters(command.mpxns)
    if command.action == Action.REQUEST:
        if command.answer_by is None:
            raise Refused(Reason.FIELD_MISSING, "a request says until when to answer")
        if command.answer_by <= now:
            raise Refused(Reason.CONSENT_LAPSED, "the time to answer has already run out")


def _terms_of(command: OrderFanOut) -> ConsentTerms:
    if command.terms is None:
        raise Refused(Reason.FIELD_MISSING, "the order needs terms")
    return command.terms


def _changes(state: FanOut, last: FanOutOrdered, command: OrderFanOut, now: datetime) -> bool:
    """Whether the order changes how the consent stands; raises if it does not fit."""
    match command.action:
        case Action.REQUEST:
            return _same_or_exists(state, command)
        case Action.GRANT:
            return _grants(state, last, command, now)
        case Action.DECLINE:
            if last.action != Action.REQUEST:
                raise Refused(Reason.CONSENT_STATE, "what was granted is revoked, not declined")
        case Action.NARROW:
            _check_answered(last)
            terms = _terms_of(command)
            check_terms(command.consent_id, terms, command.policy_version, now)
            if is_wider(terms, state.terms):
                raise Refused(Reason.CONSENT_WIDER, "a wider scope needs fresh consent")
            return not _same(terms, state.terms)
        case Action.SUSPEND:
            _check_answered(last)
            return outranks(command.by, _suspended_by(last))
        case Action.RESUME:
            _check_answered(last)
            if last.action == Action.SUSPEND:
                check_may_resume(command.by, last.actor_role)
            return last.action == Action.SUSPEND
    return True


def _grants(state: FanOut, last: FanOutOrdered, command: OrderFanOut, now: datetime) -> bool:
    if last.action in _GRANTED:
        return _same_or_exists(state, command)
    if last.action == Action.SUSPEND:
        raise Refused(Reason.CONSENT_SUSPENDED, "a suspended consent is resumed, not granted")
    if last.answer_by is not None and now >= last.answer_by:
        raise Refused(Reason.CONSENT_LAPSED, "the time to answer has run out")
    terms = _terms_of(command)
    check_terms(command.consent_id, terms, command.policy_version, now)
    check_record(terms, command.record)
    wider = is_wider(terms, state.terms) or record_is_wider(
        command.record, state.record(last.number)
    )
    if wider or not set(command.mpxns) <= set(state.mpxns):
        raise Refused(Reason.CONSENT_WIDER, "more than was requested cannot be granted")
    return True


def _same_or_exists(state: FanOut, command: OrderFanOut) -> bool:
    """False if exactly this was ordered before; nothing else can be under the same id."""
    terms = _terms_of(command)
    before = [o.ordered for o in state.orders if o.ordered.action == command.action]
    if (
        before
        and _same(terms, state.terms)
        and says_the_same(command.record, state.record(before[-1].number))
        and set(_meters(state, command)) == set(before[-1].mpxns)
    ):
        return False
    raise Refused(Reason.CONSENT_EXISTS, "the consent id is already in use")


def _same(terms: ConsentTerms, others: ConsentTerms) -> bool:
    """Two seals of one notice differ; its hash does not."""
    return replace(terms, notice=None) == replace(others, notice=None)


def _check_answered(last: FanOutOrdered) -> None:
    if last.action == Action.REQUEST:
        raise Refused(Reason.CONSENT_NOT_ANSWERED, "the request has not been answered")


def _suspended_by(last: FanOutOrdered) -> str:
    return last.actor_role if last.action == Action.SUSPEND else ""


def _meters(state: FanOut, command: OrderFanOut) -> tuple[str, ...]:
    """A request or a grant may name its meters; all else concerns every meter of the consent."""
    names = command.action in (Action.REQUEST, Action.GRANT) and command.mpxns
    return command.mpxns if names else state.mpxns


def _order(state: FanOut, command: OrderFanOut, now: datetime) -> FanOutOrdered:
    new_terms = command.action in (Action.REQUEST, Action.GRANT, Action.NARROW)
    return FanOutOrdered(
        len(state.every) + 1,
        command.consent_id,
        command.action,
        _meters(state, command),
        _terms_of(command) if new_terms else state.terms,
        command.answer_by,
        command.channel,
        command.evidence,
        command.reason,
        command.by.role,
        command.by.party,
        now,
    )


CONSENT_FAN_OUT: Final = Domain(
    name="consumers",
    topic=trust.CONSUMERS_REFERENCE,
    signer=SignerRole.CONSUMERS,
    version=3,
    events={
        "consumers.FanOutOrdered": FanOutOrdered,
        "consumers.TighteningOrdered": TighteningOrdered,
        "consumers.FanOutCompleted": FanOutCompleted,
        "consumers.ConsentTermsRecorded": ConsentTermsRecorded,
    },
    state_type=FanOut,
    initial=FanOut,
    evolve=evolve,
    decide=decide,
)
