"""Two clocks on every query, asked of a running installation over the wire and the command line."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from spine.cli import command_line
from spine.console import context
from spine.console.client import Client, interval, stamp
from spine.console.reading import absent
from spine.gb import HALF_HOUR, SettlementDate, half_hour_start
from spine.policy import Basis
from spine.server import error_from
from tests.e2e.conftest import SINCE, Installation, audit, grant
from tests.helpers.perse import perse

MPAN, SILENT, UNKNOWN = "1900012345916", "1900012345925", "1900012345943"
EARLY = "1900012346990"
OWN: dict[str, Any] = {"mpxn": MPAN, "purpose": "OWN_USE", "basis": Basis.SUBJECT}


@pytest.fixture(scope="module")
def between(spine: Installation) -> datetime:
    """A time at which a consent stood that was revoked afterwards, and a supply that was ended."""
    spine.meter(MPAN, "north-supply")
    robin = spine.occupier(MPAN, "robin")
    consent_id = grant(robin, MPAN, "bright-advice")
    time.sleep(0.05)
    at = datetime.now(UTC)
    time.sleep(0.05)
    robin.consumers("RevokeConsent", consent_id=consent_id, mpxns=[MPAN])
    spine.as_("consent-service").consumers(
        "EndSupply", mpxn=MPAN, supplier="north-supply", effective_to=stamp(datetime.now(UTC))
    )
    return at


def console(*words: str) -> Any:
    """What a command prints with --json."""
    ran = CliRunner().invoke(
        command_line(words[0]), [*words, "--as", "robin", "--basis", "SUBJECT", "--json"]
    )
    assert ran.exit_code == 0, ran.exception
    return json.loads(ran.stdout)


def test_consents_and_tenancies_are_told_as_they_were_known(
    spine: Installation, between: datetime
) -> None:
    robin = spine.as_("robin")
    for known, state in ((None, "REVOKED"), (between, "ACTIVE"), (SINCE, None)):
        clock = {} if known is None else {"as_of_known": stamp(known)}
        answer = robin.dsi("ListConsents", **OWN, **clock)
        assert [c.state for c in answer.consents] == ([state] if state else [])
        tenancies = robin.dsi("ListTenancies", **OWN, **clock).tenancies
        assert len(tenancies) == (1 if state else 0)
    then = robin.dsi("ListConsents", **OWN, as_of_valid=stamp(between)).consents
    assert [c.state for c in then] == ["ACTIVE"]


def test_who_supplied_a_meter_is_told_as_it_was_known(
    spine: Installation, between: datetime
) -> None:
    robin = spine.as_("robin")
    now = robin.dsi("GetMeteringPoint", **OWN).metering_point
    known = robin.dsi("GetMeteringPoint", **OWN, as_of_known=stamp(between)).metering_point
    assert (now.supplier, known.supplier) == ("", "north-supply")


def test_the_command_line_names_both_clocks(spine: Installation, between: datetime) -> None:
    asked = (MPAN, "--purpose", "OWN_USE")
    then = ("--as-of-known", between.isoformat())
    assert console("consent", "show", *asked, *then)[0]["state"] == "ACTIVE"
    assert console("consent", "show", *asked, "--as-of-valid", "2020-01-01") == []
    assert console("meter", "show", *asked, *then)["supplier"] == "north-supply"
    assert console("meter", "show", *asked)["supplier"] == ""
    assert len(console("meter", "tenancies", *asked, *then)) == 1
    assert console("meter", "tenancies", *asked, "--as-of-valid", "2011-01-01") == []
    assert console("assets", "list", *asked, *then) == []


def test_what_will_be_known_tomorrow_is_not_told_today(
    spine: Installation, between: datetime
) -> None:
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    use = ("--purpose", "OWN_USE", "--as-of-known", tomorrow, "--as", "robin")
    stretch = ("--from", "2024-01-01", "--to", "2024-01-02", "--basis", "SUBJECT")
    for words in (("read", MPAN, *stretch), ("meter", "show", MPAN), ("meter", "tenancies", MPAN)):
        refused = run(*words, *use).exception
        assert isinstance(refused, grpc.RpcError)
        said = error_from(refused)
        assert (said.reason, said.field) == ("TIME_INVALID", "as_of_known")


def test_the_audit_gives_every_one_of_these_answers_again(
    spine: Installation, between: datetime, tmp_path: Path
) -> None:
    code, report = audit(spine, tmp_path, "--mpxn", MPAN)
    counts = report["counts"]
    assert code == 0 and counts["SAME"] >= 2
    assert sum(counts.values()) == counts["SAME"]


# -- why there is no value ------------------------------------------------------------------------


def ingested(path: Path, content: bytes) -> dict[str, Any]:
    path.write_bytes(content)
    ran = run("ingest", "readings", str(path), "--as", "north-supply", "--json")
    assert ran.exit_code == 0, ran.exception
    report: dict[str, Any] = json.loads(ran.stdout)[0]
    return report


def run(*words: str) -> Any:
    return CliRunner().invoke(command_line(words[0]), list(words))


def told(client: Client, start: datetime, **more: Any) -> list[tuple[str, int]]:
    """Runs of six hours: recorded or why not, and how many half hours."""
    asked = interval(start, start + HALF_HOUR * 12)
    terms = {"purpose": "OWN_USE", "basis": Basis.SUBJECT, "interval": asked, **more}
    (page,) = client.readings(SILENT, **terms)
    kinds = (
        "recorded" if row.WhichOneof("reading") == "value_wh" else absent(row) for row in page.rows
    )
    return [(kind, len(list(group))) for kind, group in groupby(kinds)]


def comes_to(client: Client, start: datetime, expected: list[tuple[str, int]]) -> None:
    """It is answered so once the readings process has folded what was recorded."""
    until = time.monotonic() + 60
    while (found := told(client, start)) != expected:
        assert time.monotonic() < until, found
        time.sleep(0.1)


def test_a_meter_is_silent_and_its_values_are_withdrawn(
    spine: Installation, between: datetime, tmp_path: Path
) -> None:
    day = datetime.now(UTC).date() - timedelta(days=3)
    start = half_hour_start(SettlementDate(day).first_half_hour)
    spine.meter(SILENT, "north-supply")
    sam = spine.occupier(SILENT, "sam")
    ingested(tmp_path / "sam.json", perse(SILENT, [day], first=4))
    comes_to(sam, start, [("recorded", 4), ("LATE", 8)])
    time.sleep(0.05)
    before = datetime.now(UTC)
    time.sleep(0.05)
    hours = [(start + timedelta(hours=h)).isoformat() for h in range(7)]
    by = ("--as", "north-supply", "--json")
    taken = ("--from", hours[1], "--to", hours[2], "--reason", "TEST", *by)
    for words in (
        ("withdraw", SILENT, *taken),
        ("silent", SILENT, "--from", hours[3], *by),
        ("restored", SILENT, "--to", hours[5], *by),
    ):
        ran = run("meter", *words)
        assert ran.exit_code == 0, ran.exception
    silent = ("METER_NOT_COMMUNICATING", 4)
    comes_to(sam, start, [("recorded", 2), ("WITHDRAWN", 2), ("LATE", 2), silent, ("LATE", 2)])
    then = told(sam, start, as_of_known=stamp(before))
    assert then == [("recorded", 4), ("LATE", 8)]
    refused = run("meter", "withdraw", UNKNOWN, *taken).exception
    assert isinstance(refused, grpc.RpcError)
    assert error_from(refused).reason == "NOT_PERMITTED"
    every_answer_is_the_same_again(spine, tmp_path, SILENT)


def test_a_file_with_days_to_come_is_recorded_without_them(
    spine: Installation, between: datetime, tmp_path: Path
) -> None:
    spine.meter(EARLY, "north-supply")
    today = datetime.now(UTC).date()
    days = [today - timedelta(days=3), today + timedelta(days=3)]
    half_hours = ingested(tmp_path / "early.json", perse(EARLY, days, first=4))["half_hours"]
    assert (half_hours["recorded"], half_hours["not_over"]) == (4, 4)


def every_answer_is_the_same_again(spine: Installation, tmp_path: Path, mpxn: str) -> None:
    code, report = audit(spine, tmp_path, "--mpxn", mpxn)
    counts = report["counts"]
    assert code == 0 and counts["SAME"] == sum(counts.values()) > 0


# -- days that are not like others -----------------------------------------------------------------

CALENDAR = "1900012345934"
DAYS = {
    date(2024, 2, 29): (48, datetime(2024, 2, 29, 0, tzinfo=UTC)),
    date(2024, 3, 31): (46, datetime(2024, 3, 31, 0, tzinfo=UTC)),  # the clocks go forward
    date(2024, 10, 27): (50, datetime(2024, 10, 26, 23, tzinfo=UTC)),  # and back
}


@pytest.fixture(scope="module")
def quinn(spine: Installation, tmp_path_factory: pytest.TempPathFactory) -> Client:
    """A consumer whose meter has values on those days only."""
    spine.meter(CALENDAR, "north-supply")
    client = spine.occupier(CALENDAR, "quinn")
    file = tmp_path_factory.mktemp("calendar") / "calendar.json"
    report = ingested(file, perse(CALENDAR, DAYS))
    assert report["half_hours"]["recorded"] == 144
    return client


def by_rows(answers: Iterable[Any]) -> list[tuple[datetime, int]]:
    return [
        (row.start.ToDatetime(tzinfo=UTC), row.value_wh)
        for answer in answers
        for row in answer.rows
        if row.WhichOneof("reading") == "value_wh"
    ]


def by_columns(answers: Iterable[Any]) -> list[tuple[datetime, int]]:
    found, unspecified = [], 0
    for answer in answers:
        at, values = answer.columns.start.ToDatetime(tzinfo=UTC), iter(answer.columns.values_wh)
        for one in answer.columns.runs:
            for _ in range(one.half_hours):
                if one.absent == unspecified:
                    found.append((at, next(values)))
                at += HALF_HOUR
    return found


@pytest.mark.parametrize("day", DAYS, ids=str)
def test_a_day_of_another_length_passes_through_every_surface(
    spine: Installation, quinn: Client, day: date, tmp_path: Path
) -> None:
    periods, start = DAYS[day]
    expected = [(start + HALF_HOUR * n, n + 1) for n in range(periods)]
    around = (start - timedelta(days=1), start + timedelta(days=2))
    terms: dict[str, Any] = {
        "purpose": "OWN_USE",
        "basis": Basis.SUBJECT,
        "interval": interval(*around),
        "page_size": 40,
    }
    until = time.monotonic() + 60
    while by_rows(quinn.readings(CALENDAR, **terms)) != expected:
        assert time.monotonic() < until
        time.sleep(0.1)
    assert by_columns(quinn.readings(CALENDAR, **terms, in_columns=True)) == expected
    del terms["page_size"]
    for in_columns, of in ((False, by_rows), (True, by_columns)):
        with quinn.stream([CALENDAR], **terms, in_columns=in_columns) as call:
            assert of(list(call)) == expected
    asked = ("--from", around[0].isoformat(), "--to", around[1].isoformat(), "--rows")
    who = ("--purpose", "OWN_USE", "--basis", "SUBJECT", "--as", "quinn", "--json")
    ran = run("read", CALENDAR, *asked, *who)
    assert ran.exit_code == 0, ran.exception
    rows = [row for page in json.loads(ran.stdout) for row in page["rows"] if "value_wh" in row]
    assert [(datetime.fromisoformat(r["start"]), r["value_wh"]) for r in rows] == expected
    every_answer_is_the_same_again(spine, tmp_path, CALENDAR)


# -- what no longer fits ---------------------------------------------------------------------------


def test_the_whole_log_is_archived_and_found_whole(spine: Installation, tmp_path: Path) -> None:
    assert run("archive", "verify").exception.reason == "FIELD_MISSING"
    chosen = context.settings()
    context.use(chosen.model_copy(update={"archive_dir": tmp_path}))
    try:
        for _ in range(2):  # again for what was appended meanwhile
            assert run("archive", "segments", "--json").exit_code == 0
        ran = run("archive", "verify", "--json")
        assert ran.exit_code == 0, ran.exception
        held = {row["topic"] for row in json.loads(ran.stdout) if row["records"]}
        assert {"consumers.events.v1", "metering.readings.v1", "access.outcomes.v1"} <= held
        next(tmp_path.glob("consumers*/*.segment")).write_bytes(b"nothing")
        assert run("archive", "verify").exception.reason == "ARCHIVE_DAMAGED"
    finally:
        context.use(chosen)
