"""What the tests of the families of readings files share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from domains.metering import adapters
from domains.metering.adapters import Bucket, MeterDays, Parsed, report
from spine.errors import Invalid, Reason
from spine.gb import Mpan, Mpxn

DATA = Path(__file__).parents[2] / "data"
HOME = Mpan("1200000000011")


def read(path: str, mpxn: Mpxn | None = None) -> Parsed:
    """One of the sample files."""
    return adapters.read(path.rpartition("/")[2], (DATA / path).read_bytes(), mpxn)


def family(path: str) -> str:
    """The name of the adapter that knows the file."""
    adapter = adapters.recognise("any.name", (DATA / path).read_bytes()[: adapters.HEAD_BYTES])
    return adapter.name if adapter else ""


def by_stamp(days: MeterDays) -> dict[tuple[str, datetime], tuple[int, str]]:
    """The columns again as one entry for each half hour."""
    readings = {}
    for row, column in zip(*np.nonzero(days.present), strict=True):
        start = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(
            days=int(days.days[row]), minutes=30 * int(column)
        )
        code = days.quality_codes[days.quality[row, column]]
        readings[days.mpxns[row].decode(), start] = (int(days.values_wh[row, column]), code)
    return readings


def span(parsed: Parsed) -> tuple[str, str]:
    """The first and the last half hour recorded."""
    starts = [start for _, start in by_stamp(parsed.meter_days)]
    return f"{min(starts):%Y-%m-%d %H:%MZ}", f"{max(starts):%Y-%m-%d %H:%MZ}"


def buckets(tally: report.Tally) -> dict[str, int]:
    """The counts that are not 0."""
    return {bucket.value: count for bucket, count in tally.by_bucket.items() if count}


def reasons(parsed: Parsed) -> Counter[str]:
    """How many findings of each reason were kept."""
    return Counter(finding.reason.value for finding in parsed.report.findings)


def unreadable(parsed: Parsed) -> list[tuple[int | None, str]]:
    """The line and the sentence of each row that could not be read."""
    findings = parsed.report.findings
    return [(f.line, f.message) for f in findings if f.reason is Bucket.UNREADABLE]


def refused(reason: Reason, make: Callable[[], object]) -> str:
    """The sentence of the refusal."""
    with pytest.raises(Invalid) as caught:
        make()
    assert caught.value.reason is reason
    return caught.value.message


def assert_even(parsed: Parsed, rows: int) -> None:
    """The balances, taken again from outside."""
    said, days = parsed.report, parsed.meter_days
    assert said.rows.total == sum(said.rows.by_bucket.values()) == rows
    assert said.values.total == sum(said.values.by_bucket.values())
    assert said.half_hours.total == sum(said.half_hours.by_bucket.values())
    recorded = said.values.by_bucket[Bucket.RECORDED]
    assert recorded == said.half_hours.by_bucket[Bucket.RECORDED] == days.present.sum()
