"""Records of a log as a broker would give them, signed, and a fold in memory that reads them.

Everything is fixed: keys, instants and ids, so that what is built here twice is equal byte for
byte and can be kept as a golden value.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from domains.btm_assets import BTM_ASSETS
from domains.consumers.acknowledgements import ACKNOWLEDGEMENTS
from domains.consumers.decider import CONSUMERS
from domains.consumers.erasure import ERASURES
from domains.consumers.events import (
    ConsentGranted,
    ConsentResumed,
    ConsentRevoked,
    ConsentSuspended,
    TenancyStarted,
)
from domains.consumers.fan_out import CONSENT_FAN_OUT
from domains.governance.decider import GOVERNANCE
from domains.governance.holds import PARTY_HOLDS
from domains.metering import AGGREGATES, METERING, READINGS
from domains.metering.catalogue import METERING_STANDING
from spine import merkle, trust
from spine.codec import Codec, tools
from spine.domain import Domain
from spine.errors import Reason
from spine.event import (
    ENTRIES_ROOT_HEADER,
    NO_PREDECESSOR,
    TYPE_HEADER,
    AccessRequest,
    AccessRequests,
    Command,
    DataPosition,
    Fact,
    Facts,
    GovernanceCopy,
    Header,
    LogRecord,
    Opening,
    RecordType,
    SignerRole,
    epoch_ms,
    from_epoch_ms,
)
from spine.log import Appended, LogUnfit
from spine.opening import first_keys
from spine.partition import PartitionFold
from spine.policy_data import POLICY_DATA_V1, data_hash
from spine.replay import StoredFold
from spine.rows import Applied, Decided, Tools, rows_digest
from spine.schemas import Schemas
from spine.signing import Signer, signed_headers, verify
from spine.store import MemoryRows, Store
from tests.helpers.access import access_request

PARTITIONS = 4
PARTITION = 3
METER, NEIGHBOUR = "1200000000003", "1200000000005"  # both of partition 3
ELSEWHERE = "1200000000001"  # of partition 0
DOMAINS = (
    GOVERNANCE,
    PARTY_HOLDS,
    CONSUMERS,
    CONSENT_FAN_OUT,
    ERASURES,
    ACKNOWLEDGEMENTS,
    METERING,
    READINGS,
    AGGREGATES,
    BTM_ASSETS,
    METERING_STANDING,
)
CODEC = Codec(Schemas.load(), DOMAINS)
TOOLS = tools(CODEC, verify)

BEGUN = datetime(2026, 1, 1, tzinfo=UTC)
MOVED_IN = datetime(2025, 3, 1, tzinfo=UTC)
EXPIRES = datetime(2027, 1, 1, tzinfo=UTC)


def signer(number: int) -> Signer:
    """A fixed key of no secrecy."""
    return Signer.of(Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32))


ROOT, STRANGER, LATE = signer(1), signer(99), signer(50)
SIGNERS = {
    SignerRole.GOVERNANCE: signer(2),
    SignerRole.CONSUMERS: signer(3),
    SignerRole.METERING: signer(4),
    SignerRole.DSI: signer(5),
}
BY_GOVERNANCE, BY_CONSUMERS = SIGNERS[SignerRole.GOVERNANCE], SIGNERS[SignerRole.CONSUMERS]
BY_METERING, BY_DSI = SIGNERS[SignerRole.METERING], SIGNERS[SignerRole.DSI]
OPENING = Opening(1, PARTITIONS, ROOT.public_key, BEGUN, bytes(range(16)))
LOG_ID = OPENING.log_id()


def command(
    subject: str,
    *events: object,
    previous: tuple[int, int] = (NO_PREDECESSOR, NO_PREDECESSOR),
    id: bytes | None = None,
    domain: Domain = CONSUMERS,
    actor: str = "test/test",
) -> Command:
    """A command with these facts; its id follows from its content unless one is given."""
    facts = tuple(Fact(domain.event_type(e), BEGUN, CODEC.encode(e)) for e in events)
    content = subject.encode() + b"".join(f.body for f in facts) + repr(previous).encode()
    return Command(
        sha256(content).digest()[:16] if id is None else id,
        subject,
        sha256(content).digest(),
        *previous,
        actor,
        facts,
    )


def moved_in(tenancy_id: str = "t-1", consumer_ref: str = "c-1") -> TenancyStarted:
    """A consumer moved in."""
    return TenancyStarted(tenancy_id, consumer_ref, MOVED_IN)


def granted(consent_id: str = "consent-1", tenancy_id: str = "t-1") -> ConsentGranted:
    """The occupier allows `adviser` energy advice on the half-hourly values."""
    return ConsentGranted(
        consent_id,
        "adviser",
        tenancy_id,
        "c-1",
        "ENERGY_ADVICE",
        ("HH_CONSUMPTION",),
        MOVED_IN,
        BEGUN,
        EXPIRES,
        BEGUN,
    )


def revoked(consent_id: str = "consent-1") -> ConsentRevoked:
    """The consumer took it back."""
    return ConsentRevoked(consent_id, BEGUN)


def suspended(consent_id: str = "consent-1") -> ConsentSuspended:
    """The consumer suspended it."""
    return ConsentSuspended(consent_id, "consumer", "", BEGUN)


def resumed(consent_id: str = "consent-1") -> ConsentResumed:
    """The consumer lifted the suspension."""
    return ConsentResumed(consent_id, BEGUN)


def request(member: str = METER, number: int = 1, party: str = "adviser") -> AccessRequest:
    """A request for a day of one meter's half hours."""
    asked = access_request((datetime(2025, 6, 1, tzinfo=UTC), datetime(2025, 6, 2, tzinfo=UTC)))
    return replace(asked, request_id=struct.pack(">QQ", 0, number), meters=(member,), party=party)


class PartitionLog:
    """One topic-partition from its first offset on: every record goes into `records`."""

    def __init__(self, topic: str = trust.CONSUMER_LOG, partition: int = PARTITION) -> None:
        self.topic, self.partition = topic, partition
        self.records: list[LogRecord] = []
        self.clock_ms = epoch_ms(BEGUN)

    def build(
        self,
        record_type: RecordType | str,
        value: object,
        by: Signer | None,
        *,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
        off_by_ms: int = 0,
        log_id: bytes = LOG_ID,
        signed_for: tuple[str, int] | None = None,
        append_ms: int | None = None,
    ) -> LogRecord:
        """The record that would come next. `off_by_ms` is how far its producer's clock is off."""
        if append_ms is None:
            append_ms = self.clock_ms + 1_000
        framed = value if isinstance(value, bytes) else CODEC.encode(value)
        described = ((TYPE_HEADER, str(record_type).encode()), *headers)
        topic, partition = signed_for or (self.topic, self.partition)
        if by is not None:
            produced_ms = append_ms + off_by_ms
            described = signed_headers(
                by, log_id, topic, partition, key, described, framed, produced_ms
            )
        offset = self.records[-1].offset + 1 if self.records else 0
        return LogRecord(
            self.topic, self.partition, offset, append_ms, key, tuple(described), framed
        )

    def keep(self, record: LogRecord) -> LogRecord:
        """It was appended."""
        self.records.append(record)
        self.clock_ms = max(self.clock_ms, record.append_ms)
        return record

    def opening(self, opening: Opening = OPENING, by: Signer = ROOT) -> LogRecord:
        """An opening record, signed for the log that it opens."""
        return self.build(RecordType.OPENING, opening, by, log_id=opening.log_id())

    def facts(
        self, *commands: Command, by: Signer = BY_CONSUMERS, keyed: bool = True, **how: int
    ) -> LogRecord:
        """Commands of the domain; a bulk record has no key."""
        key = commands[0].subject.encode() if keyed and len(commands) == 1 else None
        value = Facts(self.topic, self.partition, commands)
        return self.build(RecordType.FACTS, value, by, key=key, **how)  # type: ignore[arg-type]

    def copy(self, home: LogRecord, previous: int, by: Signer = BY_GOVERNANCE) -> LogRecord:
        """A copy of a home record of governance."""
        return self.build(RecordType.COPY, copy_of(home, previous), by)

    def access(
        self, *requests: AccessRequest, by: Signer = BY_DSI, root: bytes | None = None, **how: int
    ) -> LogRecord:
        """Requests for data, in one record."""
        vectors = ((DataPosition(trust.READINGS_TOPIC, self.partition, 10),),)
        seed = bytes(32)
        value = AccessRequests(self.topic, self.partition, "dsi-1", seed, vectors, requests)
        if root is None:
            root = merkle.salted_root(seed, [CODEC.encode_entry(r) for r in requests])
        headers = ((ENTRIES_ROOT_HEADER, root),)
        return self.build(RecordType.ACCESS, value, by, headers=headers, **how)  # type: ignore[arg-type]


def copy_of(home: LogRecord, previous: int) -> GovernanceCopy:
    """The value of a copy of a home record."""
    assert home.value is not None
    headers = tuple(Header(name, value) for name, value in home.headers)
    return GovernanceCopy(
        home.topic,
        home.partition,
        home.offset,
        home.append_ms,
        previous,
        home.key,
        headers,
        home.value,
    )


class Home(PartitionLog):
    """The home of governance, opened, with the first keys at offset 1."""

    def __init__(self) -> None:
        super().__init__(trust.GOVERNANCE_TOPIC, 0)
        self.keep(self.opening())
        keys = {role: s.public_key for role, s in SIGNERS.items()}
        first = first_keys(keys, BEGUN, CODEC.encode)
        self.first_keys = self.keep(self.build(RecordType.FACTS, first, ROOT))

    def say(
        self, *said: tuple[str, object], by: Signer = BY_GOVERNANCE, previous: int = NO_PREDECESSOR
    ) -> LogRecord:
        """Governance facts as (subject, event), a command each, in one record."""
        entry = NO_PREDECESSOR if previous == NO_PREDECESSOR else 0
        commands = [command(s, e, domain=GOVERNANCE, previous=(previous, entry)) for s, e in said]
        return self.keep(self.facts(*commands, by=by, keyed=False))

    def policy_and_adviser(self) -> LogRecord:
        """The policy in force, and the one data user accredited under it."""
        accredited = trust.AccreditationGranted(
            "data_user", "REC", "other user", (), BEGUN - timedelta(days=400), None
        )
        adviser = trust.party_subject("adviser")
        admitted = command(
            adviser, trust.ParticipantAdmitted("Adviser Ltd"), accredited, domain=GOVERNANCE
        )
        adopted = command(
            trust.POLICY_SUBJECT,
            trust.PolicyVersionAdopted(1, data_hash(POLICY_DATA_V1)),
            domain=GOVERNANCE,
        )
        return self.keep(self.facts(adopted, admitted, by=BY_GOVERNANCE, keyed=False))


def started(
    topic: str = trust.CONSUMER_LOG, partition: int = PARTITION
) -> tuple[PartitionLog, Home]:
    """A partition that is open and knows the keys, the policy and the adviser (offsets 0 to 2)."""
    log, home = PartitionLog(topic, partition), Home()
    log.keep(log.opening())
    log.keep(log.copy(home.first_keys, NO_PREDECESSOR, by=ROOT))
    log.keep(log.copy(home.policy_and_adviser(), home.first_keys.offset))
    return log, home


class Scene:
    """A partition and the fold that reads it: what is sent is appended, folded, and balanced."""

    def __init__(
        self,
        fold_class: type[PartitionFold] = PartitionFold,
        topic: str = trust.CONSUMER_LOG,
        partition: int = PARTITION,
        domain: Domain | None = CONSUMERS,
        tools: Tools = TOOLS,
    ) -> None:
        self.log, self.home = started(topic, partition)
        self.rows = MemoryRows()
        self.fold = fold_class(topic, partition, LOG_ID, tools, self.rows, domain, GOVERNANCE)
        for record in self.log.records:
            self.fold.apply(record)

    def send(self, record: LogRecord) -> Applied:
        """Append and fold it; nothing may be lost on the way."""
        self.log.keep(record)
        applied = self.fold.apply(record)
        assert self.fold.head is not None and self.fold.head.counts.balanced
        return applied

    def facts(self, *commands: Command, **how: object) -> Applied:
        """Append and fold commands."""
        return self.send(self.log.facts(*commands, **how))  # type: ignore[arg-type]

    def read(self, *requests: AccessRequest, **how: object) -> tuple[Decided, ...]:
        """Append requests, fold them, and decide them at their place."""
        record = self.log.access(*(requests or (request(),)), **how)  # type: ignore[arg-type]
        self.send(record)
        return self.fold.decide_access(record)

    @property
    def now(self) -> datetime:
        """The time in the partition."""
        assert self.fold.head is not None
        return from_epoch_ms(self.fold.head.now_ms)

    @property
    def last(self) -> int:
        """Offset of the last record."""
        return self.log.records[-1].offset

    def digest(self) -> bytes:
        """What the rows come to."""
        return digest(self.rows)

    def content(self) -> dict[bytes, bytes]:
        """All rows but the head and what was refused: what was applied."""
        return {
            key: value
            for key, value in self.rows.scan(b"", b"\xff\xff")
            if key[:2] in (b"g/", b"s/", b"i/", b"v/", b"r/", b"b/")
        }


class MemoryLog:
    """A log without a broker, which reads and appends as `LogReader` and `Appender` do."""

    def __init__(self, *records: LogRecord) -> None:
        self._records: dict[tuple[str, int], list[LogRecord]] = {}
        self._starts: dict[tuple[str, int], int] = {}
        self._ends: dict[tuple[str, int], int] = {}
        self.clock_ms = epoch_ms(BEGUN)
        for record in records:
            self.keep(record)

    def keep(self, record: LogRecord) -> None:
        """It stands in the log from now on."""
        place = record.topic, record.partition
        self._records.setdefault(place, []).append(record)
        self._ends[place] = record.offset + 1

    async def append(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        headers: Sequence[tuple[str, bytes]],
        value: bytes,
    ) -> Appended:
        """Append one record at the next offset."""
        self.clock_ms += 1
        offset = self.bounds(topic, partition)[1]
        self.keep(LogRecord(topic, partition, offset, self.clock_ms, key, tuple(headers), value))
        return Appended(topic, partition, offset, self.clock_ms)

    def leave_hole(self, topic: str, partition: int) -> None:
        """An offset without a record, as a transaction's end leaves one."""
        self._ends[topic, partition] = self.bounds(topic, partition)[1] + 1

    def cut(self, topic: str, partition: int, below: int) -> None:
        """Lose what stands below an offset."""
        self._starts[topic, partition] = below

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """First offset in the log, and the offset after the last."""
        place = topic, partition
        return self._starts.get(place, 0), self._ends.get(place, 0)

    def offset_at(self, topic: str, partition: int, epoch_ms: int) -> int:
        """The first offset appended at or after that time; the end of the log if there is none."""
        later = (r.offset for r in self._held(topic, partition) if r.append_ms >= epoch_ms)
        return next(later, self.bounds(topic, partition)[1])

    def read(
        self, topic: str, partition: int, start: int, end: int | None = None
    ) -> Iterator[LogRecord]:
        """Records with start <= offset < end; LogUnfit if the log no longer reaches back."""
        first, last = self.bounds(topic, partition)
        if start < first:
            raise LogUnfit(Reason.LOG_MISSING, f"{topic}-{partition} starts at {first}")
        stop = last if end is None else min(end, last)
        yield from [r for r in self._held(topic, partition) if start <= r.offset < stop]

    def _held(self, topic: str, partition: int) -> list[LogRecord]:
        place = topic, partition
        first = self._starts.get(place, 0)
        return [r for r in self._records.get(place, []) if r.offset >= first]

    def close(self) -> None:
        """Nothing to let go of."""


def digest(rows: MemoryRows) -> bytes:
    """The digest of all rows, as a store computes it."""
    return rows_digest(rows.scan(b"", b"\xff\xff"))


def consumers_fold(
    path: Path, topic: str = trust.CONSUMER_LOG, open_store: type[Store] = Store
) -> StoredFold:
    """The fold of that topic's partition by the rules of consumers, its store there."""
    by = TOOLS, CONSUMERS, GOVERNANCE, b"set"
    return StoredFold(path, topic, PARTITION, LOG_ID, *by, open_store)


def refold(
    records: Sequence[LogRecord],
    domain: Domain | None = CONSUMERS,
    fold_class: type[PartitionFold] = PartitionFold,
) -> MemoryRows:
    """The rows that these records come to, folded from nothing."""
    rows = MemoryRows()
    place = records[0].topic, records[0].partition
    fold = fold_class(*place, LOG_ID, TOOLS, rows, domain, GOVERNANCE)
    for record in records:
        fold.apply(record)
    return rows
