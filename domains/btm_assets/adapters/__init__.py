"""Registers of others: which register a file is, and what it declares."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping
from io import BytesIO
from typing import Final

from domains.btm_assets.adapters import charge_point_registry, embedded_capacity_register
from domains.btm_assets.adapters.report import BYTES_MAX, Imported, check_size, table
from spine.domain import Actor
from spine.errors import Invalid, Reason
from spine.gb import Mpan

GZIP_MAGIC: Final = b"\x1f\x8b"
METERS: Final = (charge_point_registry.DEVICE, "mpan")


def read(data: bytes, by: Actor, meters: Mapping[str, str]) -> Imported:
    """What a register declares, plain or gzip; `meters` gives the MPAN of each charge device.

    Invalid: FILE_EMPTY, FILE_UNREADABLE, REQUEST_TOO_LARGE, FILE_UNRECOGNISED if it is no such
    register, MPAN_FORMAT for a meter that is none.
    """
    data = unpacked(data)
    header = table(data, ()).header
    if all(column in header for column in charge_point_registry.WANTED):
        return charge_point_registry.parse(data, by, meters)
    if all(column in header for column in embedded_capacity_register.WANTED):
        return embedded_capacity_register.parse(data, by)
    message = "the columns are neither of an Embedded Capacity Register nor of the charge points'"
    raise Invalid(Reason.FILE_UNRECOGNISED, message)


def read_meters(data: bytes) -> dict[str, str]:
    """The MPAN of each charge device, from a table of these two columns; Invalid as for `read`,
    and FIELD_INVALID where a device is given twice.
    """
    found: dict[str, str] = {}
    content = table(unpacked(data), METERS)
    device, mpan = (content.header.index(column) for column in METERS)
    for number, cells in enumerate(content.rows, 1):
        if len(cells) != len(content.header):
            raise Invalid(Reason.FILE_UNREADABLE, f"row {number} has {len(cells)} cells")
        name = cells[device].strip()
        if name in found:
            raise Invalid(Reason.FIELD_INVALID, f"row {number} gives its device a second time")
        found[name] = Mpan(cells[mpan].strip())
    return found


def unpacked(data: bytes) -> bytes:
    """The content of a gzip file, or the data as they are; never more than `BYTES_MAX`."""
    if data.startswith(GZIP_MAGIC):
        try:
            with gzip.open(BytesIO(data)) as file:
                data = file.read(BYTES_MAX + 1)
        except (OSError, EOFError, zlib.error):
            raise Invalid(Reason.FILE_UNREADABLE, "the gzip file is damaged") from None
    check_size(len(data))
    return data
