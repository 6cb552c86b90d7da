"""Gas from a file to a gated answer: volumes in, energy out, under the consent of the occupier."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from spine.console import ingesting
from spine.console.client import Client, interval
from spine.errors import Invalid
from spine.ingest import IngestReport
from spine.server import error_from
from tests.domains.metering.test_gas import n3rgy
from tests.e2e.conftest import Installation, as_of, audit, grant

MPRN, OTHER = "3938424403", "1234567810"
# The values of the file end at half past and at one; reads cover one half hour more.
ASKED = interval(
    datetime(2024, 1, 1, 0, 0, tzinfo=UTC), datetime(2024, 1, 1, 1, 30, tzinfo=UTC)
)  # fmt: skip
TERMS = {"purpose": "ENERGY_ADVICE", "basis": "CONSENT", "interval": ASKED}


def values(client: Client, mprn: str, sent: IngestReport | None = None) -> list[int]:
    """The Wh of those half hours that have any, as of what was sent."""
    at_least = as_of(sent) if sent else None
    (page,) = client.readings(mprn, at_least=at_least, **TERMS)
    assert len(page.rows) == 3
    return [row.value_wh for row in page.rows if row.WhichOneof("reading") == "value_wh"]


def refusal(client: Client) -> str:
    with pytest.raises(grpc.RpcError) as refused:
        values(client, MPRN)
    return str(error_from(refused.value).reason)


def test_gas_is_recorded_by_volume_and_read_as_energy_by_consent(
    spine: Installation, tmp_path: Path
) -> None:
    for mpxn in (MPRN, OTHER):
        spine.meter(mpxn, "north-supply")
    occupier, adviser = spine.occupier(MPRN, "gas-user"), spine.as_("bright-advice")
    path = tmp_path / "gas.json"
    path.write_bytes(n3rgy(0.1, 1, point=MPRN))
    with pytest.raises(Invalid, match="calorific value"):
        ingesting.send(path, "north-supply")

    report = ingesting.send(path, "north-supply", calorific_value="39.5")
    again = ingesting.send(path, "north-supply", calorific_value="39.5")

    assert report.half_hours.as_dict() == {"total": 2, "recorded": 2}
    assert report.total_wh == 1122 + 11_221
    assert again.half_hours.buckets == {"repeated": 2}
    assert refusal(adviser) == "NOT_PERMITTED"
    consent_id = grant(occupier, MPRN, "bright-advice")
    assert values(adviser, MPRN, report) == [1122, 11_221]
    with adviser.stream([MPRN], **TERMS) as stream:
        chunk = next(stream)
    assert [row.value_wh for row in chunk.rows][:2] == [1122, 11_221]

    better = ingesting.send(path, "north-supply", calorific_value="38")
    assert values(adviser, MPRN, better) == [1079, 10_795]
    occupier.consumers("RevokeConsent", consent_id=consent_id, mpxns=[MPRN])
    assert refusal(adviser) == "CONSENT_REVOKED"

    _, verdicts = audit(spine, tmp_path)
    assert verdicts["counts"]["DIFFERENT"] == verdicts["counts"]["CANNOT TELL"] == 0
    assert verdicts["counts"]["SAME"] >= 5
    assert all(place["held"] == place["quarantined"] == 0 for place in verdicts["partitions"])


def test_gas_in_kwh_is_energy_and_an_unknown_gas_meter_is_refused(
    spine: Installation, tmp_path: Path
) -> None:
    energy = tmp_path / "kwh.json"
    energy.write_bytes(n3rgy(0.1, 1, point=OTHER, unit="kWh"))
    report = ingesting.send(energy, "north-supply")
    assert report.half_hours.buckets == {"recorded": 2}
    occupier, adviser = spine.occupier(OTHER, "other-gas-user"), spine.as_("bright-advice")
    grant(occupier, OTHER, "bright-advice")
    assert values(adviser, OTHER, report) == [100, 1000]

    unknown = tmp_path / "unknown.json"
    unknown.write_bytes(n3rgy(1, point="7654321"))
    report = ingesting.send(unknown, "north-supply", calorific_value="39.5")
    assert report.half_hours.buckets == {"wrong_sender": 1}
