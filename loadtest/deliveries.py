"""What is sent of a day, by whom, and what the spine must answer to it.

A delivery is one call of RecordReadings: one sender's rows of a block of metering points. The
expected report follows from the country alone, never from what the spine says.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from domains.metering import readings
from domains.metering.adapters.report import MeterDays
from loadtest.country import SENDERS, SUPPLIERS, Country, Meters
from loadtest.installation import expect
from spine.errors import Reason
from spine.ingest import chunks
from spine.metering.v1 import metering_pb2

BLOCK: Final = 20_000
# Blocks kept made: who checks what came of a block asks for it again and again.
BLOCKS_KEPT: Final = 8


@dataclass(frozen=True, slots=True)
class Due:
    """What must come of a call of so many rows."""

    reference: str
    rows: int
    recorded: int
    refused: dict[str, int]
    findings: dict[str, int]

    def check(self, report: Any, again: bool) -> None:
        """WrongAnswer unless the report says exactly that."""
        said = (
            report.rows_received,
            report.rows_duplicate if again else report.rows_recorded,
            report.rows_recorded if again else report.rows_duplicate,
            dict(report.rows_refused),
            dict(report.findings),
        )
        right = (self.rows, self.recorded, 0, self.refused, self.findings)
        expect(said == right, f"{self.reference} came to {said}, not {right}")


@dataclass(frozen=True, slots=True)
class Delivery:
    """One call, and what must come of it."""

    sender: str
    reference: str
    rows: MeterDays
    recorded: int
    refused: dict[str, int]
    findings: dict[str, int]
    repeated: bool

    def requests(self) -> Iterator[Any]:
        """The messages of the call."""
        header = metering_pb2.ReadingsHeader(
            sender_reference=self.reference,
            source_digest=hashlib.sha256(self.reference.encode()).digest(),
            measurement_quantity=self.rows.quantity,
            quality_codes=self.rows.quality_codes,
        )
        yield metering_pb2.RecordReadingsRequest(header=header)
        for chunk in chunks(self.rows):
            yield metering_pb2.RecordReadingsRequest(chunk=chunk)

    @property
    def due(self) -> Due:
        """What must come of the call."""
        return Due(self.reference, len(self.rows), self.recorded, self.refused, self.findings)

    def check(self, report: Any, again: bool) -> None:
        """As by `Due.check`."""
        self.due.check(report, again)


@dataclass(frozen=True, slots=True)
class Sent:
    """A block of metering points on one day, and what is sent of them when."""

    meters: Meters
    day: date
    misdirected: npt.NDArray[np.bool_]
    late: npt.NDArray[np.bool_]
    corrected: npt.NDArray[np.bool_]

    @property
    def by(self) -> npt.NDArray[np.int64]:
        """Who sends each row, a place in SENDERS, (n,)."""
        sender = self.meters.sender
        return np.where(self.misdirected, _wrong_way(sender), sender)

    @property
    def recorded(self) -> npt.NDArray[np.bool_]:
        """Whose readings must be in the register in the end."""
        return self.meters.registered & ~self.misdirected


def _wrong_way(sender: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return (sender + 1) % len(SENDERS)


@lru_cache(BLOCKS_KEPT)
def sent(country: Country, start: int, day: date) -> Sent:
    """What is sent of one block on one day."""
    meters = country.block(start, start + BLOCK)
    misdirected = country.misdirected(meters, day) & (_wrong_way(meters.sender) != meters.supplier)
    corrected = country.corrected(meters, day) & ~misdirected
    return Sent(meters, day, misdirected, country.late(meters, day), corrected)


def deliveries(country: Country, start: int, day: date) -> Iterator[Delivery]:
    """The deliveries of one block and day, in time; the late and the corrections are `second`."""
    what = sent(country, start, day)
    for number, sender in enumerate(SENDERS):
        rows = (what.by == number) & ~what.late
        if rows.any():
            repeated = country.repeated(start // BLOCK * len(SENDERS) + number, day)
            reference = f"{sender}-{day}-{start}"
            yield _delivery(country, what, rows, sender, reference, 0, repeated)


def second(country: Country, day: date) -> tuple[Delivery, ...]:
    """What is sent of a day after its deliveries: of each sender all that is late, then all its
    corrections, each in one call.
    """
    parts: dict[tuple[str, str], list[Delivery]] = {}
    for start in range(0, country.meters, BLOCK):
        what = sent(country, start, day)
        for number, sender in enumerate(SENDERS):
            for rows, kind, version in ((what.late, "late", 0), (what.corrected, "corrected", 1)):
                chosen = rows & (what.by == number)
                if chosen.any():
                    reference = f"{sender}-{day}-{kind}"
                    part = _delivery(country, what, chosen, sender, reference, version, False)
                    parts.setdefault((sender, kind), []).append(part)
    return tuple(
        _in_one(parts[key]) for key in sorted(parts, key=lambda key: (key[1] != "late", key[0]))
    )


def _in_one(parts: Sequence[Delivery]) -> Delivery:
    """Deliveries under one reference as one."""
    refused: Counter[str] = Counter()
    findings: Counter[str] = Counter()
    for part in parts:
        refused.update(part.refused)
        findings.update(part.findings)
    first = parts[0].rows
    columns = ("mpxns", "days", "present", "values_wh", "quality")
    joined: dict[str, Any] = {
        name: np.concatenate([getattr(part.rows, name) for part in parts]) for name in columns
    }
    return replace(
        parts[0],
        rows=replace(first, **joined),
        recorded=sum(part.recorded for part in parts),
        refused=dict(refused),
        findings=dict(findings),
    )


def _delivery(
    country: Country,
    what: Sent,
    rows: npt.NDArray[np.bool_],
    sender: str,
    reference: str,
    version: int,
    repeated: bool,
) -> Delivery:
    meters = what.meters.take(rows)
    wrong = what.misdirected[rows]  # and the first reason counts, whether registered or not
    misdirected = int(np.count_nonzero(wrong))
    unregistered = int(np.count_nonzero(~meters.registered & ~wrong))
    refused = {
        str(reason): count
        for reason, count in (
            (Reason.METER_NOT_REGISTERED, unregistered),
            (Reason.SENDER_NOT_APPOINTED, misdirected),
        )
        if count
    }
    days = country.day(meters, what.day, version)
    recorded = len(meters) - unregistered - misdirected
    odd = int(np.count_nonzero(meters.registered & ~wrong & ~meters.check_digit_ok))
    findings = {str(Reason.MPXN_CHECK_DIGIT): odd} if odd else {}
    return Delivery(sender, reference, days, recorded, refused, findings, repeated)


def expected(
    country: Country, index: Sequence[int], day: date, *, corrected: bool = True
) -> list[dict[int, tuple[int, str]]]:
    """What must be known in the end of each metering point on that day: by half hour of the day,
    the value in Wh and the quality. Nothing, where nothing was recorded. `corrected`: whether the
    corrections were sent.
    """
    found: list[dict[int, tuple[int, str]]] = []
    for one in index:
        start = one - one % BLOCK
        what = sent(country, start, day)
        row = np.array([one - start])
        meters = what.meters.take(row)
        if not what.recorded[one - start]:
            found.append({})
            continue
        known: dict[int, tuple[int, str]] = {}
        for version in (0, 1) if corrected and what.corrected[one - start] else (0,):
            said = country.day(meters, day, version)
            values = said.values_wh[0].tolist()
            quality = [said.quality_codes[code] for code in said.quality[0].tolist()]
            for place in np.flatnonzero(said.present[0]).tolist():
                known[place] = (values[place], quality[place])
        found.append(known)
    return found


def as_batches(
    country: Country, start: int, day: date, partitions: int, *, corrections: bool = False
) -> Iterator[tuple[int, MeterDays]]:
    """The rows of a block in the shape a coordinator appends them in, without a coordinator; or
    what is sent later to correct them.
    """
    what = sent(country, start, day)
    rows = what.recorded & what.corrected if corrections else what.recorded
    days = country.day(what.meters.take(rows), day, int(corrections))
    yield from readings.split(days, partitions)


SENDER_OF_ALL: Final = SUPPLIERS[0]
