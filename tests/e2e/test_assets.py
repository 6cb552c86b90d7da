"""Assets behind the meter from the command line: a life, registers, gated reads, the audit."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from spine import trust
from spine.console import context
from tests.e2e.conftest import Installation, audit
from tests.helpers.command_line import run
from tests.helpers.servers import until

HOME, MPAN, OTHER_MPAN = "1200000000109", "1200000000118", "1200000000127"
COLUMNS = (
    "Export MPAN / MSID",
    "Import MPAN / MSID",
    "Customer Site",
    "Licence Area",
    "Connection Status",
    "Energy Source 1",
    "Energy Source & Energy Conversion Technology 1 - Registered Capacity (MW)",
    "Date Connected",
)
AREA = "Eastern Power Networks (EPN)"
ROWS = (
    (MPAN, "", "Field", AREA, "Connected", "Solar", "5", "2016-07-01"),
    (MPAN, "", "Field", AREA, "Connected", "Solar", "5", "2016-07-01"),
    (OTHER_MPAN, "", "Hill", AREA, "Connected", "Wind", "2", "2016-07-01"),
    ("", "", "Moor", AREA, "Connected", "Wind", "2", "2016-07-01"),
    (MPAN, "", "Plan", AREA, "Accepted to Connect", "Wind", "2", ""),
)


@pytest.fixture(scope="module")
def here(spine: Installation) -> Installation:
    """Three meters of one supplier, and a consumer at the first."""
    for mpan in (HOME, MPAN, OTHER_MPAN):
        spine.meter(mpan, "north-supply")
    spine.occupier(HOME, "ash")
    return spine


def done(*words: str) -> Any:
    """What a command that must succeed said, as JSON."""
    said = run(*words, "--json")
    assert said.code == 0, said.err
    return json.loads(said.out)


def ends() -> list[int]:
    """Where each partition of the register of assets ends."""
    reader = context.runtime().reader()
    try:
        places = range(context.runtime().partitions)
        return [reader.bounds(trust.BTM_ASSETS_TOPIC, p)[1] for p in places]
    finally:
        reader.close()


def test_a_life_from_the_command_line_to_an_audited_read(
    here: Installation, tmp_path: Path
) -> None:
    named = {"scheme": "MCS", "value": "M-1", "source": "installer"}
    links = [named | {"effective_from": "2024-05-01T00:00:00Z"}]
    described = tmp_path / "battery.json"
    described.write_text(json.dumps({"operational": {"flexible_up_w": 3000}, "links": links}))
    battery = ("--class", "BATTERY", "--storage-wh", "13500", "--details", str(described))
    made = done("assets", "declare", HOME, *battery, "--as", "north-supply")
    asset = (HOME, made["asset_id"])
    itself = run("assets", "verify", *asset, "--level", "INSPECTION", "--as", "north-supply")
    assert (itself.code, itself.reason) == (3, "ROLE_NOT_ALLOWED")
    done("assets", "verify", *asset, "--level", "INSPECTION", "--as", "consent-service")
    done("assets", "activate", *asset, "--as", "north-supply")
    done("assets", "suspend", *asset, "--reason", "repair", "--as", "north-supply")
    done("assets", "activate", *asset, "--as", "north-supply")
    name = ("--scheme", "AMSID", "--value", "1234567890123")
    since = ("--source", "x", "--from", "2024-05-01")
    done("assets", "link", *asset, *name, *since, "--as", "north-supply")
    done("assets", "unlink", *asset, *name, "--until", "2025-05-01", "--as", "north-supply")
    handed = ("--owner", "c-1", "--operator", "north-supply", "--from", "2025-05-01")
    done("assets", "transfer", *asset, *handed, "--as", "north-supply")

    asked = ("--purpose", "ENERGY_ADVICE", "--as", "bright-advice")
    refused = run("assets", "list", HOME, *asked)
    assert (refused.code, refused.reason) == (3, "NOT_PERMITTED")
    consent = allow_assets()

    # What its coordinator answered stands in the log; who shows it reads it there a little later.
    def owners() -> list[str]:
        return [each["owner"] for each in done("assets", "list", HOME, *asked)]

    until("the transfer is shown", lambda: owners() == ["c-1"])
    (listed,) = done("assets", "list", HOME, *asked)
    assert (listed["state"], listed["owner"]) == ("ACTIVE", "c-1")
    assert listed["specification"]["storage_wh"] == 13_500
    assert listed["specification"]["phases"] is None
    assert [link["value"] for link in listed["links"]] == ["M-1"]
    shown = run("assets", "show", *asset, *asked)
    assert "appointment PROVISIONAL" in shown.out and consent in shown.out
    done("assets", "decommission", *asset, "--as", "north-supply")
    until("its end is shown", lambda: done("assets", "show", *asset, *asked) is None)

    own = ("--purpose", "OWN_USE", "--basis", "SUBJECT", "--as", "ash")
    assert done("assets", "list", HOME, *own) == []

    _, report = audit(here, tmp_path)
    assert report["counts"]["DIFFERENT"] == 0 and report["counts"]["SAME"] >= 5
    assert [line for line in report["findings"] if line["mpxn"] == HOME] == []


def allow_assets() -> str:
    """The occupier lets the adviser see what stands behind the meter."""
    words = ("--data-user", "bright-advice", "--purpose", "ENERGY_ADVICE", "--category", "ASSET")
    dates = ("--history-from", "2012-01-01", "--expires", "2099-01-01")
    return str(done("consent", "grant", HOME, *words, *dates, "--as", "ash")["consent_id"])


@pytest.mark.usefixtures("here")
def test_a_register_is_taken_in_once_and_every_row_is_accounted_for(tmp_path: Path) -> None:
    file = tmp_path / "register.csv"
    with file.open("w", newline="") as out:
        csv.writer(out).writerows([COLUMNS, *ROWS])
    before = ends()
    (dry,) = done("assets", "import", str(file), "--dry-run", "--as", "consent-service")
    rows = {"total": 5, "declared": 2, "duplicate": 1, "no_meter": 1, "not_there_yet": 1}
    rest = {"total": 5, "duplicate": 1, "no_meter": 1, "not_there_yet": 1}
    assert (dry["rows"], dry["assets"]) == (rows, rest | {"to_send": 2})
    assert ends() == before
    (stranger,) = done("assets", "import", str(file), "--as", "bright-advice")
    assert stranger["assets"] == rest | {"NOT_PERMITTED": 2}
    assert ends() == before
    (first,) = done("assets", "import", str(file), "--as", "consent-service")
    assert first["assets"] == rest | {"recorded": 2}
    after = ends()
    file.with_suffix(".csv.gz").write_bytes(gzip.compress(file.read_bytes()))
    (again,) = done("assets", "import", f"{file}.gz", "--as", "consent-service")
    assert again["assets"] == rest | {"declared_before": 2}
    assert ends() == after


@pytest.mark.usefixtures("here")
def test_of_charge_points_those_are_declared_whose_meter_is_named(tmp_path: Path) -> None:
    devices = ["0" * 31 + str(n) for n in range(2)]
    registry, meters = tmp_path / "registry.csv", tmp_path / "meters.csv"
    header = "chargeDeviceID,reference,name,latitude,longitude,chargeDeviceStatus"
    points = [f"{device},R,N,52.1,0.1,In service" for device in devices]
    registry.write_text("\n".join([header, *points]))
    meters.write_text(f"chargeDeviceID,mpan\n{devices[0]},{MPAN}\n")
    words = (str(registry), "--meters", str(meters), "--as", "consent-service")
    (report,) = done("assets", "import", *words)
    assert report["assets"] == {"total": 2, "recorded": 1, "no_meter": 1}


@pytest.mark.usefixtures("here")
def test_a_wrong_file_among_good_ones_records_nothing(tmp_path: Path) -> None:
    good, wrong = tmp_path / "good.csv", tmp_path / "wrong.csv"
    with good.open("w", newline="") as out:
        csv.writer(out).writerows([COLUMNS, (*ROWS[0][:2], "Third", *ROWS[0][3:])])
    wrong.write_text("<!doctype html><title>Sign in</title>")
    before = ends()
    said = run("assets", "import", str(good), str(wrong), "--as", "consent-service")
    assert (said.code, said.reason) == (7, "FILE_UNRECOGNISED")
    assert said.err.count("\n") == 1
    assert ends() == before
