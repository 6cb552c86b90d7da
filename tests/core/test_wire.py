"""What every service reads of a request alike: tokens, times and stretches of half hours."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from spine.common.v1 import common_pb2
from spine.consumers.v1 import consumers_pb2
from spine.dsi.v1 import dsi_pb2
from spine.errors import Invalid, Reason
from spine.gb import Interval
from spine.metering.v1 import metering_pb2
from spine.services import terms, wire

LOG_ID = bytes(32)
LOG, GOVERNANCE, READINGS = "consumers.events.v1", "governance.events.v1", "metering.readings.v1"
NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)


def wish(*places: tuple[str, int, int]) -> Any:
    positions = [common_pb2.Position(topic=t, partition=p, offset=o) for t, p, o in places]
    token = common_pb2.PositionToken(log_id=LOG_ID, positions=positions)
    return dsi_pb2.GetReadingsRequest(at_least=token)


@pytest.mark.parametrize(
    "places",
    [
        [(LOG, 4, 1)],
        [(LOG, 99, 0)],
        [(LOG, -1, 1)],
        [(GOVERNANCE, 1, 1)],
        [(LOG, 0, -1)],
    ],
)
def test_a_wish_that_no_log_can_fulfil_is_refused_and_not_dropped(
    places: list[tuple[str, int, int]],
) -> None:
    with pytest.raises(Invalid) as refused:
        wire.at_least(wish(*places), LOG_ID, 4)
    assert (refused.value.reason, refused.value.field) == (Reason.POSITION_INVALID, "at_least")


def test_wishes_of_several_answers_may_be_handed_on_together() -> None:
    places = [(LOG, 0, 0), (LOG, 3, 7), (READINGS, 3, 7), (GOVERNANCE, 0, 1), (LOG, 3, 5)]
    found = wire.at_least(wish(*places), LOG_ID, 4)
    assert [(p.topic, p.partition, p.offset) for p in found] == places


def test_what_is_known_later_cannot_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "now", lambda: NOW)
    assert wire.known_instant(dsi_pb2.GetReadingsRequest()) is None
    last = NOW + wire.KNOWN_AHEAD
    for at in (NOW - timedelta(days=900), NOW, last):
        asked = dsi_pb2.GetReadingsRequest(as_of_known=wire.stamp(at))
        assert wire.known_instant(asked) == at
    for at in (last + timedelta(milliseconds=1), NOW + timedelta(days=32)):
        with pytest.raises(Invalid) as refused:
            wire.known_instant(dsi_pb2.GetReadingsRequest(as_of_known=wire.stamp(at)))
        assert (refused.value.reason, refused.value.field) == (Reason.TIME_INVALID, "as_of_known")


def at(text: str, nanos: int = 0) -> Timestamp:
    return Timestamp(seconds=int(datetime.fromisoformat(text + "Z").timestamp()), nanos=nanos)


DAY, NEXT = at("2024-03-01T00:00:00"), at("2024-03-02T00:00:00")


@pytest.mark.parametrize(
    ("given", "reason", "field"),
    [
        ({}, Reason.FIELD_MISSING, "interval.start"),
        ({"start": DAY}, Reason.FIELD_MISSING, "interval.end"),
        ({"start": NEXT, "end": DAY}, Reason.INTERVAL_INVALID, "interval"),
        ({"start": DAY, "end": DAY}, Reason.INTERVAL_INVALID, "interval"),
        (
            {"start": DAY, "end": at("2024-03-01T00:45:00")},
            Reason.INTERVAL_INVALID,
            "interval.end",
        ),
        (
            {"start": DAY, "end": at("2024-03-02T00:00:00", 500_000)},
            Reason.INTERVAL_INVALID,
            "interval.end",
        ),
        (
            {"start": at("2024-03-01T00:00:00", 1), "end": NEXT},
            "INTERVAL_INVALID",
            "interval.start",
        ),
        ({"start": at("1989-12-31T23:30:00"), "end": DAY}, Reason.TIME_INVALID, "interval.start"),
        ({"start": at("0001-01-01T00:00:00"), "end": DAY}, Reason.TIME_INVALID, "interval.start"),
        ({"start": DAY, "end": Timestamp(seconds=10**15)}, Reason.TIME_INVALID, "interval.end"),
        ({"start": DAY, "end": at("2100-01-01T00:30:00")}, Reason.TIME_INVALID, "interval.end"),
    ],
)
def test_a_stretch_of_half_hours_at_fault_is_named_by_its_path(
    given: dict[str, Timestamp], reason: str, field: str
) -> None:
    with pytest.raises(Invalid) as refused:
        wire.half_hours(common_pb2.Interval(**given))
    assert (refused.value.reason, refused.value.field) == (reason, field)


def test_a_stretch_of_half_hours() -> None:
    first = {"start": at("1990-01-01T00:00:00"), "end": at("1990-01-01T00:30:00")}
    start = datetime(1990, 1, 1, tzinfo=UTC)
    expected = Interval(start, start + timedelta(minutes=30))
    assert wire.half_hours(common_pb2.Interval(**first)) == expected
    last = common_pb2.Interval(start=at("2099-12-31T23:30:00"), end=at("2100-01-01T00:00:00"))
    assert wire.half_hours(last).end == datetime(2100, 1, 1, tzinfo=UTC)


def test_of_many_metering_points_the_one_at_fault_is_named() -> None:
    assert wire.mpxns(["1200000000011", "123456789"]) == ["1200000000011", "123456789"]
    with pytest.raises(Invalid) as refused:
        wire.mpxns(["1200000000011", "12"])
    assert (refused.value.reason, refused.value.field) == (Reason.MPXN_FORMAT, "mpxns[1]")
    with pytest.raises(Invalid) as refused:
        wire.mpxns(["12"], "questions[{}].mpxn")
    assert refused.value.field == "questions[0].mpxn"


@pytest.mark.parametrize("field", ["history_from", "valid_from", "expires"])
def test_a_time_in_the_terms_of_a_consent_is_named_by_its_path(field: str) -> None:
    for wrong, reason in (
        (None, Reason.FIELD_MISSING),
        (Timestamp(seconds=10**15), Reason.TIME_INVALID),
        (at("0001-01-01T00:00:00"), Reason.TIME_INVALID),
    ):
        said: dict[str, Any] = {"history_from": DAY, "valid_from": DAY, "expires": NEXT}
        said |= {"purpose": "ENERGY_ADVICE", "categories": ["HH_CONSUMPTION"], field: wrong}
        with pytest.raises(Invalid) as refused:
            terms.agreed(consumers_pb2.GrantConsentRequest(terms=said), "adviser", "c-1")
        assert (refused.value.reason, refused.value.field) == (reason, f"terms.{field}")


KEYS = ("", "k", "k-1200000000003", "k" * 64, "k" * 65, "k" * 200, "ключ", "\n\x01k")
KEYED: list[Any] = [
    metering_pb2.RegisterMeteringPointRequest(mpxn="1200000000003", gsp_group="_A"),
    consumers_pb2.StartTenancyRequest(mpxn="k", tenancy_id="k"),
    consumers_pb2.GrantConsentRequest(mpxns=["k", "l"], terms={"purpose": "ENERGY_ADVICE"}),
    consumers_pb2.GrantConsentRequest(),
]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("request_", KEYED, ids=lambda request: type(request).__name__)
@pytest.mark.parametrize("later_build", [b"", b"\xfa\x7f\x02hi"])
def test_the_digest_of_a_request_is_that_of_all_but_its_key(
    request_: Any, key: str, later_build: bytes
) -> None:
    """However it is put together; also with a field of which this build knows nothing."""
    request_.idempotency_key = ""
    bare = type(request_).FromString(later_build + request_.SerializeToString())
    keyed = type(request_).FromString(bare.SerializeToString())
    keyed.idempotency_key = key
    expected = hashlib.sha256(bare.SerializeToString(deterministic=True)).digest()
    assert wire.request_digest(keyed) == expected
    assert keyed.idempotency_key == key
