"""A distributor's Embedded Capacity Register (DCP350, template 2, CSV) into declarations.

One row is one connection of up to three technologies, each of which becomes an asset behind the
export metering point, or the import one if only that is given. Capacity is MW and is kept as whole
W; voltage is kV; dates are local days. `Data not available` is not an empty cell: it becomes
`UNKNOWN`. Rows that are only accepted to connect have no asset yet. Customer names, addresses and
coordinates are not taken over: the site's name only goes into the hash that is the asset's id.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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
    Unsaid,
)
from spine.domain import Actor
from spine.errors import Invalid
from spine.gb import Mpan

REGISTER: Final = "ECR"
NOT_AVAILABLE: Final = "Data not available"
CONNECTED: Final = "Connected"
LICENCE_AREAS: Final = frozenset(
    {
        "Eastern Power Networks (EPN)",
        "London Power Networks (LPN)",
        "South Eastern Power Networks (SPN)",
    }
)
EXPORT, IMPORT = "Export MPAN / MSID", "Import MPAN / MSID"
SITE, STATUS, AREA = "Customer Site", "Connection Status", "Licence Area"
REFERENCE, CONNECTED_ON, UPDATED = "Reference", "Date Connected", "Last Updated"
VOLTAGE = "Point of Connection (POC)_Voltage (kV)"
EXPORT_LIMIT = "Already Connected - Maximum Export Capacity (MW)"
SUBSTATION, GSP = "Primary", "Grid Supply Point"
CHP: Final = {
    1: "CHP Cogeneration (Yes/No)",
    2: "CHP Cogeneration 2 (Yes/No)",
    3: "CHP Cogeneration 3 (Yes/No)",
}
CAPACITY: Final = "Energy Source & Energy Conversion Technology {} - Registered Capacity (MW)"
WANTED: Final = (EXPORT, IMPORT, SITE, STATUS, AREA, "Energy Source 1", CAPACITY.format(1))

Row = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Technology:
    """One of the technologies of a row, as given."""

    slot: int
    source: str
    conversion: str
    chp: bool
    capacity: str
    storage: str


def parse(data: bytes, by: Actor) -> Imported:
    """The register's assets as declarations of this actor; Invalid if it is no such register."""
    read = table(data, WANTED)
    collector = Collector(len(read.rows))
    if read.marked:
        collector.find(Note.BYTE_ORDER_MARK, "the file begins with a byte order mark")
    seen: Counter[tuple[str, ...]] = Counter()
    sources: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for number, cells in enumerate(read.rows, 1):
        if len(cells) != len(read.header):
            message = f"the row has {len(cells)} cells of {len(read.header)}"
            collector.reject(number, Bucket.SHIFTED, message, 0)
            continue
        row = {name: cell.strip() for name, cell in zip(read.header, cells, strict=True)}
        technologies = tuple(_technologies(row))
        for technology in technologies:
            sources[_letters(technology.source)][technology.source] += 1
        _note(collector, number, row)
        seen[cells] += 1
        if seen[cells] > 1:
            message = "the same row stands there twice"
            collector.reject(number, Bucket.DUPLICATE, message, len(technologies))
        else:
            _take(collector, number, row, technologies, by, seen)
    for spellings in sources.values():
        if len(spellings) > 1:
            names = " / ".join(f"{name!r}" for name in sorted(spellings))
            collector.find(Note.SPELLINGS, f"one energy source is spelt {names}")
    return collector.finish()


def _letters(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalnum())


def _technologies(row: Row) -> Iterator[Technology]:
    for slot in (1, 2, 3):
        if source := row.get(f"Energy Source {slot}", ""):
            yield Technology(
                slot,
                source,
                row.get(f"Energy Conversion Technology {slot}", ""),
                row.get(CHP[slot], "") == "Yes",
                row.get(CAPACITY.format(slot), ""),
                row.get(f"Storage Capacity {slot} (MWh)", ""),
            )


def _note(collector: Collector, number: int, row: Row) -> None:
    if row[EXPORT] == NOT_AVAILABLE:
        message = f"the export MPAN is {NOT_AVAILABLE!r}"
        collector.find(Note.NUMBER_NOT_AVAILABLE, message, number)
    if row[AREA] not in LICENCE_AREAS:
        collector.find(Note.LICENCE_AREA, f"the licence area is spelt {row[AREA]!r}", number)
    if not row.get(REFERENCE):
        collector.find(Note.NO_REFERENCE, "there is no reference", number)


def _take(
    collector: Collector,
    number: int,
    row: Row,
    technologies: tuple[Technology, ...],
    by: Actor,
    seen: Counter[tuple[str, ...]],
) -> None:
    count = len(technologies)
    if row[STATUS] != CONNECTED:
        message = f"the connection is {row[STATUS]!r}"
        collector.reject(number, Bucket.NOT_THERE_YET, message, count)
        return
    try:
        exported, imported = _mpan(row[EXPORT]), _mpan(row[IMPORT])
    except Invalid:
        message = "an MPAN is not 13 digits"
        collector.reject(number, Bucket.UNREADABLE, message, count)
        return
    meter = exported or imported
    if meter is None:
        collector.reject(number, Bucket.NO_METER, "there is no MPAN", count)
        return
    for mpan in (exported, imported):
        if mpan is not None and not mpan.check_digit_ok:
            collector.find(Note.CHECK_DIGIT, "an MPAN has a wrong check digit", number)
    limit = whole(row.get(EXPORT_LIMIT, ""), 1_000_000)
    rated = [_watts(collector, number, t) for t in technologies]
    if limit is not None and any(w is not None and w > limit for w in rated):
        message = "it is rated above the connection's export capacity"
        collector.reject(number, Bucket.OVER_LIMIT, message, count)
        return
    if not technologies:
        collector.reject(number, Bucket.UNREADABLE, "there is no energy source", count)
        return
    connection = _connection(row, limit)
    links = _links(collector, number, row, exported, imported)
    collector.declare(
        [
            Declaration(
                meter,
                DeclareAsset(
                    by, _id(meter, row, t, seen), _details(row, t, watts, connection), links
                ),
            )
            for t, watts in zip(technologies, rated, strict=True)
        ]
    )


def _mpan(text: str) -> Mpan | None:
    return None if text in ("", NOT_AVAILABLE) else Mpan(text)


def _watts(collector: Collector, number: int, technology: Technology) -> int | None:
    watts = whole(technology.capacity, 1_000_000)
    if watts is None and technology.capacity:
        collector.find(Note.NUMBER, "a capacity cannot be read, or is finer than 1 W", number)
    return watts


def _id(meter: str, row: Row, technology: Technology, seen: Counter[tuple[str, ...]]) -> str:
    """Rows that agree in all of this are told apart by their order."""
    known = (meter, row[SITE], str(technology.slot), technology.source, technology.conversion)
    seen[known] += 1
    return asset_id(REGISTER, *known, str(seen[known]))


def _connection(row: Row, limit: int | None) -> Connection:
    return Connection(
        row[IMPORT] if row[IMPORT] != NOT_AVAILABLE else Unsaid.UNKNOWN,
        row[EXPORT] if row[EXPORT] not in ("", NOT_AVAILABLE) else Unsaid.UNKNOWN,
        "",
        limit,
        whole(row.get(VOLTAGE, ""), 1_000),
        row.get(SUBSTATION, ""),
        row.get(GSP, ""),
    )


def _links(
    collector: Collector, number: int, row: Row, exported: Mpan | None, imported: Mpan | None
) -> tuple[Link, ...]:
    """What the row calls its assets, from the day it was connected on."""
    since = local_midnight(row.get(CONNECTED_ON, "")) or local_midnight(row.get(UPDATED, ""))
    if since is None:
        collector.find(Note.DATE, "there is no date, so its numbers are not linked", number)
        return ()
    values = [(Scheme.MPAN, exported), (Scheme.MPAN, imported), (Scheme.ECR, row.get(REFERENCE))]
    given = dict.fromkeys((scheme, str(value)) for scheme, value in values if value)
    return tuple(Link(scheme, value, REGISTER, since) for scheme, value in given)


def _details(
    row: Row, technology: Technology, watts: int | None, connection: Connection
) -> Details:
    asset_class = _asset_class(technology)
    stored = whole(technology.storage, 1_000_000) if asset_class is AssetClass.BATTERY else None
    return Details(
        Kind(asset_class, technology.source, technology.conversion),
        Specification(rated_export_w=watts, storage_wh=stored),
        connection,
        registration=Registration(REGISTER, row.get(REFERENCE, ""), row[AREA]),
    )


def _asset_class(technology: Technology) -> AssetClass:
    source, conversion = technology.source.lower(), technology.conversion.lower()
    if technology.chp:
        return AssetClass.CHP
    if "solar" in source:
        return AssetClass.SOLAR_PV
    if "wind" in source:
        return AssetClass.WIND
    if "stored energy" in source and "batter" in conversion:
        return AssetClass.BATTERY
    if "oil" in source and "engine" in conversion:
        return AssetClass.DIESEL
    return AssetClass.OTHER
