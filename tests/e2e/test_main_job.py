"""Real readings in, a consent-gated answer out, over gRPC with mutual TLS and a real broker."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import psutil
import pytest

from spine.console import ingesting
from spine.console.client import Client, interval, stamp
from spine.console.context import CONSENT_SERVICE
from spine.console.demo import LONDON, LONDON_MPAN, PERSE, PERSE_MPAN
from spine.console.parties import issue
from spine.dsi.v1 import dsi_pb2
from spine.policy import Basis, Role
from spine.server import error_from
from spine.supervise import PROCESSES, WITNESSES
from tests.e2e.conftest import Installation, as_of, grant

YEAR = (datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 9, 1, tzinfo=UTC))
WEEK = (datetime(2024, 7, 1, tzinfo=UTC), datetime(2024, 7, 8, tzinfo=UTC))
TERMS: dict[str, Any] = {"purpose": "ENERGY_ADVICE", "basis": Basis.CONSENT}
ABSENT = "absent"


@pytest.fixture(scope="module")
def alex(spine: Installation) -> Client:
    """Both meters registered and filled; the consumer who lives at the first."""
    spine.meter(PERSE_MPAN, "north-supply")
    spine.meter(LONDON_MPAN, "north-supply")
    person = {"name": "Marker-Name Example", "contact": "marker-contact@example.org"}
    consumer = spine.occupier(PERSE_MPAN, "alex", person)
    first = ingesting.send(PERSE, "north-supply")
    assert first.half_hours.buckets == {"recorded": 11_710}
    assert first.total_kwh == 216_258
    assert first.by_quality == {"A": 11_520, "E": 190}
    second = ingesting.send(LONDON, "north-supply", mpxn=LONDON_MPAN)
    assert second.rows.total == 12_318
    assert second.half_hours.buckets == {"recorded": 12_308, "missing": 2}
    own = {"purpose": "OWN_USE", "basis": Basis.SUBJECT}
    read(consumer, at_least=as_of(first), **own)  # and from now on every read sees them
    return consumer


@pytest.fixture
def adviser(spine: Installation) -> Client:
    return spine.as_("bright-advice")


def failure(call: Any) -> Any:
    """What a call was refused with."""
    with pytest.raises(grpc.RpcError) as refused:
        call()
    return error_from(refused.value)


def read(client: Client, mpxn: str = PERSE_MPAN, when: Any = WEEK, **more: Any) -> list[Any]:
    return list(client.readings(mpxn, **(TERMS | {"interval": interval(*when)} | more)))


def revoke(consumer: Client, consent_id: str, mpxn: str = PERSE_MPAN) -> Any:
    return consumer.consumers("RevokeConsent", consent_id=consent_id, mpxns=[mpxn]).positions


def test_a_consent_opens_and_its_revocation_shuts(alex: Client, adviser: Client) -> None:
    assert failure(lambda: read(adviser)).reason == "NOT_PERMITTED"
    consent_id = grant(alex, PERSE_MPAN, "bright-advice")
    pages = read(adviser, when=YEAR)
    rows = [row for page in pages for row in page.rows]
    assert len(pages) == 8  # 244 days in pages of 1,488 half hours, each a read of its own
    assert len({page.decision.request_id for page in pages}) == 8
    values = [row for row in rows if row.WhichOneof("reading") == "value_wh"]
    # The file's local day of 31 August ends an hour before the UTC day does.
    assert (len(values), sum(row.value_wh for row in values)) == (11_710, 216_258_000)
    assert [row.start.ToDatetime(tzinfo=UTC) for row in rows if row not in values] == [
        datetime(2024, 8, 31, 23, tzinfo=UTC),
        datetime(2024, 8, 31, 23, 30, tzinfo=UTC),
    ]
    revoke(alex, consent_id)
    assert failure(lambda: read(adviser)).reason == "CONSENT_REVOKED"


def test_history_before_the_scope_is_absent_for_a_typed_reason(
    alex: Client, adviser: Client
) -> None:
    now = datetime.now(UTC)
    terms = {
        "purpose": "ENERGY_ADVICE",
        "categories": ["HH_CONSUMPTION"],
        "history_from": stamp(WEEK[0] + timedelta(days=1)),
        "valid_from": stamp(now - timedelta(seconds=1)),
        "expires": stamp(now + timedelta(days=30)),
    }
    consent_id = grant(alex, PERSE_MPAN, "bright-advice", terms=terms)
    (page,) = read(adviser)
    absent = [row for row in page.rows if row.WhichOneof("reading") == ABSENT]
    assert len(absent) == 48
    assert {row.absent for row in absent} == {dsi_pb2.ABSENT_CONSENT_DOES_NOT_COVER}
    revoke(alex, consent_id)


def test_a_revocation_cuts_an_open_stream(alex: Client, adviser: Client) -> None:
    consent_id = grant(alex, PERSE_MPAN, "bright-advice")
    first, ended = threading.Event(), {}

    def follow() -> None:
        with adviser.stream([PERSE_MPAN], follow=True, interval=interval(*WEEK), **TERMS) as call:
            try:
                for chunk in call:
                    if not chunk.refused:
                        first.set()
            except grpc.RpcError as error:
                ended["reason"] = error_from(error).reason

    thread = threading.Thread(target=follow)
    thread.start()
    assert first.wait(60)
    time.sleep(0.5)
    assert thread.is_alive()
    revoke(alex, consent_id)
    thread.join(60)
    assert ended == {"reason": "CONSENT_REVOKED"}


def test_a_consumer_reads_its_own_and_a_supplier_for_settlement(
    spine: Installation, alex: Client
) -> None:
    own = {"purpose": "OWN_USE", "basis": Basis.SUBJECT}
    (page,) = read(alex, **own)
    assert len(page.rows) == 336
    duty = {"purpose": "SETTLEMENT", "basis": Basis.LEGAL_OBLIGATION}
    (page,) = read(spine.as_("north-supply"), **duty)
    assert len(page.rows) == 336
    billing = {"purpose": "BILLING", "basis": Basis.CONTRACT}
    assert failure(lambda: read(spine.as_("north-supply"), **billing)).reason == "CATEGORY_UNKNOWN"


def test_a_stranger_cannot_tell_an_unknown_meter_from_a_closed_one(
    spine: Installation, alex: Client
) -> None:
    stranger = spine.party("curious-cat", Role.DATA_USER)
    answers = {
        (f.code, f.reason, f.message)
        for f in (
            failure(lambda mpxn=mpxn: read(stranger, mpxn))
            for mpxn in (PERSE_MPAN, "1000000000012")
        )
    }
    assert len(answers) == 1
    assert (
        failure(lambda: stranger.dsi("GetMeteringPoint", mpxn="1000000000012", **TERMS)).reason
        == "NOT_PERMITTED"
    )


def test_standing_data_consents_and_advice(
    spine: Installation, alex: Client, adviser: Client
) -> None:
    consent_id = grant(alex, PERSE_MPAN, "bright-advice")
    point = adviser.dsi("GetMeteringPoint", mpxn=PERSE_MPAN, **TERMS).metering_point
    assert (point.fuel, point.supplier) == ("ELECTRICITY", "north-supply")
    listed = adviser.dsi("ListConsents", mpxn=PERSE_MPAN, **TERMS).consents
    assert consent_id in {c.consent_id for c in listed if c.state == "ACTIVE"}
    own = alex.dsi("ListConsents", mpxn=PERSE_MPAN, purpose="OWN_USE", basis=Basis.SUBJECT)
    assert len(own.consents) >= len(listed)

    question = dsi_pb2.AccessQuestion(
        mpxn=PERSE_MPAN, data_user="bright-advice", purpose="ENERGY_ADVICE"
    )
    for client in (adviser, alex):
        (advice,) = client.dsi("CheckAccess", questions=[question]).advice
        assert (advice.would_permit, advice.consent_id) == (True, consent_id)
        assert advice.fact.topic == "consumers.events.v1"
    stranger = spine.party("nosy-parker", Role.DATA_USER)
    (advice,) = stranger.dsi("CheckAccess", questions=[question]).advice
    assert (advice.would_permit, advice.reason, advice.rule) == (False, "NOT_PERMITTED", "")
    # Advice is as of a position: a caller that wants it to know of something says so.
    seen = revoke(alex, consent_id)
    (advice,) = adviser.dsi("CheckAccess", questions=[question], at_least=seen).advice
    assert (advice.would_permit, advice.reason) == (False, "CONSENT_REVOKED")


def test_bad_requests_get_a_stable_reason(alex: Client, adviser: Client) -> None:
    def asked(**fields: Any) -> str:
        request: dict[str, Any] = {"mpxn": PERSE_MPAN, "interval": interval(*WEEK)} | TERMS | fields
        return str(failure(lambda: adviser.dsi("GetReadings", **request)).reason)

    assert asked(mpxn="12") == "MPXN_FORMAT"
    assert asked(interval=interval(WEEK[1], WEEK[0])) == "INTERVAL_INVALID"
    assert asked(interval=interval(WEEK[0], WEEK[1] + timedelta(minutes=7))) == "INTERVAL_INVALID"
    assert asked(interval=None) == "FIELD_MISSING"
    assert asked(purpose="") == "FIELD_MISSING"
    assert asked(purpose="CURIOSITY") == "PURPOSE_UNKNOWN"
    assert asked(basis="BECAUSE") == "BASIS_UNKNOWN"
    assert asked(cursor="bm9uc2Vuc2U=") == "CURSOR_INVALID"
    assert asked(page_size=99_999) == "FIELD_INVALID"
    assert (
        asked(at_least={"log_id": b"x" * 32, "positions": [{"topic": "a"}]}) == "POSITION_INVALID"
    )


def test_a_cursor_is_bound_to_its_request(alex: Client, adviser: Client) -> None:
    consent_id = grant(alex, PERSE_MPAN, "bright-advice")
    request = dict(TERMS, mpxn=PERSE_MPAN, interval=interval(*YEAR), page_size=48)
    page = adviser.dsi("GetReadings", **request)
    other = request | {"cursor": page.next_cursor, "interval": interval(*WEEK)}
    assert failure(lambda: adviser.dsi("GetReadings", **other)).reason == "CURSOR_INVALID"
    following = adviser.dsi("GetReadings", **(request | {"cursor": page.next_cursor}))
    assert following.rows[0].start.ToDatetime(tzinfo=UTC) == YEAR[0] + timedelta(days=1)
    assert following.positions.positions[1] == page.positions.positions[1]
    revoke(alex, consent_id)


def test_columns_say_what_the_rows_say(alex: Client, adviser: Client) -> None:
    consent_id = grant(alex, PERSE_MPAN, "bright-advice")
    request = dict(TERMS, mpxn=PERSE_MPAN, interval=interval(*YEAR))
    page = adviser.dsi("GetReadings", **request)
    other = adviser.dsi("GetReadings", **request, in_columns=True)
    assert not other.rows
    assert (other.digest, other.next_cursor != "") == (page.digest, True)
    assert spelled_out(other.columns) == list(page.rows)
    revoke(alex, consent_id)


def spelled_out(columns: Any) -> list[Any]:
    """The half hours that columns stand for."""
    values, start, rows = iter(columns.values_wh), columns.start.ToDatetime(tzinfo=UTC), []
    for run in columns.runs:
        for _ in range(run.half_hours):
            row = dsi_pb2.HalfHour(start=stamp(start))
            if run.absent:
                row.absent = run.absent
            else:
                row.value_wh, row.quality = next(values), run.quality
                row.version.CopyFrom(run.version)
            rows.append(row)
            start += timedelta(minutes=30)
    assert next(values, None) is None
    return rows


def test_a_suspension_is_acknowledged_when_every_partition_holds_it(
    spine: Installation, alex: Client
) -> None:
    shady = spine.party("shady-data", Role.DATA_USER)
    consent_id = grant(alex, PERSE_MPAN, "shady-data")
    assert len(read(shady)) == 1
    board = spine.as_("governance-board")
    answer = board.governance("SuspendParticipant", party="shady-data", reason="INQUIRY")
    assert answer.partitions_holding == answer.partitions_total
    assert failure(lambda: read(shady)).reason == "PARTICIPANT_SUSPENDED"
    board.governance("ReinstateParticipant", party="shady-data", reason="CLEARED")
    assert len(read(shady)) == 1
    revoke(alex, consent_id)


def test_a_change_of_tenancy_ends_the_old_occupiers_consents(
    spine: Installation, alex: Client, adviser: Client
) -> None:
    mpan = "1400000000010"
    spine.meter(mpan, "north-supply")
    old = spine.occupier(mpan, "old-occupier")
    grant(old, mpan, "bright-advice")
    assert len(read(adviser, mpan)) == 1
    service = spine.as_(CONSENT_SERVICE)
    now = stamp(datetime.now(UTC))
    tenancy_id = spine.tenancies["old-occupier"]
    service.consumers("EndTenancy", mpxn=mpan, tenancy_id=tenancy_id, effective_to=now)
    assert failure(lambda: read(adviser, mpan)).reason == "CONSENT_ENDED_WITH_TENANCY"


def test_every_process_runs(spine: Installation) -> None:
    children = psutil.Process().children(recursive=True)
    commands = [" ".join(child.cmdline()) for child in children]
    spines = [command for command in commands if "-m spine" in command]
    assert len(spines) == len(PROCESSES) + len(WITNESSES)
    assert any("kafka.Kafka" in command for command in commands)


def test_a_key_used_for_another_meter_is_a_conflict(spine: Installation) -> None:
    registry = spine.as_(CONSENT_SERVICE)
    start = stamp(datetime(2012, 1, 1, tzinfo=UTC))
    request = {"idempotency_key": "once-only", "registered_from": start}
    first = registry.metering("RegisterMeteringPoint", mpxn="1700000000014", **request)
    again = registry.metering("RegisterMeteringPoint", mpxn="1700000000014", **request)
    assert (first.replayed, again.replayed) == (False, True)
    assert again.record == first.record
    refused = failure(
        lambda: registry.metering("RegisterMeteringPoint", mpxn="1800000000019", **request)
    )
    assert (refused.code, refused.reason) == ("ABORTED", "IDEMPOTENCY_CONFLICT")


def test_an_organisation_that_is_not_accredited_commands_nothing(
    spine: Installation, alex: Client
) -> None:
    issue(spine.data_dir, Role.DATA_USER, "never-admitted")
    unknown = spine.as_("never-admitted")
    now = datetime.now(UTC)
    asked = {
        "mpxns": [PERSE_MPAN],
        "data_user": "never-admitted",
        "terms": {
            "purpose": "ENERGY_ADVICE",
            "categories": ["HH_CONSUMPTION"],
            "history_from": stamp(WEEK[0]),
            "valid_from": stamp(now),
            "expires": stamp(now + timedelta(days=30)),
        },
        "answer_by": stamp(now + timedelta(days=1)),
    }
    refused = failure(lambda: unknown.consumers("RequestConsent", **asked))
    assert (refused.code, refused.reason) == ("PERMISSION_DENIED", "PARTICIPANT_UNKNOWN")
