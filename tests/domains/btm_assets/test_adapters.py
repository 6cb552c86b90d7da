"""Registers of assets in, declarations and a balanced report out. Every file here is made up."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domains.btm_assets import BTM_ASSETS, adapters
from domains.btm_assets.adapters import charge_point_registry as registry
from domains.btm_assets.adapters import embedded_capacity_register as register
from domains.btm_assets.adapters.report import FINDINGS_MAX, Bucket, Imported, Note, asset_id, whole
from domains.btm_assets.checks import check_id
from domains.btm_assets.events import AssetDeclared, Link
from spine.domain import Actor
from spine.errors import Invalid, SpineError
from spine.gb import Mpan
from tests.helpers.standing import shipped_list

BY = Actor("data_service", "register-feed")
EXPORT, WRONG_DIGIT, IMPORT = "1200000000011", "1200000000012", "1200000000020"
SOLAR = "Energy Source 1"
SPARE = tuple(f"Address Line {n}" for n in (1, 2))
COLUMNS = (
    register.EXPORT,
    register.IMPORT,
    "Customer Name",
    register.SITE,
    *SPARE,
    register.GSP,
    register.SUBSTATION,
    register.VOLTAGE,
    register.AREA,
    *(
        f"{kind} {n}"
        for n in (1, 2, 3)
        for kind in ("Energy Source", "Energy Conversion Technology")
    ),
    *register.CHP.values(),
    *(f"Storage Capacity {n} (MWh)" for n in (1, 2, 3)),
    *(register.CAPACITY.format(n) for n in (1, 2, 3)),
    register.STATUS,
    register.EXPORT_LIMIT,
    register.CONNECTED_ON,
    register.REFERENCE,
    register.UPDATED,
)
CONNECTION = {
    register.EXPORT: EXPORT,
    "Customer Name": "Marker Name Ltd",
    register.SITE: "Marker Site",
    register.AREA: "Eastern Power Networks (EPN)",
    register.VOLTAGE: "33.0",
    register.STATUS: "Connected",
    register.EXPORT_LIMIT: "6.0",
    register.CONNECTED_ON: "2016-07-01",
    register.UPDATED: "2024-01-15",
    SOLAR: "Solar",
    "Energy Conversion Technology 1": "Photovoltaic",
    register.CAPACITY.format(1): "5.5",
}


def text(header: Sequence[str], rows: Sequence[Sequence[str]], mark: bool = False) -> bytes:
    out = io.StringIO()
    csv.writer(out).writerows([header, *rows])
    return (b"\xef\xbb\xbf" if mark else b"") + out.getvalue().encode()


def connections(*changes: dict[str, str], mark: bool = False) -> Imported:
    rows = [[(CONNECTION | change).get(column, "") for column in COLUMNS] for change in changes]
    return register.parse(text(COLUMNS, rows, mark), BY)


def only(imported: Imported) -> Any:
    assert imported.report.balanced
    (declaration,) = imported.declarations
    return declaration


# The Embedded Capacity Register


def test_a_connection_becomes_an_asset() -> None:
    declaration = only(connections({}))
    command = declaration.command
    assert (declaration.mpxn, command.by) == (EXPORT, BY)
    details = command.details
    assert (details.kind.asset_class, details.kind.energy_source) == ("SOLAR_PV", "Solar")
    assert details.specification.rated_export_w == 5_500_000
    assert (details.connection.export_limit_w, details.connection.voltage_v) == (6_000_000, 33_000)
    # The first instant of a summer's day, by the clocks of the register.
    since = datetime(2016, 6, 30, 23, tzinfo=UTC)
    assert command.links == (Link("MPAN", EXPORT, "ECR", since),)
    listed = replace(command, asset_classes=shipped_list("btm_assets", "asset_classes"))
    events = BTM_ASSETS.decide(BTM_ASSETS.initial(), listed, since)
    assert isinstance(events[0], AssetDeclared) and len(events) == 2
    assert "Marker" not in repr(declaration)


def test_an_import_gives_the_same_ids_again() -> None:
    ids = [only(connections({})).command.asset_id for _ in range(2)]
    assert ids[0] == ids[1]
    check_id(ids[0])
    twins = connections({}, {register.CAPACITY.format(1): "4"})
    assert len({d.command.asset_id for d in twins.declarations}) == 2


def test_up_to_three_technologies_of_one_connection() -> None:
    stored = "Stored Energy (all stored energy irrespective of the original energy source)"
    imported = connections(
        {
            "Energy Source 2": stored,
            "Energy Conversion Technology 2": "Storage - Electrochemical  (Batteries)",
            "Storage Capacity 2 (MWh)": "2.5",
            "Energy Source 3": "Wind",
        }
    )
    kinds = [d.command.details.kind.asset_class for d in imported.declarations]
    assert kinds == ["SOLAR_PV", "BATTERY", "WIND"]
    assert imported.declarations[1].command.details.specification.storage_wh == 2_500_000
    assert (imported.report.rows.total, imported.report.assets.total) == (1, 3)


@pytest.mark.parametrize(
    ("source", "conversion", "chp", "asset_class"),
    [
        ("Solar", "Photovoltaic", "Yes", "CHP"),
        ("wind onshore", "Onshore wind turbines", "", "WIND"),
        ("Stored Energy", "Storage - Other", "", "OTHER"),
        ("Fossil - Oil", "Engine (combustion / reciprocating)", "No", "DIESEL"),
        ("Fossil - Gas", "Engine (combustion / reciprocating)", "", "OTHER"),
    ],
)
def test_classes(source: str, conversion: str, chp: str, asset_class: str) -> None:
    given_as = {SOLAR: source, "Energy Conversion Technology 1": conversion, register.CHP[1]: chp}
    assert only(connections(given_as)).command.details.kind.asset_class == asset_class


@pytest.mark.parametrize(
    ("change", "bucket"),
    [
        ({register.STATUS: "Accepted to Connect"}, Bucket.NOT_THERE_YET),
        ({register.EXPORT: register.NOT_AVAILABLE}, Bucket.NO_METER),
        ({register.EXPORT: ""}, Bucket.NO_METER),
        ({register.EXPORT: "10300004967319"}, Bucket.UNREADABLE),
        ({SOLAR: ""}, Bucket.UNREADABLE),
        ({register.EXPORT_LIMIT: "5.4"}, Bucket.OVER_LIMIT),
    ],
)
def test_rows_that_declare_nothing(change: dict[str, str], bucket: Bucket) -> None:
    imported = connections(change)
    assert imported.declarations == ()
    assert imported.report.rows.by_bucket == {bucket: 1}
    assert imported.report.balanced


def test_the_quirks_of_the_register_are_findings() -> None:
    imported = connections(
        {register.EXPORT: WRONG_DIGIT, register.REFERENCE: "R-1"},
        {register.AREA: "Eastern Power Networks plc", SOLAR: "Biofuel - Landfill gas"},
        {register.EXPORT: register.NOT_AVAILABLE, register.IMPORT: IMPORT},
        {SOLAR: "Biofuel landfill gas", register.CONNECTED_ON: "", register.UPDATED: "soon"},
        {register.CAPACITY.format(1): "5.5000001"},
        {register.CAPACITY.format(1): "5.5000001"},
        mark=True,
    )
    assert imported.report.balanced
    assert imported.report.rows.by_bucket == {Bucket.DECLARED: 5, Bucket.DUPLICATE: 1}
    assert imported.report.found == {
        Note.BYTE_ORDER_MARK: 1,
        Note.CHECK_DIGIT: 1,
        Note.LICENCE_AREA: 1,
        Note.NUMBER_NOT_AVAILABLE: 1,
        Note.SPELLINGS: 1,
        Note.NO_REFERENCE: 5,
        Note.DATE: 1,
        Note.NUMBER: 1,
        Bucket.DUPLICATE: 1,
    }
    unsaid = imported.declarations[2]
    assert unsaid.mpxn == IMPORT
    assert unsaid.command.details.connection.export_mpan == "UNKNOWN"
    assert imported.declarations[0].command.links[-1].value == "R-1"


def test_findings_are_counted_beyond_those_kept() -> None:
    rows = [[*CONNECTION.values(), "one too many"]] * (FINDINGS_MAX + 5)
    report = register.parse(text(COLUMNS, rows), BY).report
    assert report.balanced and report.rows.by_bucket == {Bucket.SHIFTED: FINDINGS_MAX + 5}
    assert len(report.findings) == FINDINGS_MAX


# The National Chargepoint Registry

DEVICE, SECOND = "cf" * 16, "0d" * 16
FULL = (
    *registry.WANTED,
    "uprn",
    "deviceManufacturer",
    "dateCreated",
    "connector1RatedOutputKW",
    "connector2RatedOutputKW",
    "connector3Validated",
    "connector3Validated",
)
POINT = {
    registry.DEVICE: DEVICE,
    "name": "Marker Road",
    registry.LATITUDE: "51.4",
    registry.LONGITUDE: "0.03",
    registry.STATUS: "In service",
    "uprn": "100012345678",
    "dateCreated": "2014-08-19 05:15:02",
    "connector1RatedOutputKW": "3.7",
    "connector2RatedOutputKW": "7",
}


def points(
    *changes: dict[str, str],
    header: Sequence[str] = FULL,
    meters: dict[str, str] | None = None,
) -> Imported:
    rows = [[(POINT | change).get(column, "") for column in header] for change in changes]
    return registry.parse(text(header, rows), BY, {DEVICE: EXPORT} if meters is None else meters)


def test_a_charge_device_becomes_an_asset() -> None:
    imported = points({})
    declaration = only(imported)
    details, since = declaration.command.details, datetime(2014, 8, 18, 23, tzinfo=UTC)
    assert (declaration.mpxn, details.kind.asset_class) == (EXPORT, "EV_CHARGE_POINT")
    assert details.specification.rated_import_w == 10_700
    assert (details.registration.reference, details.registration.registered_at) == (DEVICE, since)
    assert declaration.command.links == (Link("UPRN", "100012345678", "NCR", since),)
    classes = shipped_list("btm_assets", "asset_classes")
    listed = replace(declaration.command, asset_classes=classes)
    assert len(BTM_ASSETS.decide(BTM_ASSETS.initial(), listed, since)) == 2
    assert "Marker" not in repr(declaration)
    assert imported.report.found == {Note.COLUMN_TWICE: 1}


def test_six_columns_are_enough() -> None:
    imported = points({}, header=registry.WANTED)
    assert only(imported).command.details.specification.rated_import_w is None
    assert imported.report.found == {}


@pytest.mark.parametrize(
    ("change", "bucket"),
    [
        ({registry.DEVICE: SECOND}, Bucket.NO_METER),
        ({registry.STATUS: "Planned"}, Bucket.NOT_THERE_YET),
        ({registry.DEVICE: ".", registry.STATUS: "Type 2 Mennekes (IEC62196)"}, Bucket.SHIFTED),
    ],
)
def test_devices_that_are_not_declared(change: dict[str, str], bucket: Bucket) -> None:
    imported = points(change)
    assert imported.declarations == ()
    assert imported.report.rows.by_bucket == {bucket: 1}
    assert imported.report.balanced


def test_the_quirks_of_the_registry_are_findings() -> None:
    imported = points(
        {registry.LATITUDE: "0.000000"},
        {registry.LATITUDE: "-25.363882", registry.DEVICE: SECOND},
        {registry.LATITUDE: "", "connector1RatedOutputKW": "fast", registry.DEVICE: "ab" * 16},
        {},
        header=(*registry.WANTED, "connector1RatedOutputKW"),
        meters={DEVICE: EXPORT, SECOND: WRONG_DIGIT, "ab" * 16: EXPORT},
    )
    assert imported.report.balanced
    assert imported.report.rows.by_bucket == {Bucket.DECLARED: 3, Bucket.DUPLICATE: 1}
    assert imported.report.found == {
        Note.LOCATION_ZERO: 1,
        Note.LOCATION_ABROAD: 2,
        Note.CHECK_DIGIT: 1,
        Note.NUMBER: 1,
        Bucket.DUPLICATE: 1,
    }


# Both


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "FILE_EMPTY"),
        (b" \r\n\r\n", "FILE_EMPTY"),
        (b"<html>\n<p>gone</p>\n", "FILE_UNRECOGNISED"),
        (b"a,b\n1,2\n", "FILE_UNRECOGNISED"),
        (b"\xff\xfe\x00", "FILE_UNREADABLE"),
        (b'a,"b\n1,2\n', "FILE_UNREADABLE"),
    ],
)
def test_what_is_no_register(data: bytes, reason: str) -> None:
    for parse in (lambda: register.parse(data, BY), lambda: registry.parse(data, BY, {})):
        with pytest.raises(Invalid) as refusal:
            parse()
        assert refusal.value.reason == reason


def test_a_register_is_known_by_its_columns_packed_or_not() -> None:
    plain = text(COLUMNS, [[CONNECTION.get(column, "") for column in COLUMNS]])
    for data in (plain, gzip.compress(plain)):
        assert only(adapters.read(data, BY, {})).mpxn == EXPORT
    device = dict.fromkeys(registry.WANTED, "") | {
        registry.DEVICE: DEVICE,
        registry.STATUS: "In service",
    }
    found = adapters.read(text(list(device), [list(device.values())]), BY, {DEVICE: EXPORT})
    assert only(found).mpxn == EXPORT


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "FILE_EMPTY"),
        (gzip.compress(b""), "FILE_EMPTY"),
        (b"<html>\n<p>gone</p>\n", "FILE_UNRECOGNISED"),
        (b"a,b\n1,2\n", "FILE_UNRECOGNISED"),
        (b"\x1f\x8bnot really", "FILE_UNREADABLE"),
        (gzip.compress(b"a" * 100_000)[:-20], "FILE_UNREADABLE"),
        (b"\xff\xfe\x00", "FILE_UNREADABLE"),
    ],
)
def test_what_is_no_register_of_either_kind(data: bytes, reason: str) -> None:
    with pytest.raises(Invalid) as refusal:
        adapters.read(data, BY, {})
    assert refusal.value.reason == reason


def test_a_packed_file_is_unpacked_only_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("domains.btm_assets.adapters.report.BYTES_MAX", 1_000)
    monkeypatch.setattr(adapters, "BYTES_MAX", 1_000)
    with pytest.raises(Invalid) as refusal:
        adapters.unpacked(gzip.compress(bytes(1_000_000)))
    assert refusal.value.reason == "REQUEST_TOO_LARGE"


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([[DEVICE, "12"]], "MPAN_FORMAT"),
        ([[DEVICE, EXPORT], [DEVICE, IMPORT]], "FIELD_INVALID"),
        ([[DEVICE]], "FILE_UNREADABLE"),
    ],
)
def test_meters_of_charge_points_are_given_once_and_well(
    rows: list[list[str]], reason: str
) -> None:
    assert adapters.read_meters(text(adapters.METERS, [[DEVICE, EXPORT]])) == {DEVICE: EXPORT}
    with pytest.raises(Invalid) as refusal:
        adapters.read_meters(text(adapters.METERS, rows))
    assert refusal.value.reason == reason


@given(st.lists(st.lists(st.text(max_size=20), max_size=40), max_size=8))
def test_any_rows_balance(rows: list[list[str]]) -> None:
    for header, parse in (
        (COLUMNS, lambda data: register.parse(data, BY)),
        (FULL, lambda data: registry.parse(data, BY, {})),
    ):
        try:
            assert parse(text(header, rows)).report.balanced
        except SpineError as error:
            assert error.reason == "FILE_UNREADABLE"


@given(st.lists(st.text(max_size=50), max_size=4))
def test_every_id_made_up_is_a_urn_of_ours(parts: list[str]) -> None:
    check_id(asset_id(*parts))


@pytest.mark.parametrize(
    ("number", "watts"),
    [
        ("5.5", 5_500_000),
        ("0.0", 0),
        ("5.5000001", None),
        ("-1", None),
        ("NaN", None),
        ("1_0", None),
        ("१", None),
        ("", None),
        ("1e9", None),
        ("Infinity", None),
    ],
)
def test_numbers_are_whole_or_nothing(number: str, watts: int | None) -> None:
    assert whole(number, 1_000_000) == watts


def test_the_meters_here_are_what_they_seem() -> None:
    assert Mpan(EXPORT).check_digit_ok and not Mpan(WRONG_DIGIT).check_digit_ok
