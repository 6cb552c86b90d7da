"""A log as honest servers leave it: every topic of the audit, opened, and what was read from it.

What happens is appended in order and folded at once, so that each outcome is the one that a DSI
would record. A test then changes the log behind everybody's back and asks the auditor.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from domains.btm_assets import BTM_ASSETS
from domains.consumers.decider import CONSUMERS
from domains.governance.decider import GOVERNANCE
from domains.metering import METERING, READINGS
from spine import merkle, trust
from spine.answer import Release
from spine.audit import audit as run_audit
from spine.audit_pass import AUDITED, Means
from spine.audit_report import EVERYTHING, AuditReport, Line, Selection
from spine.domain import Domain, ReadableRows
from spine.dsi.again import Keys, Rebuilder, no_keys
from spine.dsi.answering import Answer, Sources, answer, said_at
from spine.event import (
    ENTRIES_ROOT_HEADER,
    AccessOutcome,
    AccessOutcomes,
    AccessRequest,
    AccessRequests,
    DataPosition,
    LogRecord,
    RecordType,
)
from spine.gb import tzdata_version
from spine.partition import PartitionFold
from spine.policy import Permit
from spine.reducers import REDUCERS_HEADER, AtHand, Versions, written
from spine.replay import StoredFold
from spine.rows import Decided, Tools
from spine.signing import Signer
from spine.store import StorePosition
from spine.verdict import NOTHING
from tests.helpers.records import (
    BY_CONSUMERS,
    BY_DSI,
    BY_GOVERNANCE,
    BY_METERING,
    CODEC,
    LOG_ID,
    METER,
    PARTITION,
    PARTITIONS,
    TOOLS,
    Home,
    MemoryLog,
    PartitionLog,
    command,
    request,
    signer,
    started,
)
from tests.helpers.rows import MemoryRows
from tests.helpers.samples import readings_batch

BY_TOPIC: Mapping[str, Domain] = {
    trust.CONSUMER_LOG: CONSUMERS,
    trust.METERING_TOPIC: METERING,
    trust.READINGS_TOPIC: READINGS,
    trust.BTM_ASSETS_TOPIC: BTM_ASSETS,
}
FOLDED = tuple(BY_TOPIC)
# Not one of the first keys: a test that has assets authorises it.
BY_ASSETS = signer(6)


@dataclass(frozen=True)
class Read:
    """An access record, what was decided on each of its members, and what was recorded of that."""

    record: LogRecord
    decided: tuple[Decided, ...]
    outcomes: tuple[AccessOutcome, ...] = ()


@cache
def _opened(topic: str, partition: int) -> tuple[LogRecord, ...]:
    return tuple(started(topic, partition)[0].records)


class History:
    """All partitions opened, one of them lived in: facts, readings, reads and their outcomes."""

    def __init__(self) -> None:
        self.logs = {
            (topic, p): PartitionLog(topic, p) for p in range(PARTITIONS) for topic in AUDITED
        }
        self.order: list[LogRecord] = []
        self.folds = {
            topic: PartitionFold(
                topic, PARTITION, LOG_ID, TOOLS, MemoryRows(), BY_TOPIC[topic], GOVERNANCE
            )
            for topic in FOLDED
        }
        self._home = Home()
        self._home.policy_and_adviser()
        self._requests = 0
        for place in self.logs:
            for record in _opened(*place):
                self.keep(record)

    # -- what happens -----------------------------------------------------------------------------

    def log(self, topic: str = trust.CONSUMER_LOG) -> PartitionLog:
        """The log of a topic in the partition that is lived in."""
        return self.logs[topic, PARTITION]

    def keep(self, record: LogRecord) -> LogRecord:
        """Append a record and fold it."""
        self.logs[record.topic, record.partition].keep(record)
        self.order.append(record)
        if record.partition == PARTITION and record.topic in self.folds:
            self.folds[record.topic].apply(record)
        return record

    def facts(self, *events: object, subject: str = METER) -> LogRecord:
        """The coordinator's facts of one command about a meter, chained to those before."""
        writers = ((METERING, BY_METERING), (BTM_ASSETS, BY_ASSETS), (CONSUMERS, BY_CONSUMERS))
        domain, by = next(w for w in writers if type(events[0]) in w[0].events.values())
        row = self.folds[domain.topic].subject(subject)
        one = command(subject, *events, previous=(row.offset, row.entry), domain=domain)
        return self.keep(self.log(domain.topic).facts(one, by=by))

    def readings(self, first_wh: int = 100, mpxn: str = METER) -> LogRecord:
        """A batch of one meter-day, 2025-06-01."""
        batch = readings_batch(mpxn, PARTITION, first_wh)
        name = sha256(struct.pack(">i", first_wh) + mpxn.encode()).digest()[:16]
        value = replace(batch, batch_id=name)
        log = self.log(trust.READINGS_TOPIC)
        return self.keep(log.build(RecordType.READINGS, value, BY_METERING))

    def govern(self, subject: str, event: object) -> None:
        """A governance fact about a new subject or the policy, copied to every partition."""
        before = self._home.records[-1].offset
        known = self.folds[trust.CONSUMER_LOG].subject_row(GOVERNANCE, subject)
        one = command(subject, event, domain=GOVERNANCE, previous=(known.offset, known.entry))
        home = self._home.keep(self._home.facts(one, by=BY_GOVERNANCE, keyed=False))
        for log in self.logs.values():
            self.keep(log.copy(home, before))

    def asked(self, member: str = METER, **changes: object) -> AccessRequest:
        """A request under a fresh id: half hours of 2025-06-01, for energy advice."""
        self._requests += 1
        plain = replace(request(member, self._requests), measurement_quantity="AI")
        return replace(plain, **changes)  # type: ignore[arg-type]

    def positions(self, *topics: str) -> tuple[DataPosition, ...]:
        """Where the folds of these topics stand."""
        heads = [(topic, self.folds[topic].head) for topic in topics]
        return tuple(DataPosition(t, PARTITION, h.next_offset) for t, h in heads if h is not None)

    def ask(
        self,
        *requests: AccessRequest,
        vector: Sequence[DataPosition] | None = None,
        by: Signer | None = BY_DSI,
    ) -> Read:
        """Append requests in one record and decide them; no outcome yet."""
        asked = requests or (self.asked(),)
        if vector is None:
            vector = self.positions(trust.READINGS_TOPIC, trust.METERING_TOPIC)
        seed = sha256(asked[0].request_id).digest()
        log = self.log()
        value = AccessRequests(log.topic, PARTITION, "dsi-1", seed, (tuple(vector),), asked)
        root = merkle.salted_root(seed, [CODEC.encode_entry(r) for r in asked])
        headers = ((ENTRIES_ROOT_HEADER, root),)
        record = self.keep(log.build(RecordType.ACCESS, value, by, headers=headers))
        return Read(record, self.folds[trust.CONSUMER_LOG].decide_access(record))

    def outcome(self, record: LogRecord, decided: Decided, **changes: object) -> AccessOutcome:
        """What an honest DSI records of a decision, but for these changes."""
        permit = decided.decision if isinstance(decided.decision, Permit) else None
        made = self.answer(record, decided) if permit else Answer(0, NOTHING)
        honest = AccessOutcome(
            decided.request.request_id,
            record.partition,
            record.offset,
            decided.entry,
            decided.member,
            0,
            "PERMIT" if permit else "REFUSE",
            "" if isinstance(decided.decision, Permit) else str(decided.decision.reason),
            Release.RELEASED if permit else Release.REFUSED,
            "",
            permit.consent_id if permit else "",
            permit.consent_version if permit else 0,
            decided.policy_version,
            CONSUMERS.version,
            CODEC.schemas.set_hash,
            tzdata_version(),
            made.rows,
            made.digest,
            made.absent,
        )
        return replace(honest, **changes)  # type: ignore[arg-type]

    def answer(self, record: LogRecord, decided: Decided) -> Answer:
        """The answer from the folds as they stand, at the positions of the request."""
        value = CODEC.decode(record.value or b"")
        assert isinstance(value, AccessRequests)
        vector = value.vectors[decided.request.vector]
        return rebuild(
            decided,
            {p.topic: self.folds[p.topic].rows for p in vector},
            {p.topic: p.offset for p in vector},
        )

    def tell(
        self,
        *outcomes: AccessOutcome,
        by: Signer | None = BY_DSI,
        rests_on: Versions | None = None,
    ) -> LogRecord:
        """Append outcomes in one record."""
        value = AccessOutcomes(trust.OUTCOMES_TOPIC, PARTITION, "dsi-1", outcomes)
        said = () if rests_on is None else ((REDUCERS_HEADER, written(rests_on)),)
        log = self.log(trust.OUTCOMES_TOPIC)
        return self.keep(log.build(RecordType.OUTCOMES, value, by, headers=said))

    def read(
        self,
        *requests: AccessRequest,
        vector: Sequence[DataPosition] | None = None,
        **changes: object,
    ) -> Read:
        """A whole read: requested, decided, answered, recorded; its outcomes with these changes."""
        read = self.ask(*requests, vector=vector)
        made = tuple(self.outcome(read.record, each, **changes) for each in read.decided)
        self.tell(*made)
        return replace(read, outcomes=made)

    # -- what is done to the log afterwards --------------------------------------------------------

    def drop(self, record: LogRecord) -> None:
        """The record is gone; its offset stays empty."""
        self.log(record.topic).records.remove(record)

    def put_in_place_of(self, record: LogRecord, other: LogRecord) -> None:
        """Another record stands at this one's offset and time."""
        records = self.log(record.topic).records
        place = records.index(record)
        records[place] = replace(other, offset=record.offset, append_ms=record.append_ms)

    def swap(self, one: LogRecord, other: LogRecord) -> None:
        """Two records change places; a signature covers neither offset nor append time."""
        records = self.log(one.topic).records
        first, second = records.index(one), records.index(other)
        records[first] = replace(other, offset=one.offset, append_ms=one.append_ms)
        records[second] = replace(one, offset=other.offset, append_ms=other.append_ms)

    def records(self) -> list[LogRecord]:
        """Everything that stands in the log now."""
        return [record for log in self.logs.values() for record in log.records]


# -- the auditor --------------------------------------------------------------------------------


class _NoStore(MemoryRows):
    """Stands where a store would, for the length of one audit."""

    pending = 0

    def position(self) -> None:
        """It is always new."""

    def commit(self, position: StorePosition) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing to let go of."""


class MemoryFold(StoredFold):
    """A fold without files, for tests that audit hundreds of logs."""

    def __init__(
        self,
        path: Path,
        topic: str,
        partition: int,
        log_id: bytes,
        tools: Tools,
        domain: Domain | None,
        governance: Domain,
        schema_set: bytes,
    ) -> None:
        self.topic, self.partition, self.log_id = topic, partition, log_id
        self._args = (tools, domain, governance)
        self.schema_set = self._build = schema_set
        self.store = _NoStore()  # type: ignore[assignment]
        self._begin()


def rebuild(decided: Decided, rows: Mapping[str, ReadableRows], below: Mapping[str, int]) -> Answer:
    """The answer to a decision, as the DSI makes it."""
    return answer(decided, decided.access, Sources(rows, below))


@dataclass(frozen=True)
class Audited:
    """What an audit said."""

    report: AuditReport
    lines: tuple[Line, ...]

    @property
    def verdicts(self) -> dict[str, int]:
        """How many of each verdict that was given."""
        return {str(verdict): count for verdict, count in self.report.counts.items() if count}

    @property
    def found(self) -> list[tuple[str, str]]:
        """Verdict and reason of whatever is not SAME."""
        return [(str(line.verdict), line.why) for line in self.report.findings]


def audit(
    records: Iterable[LogRecord],
    *,
    tools: Tools = TOOLS,
    log_id: bytes = LOG_ID,
    at_hand: AtHand | None = None,
    outcomes_fold: type[PartitionFold] = PartitionFold,
    on_disk: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    reader: MemoryLog | None = None,
    selection: Selection = EVERYTHING,
    keys: Keys = no_keys,
    partitions: Iterable[int] = range(PARTITIONS),
) -> Audited:
    """Audit these records from nothing; a test may lend the auditor a lesser build."""

    def open_fold(path: Path, topic: str, partition: int) -> StoredFold:
        kind = StoredFold if on_disk else MemoryFold
        stored = kind(
            path / f"{topic}-{partition}",
            topic,
            partition,
            log_id,
            tools,
            BY_TOPIC.get(topic),
            GOVERNANCE,
            CODEC.schemas.set_hash,
        )
        if topic == trust.OUTCOMES_TOPIC:
            stored.fold = outcomes_fold(
                topic, partition, log_id, tools, stored.store, None, GOVERNANCE
            )
        return stored

    lines: list[Line] = []
    with TemporaryDirectory() as folder:
        means = Means(
            reader or MemoryLog(*records),
            Path(folder),
            at_hand or AtHand(GOVERNANCE, BY_TOPIC),
            open_fold,
            Rebuilder(keys),
            said_at,
            selection,
        )
        report = run_audit(means, partitions, lines.append, progress)
        return Audited(report, tuple(lines))


def day(month: int, number: int, hour: int = 0) -> datetime:
    """An instant of 2025, UTC, before the log begins."""
    return request().interval_from.replace(month=month, day=number, hour=hour)
