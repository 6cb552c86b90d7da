"""What an answer is: rows for exactly the half hours asked, each a value or one typed reason for
none.

The digest of the canonical rows goes into the outcome. An auditor rebuilds the rows from the log
and must come to the same digest, so everything here is pure and its bytes are for ever.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from itertools import pairwise
from typing import Final, overload

import numpy as np
from numpy.typing import NDArray

from spine.event import AbsentRun, epoch_ms
from spine.gb import HALF_HOUR, Interval, first_half_hour_from, half_hour_of, half_hour_start


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


# How long a value may still come that counts in settlement: the final reconciliation run is some
# 14 months after the settlement day. A half hour without a value is late until then.
SETTLEMENT_ALLOWANCE: Final = timedelta(days=426)
HALF_HOUR_MS: Final = HALF_HOUR // timedelta(milliseconds=1)
# A half hour of an answer is recorded (0) or absent for the reason at this place.
ABSENT: Final = (None, *Absent)
_DIGEST_OF: Final = b"energyos-half-hours-v1\x00"
_PLACE_OF: Final = {reason: place for place, reason in enumerate(ABSENT)}

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


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


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """What is recorded of consecutive half hours, column by column; place 0 is `first`.

    `quality` points into `qualities`; `offsets` and `rows` are the versions that hold the values.
    Where `present` is not set, `instead` is what the log says of it: nothing (0), or the place in
    ABSENT of WITHDRAWN or QUARANTINED; the other columns mean nothing there.
    """

    first: int
    present: Flags
    values_wh: Ints
    quality: Ints
    qualities: tuple[str, ...]
    offsets: Ints
    rows: Ints
    instead: NDArray[np.uint8]

    @property
    def whole(self) -> bool:
        """Whether each of them has a value."""
        return int(np.count_nonzero(self.present)) == len(self.present)

    def part(self, start: int, count: int, first: int) -> Columns:
        """So many of them from a place on, as those of which the first is `first`."""
        part = slice(start, start + count)
        return Columns(
            first,
            self.present[part],
            self.values_wh[part],
            self.quality[part],
            self.qualities,
            self.offsets[part],
            self.rows[part],
            self.instead[part],
        )

    def alone(self) -> Columns:
        """The same in arrays of their own: to keep a part keeps all that it is a part of."""
        columns = ("present", "values_wh", "quality", "offsets", "rows", "instead")
        return replace(self, **{name: getattr(self, name).copy() for name in columns})

    def at(self, place: int) -> Recorded | None:
        """What is recorded of one of them."""
        if not self.present[place]:
            return None
        return Recorded(
            int(self.values_wh[place]),
            self.qualities[self.quality[place]],
            int(self.offsets[place]),
            int(self.rows[place]),
        )


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What is known beside the readings of why a half hour has none, seen from the instant `at`.

    `registered`: when readings of the meter could come. `silent`: when it did not communicate.
    """

    at: datetime
    registered: tuple[Interval, ...] = ()
    silent: tuple[Interval, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class HalfHours(Sequence[HalfHour]):
    """The rows of an answer, in order. `absent` gives each one's place in ABSENT."""

    mpxn: str
    columns: Columns
    absent: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.absent)

    @property
    def recorded(self) -> int:
        """How many carry a value."""
        return len(self.absent) - int(np.count_nonzero(self.absent))

    @property
    def whole(self) -> bool:
        """Whether each of them carries one."""
        return not np.count_nonzero(self.absent)

    @overload
    def __getitem__(self, place: int) -> HalfHour: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[HalfHour]: ...
    def __getitem__(self, place: int | slice) -> HalfHour | Sequence[HalfHour]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        why = ABSENT[self.absent[place]]
        recorded = None if why else self.columns.at(place)
        return HalfHour(self.mpxn, half_hour_start(self.columns.first + place), recorded, why)


def half_hours(
    mpxn: str,
    covered: Sequence[Interval],
    found: Columns,
    now: datetime,
    known: Circumstances | None = None,
) -> HalfHours:
    """The rows of an answer: every half hour of `found`. `now` is the decision's.

    Of the reasons that fit, the last of these is given: NEVER_RECORDED; LATE, while a value can
    still count; METER_NOT_COMMUNICATING, for any part of it; WITHDRAWN or QUARANTINED, whichever
    came later; NOT_DUE_YET; CONSENT_DOES_NOT_COVER, recorded or not. An answer to a request that
    did not ask for `known` (all from before there was a choice) knows the first, and the last two.
    """
    first, count = found.first, len(found.present)
    absent = np.zeros(count, np.uint8)
    if not found.whole:
        absent[:] = _PLACE_OF[Absent.NEVER_RECORDED]
        if known is not None:
            _explain(absent, found, known)
        due = half_hour_of(known.at if known else now)
        absent[max(due - first, 0) :] = _PLACE_OF[Absent.NOT_DUE_YET]
        absent[found.present] = _PLACE_OF[None]
    opened = [
        _places(first, first_half_hour_from(part.start), half_hour_of(part.end)) for part in covered
    ]
    if not any(part.start == 0 and part.stop >= count for part in opened):
        closed = np.ones(count, np.bool_)
        for part in opened:
            closed[part] = False
        absent[closed] = _PLACE_OF[Absent.CONSENT_DOES_NOT_COVER]
    return HalfHours(mpxn, found, absent)


def _explain(absent: NDArray[np.uint8], found: Columns, known: Circumstances) -> None:
    """Put in what is known of half hours without a value, the weaker reason first."""
    first = found.first
    open_since = first_half_hour_from(known.at - SETTLEMENT_ALLOWANCE)
    for part in known.registered:
        begin = max(first_half_hour_from(part.start), open_since)
        absent[_places(first, begin, half_hour_of(part.end))] = _PLACE_OF[Absent.LATE]
    for part in known.silent:
        touched = _places(first, half_hour_of(part.start), first_half_hour_from(part.end))
        absent[touched] = _PLACE_OF[Absent.METER_NOT_COMMUNICATING]
    np.copyto(absent, found.instead, where=found.instead != 0)


def _places(first: int, begin: int, end: int) -> slice:
    """The half hours [begin, end) among those from `first` on."""
    return slice(max(begin - first, 0), max(end - first, 0))


def half_hours_digest(rows: HalfHours) -> bytes:
    """SHA-256 over the canonical rows, absent half hours with their reasons included.

    A row, big-endian: length (1) and MPxN; start (8, epoch ms); then 1, value (8), length (1) and
    quality, offset (8), row (4) if it is recorded, and 0, length (1) and reason if it is absent.
    """
    columns, absent = rows.columns, rows.absent
    digest = hashlib.sha256(_DIGEST_OF)
    lengths = [len(quality.encode()) for quality in columns.qualities]
    if len(rows) and rows.whole and len(set(lengths)) == 1:
        digest.update(_recorded_rows(rows, slice(None)))
        return digest.digest()
    kinds = absent.astype(np.int64)  # of rows that are equally long: below 0 if recorded
    recorded = kinds == 0
    kinds[recorded] = -1 - np.array(lengths, np.int64)[columns.quality[recorded]]
    edges = [0, *(np.flatnonzero(kinds[1:] != kinds[:-1]) + 1).tolist(), len(rows)]
    runs = list(zip(pairwise(edges), kinds[edges[:-1]].tolist(), strict=True)) if len(rows) else []
    packed, sizes = {}, {}
    for kind in {kind for _, kind in runs}:
        places = np.flatnonzero(kinds == kind)
        block = _recorded_rows(rows, places) if kind < 0 else _absent_rows(rows, kind, places)
        packed[kind], sizes[kind] = memoryview(block), len(block) // len(places)
    for (begin, end), kind in runs:
        size = (end - begin) * sizes[kind]
        digest.update(packed[kind][:size])
        packed[kind] = packed[kind][size:]
    return digest.digest()


def half_hours_digests(answers: Sequence[HalfHours]) -> list[bytes]:
    """The digest of each of these answers over the same half hours, as `half_hours_digest` has it.

    Where they have the same qualities, all equally long, rows laid out once are filled in for each.
    """
    alike = len({(rows.columns.qualities, len(rows.mpxn), len(rows)) for rows in answers}) == 1
    if not alike or len({len(q.encode()) for q in answers[0].columns.qualities}) != 1:
        return [half_hours_digest(rows) for rows in answers]
    first, count = answers[0].columns.first, len(answers[0])
    texts = np.array([quality.encode() for quality in answers[0].columns.qualities])
    mpxn, said = answers[0].mpxn.encode(), answers[0].columns.qualities[0].encode()
    filled = bytearray(_row_to_fill(mpxn, said) * count)
    block = np.frombuffer(filled, _row_layout(len(mpxn), len(said), recorded=True))
    block["start"] = _starts(first, count)
    row, digests = block.itemsize, []
    for rows in answers:
        columns = rows.columns
        block["mpxn"] = rows.mpxn.encode()
        _fill(block, columns, slice(None))
        if len(texts) > 1 and said:
            block["said"] = texts[columns.quality]
        digest = hashlib.sha256(_DIGEST_OF)
        for begin, end, why in _alike(rows.absent):
            if why:
                digest.update(_absent_rows(rows, why, np.arange(begin, end)))
            else:
                digest.update(memoryview(filled)[begin * row : end * row])
        digests.append(digest.digest())
    return digests


def _absent_rows(rows: HalfHours, why: int, places: Ints) -> bytearray:
    mpxn, said = rows.mpxn.encode(), str(ABSENT[why]).encode()
    row = bytes([len(mpxn)]) + mpxn + bytes(8) + bytes([0, len(said)]) + said
    packed = bytearray(row * len(places))
    block = np.frombuffer(packed, _row_layout(len(mpxn), len(said), recorded=False))
    block["start"] = _starts(rows.columns.first, len(rows))[places]
    return packed


def _recorded_rows(rows: HalfHours, places: Ints | slice) -> bytearray:
    """Canonical rows of recorded half hours whose qualities are equally long: the same row again
    and again, into which is put what differs.
    """
    mpxn, columns = rows.mpxn.encode(), rows.columns
    quality = columns.quality[places]
    said = columns.qualities[quality[0]].encode()
    packed = bytearray(_row_to_fill(mpxn, said) * len(quality))
    block = np.frombuffer(packed, _row_layout(len(mpxn), len(said), recorded=True))
    block["start"] = _starts(columns.first, len(rows))[places]
    _fill(block, columns, places)
    if said and (quality != quality[0]).any():
        block["said"] = np.array([q.encode() for q in columns.qualities], f"S{len(said)}")[quality]
    return packed


def _fill(block: NDArray[np.void], columns: Columns, places: Ints | slice) -> None:
    """Put into canonical rows the numbers that are recorded of these half hours."""
    block["value"] = columns.values_wh[places]
    block["offset"] = columns.offsets[places]
    block["row"] = columns.rows[places]


def _row_to_fill(mpxn: bytes, said: bytes) -> bytes:
    """A canonical row of a recorded half hour, but for what differs from one to the next."""
    row = bytes([len(mpxn)]) + mpxn + bytes(8) + b"\x01" + bytes(8)
    return row + bytes([len(said)]) + said + bytes(12)


@lru_cache(256)
def _row_layout(mpxn: int, said: int, recorded: bool) -> np.dtype[np.void]:
    """Where what differs stands in rows whose MPxN and text are of these lengths, in bytes."""
    start = 1 + mpxn
    if not recorded:
        places = {"start": (start, ">i8")}
        return _placed(places, start + 8 + 2 + said)
    value = start + 8 + 1
    text = value + 8 + 1
    offset = text + said
    places = {"mpxn": (1, f"S{mpxn}"), "start": (start, ">i8"), "value": (value, ">i8")}
    places |= {"said": (text, f"S{said}")}
    places |= {"offset": (offset, ">i8"), "row": (offset + 8, ">i4")}
    return _placed(places, offset + 12)


def _placed(places: dict[str, tuple[int, str]], size: int) -> np.dtype[np.void]:
    at, kinds = zip(*places.values(), strict=True)
    return np.dtype({"names": list(places), "formats": kinds, "offsets": at, "itemsize": size})


@lru_cache(16)
def _starts(first: int, count: int) -> NDArray[np.int64]:
    """When each of these half hours starts, epoch ms, big-endian: the same for many meters."""
    starts = ((first + np.arange(count)) * HALF_HOUR_MS).astype(">i8")
    starts.flags.writeable = False
    return starts


def absent_runs(rows: HalfHours) -> tuple[AbsentRun, ...]:
    """The absent half hours of an answer, run by run."""
    return tuple(
        AbsentRun(half_hour_start(rows.columns.first + begin), end - begin, str(ABSENT[why]))
        for begin, end, why in _alike(rows.absent)
        if why
    )


def _alike(absent: NDArray[np.uint8]) -> list[tuple[int, int, int]]:
    """Runs of half hours that are recorded, or absent for one reason: begin, end, reason."""
    if not np.count_nonzero(absent):
        return [(0, len(absent), 0)]
    edges = [0, *(np.flatnonzero(absent[1:] != absent[:-1]) + 1).tolist(), len(absent)]
    reasons = absent[edges[:-1]].tolist()
    return [(*edge, why) for edge, why in zip(pairwise(edges), reasons, strict=True)]


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
