"""One partition is a world of its own: how any host folds one, record by record (rules 3, 4, 8).

`PartitionFold` is pure. It is given what it needs as values: how to verify and decode,
where the rows are. Faust hosts it to serve; a plain reader hosts the same class to audit.
"""

from __future__ import annotations

import struct
from typing import Any

from msgspec import Raw
from msgspec.structs import replace

from spine import trust
from spine.domain import Domain
from spine.errors import Reason, SpineError
from spine.event import (
    KEY_ID_HEADER,
    NO_PREDECESSOR,
    TYPE_HEADER,
    AccessOutcomes,
    Command,
    Fact,
    Facts,
    GovernanceCopy,
    LogRecord,
    Opening,
    Quarantined,
    RecordType,
    Settled,
    SignerRole,
)
from spine.rows import (
    APPLIED_PREFIX,
    CLOSED_PREFIX,
    COPIES_REMEMBERED_MAX,
    HEAD_ROW,
    HELD_PREFIX,
    QUARANTINE_PREFIX,
    After,
    Applied,
    AppliedCommand,
    Counts,
    Effect,
    Head,
    Malformed,
    Refusal,
    Subject,
    UnknownSchema,
    history_row,
)
from spine.view import Hold, PartitionView, Quarantine, Void


class PartitionFold(PartitionView):
    """Folds one topic-partition. `apply` every record in order; then ask."""

    def apply(self, record: LogRecord) -> Applied:
        """Fold one record into the rows. Never raises for what a record holds."""
        applied = Applied()
        try:
            self._apply(record, applied)
        except Hold as held:
            self._hold(record, 0, self._record_subject(record), applied, held.reason)
        except Quarantine as poison:
            self._quarantine(record, 0, applied, poison.reason)
        except Void as void:
            applied.refusals.append(Refusal(0, "void", void.reason, self._record_subject(record)))
        if self.head is not None:
            self.head = self.head.after(record.offset, applied.counted(self.head.counts))
            self.rows.put(HEAD_ROW, self.tools.pack(self.head))
        return applied

    def _apply(self, record: LogRecord, applied: Applied) -> None:
        letter = record.header(TYPE_HEADER)
        if record.value is None or letter is None:
            raise Quarantine(Reason.RECORD_MALFORMED)
        if letter == RecordType.OPENING.encode():
            self._open(record, applied)
            return
        if self.head is None:
            raise Quarantine(Reason.RECORD_UNSIGNED)
        if letter == RecordType.ACCESS.encode() and self.topic == trust.CONSUMER_LOG:
            applied.access = 1
            return
        if self.head.closed:
            raise Hold(Reason.PARTITION_CLOSED)
        role = self.verified_role(record)
        try:
            record_type = RecordType(letter.decode())
        except ValueError:
            if role is SignerRole.DSI:
                raise Void(Reason.VOID_ROLE) from None
            raise Hold(Reason.RECORD_UNKNOWN_TYPE) from None
        if role not in trust.MAY_WRITE.get((self.topic, record_type), frozenset()):
            raise Void(Reason.VOID_ROLE)
        if record.key is not None and self.misplaced(record.key):
            raise Void(Reason.VOID_PARTITION)
        copied = record_type is RecordType.COPY
        value = self.decoded(record.value, self.tools.copied if copied else self.tools)
        if not copied and self.clock_sure(record):
            self._advance(record)
        match value:
            case Facts() if record_type is RecordType.FACTS:
                self._apply_facts(record, value, role, applied)
            case GovernanceCopy() if copied:
                self._apply_copy(record, value, applied)
            case _ if record_type is RecordType.READINGS:
                self._apply_batch(record, value, applied)
            case AccessOutcomes() if record_type is RecordType.OUTCOMES:
                if (value.topic, value.partition) != (self.topic, self.partition):
                    raise Void(Reason.VOID_PARTITION)
                applied.applied = 1
            case Quarantined() | Settled() if record_type is RecordType.QUARANTINE:
                applied.applied = 1
            case _:
                raise Quarantine(Reason.RECORD_MALFORMED)

    def _open(self, record: LogRecord, applied: Applied) -> None:
        assert record.value is not None
        value = self._decoded_opening(record, record.value)
        signed = record.header(KEY_ID_HEADER) == trust.key_id(value.root_key) and self.signed_by(
            value.root_key, record, value.log_id()
        )
        if not signed:
            raise Quarantine(Reason.RECORD_BAD_SIGNATURE)
        if self.head is not None:
            if record.value == self.head.opening:
                applied.duplicates = 1
                return
            if value.root_key != self.head.root_key:
                raise Quarantine(Reason.OPENING_DIFFERS)  # anybody's key; ours never said so
            self.head = replace(self.head, closed=str(Reason.OPENING_DIFFERS))
            raise Void(Reason.OPENING_DIFFERS)
        if value.log_id() != self.log_id:
            raise Quarantine(Reason.OPENING_DIFFERS)
        early = sum(1 for _ in self.rows.scan(QUARANTINE_PREFIX, QUARANTINE_PREFIX + b"\xff"))
        self.head = Head(
            self.log_id,
            value.generation,
            value.partition_count,
            value.root_key,
            record.value,
            next_offset=early,
            counts=Counts(consumed=early, quarantined=early),
        )
        self._advance(record)
        applied.applied = 1

    def _decoded_opening(self, record: LogRecord, framed: bytes) -> Opening:
        """The opening in those bytes; only what the root key signed is held for a later build."""
        try:
            value = self.decoded(framed)
        except Hold:
            if self.head is None or not self.signed_by(self.head.root_key, record):
                raise Quarantine(Reason.RECORD_MALFORMED) from None
            raise
        if not isinstance(value, Opening):
            raise Quarantine(Reason.RECORD_MALFORMED)
        return value

    def _apply_facts(
        self, record: LogRecord, facts: Facts, role: SignerRole, applied: Applied
    ) -> None:
        if (facts.topic, facts.partition) != (self.topic, self.partition):
            raise Void(Reason.VOID_PARTITION)
        if not facts.commands:  # a barrier: it changes nothing, and whoever folds it is level
            applied.applied = 1
            return
        domain = self.governance if self.topic == trust.GOVERNANCE_TOPIC else self.domain
        assert domain is not None
        if len(facts.commands) > 1:
            self.read_ahead(domain, [(command.subject, command.id) for command in facts.commands])
        subjects = [command.subject.encode() for command in facts.commands]
        misplaced = self.each_misplaced(subjects)
        for entry, command in enumerate(facts.commands):
            try:
                if record.key is not None and record.key != subjects[entry]:
                    raise Void(Reason.VOID_KEY)
                if misplaced[entry]:
                    raise Void(Reason.VOID_PARTITION)
                self._apply_command(domain, record.offset, entry, command, role, applied)
            except Hold as held:
                self._hold(record, entry, command.subject, applied, held.reason)
            except Quarantine as poison:
                self._quarantine(record, entry, applied, poison.reason, command.subject)
            except Void as void:
                applied.refusals.append(Refusal(entry, "void", void.reason, command.subject))
        self._firsts.clear()

    def _apply_command(
        self,
        domain: Domain,
        offset: int,
        entry: int,
        command: Command,
        role: SignerRole,
        applied: Applied,
    ) -> None:
        """Duplicate before chain, chain before content; then all facts of the command or none."""
        if self.closed(command.subject) is not None:
            raise Hold(Reason.METER_CLOSED)
        prefix, subject = self._prefix(domain), command.subject.encode()
        key, id_key = prefix + subject, APPLIED_PREFIX + prefix + command.id
        if self._row(id_key) is not None:
            applied.duplicates += 1
            return
        before = self._subject_at(domain, key)
        if (command.previous_offset, command.previous_entry) != (before.offset, before.entry):
            raise Void(Reason.VOID_CHAIN)
        if not command.facts:
            raise Quarantine(Reason.RECORD_MALFORMED)
        first = before.offset == NO_PREDECESSOR and domain is not self.governance
        said = tuple((fact.type, fact.body) for fact in command.facts)  # not when, which differs
        after = self._firsts.get(said) if first else None
        if after is None:
            after = self._after(domain, before.state, command.facts, role)
            if first:
                self._firsts[said] = after
        row = self.tools.pack((offset, entry, after.packed))
        self._put(key, row, Subject(offset, entry, after.state))
        if domain is not self.governance:
            self.rows.put(history_row(subject, offset, entry), row)
            applied.states[command.subject] = after.state
        done = AppliedCommand(offset, entry, command.request_digest)
        self._put(id_key, self.tools.pack(done), done)
        if domain is self.governance:
            self.forget(command.subject)
            applied.governance = True
        applied.applied += 1
        applied.subjects.append(command.subject)
        for event in after.events:
            applied.events.append((command.subject, event))

    def _after(
        self, domain: Domain, state: Any, facts: tuple[Fact, ...], role: SignerRole
    ) -> After:
        """What all these facts make of that state; raises for the first that does not fit it."""
        events = []
        for fact in facts:
            event = self._decode_fact(domain, fact.type, fact.body)
            if role is SignerRole.ROOT and not isinstance(
                event, trust.SigningKeyAuthorised | trust.SigningKeyRevoked
            ):
                raise Void(Reason.VOID_ROLE)
            try:
                state = domain.evolve(state, event)
            except (SpineError, AssertionError, LookupError, ValueError):
                raise Quarantine(Reason.RECORD_OUT_OF_RANGE) from None
            events.append(event)
        return After(state, Raw(self.tools.pack(state)), events)

    def _decode_fact(self, domain: Domain, fact_type: str, body: bytes) -> object:
        if fact_type not in domain.events:
            if not fact_type.startswith(domain.name + "."):
                raise Void(Reason.VOID_ROLE)
            raise Hold(Reason.RECORD_UNKNOWN_TYPE)
        reading = self.tools.copied if domain is self.governance else self.tools
        try:
            return reading.decode_event(fact_type, body)
        except UnknownSchema:
            raise Hold(Reason.RECORD_UNKNOWN_TYPE) from None
        except Malformed:
            raise Quarantine(Reason.RECORD_MALFORMED) from None

    def _apply_copy(self, record: LogRecord, copy: GovernanceCopy, applied: Applied) -> None:
        assert self.head is not None
        home = copy.home()
        if home.topic != trust.GOVERNANCE_TOPIC or home.header(TYPE_HEADER) != b"f":
            raise Void(Reason.VOID_ROLE)
        if copy.home_offset <= self.head.last_copy:
            applied.duplicates = 1
            return
        if copy.previous_home_offset != self.head.last_copy:
            raise Void(Reason.VOID_CHAIN)
        role = self.verified_role(home)
        if role not in trust.MAY_WRITE[(trust.GOVERNANCE_TOPIC, RecordType.FACTS)]:
            raise Void(Reason.VOID_ROLE)
        assert home.value is not None
        facts = self.decoded(home.value, self.tools.copied)
        if not isinstance(facts, Facts):
            raise Quarantine(Reason.RECORD_MALFORMED)
        if self.clock_sure(record):
            self._advance(record)
        effect = self._effect(copy.home_offset, facts, role)
        self.head = replace(self.head, last_copy=copy.home_offset)
        applied.applied = 1
        applied.governance = True
        applied.events = list(effect.events)

    def _effect(self, offset: int, facts: Facts, role: SignerRole) -> Effect:
        """Do what governance said at that offset to the rows here. What it came to in another
        partition is done again, if the rows are the same: each has a copy of it.
        """
        prefix, effects = self._prefix(self.governance), self.tools.copied.effects
        keys = [prefix + command.subject.encode() for command in facts.commands]
        keys += [APPLIED_PREFIX + prefix + command.id for command in facts.commands]
        before = self.rows.get_many(keys)
        known, open_ = effects.get(offset), not self.may_be_closed
        if open_ and known is not None and known.fits(self.governance, facts, role, before):
            for key, row in known.rows:
                self._put(key, row)
            for subject in known.subjects:
                self.forget(subject)
            return known
        done = self._carried_out(offset, facts, role)
        after = zip(keys, self.rows.get_many(keys), strict=True)
        rows = [(key, row) for key, row in after if row is not None]
        made = Effect(self.governance, facts, role, before, rows, done.subjects, done.events)
        if open_:
            if len(effects) >= COPIES_REMEMBERED_MAX:
                effects.clear()
            effects[offset] = made
        return made

    def _carried_out(self, offset: int, facts: Facts, role: SignerRole) -> Applied:
        assert self.head is not None
        done = Applied()
        for entry, command in enumerate(facts.commands):
            try:
                self._apply_command(self.governance, offset, entry, command, role, done)
            except Hold:
                self.head = replace(self.head, closed=str(Reason.RECORD_UNKNOWN_TYPE))
                raise
            except Void:
                continue
        return done

    def _apply_batch(self, record: LogRecord, batch: object, applied: Applied) -> None:
        assert self.domain is not None and self.head is not None
        if self.domain.fold_batch is None or self.domain.batch_problem is None:
            raise Quarantine(Reason.RECORD_MALFORMED)
        if type(batch) not in self.domain.records.values():
            raise Quarantine(Reason.RECORD_MALFORMED)
        place = (getattr(batch, "topic", None), getattr(batch, "partition", None))
        if place != (self.topic, self.partition):
            raise Void(Reason.VOID_PARTITION)
        problem = self.domain.batch_problem(batch, self.head.partition_count)
        if problem == Reason.VOID_PARTITION:
            raise Void(Reason.VOID_PARTITION)
        if problem:
            self.domain.note_refused(batch, record.offset, self.rows)
            raise Quarantine(Reason(problem))
        if self.domain.fold_batch(batch, record.offset, self.rows):
            applied.applied = 1
        else:
            applied.duplicates = 1

    def _put(self, key: bytes, row: bytes, says: Subject | AppliedCommand | None = None) -> None:
        """Write a row that may have been read ahead; the next command need not read what it says.

        What is read may have a place for what there is none of; what is kept has not (`as_kept`).
        """
        self.rows.put(key, row)
        if key in self._ahead:
            self._ahead[key] = row
            if says is not None:
                self._said_ahead[key] = row, says

    def _advance(self, record: LogRecord) -> None:
        assert self.head is not None
        if record.append_ms > self.head.now_ms:
            self.head = replace(self.head, now_ms=record.append_ms)

    def _record_subject(self, record: LogRecord) -> str:
        return "" if record.key is None else record.key.decode("utf-8", "replace")

    def _hold(
        self, record: LogRecord, entry: int, subject: str, applied: Applied, reason: Reason
    ) -> None:
        """Keep the place of what this build cannot read, and close what it concerns (rule 8)."""
        place = struct.pack(">qi", record.offset, entry)
        self.rows.put(HELD_PREFIX + place, self.tools.pack((subject, str(reason))))
        if subject:
            self._holds = True
            self._put(CLOSED_PREFIX + subject.encode(), self.tools.pack(str(reason)))
        elif self.head is not None and not self.head.closed:
            self.head = replace(self.head, closed=str(reason))
        applied.refusals.append(Refusal(entry, "held", reason, subject))

    def _quarantine(
        self, record: LogRecord, entry: int, applied: Applied, reason: Reason, subject: str = ""
    ) -> None:
        place = struct.pack(">qi", record.offset, entry)
        self.rows.put(QUARANTINE_PREFIX + place, self.tools.pack(str(reason)))
        applied.refusals.append(Refusal(entry, "quarantined", reason, subject))
