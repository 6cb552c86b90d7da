"""Readings as the log carries them: batches of meter-days in columns, built and judged whole.

A batch record costs the same few operations for one meter-day as for a thousand, and nothing here
runs Python for a half hour: the columns stay bytes from the sender to the store, and every rule is
one numpy expression over all of them. `ReadingsBatch` and the rules of `batch_problem` hold for
ever; how the rows of a store look is `rows`, and may change.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from domains.metering.adapters.report import MeterDays
from domains.metering.gas import VOLUME_DM3_MAX, Conversion
from spine.errors import Reason
from spine.gb import (
    FIRST_DATE,
    LAST_DATE,
    MPAN_DIGITS,
    MPRN_DIGITS_MAX,
    MPRN_DIGITS_MIN,
    PERIODS_PER_UTC_DAY,
)
from spine.murmur2 import murmur2_column, partitions_of_hashes
from spine.trust import READINGS_TOPIC

UNIT: Final = "Wh"
VOLUME_UNIT: Final = "dm3"
BATCH_ROWS: Final = 500  # as built here: about 130 kB, where columns have long paid off
BATCH_ROWS_MAX: Final = 1000  # as accepted: 263 kB, well below what a broker takes
BATCH_ID_BYTES: Final = 16
DIGEST_BYTES: Final = 32
MPXN_BYTES: Final = 13
PRESENT_BYTES: Final = 6
VALUE_BYTES: Final = 4
QUANTITY_CHARS: Final = 2
QUALITY_CODES_MAX: Final = 255
QUALITY_CODE_CHARS_MAX: Final = 16
SENDER_CHARS_MAX: Final = 64
SENDER_REFERENCE_CHARS_MAX: Final = 128

_EPOCH_ORDINAL: Final = 719_163  # 1970-01-01 as Python counts days
_DAY_MIN: Final = FIRST_DATE.toordinal() - _EPOCH_ORDINAL
_DAY_MAX: Final = LAST_DATE.toordinal() - _EPOCH_ORDINAL
_ALL_PRESENT: Final = 0xFF  # of each byte of a mask
_MPXN_LENGTHS: Final = (*range(MPRN_DIGITS_MIN, MPRN_DIGITS_MAX + 1), MPAN_DIGITS)


@dataclass(frozen=True, slots=True)
class ReadingsBatch:
    """The value of a READINGS record: `rows` meter-days of one partition, column by column. Frozen.

    A row is one metering point, one UTC day and its 48 half hours; rows stand in every vector in
    the same order. `mpxns`: 13 ASCII bytes a row, NUL after an MPRN. `days`: int32 LE, days since
    1970-01-01. `present`: 6 bytes a row, bit i % 8 (lowest first) of byte i // 8 is half hour i.
    `values`: 48 int32 LE a row, in `unit`. `quality`: 48 bytes a row, an index into
    `quality_codes`. Where a half hour is absent, value and quality are 0.

    `registration_position` and `consumer_log_position` are the next offsets of metering.events.v1
    and consumers.events.v1, same partition, at which the coordinator checked the rows;
    `source_digest` is the SHA-256 of the file they came from, or 32 zero bytes.
    """

    topic: str
    partition: int
    batch_id: bytes
    sender: str
    sender_reference: str
    source_digest: bytes
    registration_position: int
    consumer_log_position: int
    measurement_quantity: str
    unit: str
    rows: int
    mpxns: bytes
    days: bytes
    present: bytes
    values: bytes
    quality: bytes
    quality_codes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GasVolumeBatch(ReadingsBatch):
    """The same of gas meters that count volume, in dm3, and how it becomes energy. Frozen.

    All rules but the unit are those of `ReadingsBatch`; energy is `gas.Conversion.wh`.
    """

    calorific_value_kj_m3: int
    factor_e5: int

    @property
    def conversion(self) -> Conversion:
        """How its volumes become energy."""
        return Conversion(self.calorific_value_kj_m3, self.factor_e5)


@dataclass(frozen=True, slots=True)
class Delivery:
    """Who sent readings and how it refers to them; a file also has its SHA-256."""

    sender: str
    sender_reference: str
    source_digest: bytes = bytes(DIGEST_BYTES)


# Building


def partitions_of(mpxns: npt.NDArray[np.bytes_], partition_count: int) -> npt.NDArray[np.int64]:
    """The partition of each metering point, (n,): `spine.murmur2.murmur2_partition` on a column."""
    if partition_count == 1:
        return np.zeros(len(mpxns), np.int64)
    names = np.ascontiguousarray(mpxns, f"S{MPXN_BYTES}")
    octets = names.view(np.uint8).reshape(-1, MPXN_BYTES)
    if octets.all():  # as a rule all are MPANs
        hashes = murmur2_column(octets)
    else:
        lengths = np.count_nonzero(octets, axis=1)
        hashes = np.zeros(len(names), np.uint32)
        for length in np.unique(lengths).tolist():
            of_length = lengths == length
            hashes[of_length] = murmur2_column(octets[of_length, :length])
    return partitions_of_hashes(hashes, partition_count)


def those_in(partitions: npt.NDArray[np.int64]) -> list[int]:
    """Which partitions there are in a column of them, ascending; counted, not sorted."""
    there: list[int] = np.flatnonzero(np.bincount(partitions)).tolist()
    return there


def split(
    meter_days: MeterDays, partition_count: int, rows_max: int = BATCH_ROWS
) -> Iterator[tuple[int, MeterDays]]:
    """The rows as (partition, at most `rows_max` of its rows), by metering point and day.

    A store takes sorted rows half as fast again. Rows of the same point and day keep their order,
    which is the order of their versions.
    """
    partitions = partitions_of(meter_days.mpxns, partition_count)
    order = np.lexsort((meter_days.days, meter_days.mpxns))
    yield from split_in_order(meter_days, partitions, order, rows_max)


def split_in_order(
    meter_days: MeterDays,
    partitions: npt.NDArray[np.int64],
    order: npt.NDArray[np.int64],
    rows_max: int = BATCH_ROWS,
) -> Iterator[tuple[int, MeterDays]]:
    """The same of those rows that `order` names, (m,), in its order; `partitions` are of each row,
    (n,).
    """
    ordered = partitions[order]
    for partition in those_in(ordered):
        rows = order[ordered == partition]
        for start in range(0, len(rows), rows_max):
            yield partition, take(meter_days, rows[start : start + rows_max])


def take(meter_days: MeterDays, rows: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> MeterDays:
    """Those rows only, by index or by mask."""
    places = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
    volumes_dm3 = meter_days.volumes_dm3
    return replace(
        meter_days,
        volumes_dm3=None if volumes_dm3 is None else volumes_dm3.take(places, axis=0),
        mpxns=meter_days.mpxns.take(places),
        days=meter_days.days.take(places),
        present=meter_days.present.take(places, axis=0),
        values_wh=meter_days.values_wh.take(places, axis=0),
        quality=meter_days.quality.take(places, axis=0),
    )


def batch_from_columns(
    meter_days: MeterDays,
    partition: int,
    delivery: Delivery,
    *,
    registration_position: int,
    consumer_log_position: int,
) -> ReadingsBatch:
    """The batch of these rows, which all belong to `partition`.

    Its id follows from sender, reference and content, so that what is sent again is the same batch
    and what was accepted in part only can be completed under the same reference.
    """
    unnamed = ReadingsBatch(
        topic=READINGS_TOPIC,
        partition=partition,
        batch_id=b"",
        sender=delivery.sender,
        sender_reference=delivery.sender_reference,
        source_digest=delivery.source_digest,
        registration_position=registration_position,
        consumer_log_position=consumer_log_position,
        measurement_quantity=meter_days.quantity,
        unit=UNIT,
        rows=len(meter_days),
        mpxns=meter_days.mpxns.astype(f"S{MPXN_BYTES}", copy=False).tobytes(),
        days=meter_days.days.astype("<i4", copy=False).tobytes(),
        present=np.packbits(meter_days.present, bitorder="little").tobytes(),
        values=meter_days.values_wh.astype("<i4", copy=False).tobytes(),
        quality=meter_days.quality.astype(np.uint8, copy=False).tobytes(),
        quality_codes=meter_days.quality_codes,
    )
    if meter_days.conversion is not None and meter_days.volumes_dm3 is not None:
        unnamed = as_volumes(
            unnamed, meter_days.volumes_dm3.astype("<i4").tobytes(), meter_days.conversion
        )
    return replace(unnamed, batch_id=_batch_id(unnamed))


def as_volumes(batch: ReadingsBatch, values: bytes, conversion: Conversion) -> GasVolumeBatch:
    """The batch with volumes in place of its energy."""
    said = {field.name: getattr(batch, field.name) for field in fields(batch)}
    said |= {"unit": VOLUME_UNIT, "values": values}
    return GasVolumeBatch(**said, **conversion._asdict())


def _batch_id(batch: ReadingsBatch) -> bytes:
    """SHA-256 over all that the sender said, each part after its length; the first 16 bytes."""
    texts = (batch.sender, batch.sender_reference, batch.measurement_quantity, *batch.quality_codes)
    vectors = (batch.mpxns, batch.days, batch.present, batch.values, batch.quality)
    digest = hashlib.sha256(b"energyos-readings-v1\x00")
    if isinstance(batch, GasVolumeBatch):
        digest = hashlib.sha256(b"energyos-gas-volumes-v1\x00")
        digest.update(struct.pack(">II", *batch.conversion))
    for part in (batch.source_digest, *(text.encode() for text in texts), *vectors):
        digest.update(struct.pack(">I", len(part)))
        digest.update(part)
    return digest.digest()[:BATCH_ID_BYTES]


def columns(batch: ReadingsBatch) -> MeterDays:
    """The batch's columns as arrays; all but `present` are views of its bytes, and read-only."""
    by_half_hour = (batch.rows, PERIODS_PER_UTC_DAY)
    values = np.frombuffer(batch.values, "<i4").reshape(by_half_hour)
    conversion = batch.conversion if isinstance(batch, GasVolumeBatch) else None
    return MeterDays(
        mpxns=np.frombuffer(batch.mpxns, f"S{MPXN_BYTES}"),
        days=np.frombuffer(batch.days, "<i4"),
        present=_present(batch),
        values_wh=values if conversion is None else conversion.wh(values),
        quality=np.frombuffer(batch.quality, np.uint8).reshape(by_half_hour),
        quality_codes=batch.quality_codes,
        quantity=batch.measurement_quantity,
        volumes_dm3=None if conversion is None else values,
        conversion=conversion,
    )


def energy_of(batch: ReadingsBatch) -> bytes:
    """Its values in Wh, as a vector of `ReadingsBatch`."""
    if not isinstance(batch, GasVolumeBatch):
        return batch.values
    return batch.conversion.wh(np.frombuffer(batch.values, "<i4")).astype("<i4").tobytes()


def _present(batch: ReadingsBatch) -> npt.NDArray[np.bool_]:
    bits = np.unpackbits(np.frombuffer(batch.present, np.uint8), bitorder="little")
    return bits.view(np.bool_).reshape(batch.rows, PERIODS_PER_UTC_DAY)


# Judging


def batch_problem(batch: ReadingsBatch, partition_count: int) -> str:
    """The `Reason` to refuse a batch, or an empty string. The first rule that fails names it.

    READINGS_MALFORMED  a name, code or vector is not as `ReadingsBatch` describes it
    READING_OUT_OF_RANGE  a value is negative, or a volume above `VOLUME_DM3_MAX`
    VOID_PARTITION  a metering point belongs to another partition than the batch names

    Only what no later build may ever judge otherwise is ruled out here. How much a meter may
    reasonably register is the coordinator's to say (`judging.check_points`).
    """
    if not (_names_fit(batch) and _vectors_fit(batch) and rows_fit(batch)):
        return Reason.READINGS_MALFORMED
    amounts = np.frombuffer(batch.values, "<i4")
    volumes = isinstance(batch, GasVolumeBatch)
    if amounts.min() < 0 or (volumes and amounts.max() > VOLUME_DM3_MAX):
        return Reason.READING_OUT_OF_RANGE
    mpxns = np.frombuffer(batch.mpxns, f"S{MPXN_BYTES}")
    if (partitions_of(mpxns, partition_count) != batch.partition).any():
        return Reason.VOID_PARTITION
    return ""


def rows_fit(batch: ReadingsBatch) -> bool:
    """Whether vectors of the right lengths hold nothing that `batch_problem` calls malformed."""
    return (
        _mpxns_fit(batch) and _days_fit(batch) and _quality_fits(batch) and _absent_are_zero(batch)
    )


def speaks_of_rows(batch: ReadingsBatch) -> bool:
    """Whether it is plain which half hours a batch speaks of, whatever else is wrong with it."""
    quantity = batch.measurement_quantity
    named = len(quantity) == QUANTITY_CHARS and quantity.isascii()
    return named and _vectors_fit(batch) and _mpxns_fit(batch) and _days_fit(batch)


def _names_fit(batch: ReadingsBatch) -> bool:
    codes = batch.quality_codes
    return (
        len(batch.batch_id) == BATCH_ID_BYTES
        and len(batch.source_digest) == DIGEST_BYTES
        and batch.registration_position >= 0
        and batch.consumer_log_position >= 0
        and _unit_fits(batch)
        and 1 <= len(batch.sender) <= SENDER_CHARS_MAX
        and 1 <= len(batch.sender_reference) <= SENDER_REFERENCE_CHARS_MAX
        and len(batch.measurement_quantity) == QUANTITY_CHARS
        and batch.measurement_quantity.isascii()
        and batch.measurement_quantity.isalpha()
        and batch.measurement_quantity.isupper()
        and 1 <= len(codes) <= QUALITY_CODES_MAX
        and len(set(codes)) == len(codes)
        and all(c.isascii() and c.isprintable() for c in codes)
        and all(len(c) <= QUALITY_CODE_CHARS_MAX for c in codes)
    )


def _unit_fits(batch: ReadingsBatch) -> bool:
    """Volumes are of gas, so of MPRNs; the energy of gas meters may come as energy, too."""
    if not isinstance(batch, GasVolumeBatch):
        return batch.unit == UNIT
    return batch.unit == VOLUME_UNIT and batch.conversion.sane


def _vectors_fit(batch: ReadingsBatch) -> bool:
    rows, cells = batch.rows, batch.rows * PERIODS_PER_UTC_DAY
    return (
        1 <= rows <= BATCH_ROWS_MAX
        and len(batch.mpxns) == rows * MPXN_BYTES
        and len(batch.days) == rows * 4
        and len(batch.present) == rows * PRESENT_BYTES
        and len(batch.values) == cells * VALUE_BYTES
        and len(batch.quality) == cells
    )


def _mpxns_fit(batch: ReadingsBatch) -> bool:
    """13 digits, or 6 to 10 and then only NUL."""
    volumes = isinstance(batch, GasVolumeBatch)
    if batch.mpxns.isdigit():
        return not volumes
    octets = np.frombuffer(batch.mpxns, np.uint8).reshape(batch.rows, MPXN_BYTES)
    used = octets != 0
    digits = (octets >= ord("0")) & (octets <= ord("9"))
    lengths = np.count_nonzero(used, axis=1)
    leading = np.arange(MPXN_BYTES) < lengths[:, np.newaxis]
    return bool(
        np.array_equal(used, digits)
        and np.array_equal(used, leading)
        and np.isin(lengths, _MPXN_LENGTHS[: -1 if volumes else None]).all()
    )


def _days_fit(batch: ReadingsBatch) -> bool:
    days = np.frombuffer(batch.days, "<i4")
    return bool(days.min() >= _DAY_MIN and days.max() <= _DAY_MAX)


def _quality_fits(batch: ReadingsBatch) -> bool:
    return bool(np.frombuffer(batch.quality, np.uint8).max() < len(batch.quality_codes))


def _absent_are_zero(batch: ReadingsBatch) -> bool:
    """As a rule all half hours of most days are there: only the other days are looked at."""
    masks = np.frombuffer(batch.present, np.uint8).reshape(batch.rows, PRESENT_BYTES)
    gaps = np.flatnonzero((masks != _ALL_PRESENT).any(axis=1))
    absent = np.unpackbits(masks[gaps], axis=1, bitorder="little") == 0
    values = np.frombuffer(batch.values, "<i4").reshape(batch.rows, -1)
    quality = np.frombuffer(batch.quality, np.uint8).reshape(batch.rows, -1)
    return not (values[gaps][absent].any() or quality[gaps][absent].any())
