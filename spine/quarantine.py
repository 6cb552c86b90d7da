"""What a fold refused is kept apart, whole, in `quarantine.v1`, by the coordinator that owns it.

What became of it later, redriven or left out, is a later record there by the same coordinator.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

import structlog

from spine import trust
from spine.archive import ArchiveDamaged
from spine.codec import unpack
from spine.domain import ReadableRows
from spine.errors import Invalid, Pushback, Reason
from spine.event import Header, LogRecord, Quarantined, RecordType, Settled, SignerRole
from spine.fold import FaustFolds
from spine.live import LiveFold
from spine.log import LogUnfit
from spine.log_thread import ReaderThread
from spine.partition import PartitionFold
from spine.replay import RangeReader
from spine.rows import HEAD_ROW, QUARANTINE_PREFIX, Applied
from spine.trust import QUARANTINE_TOPIC
from spine.writer import LogWriter

_log = structlog.get_logger()

MAX_KEPT_BYTES: Final = 900 << 10
MAX_KEPT_HEADERS: Final = 32
MAX_KEPT_HEADER_BYTES: Final = 2 << 10
# Who keeps what is quarantined of a topic, and alone may say what became of it.
OWNERS: Final[Mapping[str, SignerRole]] = {
    trust.GOVERNANCE_TOPIC: SignerRole.GOVERNANCE,
    trust.GOVERNANCE_REFERENCE: SignerRole.GOVERNANCE,
    trust.QUARANTINE_TOPIC: SignerRole.GOVERNANCE,
    trust.CONSUMER_LOG: SignerRole.CONSUMERS,
    trust.CONSUMERS_REFERENCE: SignerRole.CONSUMERS,
    trust.ERASURES_TOPIC: SignerRole.CONSUMERS,
    trust.ACKNOWLEDGEMENTS_TOPIC: SignerRole.CONSUMERS,
    trust.METERING_TOPIC: SignerRole.METERING,
    trust.READINGS_TOPIC: SignerRole.METERING,
    trust.METERING_REFERENCE: SignerRole.METERING,
    trust.AGGREGATES_TOPIC: SignerRole.METERING,
    trust.BTM_ASSETS_TOPIC: SignerRole.BTM_ASSETS,
    trust.BTM_ASSETS_REFERENCE: SignerRole.BTM_ASSETS,
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a quarantined entry stands."""

    topic: str
    partition: int
    offset: int
    entry: int

    @classmethod
    def of(cls, record: Quarantined | Settled) -> Place:
        """The place that such a record is about."""
        return cls(
            record.source_topic, record.source_partition, record.source_offset, record.source_entry
        )

    @classmethod
    def parse(cls, text: str) -> Place:
        """The place as it is listed; Invalid(FIELD_INVALID) for any other text."""
        topic, *numbers = text.rsplit("-", 3)
        if len(numbers) != 3 or not all(n.isdecimal() and len(n) < 19 for n in numbers):
            message = "a place is <topic>-<partition>-<offset>-<entry>"
            raise Invalid(Reason.FIELD_INVALID, message, field="place")
        return cls(topic, *map(int, numbers))

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}-{self.offset}-{self.entry}"


@dataclass(frozen=True, slots=True)
class Case:
    """A quarantined entry, and what was done with it; None while it waits."""

    kept: Quarantined
    settled: Settled | None = None


def read_cases(reader: RangeReader, fold: PartitionFold) -> dict[Place, Case]:
    """Every case of the quarantine topic, in the order of its first record. Blocking.

    `fold` is a new one of that topic. What the owner of the source topic did not sign is no case.
    """
    cases: dict[Place, Case] = {}
    for record in reader.read(QUARANTINE_TOPIC, 0, 0):
        if not fold.apply(record).applied or record.value is None:
            continue
        value = fold.tools.decode(record.value)
        if not isinstance(value, Quarantined | Settled):
            continue
        place = Place.of(value)
        if fold.verified_role(record) is not OWNERS.get(place.topic):
            continue
        if isinstance(value, Quarantined):
            cases.setdefault(place, Case(value))
        elif place in cases and cases[place].settled is None:
            cases[place] = Case(cases[place].kept, value)
    return cases


class Listed(NamedTuple):
    """An entry that a store lists as quarantined, and the rule it broke."""

    topic: str
    partition: int
    offset: int
    entry: int
    rule: str


class QuarantineKeeper:
    """Appends what the folds of one coordinator quarantine, now and while it was not running.

    The key names topic, partition, offset and entry, so that an entry kept twice is seen to be one.
    Of a partition whose opening no fold has met nothing is kept: the log may be another's, of which
    all would be refused. What came before an opening is kept at the next start.
    """

    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer
        self._kept = KeptKeys()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, folds: FaustFolds, topics: Collection[str], reader: RangeReader) -> None:
        """Keep what these topics' folds quarantine from now on, and what is not kept yet."""
        owned = [live for (topic, _), live in folds.folds.items() if topic in topics]
        for live in owned:
            live.listeners.append(partial(self._on_record, live))
        found = [entry for live in owned for entry in _listed_live(live)]
        for kept in await asyncio.to_thread(lambda: list(_missed(found, self._kept, reader))):
            self._keep(kept)

    async def keep(self, found: Sequence[Listed], log: ReaderThread) -> None:
        """Keep what another process lists as quarantined and is not kept yet."""
        for kept in await log.run(lambda reader: list(_missed(found, self._kept, reader))):
            await self._append(kept)

    async def flush(self) -> None:
        """Wait until all that was found is kept."""
        await asyncio.gather(*self._tasks)

    def _on_record(self, live: LiveFold, record: LogRecord, applied: Applied) -> None:
        for refusal in applied.refusals:
            if refusal.outcome == "quarantined" and _opened(live.stored.store):
                self._keep(_quarantined(record, refusal.entry, str(refusal.reason)))

    def _keep(self, kept: Quarantined) -> None:
        task = asyncio.create_task(self._append(kept))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _append(self, kept: Quarantined) -> None:
        while True:
            try:
                await self._writer.write(
                    RecordType.QUARANTINE, QUARANTINE_TOPIC, 0, kept, key=key_of(kept)
                )
            except Pushback as pushback:
                await asyncio.sleep(pushback.retry_after_s)
            else:
                _log.warning("record.quarantined", place=key_of(kept).decode(), rule=kept.rule)
                return


def _listed_live(live: LiveFold) -> Iterator[Listed]:
    return listed(live.stored.store, live.stored.topic, live.stored.partition)


def _opened(rows: ReadableRows) -> bool:
    """Whether the fold of these rows has met the opening of its log."""
    return rows.get(HEAD_ROW) is not None


def listed(
    rows: ReadableRows, topic: str, partition: int, after: tuple[int, int] | None = None
) -> Iterator[Listed]:
    """All that a store lists as quarantined, in the order of the log; after that offset and entry
    only, if they are given.
    """
    if not _opened(rows):
        return
    start = QUARANTINE_PREFIX + (b"" if after is None else struct.pack(">qi", *after) + b"\0")
    for row, rule in rows.scan(start, QUARANTINE_PREFIX + b"\xff" * 13):
        offset, entry = struct.unpack(">qi", row.removeprefix(QUARANTINE_PREFIX))
        yield Listed(topic, partition, offset, entry, unpack(rule, str))


class KeptKeys:
    """The keys that the quarantine topic holds; each look reads on from where the last one ended.

    One user at a time.
    """

    def __init__(self) -> None:
        self._keys = set[bytes | None]()
        self._next = 0

    def read_on(self, reader: RangeReader) -> Collection[bytes | None]:
        """All keys, those that have come since among them. Blocking."""
        for record in reader.read(QUARANTINE_TOPIC, 0, self._next):
            self._keys.add(record.key)
            self._next = record.offset + 1
        return self._keys


def _missed(found: Sequence[Listed], kept: KeptKeys, reader: RangeReader) -> Iterator[Quarantined]:
    """Of what is listed, what the quarantine topic does not hold. Blocking.

    What the log does not give (any more) is passed over: it would keep all others from being kept.
    """
    keys = kept.read_on(reader)
    for topic, partition, offset, entry, rule in found:
        place = str(Place(topic, partition, offset, entry))
        if place.encode() in keys:
            continue
        try:
            record = next(reader.read(topic, partition, offset, offset + 1), None)
        except (ArchiveDamaged, LogUnfit) as error:
            _log.warning("quarantine.unread", place=place, rule=rule, reason=str(error))
            continue
        if record is None:
            _log.warning("quarantine.unread", place=place, rule=rule, reason="no such record")
            continue
        yield _quarantined(record, entry, rule)


def _quarantined(record: LogRecord, entry: int, rule: str) -> Quarantined:
    """The record as it is kept; what is too large to be wrapped stays where it is in the log."""
    fits = record.value is None or len(record.value) <= MAX_KEPT_BYTES
    return Quarantined(
        record.topic,
        record.partition,
        record.offset,
        entry,
        record.append_ms,
        rule,
        record.key,
        tuple(
            Header(name.encode("utf-8", "replace").decode(), value or b"")
            for name, value in record.headers[:MAX_KEPT_HEADERS]
            if len(name) + len(value or b"") <= MAX_KEPT_HEADER_BYTES
        ),
        record.value if fits else None,
    )


def key_of(kept: Quarantined | Settled) -> bytes:
    """The key of what is said of a quarantined entry: its place."""
    return str(Place.of(kept)).encode()
