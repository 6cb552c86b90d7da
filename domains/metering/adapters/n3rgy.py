"""n3rgy consumption: half hours from a smart meter through the DCC, as JSON.

Source   n3rgy's data service, both versions of its answer; github:Energy-Sparks/energy-sparks, MIT,
         spec/analytics/fixtures/n3rgy/get_consumption_data.json (version 1, `values`) and
         spec/fixtures/n3rgy/get-reading-type-consumption.json (version 2, `devices`)
Shape    `{"resource", "granularity": "halfhour", "unit": "kWh", …}` with `values` of `value` and
         `timestamp`, or `devices` whose `values` have `primaryValue` and `timestamp`
Zone     UTC all year, as the meter's own profile log
Stamps   the END of the half hour: a day's last reading is stamped midnight of the next day
Unit     kWh, read as decimals and kept as whole Wh; of gas also m3, kept as whole dm3, for which
         the calorific value must be given (`gas`). The second element of a meter of two
         (`secondaryValue`), where there is one, is added to the first
Quality  none given, so none is claimed
Meter    the MPAN, or of gas the MPRN, in `resource`; a metering point may be given only where
         `resource` names none
Gas      the same half hours. No sample of it was at hand: that it comes under `/gas/`, in m3 or
         kWh, is from the readers that Energy Sparks wrote for the same service

The unit may stand behind the values, so the answer is read twice, and one that breaks off is
refused whole. Several devices are one metering point: where a meter was changed and both report a
half hour, the first value stays and the other is a duplicate. Production and tariffs are refused
whole, and so is gas that is not by the half hour, such as a daily total.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any

from domains.metering.adapters.collecting import Collector, Entry
from domains.metering.adapters.documents import EACH, Broken, Path, no_object, walk
from domains.metering.adapters.points import given_mpan, given_mprn, none_given
from domains.metering.adapters.report import NO_QUALITY, Bucket, wh_of
from domains.metering.adapters.stamps import stamp_of
from domains.metering.adapters.wrappings import Text
from spine.errors import Invalid, Reason
from spine.gb import Mpan, Mprn, Mpxn, half_hour_of, on_the_grid

NAME = "n3rgy"
_WHAT = "an n3rgy file"
_FIELDS = ('"resource"', '"granularity"', '"timestamp"')
_DEVICE = ("devices", EACH)
_OF_DEVICES = (*_DEVICE, "values")
_LISTS = (("values",), _OF_DEVICES)
_WAYS = frozenset({(), ("devices",), _DEVICE, *_LISTS})
_MPXN = re.compile(r"/(?:mpxn/)?(\d{6,13})/", re.ASCII)
_CONSUMPTION = re.compile(r"/(electricity|gas)/(readingtype/)?(consumption|import)\b", re.ASCII)
_ENERGY, _VOLUME = "kWh", "m3"
_COMPACT = re.compile(r"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)", re.ASCII)


def looks_like(head: str) -> bool:
    """Whether a file that starts so is an n3rgy answer."""
    return head.lstrip().startswith("{") and all(name in head for name in _FIELDS)


def read(text: Text, collector: Collector, mpxn: Mpxn | None = None) -> Iterator[None]:
    """Read a whole answer for the MPAN that it names."""
    document = _checked(text)
    point = _point(str(document.get("resource")), mpxn)
    if document.get("unit") == _VOLUME:
        collector.in_volume(_WHAT)
    collector.note_check_digit(point)
    where = (*_list_way(document), EACH)
    values = (value for way, value in walk(text, _WAYS) if way == where)
    for line, value in enumerate(collector.each(values), 1):
        yield
        if isinstance(value, dict):
            _read_value(collector, line, point, value)
        else:
            collector.reject(line, Bucket.UNREADABLE, no_object(value, "a value"))


def _checked(text: Text) -> dict[str, object]:
    """The fields beside the values, which may stand behind them; Invalid if it is anything else."""
    document: dict[str, object] = {}
    seen: Counter[Path] = Counter()
    for way, value in walk(text, _WAYS):
        if isinstance(value, Broken):
            message = f"the file starts like {_WHAT} but is not whole JSON"
            raise Invalid(Reason.FILE_UNREADABLE, message, field="file")
        if len(way) == 1:
            document[way[0]] = value
        seen[way] += way not in _LISTS or isinstance(value, list)
    _check_kind(document)
    where = _list_way(document)
    if seen[where] != (seen[_DEVICE] if where == _OF_DEVICES else 1):
        message = f"{_WHAT} has no list of values"
        raise Invalid(Reason.FILE_UNREADABLE, message, field="file")
    if not seen[*where, EACH]:
        raise Invalid(Reason.FILE_EMPTY, f"{_WHAT} has not one value", field="file")
    return document


def _list_way(document: dict[str, object]) -> Path:
    """Where the values stand: in version 2 with each device."""
    return _OF_DEVICES if isinstance(document.get("devices"), list) else ("values",)


def _check_kind(document: dict[str, object]) -> None:
    match = _CONSUMPTION.search(str(document.get("resource")))
    if match is None:
        message = f"{_WHAT} is recorded only if its resource is consumption of electricity or gas"
        raise Invalid(Reason.FILE_UNRECOGNISED, message, field="file")
    units = (_ENERGY, _VOLUME) if match[1] == "gas" else (_ENERGY,)
    if document.get("granularity") != "halfhour" or document.get("unit") not in units:
        message = f"{_WHAT} is recorded only if it holds {' or '.join(units)} by the half hour"
        raise Invalid(Reason.FILE_UNRECOGNISED, message, field="file")


def _point(resource: str, mpxn: Mpxn | None) -> Mpxn:
    """The point that the resource names; its fuel says what kind, never the number's length."""
    kind = Mprn if "/gas/" in resource else Mpan
    match = _MPXN.search(resource)
    if match is not None:
        none_given(mpxn, _WHAT)
        return kind(match[1])
    given = given_mprn if kind is Mprn else given_mpan
    return given(mpxn, "this n3rgy file")


def _read_value(collector: Collector, line: int, point: Mpxn, value: dict[str, Any]) -> None:
    label = value.get("timestamp")
    end = _end(label) if isinstance(label, str) else None
    if end is None:
        collector.reject(line, Bucket.UNREADABLE, "the timestamp cannot be read")
        return
    half_hour = half_hour_of(end) - 1 if on_the_grid(end) else None
    collector.take(
        line, point, [Entry(half_hour, _thousandths(value), NO_QUALITY, f"the one to {label}")]
    )


def _end(label: str) -> datetime | None:
    return stamp_of(_COMPACT.sub(r"\1-\2-\3 \4:\5", label))


def _thousandths(value: dict[str, Any]) -> int | Bucket:
    first = value.get("primaryValue", value.get("value"))
    second = value.get("secondaryValue")
    if first is None:
        return Bucket.NULL
    if not isinstance(first, Decimal) or not (second is None or isinstance(second, Decimal)):
        return Bucket.UNREADABLE
    parts = [wh_of(part) for part in (first, second) if part is not None]
    bad = [part for part in parts if isinstance(part, Bucket)]
    return bad[0] if bad else wh_of(Decimal(sum(map(int, parts))).scaleb(-3))
