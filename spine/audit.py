"""The log again, from its first record, with a plain reader: was every answer what it had to be?

The same pure folds as in the serving processes, in another host: no Faust, no live store. Every
access record is decided again at its own offset, every released answer rebuilt at the positions it
names, and both are held against the outcome that the DSI recorded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

from spine import trust
from spine.answer import Release
from spine.domain import ReadableRows
from spine.event import (
    TYPE_HEADER,
    AbsentRun,
    AccessOutcome,
    AccessOutcomes,
    AccessRequests,
    DataPosition,
    LogRecord,
    RecordType,
    from_epoch_ms,
)
from spine.policy import Permit
from spine.replay import RangeReader, StoredFold
from spine.rows import Applied, Counts, Decided, Malformed, UnknownSchema

DATA_TOPICS: Final = (trust.READINGS_TOPIC, trust.METERING_TOPIC)
AUDITED: Final = (*DATA_TOPICS, trust.OUTCOMES_TOPIC, trust.CONSUMER_LOG)


class Verdict(StrEnum):
    """What an auditor says of one decision."""

    SAME = "SAME"
    DIFFERENT = "DIFFERENT"
    UNCONFIRMED = "UNCONFIRMED"
    CANNOT_TELL = "CANNOT TELL"


class Rebuilt(Protocol):
    """What an answer comes to when it is made again."""

    @property
    def rows(self) -> int:
        """Rows that carry something."""

    @property
    def digest(self) -> bytes:
        """The digest of the canonical rows."""

    @property
    def absent(self) -> tuple[AbsentRun, ...]:
        """The half hours without a value."""


Rebuild = Callable[[Decided, Mapping[str, ReadableRows], Mapping[str, int]], Rebuilt]


@dataclass(frozen=True, slots=True)
class Line:
    """One decision on one meter, with what was recorded of it and what the audit says."""

    verdict: Verdict
    why: str
    at: datetime
    partition: int
    offset: int
    entry: int
    request_id: bytes
    member: str
    party: str
    role: str
    method: str
    purpose: str
    basis: str
    decision: str
    reason: str
    consent_id: str
    release: str
    rows: int


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
    `rebuild` makes the answer to a decision from rows by topic and how far below they may be read.
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
        self._reader, self._stores, self._partitions = reader, stores, partitions
        self._reducer_version = reducer_version
        self._open_fold, self._rebuild = open_fold, rebuild

    def run(
        self,
        on_line: Callable[[Line], None] = lambda _: None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> AuditReport:
        """Audit everything. `on_line` gets every decision, `progress` records done and in all."""
        report = AuditReport()
        places = [(topic, p) for p in range(self._partitions) for topic in AUDITED]
        total = sum(self._reader.bounds(*place)[1] for place in places)
        done = 0
        for partition in range(self._partitions):
            pass_ = _PartitionPass(self, report, partition, on_line)
            for topic in AUDITED:
                pass_.fold(topic)
                done += self._reader.bounds(topic, partition)[1]
                progress(done, total)
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
        self._outcomes: dict[tuple[bytes, str], list[AccessOutcome]] = {}
        self._served: set[tuple[bytes, str, int]] = set()

    def fold(self, topic: str) -> None:
        """Fold one topic from its first record."""
        auditor = self._auditor
        stored = auditor._open_fold(auditor._stores, topic, self._partition)
        self._folds[topic] = stored
        listener = {trust.OUTCOMES_TOPIC: self._on_outcomes, trust.CONSUMER_LOG: self._on_request}
        stored.catch_up(auditor._reader, on_record=listener.get(topic))
        if topic == trust.CONSUMER_LOG:
            self._leftovers()
        head = stored.fold.head
        if head is not None:
            self._report.balances.append(
                Balance(
                    topic, self._partition, head.next_offset, head.holes, head.closed, head.counts
                )
            )

    def close(self) -> None:
        """Let go of the throw-away stores."""
        for stored in self._folds.values():
            stored.close()

    def _on_outcomes(self, record: LogRecord, applied: Applied) -> None:
        if not applied.applied or record.header(TYPE_HEADER) != RecordType.OUTCOMES.encode():
            return
        assert record.value is not None
        value = self._folds[trust.OUTCOMES_TOPIC].fold.tools.decode(record.value)
        if isinstance(value, AccessOutcomes) and value.partition == self._partition:
            for outcome in value.entries:
                key = (outcome.request_id, outcome.member)
                self._outcomes.setdefault(key, []).append(outcome)

    def _on_request(self, record: LogRecord, applied: Applied) -> None:
        if not applied.access:
            return
        fold = self._folds[trust.CONSUMER_LOG].fold
        decided = fold.decide_access(record)
        if not decided and not self._is_probe(record):
            self._report.inadmissible += 1
            return
        vectors = self._vectors(record)
        for each in decided:
            self._judge(record, each, vectors[each.request.vector])

    def _vectors(self, record: LogRecord) -> tuple[tuple[DataPosition, ...], ...]:
        assert record.value is not None
        value = self._folds[trust.CONSUMER_LOG].fold.tools.decode(record.value)
        assert isinstance(value, AccessRequests)
        return value.vectors

    def _is_probe(self, record: LogRecord) -> bool:
        """An empty record, with which a server asks whether its fold still moves."""
        try:
            value = self._folds[trust.CONSUMER_LOG].fold.tools.decode(record.value or b"")
        except (Malformed, UnknownSchema):
            return False
        return isinstance(value, AccessRequests) and not value.entries

    def _judge(self, record: LogRecord, decided: Decided, vector: tuple[DataPosition, ...]) -> None:
        request = decided.request
        recorded = self._outcomes.get((request.request_id, decided.member), [])
        here = [
            outcome
            for outcome in recorded
            if (outcome.decided_offset, outcome.decided_entry) == (record.offset, decided.entry)
        ]
        self._served.add((request.request_id, decided.member, record.offset))
        if not here:
            verdict, why = _without_outcome(decided, bool(recorded))
        elif any(outcome != here[0] for outcome in here):
            verdict, why = Verdict.DIFFERENT, "two outcomes of one decision contradict each other"
        else:
            verdict, why = self._compare(decided, here[0], vector)
        self._say(record, decided, here[0] if here else None, verdict, why)

    def _compare(
        self, decided: Decided, outcome: AccessOutcome, vector: tuple[DataPosition, ...]
    ) -> tuple[Verdict, str]:
        """Decision first, then the answer itself."""
        if outcome.reducer_version != self._auditor._reducer_version:
            return Verdict.CANNOT_TELL, f"reducer version {outcome.reducer_version} is not at hand"
        difference = _decided_otherwise(decided, outcome)
        if difference:
            return Verdict.DIFFERENT, difference
        if outcome.release != Release.RELEASED:
            return Verdict.SAME, outcome.release_reason
        for position in vector:
            data = self._folds[position.topic].fold.head
            if data is None or data.next_offset < position.offset:
                return Verdict.CANNOT_TELL, f"{position.topic} does not reach that far any more"
            if data.closed:
                return Verdict.CANNOT_TELL, f"{position.topic} holds what this build cannot read"
        rebuilt = self._auditor._rebuild(
            decided,
            {p.topic: self._folds[p.topic].store for p in vector},
            {p.topic: p.offset for p in vector},
        )
        if rebuilt.digest != outcome.digest:
            return Verdict.DIFFERENT, "the answer rebuilt has another digest"
        if (rebuilt.rows, rebuilt.absent) != (outcome.rows, outcome.absent):
            return Verdict.DIFFERENT, "the answer rebuilt has other rows than were recorded"
        return Verdict.SAME, ""

    def _leftovers(self) -> None:
        """Outcomes of what was never decided at the place they name."""
        for (request_id, member), outcomes in self._outcomes.items():
            for outcome in outcomes:
                if (request_id, member, outcome.decided_offset) not in self._served:
                    self._report.counts[Verdict.DIFFERENT] += 1
                    line = Line(
                        Verdict.DIFFERENT,
                        "an outcome names a decision that the log does not hold",
                        from_epoch_ms(0),
                        outcome.decided_partition,
                        outcome.decided_offset,
                        outcome.decided_entry,
                        request_id,
                        member,
                        "",
                        "",
                        "",
                        "",
                        "",
                        outcome.decision,
                        outcome.reason,
                        outcome.consent_id,
                        outcome.release,
                        outcome.rows,
                    )
                    self._report.findings.append(line)
                    self._on_line(line)

    def _say(
        self,
        record: LogRecord,
        decided: Decided,
        outcome: AccessOutcome | None,
        verdict: Verdict,
        why: str,
    ) -> None:
        request, decision = decided.request, decided.decision
        permit = decision if isinstance(decision, Permit) else None
        line = Line(
            verdict,
            why,
            from_epoch_ms(record.append_ms),
            record.partition,
            record.offset,
            decided.entry,
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
            outcome.release if outcome else "",
            outcome.rows if outcome else 0,
        )
        self._report.counts[verdict] += 1
        if verdict is not Verdict.SAME:
            self._report.findings.append(line)
        self._on_line(line)


def _without_outcome(decided: Decided, served_elsewhere: bool) -> tuple[Verdict, str]:
    if served_elsewhere:
        return Verdict.SAME, "the append was doubled; another place of the request was served"
    if isinstance(decided.decision, Permit):
        return Verdict.UNCONFIRMED, "permitted, no outcome: presume that it was disclosed"
    return Verdict.UNCONFIRMED, "refused, no outcome"


def _decided_otherwise(decided: Decided, outcome: AccessOutcome) -> str:
    """Where the recorded decision departs from the one made again; empty if nowhere."""
    decision = decided.decision
    expected: tuple[object, ...]
    if isinstance(decision, Permit):
        expected = ("PERMIT", "", decision.consent_id, decision.consent_version)
        if outcome.release == Release.NOT_RELEASED and not outcome.release_reason:
            return "nothing was released and no reason recorded"
        if outcome.release == Release.REFUSED:
            return "recorded as refused, but permitted"
    else:
        expected = ("REFUSE", str(decision.reason), "", 0)
        if outcome.release != Release.REFUSED:
            return f"{outcome.release} although it had to be refused ({decision.reason})"
    recorded = (
        outcome.decision,
        outcome.reason,
        outcome.consent_id,
        outcome.consent_version,
    )
    if recorded != expected:
        return f"decided {expected} again, recorded {recorded}"
    if outcome.policy_version != decided.policy_version:
        return f"judged by policy {decided.policy_version}, recorded {outcome.policy_version}"
    return ""
