"""Readings as outside systems send them: bytes in, meter-days and a balanced report out.

Each format is one module, which says its zone, whether stamps mark the start or the end, its unit
and its quality. To add one, write the module and name it in `ADAPTERS`. Pure: no file is opened
and no clock is read here. Wrappings come off first and in one place, so that an adapter sees UTF-8
whether the file was packed or in UTF-16; workbooks become CSV before they come here.

A file that is not readings at all is refused whole with one sentence, and nothing of it is used.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO

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
from domains.metering.adapters.report import (
    Bucket,
    Finding,
    MeterDays,
    Note,
    Parsed,
    Report,
    Tally,
)
from domains.metering.adapters.tables import as_utf8, without_sep
from spine.errors import Invalid, Reason
from spine.gb import Mpxn

__all__ = [
    "ADAPTERS",
    "FILE_BYTES_MAX",
    "HEAD_BYTES",
    "Adapter",
    "Bucket",
    "Finding",
    "MeterDays",
    "Note",
    "Parsed",
    "Report",
    "Tally",
    "read",
    "recognise",
    "unpack",
]

# The largest file read, unpacked: several years of half hours for a thousand meters.
FILE_BYTES_MAX = 128 * 1024 * 1024
# How much of a file is looked at to tell what it is.
HEAD_BYTES = 8192
_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class Adapter:
    """One outside format."""

    name: str
    needs_mpxn: bool
    looks_like: Callable[[str], bool]
    read: Callable[[bytes, Mpxn | None], Parsed]


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
    head = _head(first_bytes)
    return next((adapter for adapter in ADAPTERS if adapter.looks_like(head)), None)


def read(name: str, data: bytes, mpxn: Mpxn | None = None) -> Parsed:
    """Unpack, recognise and read a whole file, or refuse it with a sentence that says why."""
    unpacked = as_utf8(unpack(name, data))
    adapter = recognise(name, unpacked[:HEAD_BYTES])
    if adapter is None:
        raise _not_readings(name, unpacked)
    return adapter.read(unpacked, mpxn)


def unpack(name: str, data: bytes) -> bytes:
    """The content of a gzip file, or the data as they are; never more than `FILE_BYTES_MAX`."""
    if data.startswith(_GZIP_MAGIC):
        try:
            with gzip.open(BytesIO(data)) as file:
                data = file.read(FILE_BYTES_MAX + 1)
        except (OSError, EOFError, zlib.error) as error:
            message = f"{name} is a damaged gzip file"
            raise Invalid(Reason.FILE_UNREADABLE, message, field="file") from error
    if len(data) > FILE_BYTES_MAX:
        message = f"{name} holds more than {FILE_BYTES_MAX // 1024**2} MiB; split it"
        raise Invalid(Reason.REQUEST_TOO_LARGE, message, field="file")
    return data


def _head(first_bytes: bytes) -> str:
    """The first characters, unpacked as far as they go."""
    if first_bytes.startswith(_GZIP_MAGIC):
        try:
            inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
            first_bytes = inflate.decompress(first_bytes, HEAD_BYTES)
        except zlib.error:
            return ""
    return as_utf8(first_bytes[:HEAD_BYTES]).decode("utf-8-sig", "replace")


def _not_readings(name: str, data: bytes) -> Invalid:
    """The sentence for a file that no adapter knows."""
    text = without_sep(_head(data[:HEAD_BYTES]).lstrip("\r\n"))[0].strip().lower()
    if not text:
        return Invalid(Reason.FILE_EMPTY, f"{name} is empty", field="file")
    if text.startswith(("<!doctype html", "<html")):
        message = f"{name} is a web page, not readings; it was probably saved from a login page"
        return Invalid(Reason.FILE_UNRECOGNISED, message, field="file")
    known = ", ".join(adapter.name for adapter in ADAPTERS if adapter.name != lv_feeder.NAME)
    message = f"{name} has not the columns or fields of any format known here ({known})"
    return Invalid(Reason.FILE_UNRECOGNISED, message, field="file")
