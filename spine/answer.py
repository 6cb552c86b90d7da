"""What an answer is: rows for exactly the half hours asked, each a value or one typed reason for
none.

The digest of the canonical rows goes into the outcome. An auditor rebuilds the rows from the log
and must come to the same digest, so everything here is pure and its bytes are for ever.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from datetime import datetime
from enum import StrEnum

from spine.event import AbsentRun, epoch_ms
from spine.gb import HALF_HOUR, Interval


class Release(StrEnum):
    """What became of a decided request."""

    RELEASED = "RELEASED"
    REFUSED = "REFUSED"
    NOT_RELEASED = "NOT_RELEASED"


class Absent(StrEnum):
    """Why a half hour of an answer has no value. Exactly one reason each."""

    NOT_DUE_YET = "NOT_DUE_YET"
    LATE = "LATE"
    METER_NOT_COMMUNICATING = "METER_NOT_COMMUNICATING"
    CONSENT_DOES_NOT_COVER = "CONSENT_DOES_NOT_COVER"
    WITHDRAWN = "WITHDRAWN"
    NEVER_RECORDED = "NEVER_RECORDED"
    QUARANTINED = "QUARANTINED"


@dataclass(frozen=True, slots=True)
class Recorded:
    """A value as recorded: integer Wh, the quality code as given, and the version that holds it.

    The version is the place of the batch row in the log: offset, then row.
    """

    value_wh: int
    quality: str
    offset: int
    row: int


@dataclass(frozen=True, slots=True)
class HalfHour:
    """One half hour of an answer, from `start` UTC: recorded, or absent for one reason."""

    mpxn: str
    start: datetime
    recorded: Recorded | None
    absent: Absent | None = None


def half_hours(
    mpxn: str,
    asked: Interval,
    covered: Sequence[Interval],
    found: Mapping[datetime, Recorded],
    now: datetime,
) -> tuple[HalfHour, ...]:
    """The rows of an answer: every half hour of `asked`, in order. `now` is the decision's."""
    rows = []
    start = asked.start
    while start < asked.end:
        if not any(c.start <= start and start + HALF_HOUR <= c.end for c in covered):
            rows.append(HalfHour(mpxn, start, None, Absent.CONSENT_DOES_NOT_COVER))
        elif (recorded := found.get(start)) is not None:
            rows.append(HalfHour(mpxn, start, recorded))
        elif start + HALF_HOUR > now:
            rows.append(HalfHour(mpxn, start, None, Absent.NOT_DUE_YET))
        else:
            rows.append(HalfHour(mpxn, start, None, Absent.NEVER_RECORDED))
        start += HALF_HOUR
    return tuple(rows)


def half_hours_digest(rows: Iterable[HalfHour]) -> bytes:
    """SHA-256 over the canonical rows, absent half hours with their reasons included."""
    digest = hashlib.sha256(b"energyos-half-hours-v1\x00")
    for row in rows:
        mpxn = row.mpxn.encode()
        digest.update(struct.pack(">B", len(mpxn)) + mpxn)
        digest.update(struct.pack(">q", epoch_ms(row.start)))
        if row.recorded is not None:
            quality = row.recorded.quality.encode()
            digest.update(struct.pack(">BqB", 1, row.recorded.value_wh, len(quality)) + quality)
            digest.update(struct.pack(">qi", row.recorded.offset, row.recorded.row))
        else:
            reason = str(row.absent).encode()
            digest.update(struct.pack(">BB", 0, len(reason)) + reason)
    return digest.digest()


def absent_runs(rows: Iterable[HalfHour]) -> tuple[AbsentRun, ...]:
    """The absent half hours of an answer, run by run."""
    runs: list[AbsentRun] = []
    for row in rows:
        if row.absent is None:
            continue
        last = runs[-1] if runs else None
        if (
            last is not None
            and last.reason == row.absent
            and last.start + HALF_HOUR * last.half_hours == row.start
        ):
            runs[-1] = AbsentRun(last.start, last.half_hours + 1, last.reason)
        else:
            runs.append(AbsentRun(row.start, 1, str(row.absent)))
    return tuple(runs)


def records_digest(records: Iterable[object]) -> bytes:
    """SHA-256 over records (metering points, consents) as canonical JSON, one a line, in order."""
    digest = hashlib.sha256(b"energyos-records-v1\x00")
    for record in records:
        assert is_dataclass(record) and not isinstance(record, type)
        line = json.dumps(asdict(record), sort_keys=True, separators=(",", ":"), default=_plain)
        digest.update(line.encode() + b"\n")
    return digest.digest()


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return epoch_ms(value)
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(f"no canonical form for {type(value).__name__}")
