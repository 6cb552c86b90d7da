"""What must be true of a declaration or a link by itself, whatever the state of the meter."""

from __future__ import annotations

import re
from dataclasses import fields
from datetime import datetime
from enum import StrEnum
from typing import Final, TypeVar

from domains.btm_assets.events import (
    Agreement,
    AssetClass,
    Connection,
    Details,
    Link,
    Scheme,
    Specification,
    Unsaid,
)
from spine.errors import Invalid, Reason
from spine.gb import GspGroup, Interval, Mpan, Mprn, utc

TEXT_MAX: Final = 128
NUMBER_MAX: Final = 10**12
STORES: Final = frozenset(
    {
        AssetClass.BATTERY,
        AssetClass.V2X,
        AssetClass.ELECTRIC_STORAGE_HEATER,
        AssetClass.HOT_WATER,
    }
)
_ASSET_ID: Final = re.compile(r"urn:energyos:asset:[0-7][0-9A-HJKMNP-TV-Z]{25}", re.ASCII)
_FORMS: Final = {
    Scheme.AMSID: re.compile(r"[0-9]{13}", re.ASCII),
    Scheme.EUI64: re.compile(r"[0-9A-F]{16}", re.ASCII),
    Scheme.UPRN: re.compile(r"[0-9]{1,12}", re.ASCII),
}
CodeT = TypeVar("CodeT", bound=StrEnum)


def code(codes: type[CodeT], text: str, field: str) -> CodeT:
    """The code of that name; Invalid(CODE_UNKNOWN) if there is none."""
    try:
        return codes(text)
    except ValueError:
        message = f"{field} is one of {', '.join(codes)}"
        raise Invalid(Reason.CODE_UNKNOWN, message, field=field) from None


def check_id(asset_id: str) -> None:
    """Refuse an id that is not a URN of ours."""
    if not _ASSET_ID.fullmatch(asset_id):
        message = "an asset id is urn:energyos:asset: and a ULID"
        raise Invalid(Reason.FIELD_INVALID, message, field="asset_id")


def check_details(details: Details) -> None:
    """Refuse what no list holds, what is out of range, and parts that contradict one another."""
    groups = (
        details.kind,
        details.specification,
        details.connection,
        details.ownership,
        details.registration,
        details.operational,
    )
    for group in groups:
        for named in fields(group):
            _check_value(getattr(group, named.name), named.name)
    asset_class = code(AssetClass, details.kind.asset_class, "asset_class")
    if details.specification.storage_wh and asset_class not in STORES:
        raise Invalid(Reason.FIELD_INVALID, "this class stores nothing", field="storage_wh")
    check_connection(details.connection, details.specification)


def check_connection(connection: Connection, specification: Specification) -> None:
    """The rules that tie an asset to its connection."""
    if connection.agreement:
        code(Agreement, connection.agreement, "agreement")
    if connection.gsp_group:
        GspGroup(connection.gsp_group)
    for text in (connection.import_mpan, connection.export_mpan):
        if text and text not in set(Unsaid):
            Mpan(text)
    exported = specification.rated_export_w or 0
    if exported and not connection.export_mpan:
        message = "what exports has an export MPAN, or says why none is given"
        raise Invalid(Reason.FIELD_MISSING, message, field="export_mpan")
    limit = connection.export_limit_w
    if limit is not None and exported > limit and connection.agreement != Agreement.G100:
        message = "more than the connection allows, and no limitation scheme (G100)"
        raise Invalid(Reason.FIELD_INVALID, message, field="rated_export_w")


def check_link(link: Link) -> Link:
    """The link with its instants in UTC; Invalid if the value is not of its scheme's form."""
    scheme = code(Scheme, link.scheme, "scheme")
    check_text(link.value, "value")
    check_text(link.source, "source")
    if scheme is Scheme.MPAN:
        Mpan(link.value)
    elif scheme is Scheme.MPRN:
        Mprn(link.value)
    elif (form := _FORMS.get(scheme)) is not None and not form.fullmatch(link.value):
        raise Invalid(Reason.FIELD_INVALID, f"this is no {scheme}", field="value")
    start = utc(link.effective_from)
    end = None if link.effective_to is None else Interval(start, utc(link.effective_to)).end
    return Link(scheme, link.value, link.source, start, end)


def check_text(text: str, field: str) -> None:
    """Refuse what is missing, too long or would upset a terminal."""
    if not text:
        raise Invalid(Reason.FIELD_MISSING, f"{field} is required", field=field)
    _check_value(text, field)


def _check_value(value: object, field: str) -> None:
    match value:
        case str() if len(value) > TEXT_MAX or not value.isprintable():
            message = f"{field} is at most {TEXT_MAX} printable characters"
            raise Invalid(Reason.FIELD_INVALID, message, field=field)
        case int() if not 0 <= value <= NUMBER_MAX:
            raise Invalid(Reason.FIELD_INVALID, f"{field} is out of range", field=field)
        case datetime():
            utc(value)
        case _:
            pass
