"""Readings on their way from a call into the log: judged by whole chunks, appended as batches.

Rows are judged at stated positions of the registry and the consumer log, then appended under the
metering key, several appends at a time for all calls together. A caller that sends faster than the
log takes waits at the transport, for a chunk is read only when the one before it found its place.
Nothing here runs Python for a half hour.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
import structlog

from domains.metering import readings
from domains.metering.adapters.report import MeterDays
from domains.metering.decider import sending_part, sending_stretches
from domains.metering.events import MeasurementQuantity
from domains.metering.gas import STANDARD_FACTOR_E5, Conversion
from domains.metering.judging import Alike, check_points, judged_part, over_at, points_of
from domains.metering.readings import Delivery, ReadingsBatch
from domains.metering.withdrawals import ReadingsWithdrawn
from spine import trust
from spine.coordinator import FOLD_TIMEOUT_S, check_accredited
from spine.domain import Actor
from spine.errors import Bug, Invalid, Pushback, Reason
from spine.event import DataPosition, RecordType
from spine.fold import FaustFolds
from spine.gb import PERIODS_PER_UTC_DAY, Interval
from spine.murmur2 import murmur2_partition
from spine.policy import MeterAccess
from spine.services import wire
from spine.services.deliveries import Deliveries
from spine.services.meters import Kept, KnownStates, known_access
from spine.writer import LogWriter

CHUNK_ROWS_MAX: Final = 2_000
QUALITY_CODE_CHARS_MAX: Final = 8
REFERENCE_CHARS_MAX: Final = 64
APPENDS_IN_FLIGHT: Final = 8
_ROW_BYTES: Final = {
    "mpxns": readings.MPXN_BYTES,
    "days": 4,
    "present": readings.PRESENT_BYTES,
    "quality": PERIODS_PER_UTC_DAY,
    "values_wh": PERIODS_PER_UTC_DAY * readings.VALUE_BYTES,
    "values_dm3": 0,
}
_ROW_BYTES_OF_VOLUMES: Final = _ROW_BYTES | {
    "values_wh": 0,
    "values_dm3": PERIODS_PER_UTC_DAY * readings.VALUE_BYTES,
}
_log = structlog.get_logger()


class Amount(NamedTuple):
    """So many meter-days, with so many half hours that hold a value."""

    rows: int = 0
    half_hours: int = 0

    def plus(self, other: Amount) -> Amount:
        """Both together."""
        return Amount(self.rows + other.rows, self.half_hours + other.half_hours)


NOTHING: Final = Amount()


class Judged(NamedTuple):
    """What came of a chunk: batches to append, by reason what is refused, and by reason how many
    of the rows to append are remarkable.
    """

    batches: list[tuple[ReadingsBatch, Amount]]
    refused: dict[str, Amount]
    findings: dict[str, int]


def _amount(days: MeterDays) -> Amount:
    return Amount(len(days), days.recorded)


@dataclass(slots=True)
class Tally:
    """What became of everything sent in one call. `next_offsets` is by partition."""

    received: Amount = NOTHING
    recorded: Amount = NOTHING
    duplicate: Amount = NOTHING
    batches_recorded: int = 0
    batches_duplicate: int = 0
    rows_refused: Counter[str] = field(default_factory=Counter)
    half_hours_refused: Counter[str] = field(default_factory=Counter)
    findings: Counter[str] = field(default_factory=Counter)
    next_offsets: dict[int, int] = field(default_factory=dict)

    @property
    def positions(self) -> list[DataPosition]:
        """The position after the last batch in each partition that holds any of them."""
        places = self.next_offsets.items()
        return [DataPosition(trust.READINGS_TOPIC, partition, at) for partition, at in places]

    def check(self) -> None:
        """Bug if anything received is not accounted for exactly once."""
        refused = Amount(self.rows_refused.total(), self.half_hours_refused.total())
        if self.received != self.recorded.plus(self.duplicate).plus(refused):
            raise Bug("the report of recorded readings does not balance")


class Sent(NamedTuple):
    """A batch on its way; `offset` ends with its offset. Not `new`: it was sent before."""

    partition: int
    amount: Amount
    new: bool
    offset: asyncio.Future[int]


class Intake:
    """One call of RecordReadings: its header, then chunk after chunk, then its tally."""

    def __init__(self, recorder: Recorder, party: str, header: Any) -> None:
        self._recorder = recorder
        self._header = checked_header(header)
        self._delivery = Delivery(party, header.sender_reference, header.source_digest)
        recorder.deliveries.claim(self._delivery)
        self._tally = Tally()
        self._under_way: list[Sent] = []

    async def take(self, chunk: Any) -> None:
        """Record what may be recorded of a chunk; waits while too many appends are under way."""
        days = columns_of(chunk, self._header)
        received = self._tally.received.plus(_amount(days))
        judged = self._recorder.judged(days, self._delivery)
        self._tally.received = received
        self._tally.findings.update(judged.findings)
        for reason, amount in judged.refused.items():
            self._tally.rows_refused[reason] += amount.rows
            self._tally.half_hours_refused[reason] += amount.half_hours
        for batch, amount in judged.batches:
            self._under_way.append(await self._recorder.send(batch, amount))
            self._settle([sent for sent in self._under_way if sent.offset.done()])

    async def finish(self) -> Tally:
        """Wait for the appends still under way; Pushback if one of them is in doubt."""
        if self._under_way:
            await asyncio.wait([sent.offset for sent in self._under_way])
        self._settle(self._under_way)
        self._tally.check()
        return self._tally

    def _settle(self, done: Sequence[Sent]) -> None:
        tally = self._tally
        for sent in done:
            following = sent.offset.result() + 1
            known = tally.next_offsets.get(sent.partition, 0)
            tally.next_offsets[sent.partition] = max(known, following)
            if sent.new:
                tally.recorded = tally.recorded.plus(sent.amount)
                tally.batches_recorded += 1
            else:
                tally.duplicate = tally.duplicate.plus(sent.amount)
                tally.batches_duplicate += 1
        self._under_way = [sent for sent in self._under_way if sent not in done]


class Recorder:
    """Judges meter-days by the folds of this process and appends them, for all calls together."""

    def __init__(
        self, folds: FaustFolds, writer: LogWriter, deliveries: Deliveries, partitions: int
    ) -> None:
        self.deliveries = deliveries
        self._folds, self._writer, self._partitions = folds, writer, partitions
        kept = [Kept(columns=2) for _ in range(partitions)]
        self._points = KnownStates(folds, trust.METERING_TOPIC, partitions, judged_part, kept, 0)
        self._accesses = KnownStates(folds, trust.CONSUMER_LOG, partitions, sending_part, kept, 1)
        self._slots = asyncio.Semaphore(APPENDS_IN_FLIGHT)
        self._appending: dict[bytes, asyncio.Task[int]] = {}

    def judged(self, days: MeterDays, delivery: Delivery) -> Judged:
        """What comes of these meter-days. All at one state of the folds, and at one time."""
        points = points_of(days)
        partitions = readings.partitions_of(points.names, self._partitions)
        registered = self._points.of(points, partitions)
        accesses = self._accesses.of(points, partitions)
        may_send: Alike[Sequence[Interval]] = accesses.to(
            lambda access: sending_stretches(access or MeterAccess(), delivery.sender)
        )
        now = wire.now()
        checked = check_points(days, points, registered, may_send, now)
        if Reason.READING_IN_FUTURE in checked.refused_rows:
            self.deliveries.cut(delivery, over_at(now))
        order = np.lexsort((days.days, points.of_row))
        batches = []
        for part in checked.accepted_in(order, self.deliveries.cuts(delivery)):
            for partition, rows in readings.split_in_order(days, partitions[points.of_row], part):
                positions = self.checked_at(partition)
                batch = readings.batch_from_columns(rows, partition, delivery, **positions)
                batches.append((batch, _amount(rows)))
        refused = {
            str(reason): _amount(readings.take(days, rows))
            for reason, rows in checked.refused_rows.items()
        }
        findings = {str(reason): count for reason, count in checked.findings.items()}
        return Judged(batches, refused, findings)

    def learning(self) -> tuple[Callable[[], Awaitable[None]], ...]:
        """What has at hand what is known of all meters, so that few senders wait for it."""
        return self._points.learn, self._accesses.learn

    async def check_accredited(self, sender: Actor) -> None:
        """NotPermitted unless governance lets the sender act in its role now."""
        await check_accredited(self._folds, self._folds[trust.CONSUMER_LOG, 0], sender)

    def access(self, mpxn: str) -> MeterAccess:
        """What this process knows of who supplies, serves and occupies a meter."""
        return known_access(self._folds, mpxn, self._partitions)

    def partition_of(self, mpxn: str) -> int:
        """The partition that the meter belongs to."""
        return murmur2_partition(mpxn.encode(), self._partitions)

    def checked_at(self, partition: int) -> dict[str, int]:
        """The positions of registry and consumer log that a record is checked at, to stand in it.

        Pushback(KEY_NOT_SEEN): a key that is not known, or no longer, would make void what is
        reported as recorded.
        """
        key = self._folds[trust.METERING_TOPIC, partition].stored.fold.key(self._writer.signer.kid)
        if key is None or key.revoked:
            raise Pushback(Reason.KEY_NOT_SEEN, "the partition does not know our key")
        return {
            "registration_position": self._folds[trust.METERING_TOPIC, partition].next_offset,
            "consumer_log_position": self._folds[trust.CONSUMER_LOG, partition].next_offset,
        }

    async def send(self, batch: ReadingsBatch | ReadingsWithdrawn, amount: Amount) -> Sent:
        """Append a batch unless that has been done; returns once there is a place for the append.

        The append goes on if the caller goes away, so that its outcome is remembered.
        """
        await self._slots.acquire()
        new: asyncio.Task[int] | None = None
        try:
            appending = self._appending.get(batch.batch_id)
            known = None if appending else self.deliveries.offset_of(batch.batch_id)
            if appending is None and known is None:
                new = self._appending[batch.batch_id] = asyncio.create_task(self._append(batch))
                new.add_done_callback(partial(self._appended, batch.batch_id))
        finally:
            if new is None:  # else it has the place until it is done
                self._slots.release()
        return Sent(batch.partition, amount, new is not None, new or appending or _done(known))

    async def _append(self, batch: ReadingsBatch | ReadingsWithdrawn) -> int:
        appended = await self._writer.write(
            RecordType.READINGS, trust.READINGS_TOPIC, batch.partition, batch
        )
        self.deliveries.remember(batch.batch_id, batch.partition, appended.offset)
        return appended.offset

    def _appended(self, batch_id: bytes, task: asyncio.Task[int]) -> None:
        self._slots.release()
        del self._appending[batch_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("readings.append_failed", error=str(error))

    async def level(self) -> None:
        """Have all registrations and appointments that were acknowledged by now; or Pushback."""
        await self._folds.level(FOLD_TIMEOUT_S)

    async def drain(self) -> None:
        """Wait for the appends under way, at the end of the process."""
        await asyncio.gather(*self._appending.values(), return_exceptions=True)


def _done(offset: int | None) -> asyncio.Future[int]:
    assert offset is not None
    done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    done.set_result(offset)
    return done


# What a call must look like


def checked_header(header: Any) -> Any:
    """The header if chunks can be read by it; Invalid(FIELD_INVALID or CODE_UNKNOWN) if not."""
    reference = header.sender_reference
    if not 1 <= len(reference) <= REFERENCE_CHARS_MAX or not _is_plain(reference):
        message = f"a reference is 1 to {REFERENCE_CHARS_MAX} printable ASCII characters"
        raise Invalid(Reason.FIELD_INVALID, message, field="header.sender_reference")
    if len(header.source_digest) != readings.DIGEST_BYTES:
        raise Invalid(Reason.FIELD_INVALID, "a SHA-256 has 32 bytes", field="header.source_digest")
    if header.measurement_quantity not in set(MeasurementQuantity):
        message = f"a quantity is one of {', '.join(MeasurementQuantity)}"
        raise Invalid(Reason.CODE_UNKNOWN, message, field="header.measurement_quantity")
    _check_codes(header.quality_codes, "header")
    conversion = conversion_in(header)
    if conversion is not None and not conversion.sane:
        message = "no gas has such a calorific value or factor"
        raise Invalid(Reason.FIELD_INVALID, message, field="header.calorific_value_kj_m3")
    if conversion is not None and header.measurement_quantity != MeasurementQuantity.ACTIVE_IMPORT:
        message = "gas is imported energy, AI"
        raise Invalid(Reason.FIELD_INVALID, message, field="header.measurement_quantity")
    return header


def conversion_in(header: Any) -> Conversion | None:
    """How the volumes of a delivery become energy; None if it is of energy."""
    if not header.calorific_value_kj_m3 and not header.factor_e5:
        return None
    return Conversion(header.calorific_value_kj_m3, header.factor_e5 or STANDARD_FACTOR_E5)


def _check_codes(codes: Sequence[str], within: str) -> None:
    fit = all(len(code) <= QUALITY_CODE_CHARS_MAX and _is_plain(code) for code in codes)
    if not fit or not 1 <= len(codes) <= readings.QUALITY_CODES_MAX or len({*codes}) < len(codes):
        message = "1 to 255 different codes of at most 8 printable ASCII characters"
        raise Invalid(Reason.FIELD_INVALID, message, field=f"{within}.quality_codes")


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable()


def columns_of(chunk: Any, header: Any) -> MeterDays:
    """The chunk as columns, once it keeps every rule that the fold has for the vectors of a batch.

    Invalid: REQUEST_TOO_LARGE for too many rows, READINGS_MALFORMED for vectors that do not fit,
    FIELD_INVALID for codes of its own that are none.
    """
    if chunk.quality_codes:
        _check_codes(chunk.quality_codes, "chunk")
    vectors = {name: getattr(chunk, name) for name in _ROW_BYTES}  # each time a copy of its own
    rows = len(vectors["days"]) // _ROW_BYTES["days"]
    if rows > CHUNK_ROWS_MAX:
        message = f"a chunk is at most {CHUNK_ROWS_MAX} rows"
        raise Invalid(Reason.REQUEST_TOO_LARGE, message, field="chunk")
    for name, size in _sizes(header).items():
        if not rows or len(vectors[name]) != rows * size:
            message = f"{name} must be {size} bytes for each row, and there must be a row"
            raise Invalid(Reason.READINGS_MALFORMED, message, field=f"chunk.{name}")
    whole = _as_batch(vectors, tuple(chunk.quality_codes or header.quality_codes), header, rows)
    if not readings.rows_fit(whole):
        message = "a metering point, day, quality or absent half hour is not as described"
        raise Invalid(Reason.READINGS_MALFORMED, message, field="chunk")
    return readings.columns(whole)


def _as_batch(
    vectors: Mapping[str, bytes], codes: tuple[str, ...], header: Any, rows: int
) -> ReadingsBatch:
    """A chunk in the shape of a batch that is never appended."""
    batch = ReadingsBatch(
        topic=trust.READINGS_TOPIC,
        partition=0,
        batch_id=bytes(readings.BATCH_ID_BYTES),
        sender="-",
        sender_reference=header.sender_reference,
        source_digest=header.source_digest,
        registration_position=0,
        consumer_log_position=0,
        measurement_quantity=header.measurement_quantity,
        unit=readings.UNIT,
        rows=rows,
        mpxns=vectors["mpxns"],
        days=vectors["days"],
        present=vectors["present"],
        values=vectors["values_wh"],
        quality=vectors["quality"],
        quality_codes=codes,
    )
    conversion = conversion_in(header)
    if conversion is None:
        return batch
    return readings.as_volumes(batch, vectors["values_dm3"], conversion)


def _sizes(header: Any) -> Mapping[str, int]:
    """What a row of each vector takes; a delivery is of energy or of volumes."""
    return _ROW_BYTES if conversion_in(header) is None else _ROW_BYTES_OF_VOLUMES
