"""The National Chargepoint Registry (CSV, all its columns or a part of them) into declarations.

The registry names no meter, so the caller says behind which MPAN each charge device stands. A
device is one asset; its rated import is what all its connectors take together, for the registry
does not say whether they share a supply. Positions are looked at only to find mistakes and are not
taken over, nor are names, addresses and telephone numbers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Final

from domains.btm_assets.adapters.report import (
    Bucket,
    Collector,
    Declaration,
    Imported,
    Note,
    asset_id,
    local_midnight,
    table,
    whole,
)
from domains.btm_assets.commands import DeclareAsset
from domains.btm_assets.events import (
    AssetClass,
    Connection,
    Details,
    Kind,
    Link,
    Registration,
    Scheme,
    Specification,
)
from spine.domain import Actor
from spine.gb import Mpan

REGISTER: Final = "NCR"
REGISTRAR: Final = "National Chargepoint Registry"
DEVICE, STATUS = "chargeDeviceID", "chargeDeviceStatus"
LATITUDE, LONGITUDE = "latitude", "longitude"
STATUSES: Final = frozenset({"In service", "Out of service", "Planned"})
PLANNED: Final = "Planned"
CONNECTORS: Final = range(1, 9)
WANTED: Final = (DEVICE, "reference", "name", LATITUDE, LONGITUDE, STATUS)
_DEVICE_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)
_NUMBER: Final = re.compile(r"-?\d{1,3}(\.\d+)?", re.ASCII)
_UPRN: Final = re.compile(r"[0-9]{1,12}", re.ASCII)

Row = Mapping[str, str]


def parse(data: bytes, by: Actor, meters: Mapping[str, str]) -> Imported:
    """The registry's charge points as declarations of this actor; `meters` gives the MPAN of a
    charge device id. Invalid if it is no such registry, MPAN_FORMAT for a meter that is none.
    """
    read = table(data, WANTED)
    collector = Collector(len(read.rows))
    if read.marked:
        collector.find(Note.BYTE_ORDER_MARK, "the file begins with a byte order mark")
    for column, times in Counter(read.header).items():
        if times > 1:
            collector.find(Note.COLUMN_TWICE, f"{times} columns are called {column!r}")
    seen: set[str] = set()
    for number, cells in enumerate(read.rows, 1):
        # Of two columns of one name the first counts; none of those read here is such a one.
        named = zip(reversed(read.header), reversed(cells), strict=False)
        row = {name: cell.strip() for name, cell in named}
        if len(cells) != len(read.header) or not _in_place(row):
            message = "its cells do not stand under their columns"
            collector.reject(number, Bucket.SHIFTED, message, 0)
            continue
        _note(collector, number, row)
        if row[DEVICE] in seen:
            message = "the charge device stands there twice"
            collector.reject(number, Bucket.DUPLICATE, message, 1)
        elif row[STATUS] == PLANNED:
            collector.reject(number, Bucket.NOT_THERE_YET, "the charge device is planned", 1)
        elif row[DEVICE] not in meters:
            message = "nothing says behind which meter it stands"
            collector.reject(number, Bucket.NO_METER, message, 1)
        else:
            mpan = Mpan(meters[row[DEVICE]])
            if not mpan.check_digit_ok:
                collector.find(Note.CHECK_DIGIT, "the MPAN has a wrong check digit", number)
            collector.declare([Declaration(mpan, _declare(collector, number, row, mpan, by))])
        seen.add(row[DEVICE])
    return collector.finish()


def _in_place(row: Row) -> bool:
    """Whether the id and the status are such as the registry gives."""
    return bool(_DEVICE_ID.fullmatch(row[DEVICE])) and row[STATUS] in STATUSES


def _note(collector: Collector, number: int, row: Row) -> None:
    latitude, longitude = _degrees(row[LATITUDE]), _degrees(row[LONGITUDE])
    if latitude is None or longitude is None:
        collector.find(Note.LOCATION_ABROAD, "its position cannot be read", number)
    elif abs(latitude) < 1:
        collector.find(Note.LOCATION_ZERO, "its latitude is about 0", number)
    elif not (49 <= latitude <= 61.5 and -9 <= longitude <= 2.5):
        collector.find(Note.LOCATION_ABROAD, "its position is not in Great Britain", number)


def _degrees(text: str) -> float | None:
    return float(text) if _NUMBER.fullmatch(text) else None


def _declare(collector: Collector, number: int, row: Row, mpan: Mpan, by: Actor) -> DeclareAsset:
    registered_at = local_midnight(row.get("dateCreated", ""))
    uprn, links = row.get("uprn", ""), tuple[Link, ...]()
    if _UPRN.fullmatch(uprn) and registered_at is not None:
        links = (Link(Scheme.UPRN, uprn, REGISTER, registered_at),)
    details = Details(
        Kind(AssetClass.EV_CHARGE_POINT),
        Specification(
            row.get("deviceManufacturer", ""),
            row.get("deviceModel", ""),
            rated_import_w=_rated(collector, number, row),
        ),
        Connection(mpan),
        registration=Registration(REGISTER, row[DEVICE], REGISTRAR, registered_at),
    )
    return DeclareAsset(by, asset_id(REGISTER, row[DEVICE]), details, links)


def _rated(collector: Collector, number: int, row: Row) -> int | None:
    given = [text for n in CONNECTORS if (text := row.get(f"connector{n}RatedOutputKW", ""))]
    watts = [whole(text, 1_000) for text in given]
    if None in watts:
        collector.find(Note.NUMBER, "the rating of a connector cannot be read", number)
        return None
    return sum(w for w in watts if w is not None) if watts else None
