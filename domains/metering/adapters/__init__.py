"""Readings as outside systems send them: text in, meter-days and a balanced report out.

Each format is one module, which says its zone, whether stamps mark the start or the end, its unit
and its quality. To add one, write the module and name it in `ADAPTERS`. Pure: no file is opened
and no clock is read here. Wrappings come off first and in one place (`wrappings`), so that an
adapter sees text whether the file was packed or in UTF-16; workbooks become CSV before they come
here.

A file is read as it comes, and meter-days are handed on while it is (`Reading`), so that any length
fits in memory. What a file is shows in its head: one that is not readings at all is refused there
with one sentence, and nothing of it is used. A fault that only shows later costs its own row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from domains.metering.adapters import (
    amr_row_per_day,
    amr_row_per_reading,
    ausgrid,
    bath_council,
    low_carbon_london,
    lv_feeder,
    n3rgy,
    perse,
    perseus,
    sheffield_council,
    smart_grid_smart_city,
)
from domains.metering.adapters.collecting import Collector
from domains.metering.adapters.report import (
    Bucket,
    Finding,
    MeterDays,
    Note,
    Parsed,
    Report,
    Tally,
)
from domains.metering.adapters.tables import without_sep
from domains.metering.adapters.window import Shelf
from domains.metering.adapters.wrappings import (
    HEAD_BYTES,
    Content,
    Text,
    decoded,
    head_of,
    unpacked,
    with_head,
)
from domains.metering.gas import Conversion
from spine.errors import Invalid, Reason
from spine.gb import Mpxn

__all__ = [
    "ADAPTERS",
    "HEAD_BYTES",
    "Adapter",
    "Bucket",
    "Finding",
    "MeterDays",
    "Note",
    "Parsed",
    "Reading",
    "Report",
    "Shelf",
    "Tally",
    "read",
    "recognise",
    "unpacked",
]


@dataclass(frozen=True, slots=True)
class Adapter:
    """One outside format. `read` gives way before each row, so that days may be handed on."""

    name: str
    needs_mpxn: bool
    looks_like: Callable[[str], bool]
    read: Callable[[Text, Collector, Mpxn | None], Iterator[None]]


ADAPTERS = (
    Adapter(perse.NAME, False, perse.looks_like, perse.read),
    Adapter(low_carbon_london.NAME, True, low_carbon_london.looks_like, low_carbon_london.read),
    Adapter(n3rgy.NAME, False, n3rgy.looks_like, n3rgy.read),
    Adapter(perseus.NAME, True, perseus.looks_like, perseus.read),
    Adapter(ausgrid.NAME, True, ausgrid.looks_like, ausgrid.read),
    Adapter(
        smart_grid_smart_city.NAME,
        True,
        smart_grid_smart_city.looks_like,
        smart_grid_smart_city.read,
    ),
    Adapter(amr_row_per_day.NAME, True, amr_row_per_day.looks_like, amr_row_per_day.read),
    Adapter(
        amr_row_per_reading.NAME,
        False,
        amr_row_per_reading.looks_like,
        amr_row_per_reading.read,
    ),
    Adapter(bath_council.NAME, False, bath_council.looks_like, bath_council.read),
    Adapter(sheffield_council.NAME, False, sheffield_council.looks_like, sheffield_council.read),
    Adapter(lv_feeder.NAME, False, lv_feeder.looks_like, lv_feeder.read),
)


def recognise(name: str, first_bytes: bytes) -> Adapter | None:
    """The adapter for a file that starts so, packed or not. Content decides, never the name."""
    head = head_of(first_bytes)
    return next((adapter for adapter in ADAPTERS if adapter.looks_like(head)), None)


class Reading:
    """One file while it is read. `content` gives its unpacked bytes, as often as it is called.

    `conversion` is for one that counts gas by volume. Invalid, with a sentence that says why, if it
    is not readings or not for that metering point.
    """

    def __init__(
        self,
        name: str,
        content: Content,
        mpxn: Mpxn | None = None,
        shelf: Shelf | None = None,
        window_days: int | None = None,
        conversion: Conversion | None = None,
    ) -> None:
        head, _ = with_head(content())
        adapter = recognise(name, head)
        if adapter is None:
            raise _not_readings(name, head)
        self._collector = Collector(shelf, window_days, conversion)
        self._steps = adapter.read(lambda: decoded(content()), self._collector, mpxn)

    @property
    def rows(self) -> int:
        """How many rows were read so far."""
        return self._collector.rows

    def meter_days(self) -> Iterator[MeterDays]:
        """Once: the meter-days in the order they are ready, the last of them at the end."""
        for _ in self._steps:
            if self._collector.full:
                yield self._collector.drain()
        yield self._collector.drain(everything=True)

    def report(self) -> Report:
        """What became of everything, once all meter-days were handed on."""
        return self._collector.finish()


def read(
    name: str, data: bytes, mpxn: Mpxn | None = None, conversion: Conversion | None = None
) -> Parsed:
    """Read a whole file that is in memory, packed or not, or refuse it."""
    reading = Reading(name, lambda: unpacked(name, iter([data])), mpxn, conversion=conversion)
    (meter_days,) = reading.meter_days()
    return Parsed(meter_days, reading.report())


def _not_readings(name: str, first_bytes: bytes) -> Invalid:
    """The sentence for a file that no adapter knows."""
    text = without_sep(head_of(first_bytes).lstrip("\r\n")).strip().lower()
    if not text:
        return Invalid(Reason.FILE_EMPTY, f"{name} is empty", field="file")
    if text.startswith(("<!doctype html", "<html")):
        message = f"{name} is a web page, not readings; it was probably saved from a login page"
        return Invalid(Reason.FILE_UNRECOGNISED, message, field="file")
    known = ", ".join(adapter.name for adapter in ADAPTERS if adapter.name != lv_feeder.NAME)
    message = f"{name} has not the columns or fields of any format known here ({known})"
    return Invalid(Reason.FILE_UNRECOGNISED, message, field="file")
