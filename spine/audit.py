"""The log again, from its first record, with a plain reader: was every answer what it had to be?

The same pure folds as in the serving processes, in another host: no Faust, no live store. Every
access record is decided again at its own offset, every released answer rebuilt at the positions it
names, and both are held against the outcome that the DSI recorded (`verdict`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from spine import trust
from spine.answer import Release
from spine.domain import ReadableRows
from spine.errors import Reason
from spine.event import (
    TYPE_HEADER,
    AccessOutcome,
    AccessOutcomes,
    AccessRequests,
    DataPosition,
    LogRecord,
    RecordType,
    SignerRole,
    from_epoch_ms,
)
from spine.log import LogUnfit
from spine.policy import Permit
from spine.replay import RangeReader, StoredFold
from spine.rows import Applied, Counts, Decided, Malformed, UnknownSchema
from spine.verdict import (
    Rebuilt,
    Verdict,
    answered_otherwise,
    decided_otherwise,
    impossible,
    policy_missing,
    refused_blindly,
    unread,
    unread_below,
)
from spine.view import Hold, Void

__all__ = ["AuditReport", "Auditor", "Balance", "Line", "Rebuild", "Rebuilt", "Verdict"]

# Outcomes first: the log may grow meanwhile, and what they speak of is then found in the others.
AUDITED: Final = (trust.OUTCOMES_TOPIC, *trust.DATA_TOPICS, trust.CONSUMER_LOG)

Rebuild = Callable[[Decided, Mapping[str, ReadableRows], Mapping[str, int]], Rebuilt]


@dataclass(frozen=True, slots=True)
class Line:
    """One decision on one meter, with what was recorded of it and what the audit says.

    Of an outcome without a decision, `at` is when the outcome was appended, and the party is not
    known.
    """

    verdict: Verdict
    why: str
    at: datetime
    partition: int
    offset: int
    entry: int
    request_id: bytes
    member: str
    party: str = ""
    role: str = ""
    method: str = ""
    purpose: str = ""
    basis: str = ""
    decision: str = ""
    reason: str = ""
    consent_id: str = ""
    release: str = ""
    rows: int = 0


@dataclass(frozen=True, slots=True)
class Balance:
    """What a fold consumed of one topic-partition (rule 8), and where it ended."""

    topic: str
    partition: int
    next_offset: int
    holes: int
    closed: str
    counts: Counts


@dataclass(slots=True)
class AuditReport:
    """All verdicts counted; the lines that are not SAME; the balance of every partition.

    `inadmissible` counts access records that no DSI server validly signed: they decide nothing.
    """

    counts: Counter[str] = field(default_factory=Counter)
    findings: list[Line] = field(default_factory=list)
    balances: list[Balance] = field(default_factory=list)
    inadmissible: int = 0

    @property
    def ok(self) -> bool:
        """Whether no answer differs and every fold's balance is even."""
        balanced = all(balance.counts.balanced for balance in self.balances)
        return not self.counts[Verdict.DIFFERENT] and balanced


class Auditor:
    """One pass over the log of an installation.

    `open_fold(path, topic, partition)` gives an empty fold over a throw-away store in `stores`;
    `rebuild` makes the answer to a decision from rows by topic and how far below they may be read,
    and raises LookupError if the rows it needs are not among them.
    """

    def __init__(
        self,
        reader: RangeReader,
        stores: Path,
        partitions: int,
        reducer_version: int,
        open_fold: Callable[[Path, str, int], StoredFold],
        rebuild: Rebuild,
    ) -> None:
        self.reader, self.stores, self._partitions = reader, stores, partitions
        self.reducer_version = reducer_version
        self.open_fold, self.rebuild = open_fold, rebuild

    def run(
        self,
        on_line: Callable[[Line], None] = lambda _: None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> AuditReport:
        """Audit everything. `on_line` gets every decision, `progress` records done and in all.

        LogUnfit(LOG_MISSING) if the log no longer reaches back to its first record,
        LogUnfit(LOG_DIFFERS) if a partition does not begin with the opening of this log.
        """
        report = AuditReport()
        places = [(topic, p) for p in range(self._partitions) for topic in AUDITED]
        total = sum(self.reader.bounds(*place)[1] for place in places)
        done = 0
        for partition in range(self._partitions):
            pass_ = _PartitionPass(self, report, partition, on_line)
            try:
                for topic in AUDITED:
                    before = done

                    def folded(records: int, _: int, before: int = before) -> None:
                        progress(min(before + records, total), total)

                    done += pass_.fold(topic, folded)
                    progress(min(done, total), total)
            finally:
                pass_.close()
        return report


class _PartitionPass:
    """The four topics of one partition: data and outcomes first, then the decisions."""

    def __init__(
        self, auditor: Auditor, report: AuditReport, partition: int, on_line: Callable[[Line], None]
    ) -> None:
        self._auditor, self._report, self._partition = auditor, report, partition
        self._on_line = on_line
        self._folds: dict[str, StoredFold] = {}
        self._outcomes: dict[tuple[bytes, str], list[tuple[AccessOutcome, int]]] = {}
        self._decided: set[tuple[bytes, str, int, int]] = set()
        self._inadmissible: set[int] = set()
        self._unread: set[int] = set()

    def fold(self, topic: str, progress: Callable[[int, int], None]) -> int:
        """Fold one topic from its first record; returns the offset after its last."""
        auditor = self._auditor
        stored = auditor.open_fold(auditor.stores, topic, self._partition)
        self._folds[topic] = stored
        listener = {trust.OUTCOMES_TOPIC: self._on_outcomes, trust.CONSUMER_LOG: self._on_request}
        stored.catch_up(auditor.reader, progress=progress, on_record=listener.get(topic))
        head = stored.fold.head
        if head is None:
            message = f"{topic}-{self._partition} does not begin with the opening of this log"
            raise LogUnfit(Reason.LOG_DIFFERS, message)
        if topic == trust.CONSUMER_LOG:
            self._leftovers()
        self._report.balances.append(
            Balance(topic, self._partition, head.next_offset, head.holes, head.closed, head.counts)
        )
        return head.next_offset

    def close(self) -> None:
        """Let go of the throw-away stores."""
        for stored in self._folds.values():
            stored.close()

    def _on_outcomes(self, record: LogRecord, applied: Applied) -> None:
        """Keep the outcomes of a record that the fold accepted: signed by a DSI, and in place."""
        if not applied.applied or record.header(TYPE_HEADER) != RecordType.OUTCOMES.encode():
            return
        assert record.value is not None
        value = self._folds[trust.OUTCOMES_TOPIC].fold.tools.decode(record.value)
        assert isinstance(value, AccessOutcomes)
        for outcome in value.entries:
            key = (outcome.request_id, outcome.member)
            self._outcomes.setdefault(key, []).append((outcome, record.append_ms))

    def _on_request(self, record: LogRecord, applied: Applied) -> None:
        if not applied.access:
            return
        decided = self._folds[trust.CONSUMER_LOG].fold.decide_access(record)
        if not decided:
            self._nothing_decided(record)
            return
        vectors = self._requests(record).vectors
        for each in decided:
            index = each.request.vector
            self._judge(record, each, vectors[index] if 0 <= index < len(vectors) else ())

    def _requests(self, record: LogRecord) -> AccessRequests:
        """The value of an access record; raises Malformed or UnknownSchema."""
        value = self._folds[trust.CONSUMER_LOG].fold.tools.decode(record.value or b"")
        if not isinstance(value, AccessRequests):
            raise Malformed("no access requests")
        return value

    def _nothing_decided(self, record: LogRecord) -> None:
        """A probe of a server whether its fold still moves, a record of a later build, or neither
        signed nor placed as it must be.
        """
        fold = self._folds[trust.CONSUMER_LOG].fold
        unknown = unread(fold)
        try:
            entries = self._requests(record).entries
            if fold.verified_role(record) is SignerRole.DSI and not any(e.meters for e in entries):
                return
        except (UnknownSchema, Hold):
            unknown = "this build cannot read the access record"
        except (Malformed, Void):
            pass
        if not unknown:
            self._report.inadmissible += 1
            self._inadmissible.add(record.offset)
            return
        self._unread.add(record.offset)
        at = from_epoch_ms(record.append_ms)
        place = (self._partition, record.offset, -1)
        self._say(Line(Verdict.CANNOT_TELL, unknown, at, *place, b"", ""))

    def _judge(self, record: LogRecord, decided: Decided, vector: tuple[DataPosition, ...]) -> None:
        request, decision = decided.request, decided.decision
        recorded = self._outcomes.get((request.request_id, decided.member), [])
        place = (self._partition, record.offset, decided.entry)
        here = [outcome for outcome, _ in recorded if _place(outcome) == place]
        self._decided.add((request.request_id, decided.member, record.offset, decided.entry))
        if here:
            verdict, why = self._compare(decided, here, vector)
        else:
            verdict, why = self._without_outcome(decided, bool(recorded))
        permit = decision if isinstance(decision, Permit) else None
        self._say(
            Line(
                verdict,
                why,
                from_epoch_ms(record.append_ms),
                *place,
                request.request_id,
                decided.member,
                request.party,
                request.role,
                request.method,
                request.purpose,
                request.basis,
                "PERMIT" if permit else "REFUSE",
                "" if isinstance(decision, Permit) else str(decision.reason),
                permit.consent_id if permit else "",
                here[0].release if here else "",
                here[0].rows if here else 0,
            )
        )

    def _without_outcome(self, decided: Decided, elsewhere: bool) -> tuple[Verdict, str]:
        unknown = unread(self._folds[trust.OUTCOMES_TOPIC].fold) or self._undecidable(decided)
        if unknown:
            return Verdict.CANNOT_TELL, unknown
        why = "permitted, no outcome: presume that it was disclosed"
        if not isinstance(decided.decision, Permit):
            why = "refused, no outcome"
        doubled = "; the outcome of this request names another place"
        return Verdict.UNCONFIRMED, why + doubled if elsewhere else why

    def _undecidable(self, decided: Decided) -> str:
        """Why another build may rightly have decided otherwise at the place just folded."""
        fold = self._folds[trust.CONSUMER_LOG].fold
        return unread(fold, decided.member) or policy_missing(fold)

    def _compare(
        self, decided: Decided, outcomes: list[AccessOutcome], vector: tuple[DataPosition, ...]
    ) -> tuple[Verdict, str]:
        """The record itself first, then the decision, then the answer."""
        if difference := impossible(outcomes):
            return Verdict.DIFFERENT, difference
        outcome, stored = outcomes[0], self._folds[trust.CONSUMER_LOG]
        if outcome.reducer_version != self._auditor.reducer_version:
            return Verdict.CANNOT_TELL, f"reducer version {outcome.reducer_version} is not at hand"
        if difference := decided_otherwise(decided, outcome):
            unknown = self._undecidable(decided) or refused_blindly(outcome, stored.schema_set)
            if unknown:
                return Verdict.CANNOT_TELL, unknown
            return Verdict.DIFFERENT, difference
        if outcome.release != Release.RELEASED:
            return Verdict.SAME, outcome.release_reason
        return self._compare_answer(decided, outcome, vector)

    def _compare_answer(
        self, decided: Decided, outcome: AccessOutcome, vector: tuple[DataPosition, ...]
    ) -> tuple[Verdict, str]:
        """Rebuild the answer at the positions that the request named."""
        unknown = ""
        for position in vector:
            if position.topic not in trust.DATA_TOPICS:
                return Verdict.CANNOT_TELL, f"no view of {position.topic} is at hand"
            if position.partition != self._partition:
                return Verdict.DIFFERENT, "the request names positions of another partition"
            data = self._folds[position.topic].fold
            assert data.head is not None
            if data.head.next_offset < position.offset:
                return Verdict.CANNOT_TELL, f"{position.topic} does not reach that far any more"
            unknown = unknown or unread_below(data, decided.member, position.offset)
        rows = {p.topic: self._folds[p.topic].store for p in vector}
        try:
            rebuilt = self._auditor.rebuild(decided, rows, {p.topic: p.offset for p in vector})
        except LookupError:
            return Verdict.DIFFERENT, "the request names no positions for what it asks"
        difference = answered_otherwise(rebuilt, outcome)
        if not difference:
            return Verdict.SAME, ""
        return (Verdict.CANNOT_TELL, unknown) if unknown else (Verdict.DIFFERENT, difference)

    def _leftovers(self) -> None:
        """Outcomes of what was never decided at the place they name."""
        decided = {(request_id, member) for request_id, member, _, _ in self._decided}
        for key, outcomes in self._outcomes.items():
            for outcome, append_ms in outcomes:
                partition, offset, entry = _place(outcome)
                here = partition == self._partition
                if here and (*key, offset, entry) in self._decided:
                    continue
                verdict, why = Verdict.DIFFERENT, "it names a decision that the log does not hold"
                if here and offset in self._unread:
                    verdict, why = Verdict.CANNOT_TELL, "this build cannot read its access record"
                elif here and offset in self._inadmissible:
                    why = "no DSI server validly signed the access record it names"
                elif key in decided:
                    why = "it names another place than that of the decision"
                self._say(
                    Line(
                        verdict,
                        f"an outcome without a decision: {why}",
                        from_epoch_ms(append_ms),
                        *_place(outcome),
                        *key,
                        decision=outcome.decision,
                        reason=outcome.reason,
                        consent_id=outcome.consent_id,
                        release=outcome.release,
                        rows=outcome.rows,
                    )
                )

    def _say(self, line: Line) -> None:
        self._report.counts[line.verdict] += 1
        if line.verdict is not Verdict.SAME:
            self._report.findings.append(line)
        self._on_line(line)


def _place(outcome: AccessOutcome) -> tuple[int, int, int]:
    return outcome.decided_partition, outcome.decided_offset, outcome.decided_entry
