"""What was quarantined is appended again, once it keeps the rules, or is left out for good.

Readings go in again as the bytes they are; a fact as a new command, with the same facts, that
follows on what its subject has come to meanwhile. Nothing is made true that was not: only what the
owning coordinator itself signed is redriven, and a fold judges the new record like any other. What
nobody responsible signed has to be commanded afresh.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final

from spine import trust
from spine.domain import Actor
from spine.errors import Conflict, NotFound, NotPermitted, Pushback, Reason, Refused, SpineError
from spine.event import (
    TYPE_HEADER,
    Command,
    Facts,
    LogRecord,
    RecordType,
    Settled,
    epoch_ms,
    from_epoch_ms,
)
from spine.fold import FaustFolds
from spine.partition import PartitionFold
from spine.policy import Role
from spine.quarantine import OWNERS, Case, Place, key_of, read_cases
from spine.rows import Malformed, UnknownSchema
from spine.runtime import Runtime
from spine.view import Void
from spine.writer import LogWriter

FOLD_TIMEOUT_S: Final = 10.0
REDRIVEN, RELEASED, WOULD_REDRIVE = "REDRIVEN", "RELEASED", "WOULD_REDRIVE"
# Where one entry of a record broke a rule, the entries beside it stood; else all of it was refused.
OF_ONE_ENTRY: Final = frozenset({Reason.RECORD_OUT_OF_RANGE, Reason.RECORD_MALFORMED})


@dataclass(frozen=True, slots=True)
class Redriven:
    """What came of it: `how`, what is or would be appended, and where (offset -1: nowhere)."""

    how: str
    what: str
    partition: int = -1
    offset: int = -1
    replayed: bool = False


class Redriver:
    """Settles what is quarantined of the topics that one coordinator owns."""

    def __init__(self, runtime: Runtime, folds: FaustFolds, writer: LogWriter) -> None:
        self._runtime, self._folds, self._writer = runtime, folds, writer
        self._lock = asyncio.Lock()

    async def redrive(self, place: Place, by: Actor, reason: str, *, dry_run: bool) -> Redriven:
        """Append the entry again, or only say what would be.

        NotFound(QUARANTINE_UNKNOWN) if nothing of that place was quarantined here; Refused with the
        rule it still breaks, or QUARANTINE_SETTLED if it was left out; Conflict(RACE_LOST) if
        another command came first.
        """
        self._check_role(by)
        async with self._lock:
            case, record = await self._case(place)
            if case.settled is not None:
                return self._settled_before(case.settled, REDRIVEN)
            if place.topic == trust.READINGS_TOPIC:
                what, value = self._readings(record)
            else:
                what, value = self._facts(place, case, record, by)
            if dry_run:
                return Redriven(WOULD_REDRIVE, what)
            offset = await self._append(place, value)
            await self._settle(place, REDRIVEN, by, reason, place.partition, offset)
            return Redriven(REDRIVEN, what, place.partition, offset)

    async def release(self, place: Place, by: Actor, reason: str) -> Redriven:
        """Leave the entry out for good."""
        self._check_role(by)
        async with self._lock:
            case, _ = await self._case(place)
            if case.settled is not None:
                return self._settled_before(case.settled, RELEASED)
            await self._settle(place, RELEASED, by, reason)
            return Redriven(RELEASED, "")

    def _check_role(self, by: Actor) -> None:
        if by.role != Role.GOVERNANCE:
            raise NotPermitted(Reason.ROLE_NOT_ALLOWED, "only governance settles a quarantine")

    def _settled_before(self, settled: Settled, wanted: str) -> Redriven:
        if settled.how != wanted:
            message = f"it was {settled.how.lower()} by {settled.settled_by}"
            raise Refused(Reason.QUARANTINE_SETTLED, message)
        return Redriven(settled.how, "", settled.redriven_partition, settled.redriven_offset, True)

    async def _case(self, place: Place) -> tuple[Case, LogRecord]:
        """What the quarantine topic says of that place, and the record itself."""
        mine = self._folds[trust.QUARANTINE_TOPIC, 0].stored.fold
        # Here, and not where the log is read: a fold in motion is of one thread.
        key = mine.key(self._writer.signer.kid)
        return await asyncio.to_thread(self._read_case, place, key)

    def _read_case(self, place: Place, key: trust.SigningKey | None) -> tuple[Case, LogRecord]:
        """The same, by who has that key. Blocking."""
        reader = self._runtime.reader()
        try:
            fold = self._runtime.memory_fold(trust.QUARANTINE_TOPIC, 0)
            case = read_cases(reader, fold).get(place)
            if case is None or key is None or OWNERS[place.topic] != key.role:
                message = "nothing of that place is quarantined by this coordinator"
                raise NotFound(Reason.QUARANTINE_UNKNOWN, message)
            found = reader.read(place.topic, place.partition, place.offset, place.offset + 1)
            return case, next(found, _as_kept(case))
        finally:
            reader.close()

    def _fold(self, place: Place) -> PartitionFold:
        """The fold that says whose signature counts there. Readings are not folded here."""
        topic = trust.METERING_TOPIC if place.topic == trust.READINGS_TOPIC else place.topic
        return self._folds[topic, place.partition].stored.fold

    def _checked(self, record: LogRecord, record_type: RecordType) -> Any:
        """The value of a record that its coordinator signed, as far as is known by now."""
        fold = self._fold(Place(record.topic, record.partition, record.offset, 0))
        try:
            role = fold.verified_role(record)
            value = fold.decoded(record.value or b"")
        except Void as still:
            raise Refused(still.reason, "it still breaks the rule") from None
        if role is not OWNERS[record.topic]:
            raise Refused(Reason.VOID_ROLE, "another than its coordinator signed it")
        if record.header(TYPE_HEADER) != record_type.encode():
            raise Refused(Reason.RECORD_MALFORMED, "a record of this type is not redriven")
        return value

    def _readings(self, record: LogRecord) -> tuple[str, object]:
        domain = self._runtime.domains.by_topic[trust.READINGS_TOPIC]
        batch = self._checked(record, RecordType.READINGS)
        if type(batch) not in domain.records.values() or domain.batch_problem is None:
            raise Refused(Reason.RECORD_MALFORMED, "it is no batch of readings")
        if problem := domain.batch_problem(batch, self._runtime.partitions):
            raise Refused(Reason(problem), "it still breaks the rule")
        return f"1 batch of {batch.rows} meter-days", batch

    def _facts(self, place: Place, case: Case, record: LogRecord, by: Actor) -> tuple[str, object]:
        value = self._checked(record, RecordType.FACTS)
        if not isinstance(value, Facts) or not place.entry < len(value.commands):
            raise Refused(Reason.RECORD_MALFORMED, "it holds no such command")
        alone = case.kept.rule in OF_ONE_ENTRY
        chosen = value.commands[place.entry : place.entry + 1] if alone else value.commands
        if not chosen:
            raise Refused(Reason.RECORD_MALFORMED, "it holds no command")
        if len({command.subject for command in chosen}) < len(chosen):
            message = "several commands of one subject are given afresh, one by one"
            raise Refused(Reason.RECORD_MALFORMED, message)
        again = tuple(self._again(place, command, by) for command in chosen)
        types = sorted({fact.type for command in again for fact in command.facts})
        what = f"{len(again)} command{'s' * (len(again) > 1)}: {', '.join(types)}"
        return what, Facts(place.topic, place.partition, again)

    def _again(self, place: Place, command: Command, by: Actor) -> Command:
        """The same facts as a new command, if they are allowed where the subject stands now."""
        fold = self._fold(place)
        home = place.topic == trust.GOVERNANCE_TOPIC
        domains = self._runtime.domains
        domain = domains.governance if home else domains.by_topic[place.topic]
        if fold.misplaced(command.subject.encode()) or not command.facts:
            raise Refused(Reason.VOID_PARTITION, "it belongs to another partition")
        if fold.closed(command.subject) is not None:
            raise Pushback(Reason.METER_CLOSED, "its subject is closed", retry_after_s=60)
        row = fold.subject(command.subject)
        state = row.state
        try:
            for fact in command.facts:
                if fact.type not in domain.events:
                    raise Refused(Reason.RECORD_UNKNOWN_TYPE, "its type is not known here")
                state = domain.evolve(state, fold.tools.decode_event(fact.type, fact.body))
        except (Malformed, UnknownSchema):
            raise Refused(Reason.RECORD_MALFORMED, "it still breaks the rule") from None
        except (SpineError, AssertionError, LookupError, ValueError) as error:
            if isinstance(error, Refused) and error.reason is Reason.RECORD_UNKNOWN_TYPE:
                raise
            raise Refused(Reason.RECORD_OUT_OF_RANGE, "it still breaks the rule") from None
        return Command(
            sha256(b"redrive\x1f" + str(place).encode() + b"\x1f" + command.id).digest()[:16],
            command.subject,
            command.request_digest,
            row.offset,
            row.entry,
            f"{by.role}/{by.party}",
            command.facts,
        )

    async def _append(self, place: Place, value: object) -> int:
        """Append it; of facts, wait until the own fold has applied them all."""
        if not isinstance(value, Facts):
            appended = await self._writer.write(
                RecordType.READINGS, place.topic, place.partition, value
            )
            return appended.offset
        live = self._folds[place.topic, place.partition]
        before = [live.stored.fold.applied_command(c.id) for c in value.commands]
        if all(before):
            return next(done.offset for done in before if done is not None)
        key = value.commands[0].subject.encode() if len(value.commands) == 1 else None
        appended = await self._writer.write(
            RecordType.FACTS, place.topic, place.partition, value, key=key
        )
        await live.passed(appended.offset, FOLD_TIMEOUT_S)
        if not all(live.stored.fold.applied_command(c.id) for c in value.commands):
            raise Conflict(Reason.RACE_LOST, "another command came first; look again and decide")
        return appended.offset

    async def _settle(
        self, place: Place, how: str, by: Actor, reason: str, partition: int = -1, offset: int = -1
    ) -> None:
        settled = Settled(
            place.topic,
            place.partition,
            place.offset,
            place.entry,
            how,
            f"{by.role}/{by.party}",
            reason,
            partition,
            offset,
            from_epoch_ms(epoch_ms(datetime.now(UTC))),
        )
        key = key_of(settled)
        await self._writer.write(RecordType.QUARANTINE, trust.QUARANTINE_TOPIC, 0, settled, key=key)


def _as_kept(case: Case) -> LogRecord:
    """The record as it was kept, where the log no longer holds it."""
    kept = case.kept
    headers = tuple((header.name, header.value) for header in kept.headers)
    return LogRecord(
        kept.source_topic,
        kept.source_partition,
        kept.source_offset,
        kept.source_append_ms,
        kept.key,
        headers,
        kept.value,
    )
