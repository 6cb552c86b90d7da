"""From an accepted command to facts in the log: decide, sign, append, wait until the own fold
agrees.

The only way in which a domain's facts come about (design rule 4). Two coordinators may race without
locks: each names the predecessor it decided on, and the loser's record is void for everyone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

from spine.accreditation import accreditation_refusal
from spine.claims import Claims
from spine.domain import Actor, Domain
from spine.errors import Bug, Conflict, NotPermitted, Pushback, Reason, SpineError
from spine.event import Command, Fact, Facts, RecordType, from_epoch_ms
from spine.fold import FaustFolds
from spine.in_force import under_policy
from spine.live import LiveFold
from spine.murmur2 import murmur2_partition, murmur2_partitions
from spine.orders import Handled, Order, Rehearsed, next_record
from spine.partition import PartitionFold
from spine.policy import Role
from spine.rows import AppliedCommand, Subject
from spine.trust import GOVERNANCE_TOPIC, METER_KEYED
from spine.turns import Turns
from spine.writer import LogWriter, wall_clock_ms

FOLD_TIMEOUT_S: Final = 10.0
TIGHTENING_ATTEMPTS: Final = 8
_UNDECIDED: Final = Bug("nothing was decided")
# Those that act only while governance accredits them.
ORGANISATIONS: Final = frozenset({Role.DATA_USER, Role.SUPPLIER, Role.DATA_SERVICE})


class Coordinator:
    """Handles the commands of one domain on the folds of this process."""

    def __init__(
        self,
        domain: Domain,
        folds: FaustFolds,
        writer: LogWriter,
        partition_count: int,
        tightens: Callable[[Any], bool],
        claims: Claims | None = None,
    ) -> None:
        self._claims = claims
        self.domain, self._folds, self._writer = domain, folds, writer
        self._partitions = partition_count if domain.topic in METER_KEYED else 1
        self._tightens = tightens
        # Held while a command is on its way, so that ours do not race.
        self._turns = Turns()

    def live(self, subject: str) -> LiveFold:
        """The fold that knows the subject."""
        return self._folds[self.domain.topic, murmur2_partition(subject.encode(), self._partitions)]

    def state(self, subject: str) -> Any:
        """The subject's state as this process has folded it."""
        return self.live(subject).stored.fold.subject(subject).state

    def states(self, subjects: Sequence[str]) -> list[Any]:
        """The same of many subjects, all of one partition, which are looked up at once."""
        rows = self.live(subjects[0]).stored.fold.subjects(subjects) if subjects else ()
        return [row.state for row in rows]

    def earlier(self, order: Order) -> Handled | None:
        """Where this command was applied before, if it was.

        Conflict(IDEMPOTENCY_CONFLICT) if its key was used for another request.
        """
        fold = self.live(order.subject).stored.fold
        applied = fold.applied_command(order.id)
        return None if applied is None else self._replayed(order, applied)

    async def handle(self, order: Order) -> Handled:
        """Carry out one command.

        Refused by a rule, or NotPermitted for an organisation that is not accredited, unless the
        command only takes access away; Conflict(RACE_LOST) if a loosening command lost a race,
        Conflict(IDEMPOTENCY_CONFLICT) on other content under the same key; Pushback(INDETERMINATE)
        if the append was not acknowledged: repeat it under the same key.
        """
        if self._claims is not None:
            by, key = order.actor, order.idempotency_key
            self._claims.claim(by.role, by.party, order.method, key, order.digest)
        await self._admit(order.subject, order.command, order.actor)
        async with self._turns.about((order.subject,)):
            attempts = TIGHTENING_ATTEMPTS if self._tightens(order.command) else 1
            for _ in range(attempts):
                handled = await self._attempt(order)
                if handled is not None:
                    return handled
        raise Conflict(Reason.RACE_LOST, "another command came first; look again and decide")

    async def rehearse(self, subject: str, command: Any, by: Actor) -> Rehearsed:
        """What the command would make of the subject as folded here; nothing is written.

        Refused as by `handle`.
        """
        await self._admit(subject, command, by)
        fold = self.live(subject).stored.fold
        self._check_ready(fold, subject)
        now = _now(fold)
        before = after = fold.subject(subject).state
        for event in self._decided(fold, before, command, now):
            after = self.domain.evolve(after, event)
        return Rehearsed(before, after, now)

    async def _admit(self, subject: str, command: Any, by: Actor) -> None:
        """NotPermitted for an organisation that is not accredited, unless it only tightens."""
        if self.domain.topic != GOVERNANCE_TOPIC and not self._tightens(command):
            await check_accredited(self._folds, self.live(subject), by)

    async def _attempt(self, order: Order) -> Handled | None:
        live = self.live(order.subject)
        fold = live.stored.fold
        if (earlier := self.earlier(order)) is not None:
            return earlier
        self._check_ready(fold, order.subject)
        row, now = fold.subject(order.subject), _now(fold)
        events = self._decided(fold, row.state, order.command, now)
        if not events and self._tightens(order.command):
            # "Already so" must not come from a fold that has yet to learn that it no longer is.
            await self._barrier(live)
            row, now = fold.subject(order.subject), _now(fold)
            events = self._decided(fold, row.state, order.command, now)
        if not events:
            return Handled(
                self.domain.topic, fold.partition, row.offset, row.entry, False, changed=False
            )
        command = self._command(order, row, self._facts(events, now))
        appended = await self._writer.write(
            RecordType.FACTS,
            self.domain.topic,
            fold.partition,
            Facts(self.domain.topic, fold.partition, (command,)),
            key=order.subject.encode(),
        )
        await self._folded(live, appended.offset)
        applied = live.stored.fold.applied_command(order.id)
        if applied is None:
            return None
        if applied.offset != appended.offset:
            return self._replayed(order, applied)
        return Handled(self.domain.topic, fold.partition, applied.offset, applied.entry, False)

    def _decided(self, fold: PartitionFold, state: Any, command: Any, now: datetime) -> Any:
        return self.domain.decide(state, under_policy(fold, command), now)

    def _facts(self, events: Sequence[object], now: datetime) -> tuple[Fact, ...]:
        """The facts that these events are, decided at that moment."""
        encode, event_type = self._writer.codec.encode_to_append, self.domain.event_type
        return tuple(Fact(event_type(event), now, encode(event)) for event in events)

    def _command(self, order: Order, row: Subject, facts: tuple[Fact, ...]) -> Command:
        """The command of an order that was decided on that row."""
        return Command(
            order.id,
            order.subject,
            order.digest,
            row.offset,
            row.entry,
            f"{order.actor.role}/{order.actor.party}",
            facts,
        )

    async def _folded(self, live: LiveFold, offset: int) -> None:
        """Return once the record there is folded; Pushback(INDETERMINATE) if it is not in time."""
        try:
            await live.passed(offset, FOLD_TIMEOUT_S)
        except Pushback:
            message = "appended, not folded yet; repeat it under the same idempotency key"
            raise Pushback(Reason.INDETERMINATE, message) from None

    # -- many at once ---------------------------------------------------------------------------

    async def handle_all(self, orders: Sequence[Order]) -> list[Handled | SpineError]:
        """Carry out many commands, each alone; the answers stand in the order of `orders`.

        Those of one partition share records and signatures. A second one about the same subject
        waits for the next record. Each may be refused as by `handle`, but none is tried again: the
        loser of a race is answered RACE_LOST, whatever it does.
        """
        answers: list[Handled | SpineError] = [_UNDECIDED] * len(orders)
        if self._claims is not None:
            by_key = [
                (o.actor.role, o.actor.party, o.method, o.idempotency_key, o.digest) for o in orders
            ]
            conflicts = self._claims.claim_all(by_key)
            answers = [conflict or _UNDECIDED for conflict in conflicts]
        waiting: dict[int, list[int]] = {}
        subjects = [order.subject.encode() for order in orders]
        for place, partition in enumerate(murmur2_partitions(subjects, self._partitions)):
            if answers[place] is _UNDECIDED:
                waiting.setdefault(partition, []).append(place)
        await asyncio.gather(
            *(self._handle_partition(orders, places, answers) for places in waiting.values())
        )
        return answers

    async def _handle_partition(
        self, orders: Sequence[Order], places: list[int], answers: list[Handled | SpineError]
    ) -> None:
        """Decide and append what concerns one partition, a record of different subjects a time."""
        live = self.live(orders[places[0]].subject)
        sitting = _Sitting()
        while places:
            taken, places = next_record(orders, places)
            async with self._turns.about({orders[place].subject for place in taken}):
                about = [(orders[place].subject, orders[place].id) for place in taken]
                fold = live.stored.fold
                fold.read_ahead(self.domain, about)
                sitting.begin(fold, self._writer.signer.kid)
                commands: list[Command] = []
                decided: list[int] = []
                for place in taken:
                    try:
                        made = await self._decide_one(live, orders[place], sitting)
                    except SpineError as error:
                        answers[place] = error
                        continue
                    if isinstance(made, Handled):
                        answers[place] = made
                    else:
                        commands.append(made)
                        decided.append(place)
                if commands:
                    found = await self._append_all(live, tuple(commands))
                    for place, answer in zip(decided, found, strict=True):
                        answers[place] = answer

    async def _decide_one(
        self, live: LiveFold, order: Order, sitting: _Sitting
    ) -> Command | Handled:
        """The command to append for an order, or where it was applied before, or "already so"."""
        fold, kid = live.stored.fold, self._writer.signer.kid
        if (applied := fold.applied_command(order.id)) is not None:
            return self._replayed(order, applied)
        if sitting.unready is not None:
            raise sitting.unready
        _check_open(fold, order.subject)
        tightens = self._tightens(order.command)
        if not tightens:
            refused = sitting.refused
            if order.actor not in refused:
                refused[order.actor] = None
                try:
                    await check_accredited(self._folds, live, order.actor)
                except SpineError as error:
                    refused[order.actor] = error
                finally:
                    sitting.begin(fold, kid)
            if (error_ := refused[order.actor]) is not None:
                raise error_
        row = fold.subject(order.subject)
        events = self._decided(fold, row.state, order.command, sitting.now)
        if not events and tightens:
            try:
                await self._barrier(live)
            finally:  # whatever it came to, the fold may have gone on meanwhile
                sitting.begin(fold, kid)
            row = fold.subject(order.subject)
            events = self._decided(fold, row.state, order.command, sitting.now)
        if not events:
            at = (self.domain.topic, fold.partition, row.offset, row.entry)
            return Handled(*at, False, changed=False)
        facts = sitting.facts.get(events)
        if facts is None:
            facts = sitting.facts[events] = self._facts(events, sitting.now)
        return self._command(order, row, facts)

    async def _append_all(
        self, live: LiveFold, commands: tuple[Command, ...]
    ) -> list[Handled | SpineError]:
        """Append one record of commands and say what its fold made of each."""
        topic, partition = self.domain.topic, live.stored.partition
        facts = Facts(topic, partition, commands)
        try:
            appended = await self._writer.write(RecordType.FACTS, topic, partition, facts)
            await self._folded(live, appended.offset)
        except SpineError as error:
            return [error] * len(commands)
        found: list[Handled | SpineError] = []
        for command in commands:
            applied = live.stored.fold.applied_command(command.id)
            if applied is None:
                message = "another command came first; look again and decide"
                found.append(Conflict(Reason.RACE_LOST, message))
            elif applied.request_digest != command.request_digest:
                found.append(_other_request())
            else:
                replayed = applied.offset != appended.offset
                at = (topic, partition, applied.offset, applied.entry)
                found.append(Handled(*at, replayed))
        return found

    async def level(self, subject: str) -> None:
        """Return once the subject's fold has all that was acknowledged before."""
        await self._barrier(self.live(subject))

    async def _barrier(self, live: LiveFold) -> None:
        """Append a record without commands and wait for it: all acknowledged before is folded."""
        topic, partition = self.domain.topic, live.stored.partition
        barrier = Facts(topic, partition, ())
        appended = await self._writer.write(RecordType.FACTS, topic, partition, barrier)
        await live.passed(appended.offset, FOLD_TIMEOUT_S)

    def _replayed(self, order: Order, applied: AppliedCommand) -> Handled:
        if applied.request_digest != order.digest:
            raise _other_request()
        live = self.live(order.subject)
        return Handled(
            self.domain.topic, live.stored.partition, applied.offset, applied.entry, True
        )

    def _check_ready(self, fold: PartitionFold, subject: str) -> None:
        """Pushback unless facts of the subject can be signed and appended."""
        if (unready := _unready(fold, self._writer.signer.kid)) is not None:
            raise unready
        _check_open(fold, subject)


class _Sitting:
    """What orders of one partition are decided by alike: as long as nobody else has a turn, they
    are decided at one moment, and what is said of many is written once.
    """

    def __init__(self) -> None:
        self.refused: dict[Actor, SpineError | None] = {}

    def begin(self, fold: PartitionFold, kid: bytes) -> None:
        """Go by what the fold has come to meanwhile."""
        self.now, self.unready = _now(fold), _unready(fold, kid)
        self.facts: dict[Sequence[object], tuple[Fact, ...]] = {}


def _unready(fold: PartitionFold, kid: bytes) -> Pushback | None:
    """Why nothing may be signed: a signer uses a key only where its own fold has seen it."""
    key = fold.key(kid)
    if fold.head is None or key is None or key.revoked:
        return Pushback(Reason.KEY_NOT_SEEN, "our key does not count in the partition")
    return None


def _check_open(fold: PartitionFold, subject: str) -> None:
    """Closed meters take no facts."""
    if (closed := fold.closed(subject)) is not None:
        raise Pushback(closed, "closed until a build understands what it holds", retry_after_s=60)


def _other_request() -> Conflict:
    message = "this idempotency key was used for another request"
    return Conflict(Reason.IDEMPOTENCY_CONFLICT, message)


def _now(fold: PartitionFold) -> datetime:
    """The time of a decision: this machine's, and never before what the log has seen (rule 11)."""
    assert fold.head is not None
    return from_epoch_ms(max(wall_clock_ms(), fold.head.now_ms))


async def check_accredited(folds: FaustFolds, live: LiveFold, actor: Actor) -> None:
    """NotPermitted unless governance lets the organisation act in its role, as far as `live` knows.

    A fold that says no may not have heard yet: it is asked again once it has all the log holds.
    """
    if actor.role not in ORGANISATIONS:
        return
    now = from_epoch_ms(wall_clock_ms())
    fold = live.stored.fold
    if accreditation_refusal(fold.participant(actor.party), actor.role, now) is None:
        return
    await folds.level(FOLD_TIMEOUT_S)
    refusal = accreditation_refusal(fold.participant(actor.party), actor.role, now)
    if refusal is not None:
        raise NotPermitted(refusal, "the organisation is not accredited to do this")
