"""Values withdrawn: a further version of half hours, which has none.

Nothing is taken out of the log. An answer as of before the withdrawal still has the values, one as
of after it says WITHDRAWN, and a later batch may give the half hours values again.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from domains.metering.readings import (
    BATCH_ID_BYTES,
    BATCH_ROWS_MAX,
    DIGEST_BYTES,
    MPXN_BYTES,
    PRESENT_BYTES,
    UNIT,
    VALUE_BYTES,
    ReadingsBatch,
    batch_problem,
)
from spine.errors import Invalid, Reason
from spine.gb import PERIODS_PER_UTC_DAY, Interval, first_half_hour_from
from spine.trust import READINGS_TOPIC

DAYS_MAX: Final = 400
_REASON: Final = re.compile(r"[A-Z0-9_]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ReadingsWithdrawn:
    """The value of a READINGS record whose half hours have no value from there on. Frozen.

    `mpxns`, `days` and `rows` as in `ReadingsBatch`; `withdrawn` as `present` there.
    """

    topic: str
    partition: int
    batch_id: bytes
    sender: str
    sender_reference: str
    reason: str
    registration_position: int
    consumer_log_position: int
    measurement_quantity: str
    rows: int
    mpxns: bytes
    days: bytes
    withdrawn: bytes


def withdrawal(
    mpxn: str,
    quantity: str,
    interval: Interval,
    *,
    partition: int,
    sender: str,
    sender_reference: str,
    reason: str,
    registration_position: int,
    consumer_log_position: int,
) -> ReadingsWithdrawn:
    """The record that withdraws every half hour which starts in the interval.

    Invalid(REQUEST_TOO_LARGE) for more than `DAYS_MAX` days at once.
    """
    first, end = first_half_hour_from(interval.start), first_half_hour_from(interval.end)
    days = np.arange(first // PERIODS_PER_UTC_DAY, (end - 1) // PERIODS_PER_UTC_DAY + 1)
    if len(days) > DAYS_MAX:
        message = f"at most {DAYS_MAX} days at once"
        raise Invalid(Reason.REQUEST_TOO_LARGE, message, field="interval")
    half_hours = days[:, None] * PERIODS_PER_UTC_DAY + np.arange(PERIODS_PER_UTC_DAY)
    within = (half_hours >= first) & (half_hours < end)
    mask = np.packbits(within, axis=1, bitorder="little").tobytes()
    said = (sender, sender_reference, reason, mpxn, quantity)
    return ReadingsWithdrawn(
        READINGS_TOPIC,
        partition,
        _id(said, struct.pack(">qq", first, end)),
        sender,
        sender_reference,
        reason,
        registration_position,
        consumer_log_position,
        quantity,
        len(days),
        mpxn.encode().ljust(MPXN_BYTES, b"\x00") * len(days),
        days.astype("<i4").tobytes(),
        mask,
    )


def _id(texts: Sequence[str], half_hours: bytes) -> bytes:
    """SHA-256 over all that the sender said, each part after its length; the first 16 bytes."""
    digest = hashlib.sha256(b"energyos-withdrawal-v1\x00")
    for part in (*(text.encode() for text in texts), half_hours):
        digest.update(struct.pack(">I", len(part)) + part)
    return digest.digest()[:BATCH_ID_BYTES]


def record_problem(record: ReadingsBatch | ReadingsWithdrawn, partition_count: int) -> str:
    """The `Reason` to refuse a record of the readings, or an empty string.

    A withdrawal keeps the rules of a batch (`batch_problem`), as far as it has what they speak of.
    """
    if isinstance(record, ReadingsBatch):
        return batch_problem(record, partition_count)
    if not _REASON.fullmatch(record.reason) or not 1 <= record.rows <= BATCH_ROWS_MAX:
        return Reason.READINGS_MALFORMED
    return batch_problem(without_values(record, ("",)), partition_count)


def without_values(record: ReadingsWithdrawn, codes: tuple[str, ...] = ()) -> ReadingsBatch:
    """The same rows in the shape of a batch; with no codes at all, as no batch can be."""
    cells = record.rows * PERIODS_PER_UTC_DAY
    return ReadingsBatch(
        topic=record.topic,
        partition=record.partition,
        batch_id=record.batch_id,
        sender=record.sender,
        sender_reference=record.sender_reference,
        source_digest=bytes(DIGEST_BYTES),
        registration_position=record.registration_position,
        consumer_log_position=record.consumer_log_position,
        measurement_quantity=record.measurement_quantity,
        unit=UNIT,
        rows=record.rows,
        mpxns=record.mpxns,
        days=record.days,
        present=record.withdrawn if len(record.withdrawn) == record.rows * PRESENT_BYTES else b"",
        values=bytes(cells * VALUE_BYTES),
        quality=bytes(cells),
        quality_codes=codes,
    )
