"""A consent over several meters: its orders at home, its legs at the meters, and what is missing.

An order is decided once at home; then each of its legs is an ordinary command at its meter, sent
under a key that follows from the order, so whoever sends it again changes nothing (design rule 12).
A leg is decided when its meter said yes or no, and governance had told it what home knows. A leg
that could not be sent stays missing, holds back only what comes after it at the same meter, and is
sent again in the background.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final
from weakref import WeakValueDictionary

import structlog

from domains.consumers.actions import ENDING, Action
from domains.consumers.commands import (
    ConsumersCommand,
    ResumeConsent,
    SuspendConsent,
    WithdrawConsent,
    is_own,
)
from domains.consumers.evolve import find_consent
from domains.consumers.fan_out import CompleteFanOut, FanOut, OrderFanOut
from domains.consumers.legs import Ordered, legs, open_orders
from domains.consumers.tightenings import tightens
from spine.coordinator import ORGANISATIONS, Coordinator
from spine.domain import Actor
from spine.errors import Bug, Conflict, NotPermitted, Pushback, Reason, Refused, SpineError
from spine.event import LogRecord
from spine.in_force import policy_in_force, under_policy
from spine.orders import Handled, Order
from spine.policy import Role
from spine.rows import SUBJECT_PREFIX, Applied, subject_history

LEG_ATTEMPTS: Final = 8
LEGS_AT_ONCE: Final = 32
_READERS: Final = frozenset({Role.DATA_USER, Role.SUPPLIER})
_NOT_ACCREDITED: Final = frozenset(
    {Reason.PARTICIPANT_UNKNOWN, Reason.PARTICIPANT_SUSPENDED, Reason.ACCREDITATION_MISSING}
)
_BEGINNING: Final = frozenset({Action.REQUEST, Action.GRANT})
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class LegDone:
    """What became of one leg: where its facts stand, or why there are none."""

    mpxn: str
    handled: Handled | None = None
    error: SpineError | None = None


class FanOuts:
    """Orders consents at home and sees their legs through."""

    def __init__(self, meters: Coordinator, home: Coordinator, name: str) -> None:
        self._meters, self._home = meters, home
        self._by = Actor(Role.COORDINATOR, name)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._at_once = asyncio.Semaphore(LEGS_AT_ONCE)
        self._open: set[str] = set()
        self._open_before: set[str] = set()

    # -- what is open ---------------------------------------------------------------------------

    def watch(self) -> None:
        """Know the consents with open orders: those there are, and from now on those that come."""
        live = self._home.live("")
        live.listeners.append(self._note)
        fold = live.stored.fold
        for key, row in fold.rows.scan(SUBJECT_PREFIX, SUBJECT_PREFIX + b"\xff"):
            state = fold.tools.unpack(row, self._home.domain.row_type)[2]
            if open_orders(state):
                self._open.add(key.removeprefix(SUBJECT_PREFIX).decode())
        self._open_before = set(self._open)

    def _note(self, record: LogRecord, applied: Applied) -> None:
        for consent_id in applied.subjects:
            if open_orders(self._state(consent_id)):
                self._open.add(consent_id)
            else:
                self._open.discard(consent_id)

    async def send_missing(self) -> None:
        """Send the legs of orders that were open at the last look and still are."""
        stuck = self._open & self._open_before
        self._open_before = set(self._open)
        for consent_id in sorted(stuck):
            try:
                await self.send(consent_id, ending=True)
                await self.send(consent_id, ending=False)
            except SpineError as error:
                _log.warning("fan_out.not_sent", reason=str(error.reason))

    # -- ordering -------------------------------------------------------------------------------

    def at_home(self, by: Actor, consent_id: str, action: Action, mpxns: Sequence[str]) -> bool:
        """Whether this is ordered at home, or goes straight to the meters that were named.

        Home is for several meters. A later command is an order of the consent if it names all its
        meters; see `takes_away` of one that names some, or that somebody else's order is in the way
        of.
        """
        state = self._state(consent_id)
        if action in _BEGINNING:
            return len(mpxns) > 1 or bool(state.orders)
        if not state.orders or set(mpxns) != set(state.mpxns):
            return False
        if action == Action.RESUME and (state.last is None or state.last.action != Action.SUSPEND):
            return False  # what is suspended was so at its meter alone
        return is_own(by, state.terms)

    async def takes_away(self, order: Order) -> bool:
        """Whether a tightening changes anything at a meter, or was ordered: only then is it worth
        an order. Otherwise any organisation could fill the home of anybody's consent. A meter that
        cannot say keeps it from no other: its leg waits, unless it knows of nothing for whoever
        orders.
        """
        if self._home.earlier(order) is not None:
            return True
        unsure = False
        command = order.command.command
        for mpxn in order.command.mpxns:
            try:
                await self.check_known(mpxn, command)
                found = await self._meters.rehearse(mpxn, command, command.by)
            except Refused:
                continue
            except Pushback:
                unsure = unsure or self._may_concern(order, mpxn)
                continue
            if found.after != found.before:
                return True
        return unsure

    def _may_concern(self, order: Order, mpxn: str) -> bool:
        """Whether a meter that cannot say may have something to take away for whoever orders.

        As far as the meter was folded, a consumer has nothing there if it never lived there, a
        reader if the consent is not its own there, unless it is their own by what was ordered here:
        a grant may be on its way. One that moved in, or was granted it, since gives its command to
        the meters themselves, as without a home.
        """
        by, meter = order.command.by, self._meters.state(mpxn)
        if self._is_own_by_order(by, order.subject):
            return True
        if by.role == Role.CONSUMER:
            return any(each.consumer_ref == by.party for each in meter.tenancies)
        if by.role in _READERS:
            known = find_consent(meter, order.subject)
            return known is not None and is_own(by, known)
        return True

    def _is_own_by_order(self, by: Actor, consent_id: str) -> bool:
        """Whether the consent was ever ordered here as one of this party."""
        return any(is_own(by, each.ordered.terms) for each in self._state(consent_id).orders)

    async def check_known(self, mpxn: str, command: Any) -> None:
        """NotPermitted(NOT_PERMITTED) for a reader that gives up what it never had.

        It may withdraw what the meter knows, or what was ordered at home for it and is still on its
        way: a bar that a stranger put up would stay with the meter for ever, and keep the grant of
        another out.
        """
        if not isinstance(command, WithdrawConsent) or command.by.role not in _READERS:
            return
        consent_id = command.consent_id
        for level in (False, True):
            if level:
                await self._meters.level(mpxn)
            known = find_consent(self._meters.state(mpxn), consent_id)
            if known is not None or self._is_own_by_order(command.by, consent_id):
                return
        message = "nothing there is the caller's to give up"
        raise NotPermitted(Reason.NOT_PERMITTED, message)

    async def rehearse(self, consent_id: str, command: OrderFanOut, by: Actor) -> dict[str, Any]:
        """The legs that the order would be sent as; none if it is already so."""
        found = await self._home.rehearse(consent_id, command, by)
        last = found.after.orders[-1].ordered
        return {} if found.after == found.before else dict(legs(found.after, last))

    async def held_back(
        self, consent_id: str, command: Any, mpxns: Sequence[str]
    ) -> dict[str, SpineError]:
        """Where what was ordered before is still missing, and why, for a suspension or resumption
        that goes straight to its meters: sent after it, an older one would undo it.

        What is open is sent first. The call answers such an error when the rest is done.
        """
        if not isinstance(command, SuspendConsent | ResumeConsent):
            return {}
        sent = await self.send(consent_id, ending=False)
        return {
            mpxn: done.error
            for (_, mpxn), done in sent.items()
            if mpxn in mpxns and isinstance(done.error, Pushback)
        }

    async def order(
        self, order: Order, leg: ConsumersCommand
    ) -> tuple[Handled, tuple[LegDone, ...]]:
        """Order at home, send what is missing; the legs of this order, each as it was decided.

        Refused or Conflict as by `Coordinator.handle`; Pushback if a leg could not be sent: it will
        be, and the same order under the same key tells how it went. Also if home takes no order:
        then `leg`, if it takes access away, has gone straight to the meters.
        """
        try:
            handled = await self._home.handle(order)
        except Pushback:
            if tightens(leg):
                await self._straight(order, leg)
            raise
        ordered = self._ordered(order, handled)
        sent = await self.send(order.subject, ending=ordered.action in ENDING)
        done = []
        for mpxn, command in legs(self._state(ordered.consent_id), ordered):
            given = sent.get((ordered.number, mpxn)) or self._found(ordered, mpxn, command)
            if isinstance(given.error, Pushback):
                raise given.error
            done.append(given)
        return handled, tuple(done)

    async def _straight(self, order: Order, command: ConsumersCommand) -> None:
        """Give the command to each meter that takes it, under the key it came with: the same call,
        sent again, changes nothing where this has, and is ordered where anything is left to do.
        """

        async def give(mpxn: str) -> None:
            try:
                await self.check_known(mpxn, command)
                async with self._at_once:
                    await self._meters.handle(replace(order, subject=mpxn, command=command))
            except Bug:
                raise
            except SpineError as error:
                _log.warning("fan_out.not_sent", reason=str(error.reason))

        await asyncio.gather(*map(give, order.command.mpxns))

    async def send(self, consent_id: str, *, ending: bool) -> dict[tuple[int, str], LegDone]:
        """Send every leg of the open orders that end the consent, or of the others, in their order,
        and complete them.

        What ends the consent does not wait for what is under way: it stands above it at each meter.
        """
        lock = self._locks.setdefault(f"{consent_id}/{ending}", asyncio.Lock())
        async with lock:
            done: dict[tuple[int, str], LegDone] = {}
            missing: dict[str, SpineError] = {}
            state = self._state(consent_id)
            found = open_orders(state)
            for order in (each for each in found if (each.action in ENDING) is ending):
                sending = [self._send(order, *leg, missing) for leg in legs(state, order)]
                for leg in await asyncio.gather(*sending):
                    done[order.number, leg.mpxn] = leg
                    if isinstance(leg.error, Pushback):
                        missing[leg.mpxn] = leg.error
                if missing.keys().isdisjoint(order.mpxns):
                    await self._complete(order)
            return done

    async def _send(
        self, order: Ordered, mpxn: str, command: Any, missing: dict[str, SpineError]
    ) -> LegDone:
        """One leg. It was decided at home that it shall be, so a lost race is run again."""
        if mpxn in missing:
            return LegDone(mpxn, error=missing[mpxn])
        leg = _leg(order, mpxn, command)
        async with self._at_once:
            for _ in range(LEG_ATTEMPTS):
                untold = self._untold(order, mpxn)
                try:
                    await self.check_known(mpxn, command)
                    return LegDone(mpxn, await self._meters.handle(leg))
                except Conflict as conflict:
                    if conflict.reason is not Reason.RACE_LOST:
                        return LegDone(mpxn, error=conflict)
                except Bug:
                    raise
                except SpineError as error:
                    return LegDone(mpxn, error=_undecided(error, untold) or error)
        return LegDone(mpxn, error=Pushback(Reason.OVERLOADED, "too much happens at the meter"))

    def _untold(self, order: Ordered, mpxn: str) -> frozenset[Reason]:
        """Why the meter may say no before governance has told its partition and home the same."""
        at = self._home.live(order.consent_id), self._meters.live(mpxn)
        home, meter = (live.stored.fold for live in at)
        reasons: frozenset[Reason] = frozenset()
        if policy_in_force(meter) < policy_in_force(home):
            reasons |= {Reason.CODE_UNKNOWN}
        here, there = (fold.participant(order.actor_party) for fold in (home, meter))
        if order.actor_role in ORGANISATIONS and here != there:
            reasons |= _NOT_ACCREDITED
        return reasons

    async def _complete(self, order: Ordered) -> None:
        complete = CompleteFanOut(self._by, order.number)
        key = f"{order.consent_id}/{order.number}"
        digest = sha256(key.encode()).digest()
        try:
            await self._home.handle(
                Order(order.consent_id, complete, self._by, "CompleteFanOut", key, digest)
            )
        except Pushback as later:
            _log.warning("fan_out.not_completed", reason=str(later.reason))

    # -- what was ordered -----------------------------------------------------------------------

    def _state(self, consent_id: str) -> FanOut:
        state = self._home.state(consent_id)
        assert isinstance(state, FanOut)
        return state

    def _ordered(self, order: Order, handled: Handled) -> Ordered:
        """What stands at home for this command: its own order, or the one that said so before."""
        if not handled.changed:
            orders = [o.ordered for o in self._state(order.subject).orders]
            return ([o for o in orders if o.action == order.command.action] or orders)[-1]
        fold = self._home.live(order.subject).stored.fold
        past = subject_history(
            fold.rows, fold.tools.unpack, self._home.domain, order.subject, handled.offset + 1
        )
        for row in past:
            if (row.offset, row.entry) == (handled.offset, handled.entry):
                assert isinstance(row.state, FanOut)
                return row.state.every[-1].ordered
        raise Bug("an order was applied and is not in its history")

    def _found(self, order: Ordered, mpxn: str, command: Any) -> LegDone:
        """What became of a leg that was decided earlier; a refusal leaves no fact to look up."""
        leg = _leg(order, mpxn, command)
        if (earlier := self._meters.earlier(leg)) is not None:
            return LegDone(mpxn, earlier)
        fold = self._meters.live(mpxn).stored.fold
        row = fold.subject(mpxn)
        try:
            given = under_policy(fold, command)
            if self._meters.domain.decide(row.state, given, datetime.now(UTC)):
                raise Refused(Reason.CONSENT_UNKNOWN, "the leg was refused at the time")
        except SpineError as refusal:
            return LegDone(mpxn, error=refusal)
        topic = self._meters.domain.topic
        return LegDone(
            mpxn, Handled(topic, fold.partition, row.offset, row.entry, True, changed=False)
        )


def _undecided(error: SpineError, untold: frozenset[Reason]) -> Pushback | None:
    """Why a no decides nothing: it follows from what governance has yet to tell (`untold`), or this
    build does not know the policy. The leg stays missing.
    """
    if error.reason is Reason.POLICY_VERSION_STATE:
        return Pushback(Reason.POLICY_VERSION_STATE, "a build that knows the policy sends it")
    if error.reason in untold:
        return Pushback(Reason.FOLD_BEHIND, "the meter has yet to be told what home knows")
    return None


def _leg(order: Ordered, mpxn: str, command: Any) -> Order:
    """The leg as a command at its meter: the same, under the same key, whoever sends it."""
    by = Actor(order.actor_role, order.actor_party)
    key = f"{order.consent_id}/{order.number}"
    digest = sha256(key.encode()).digest()
    return Order(mpxn, command, by, "FanOutLeg", key, digest)
