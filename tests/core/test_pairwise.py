"""What a party with pairwise identifiers is told: every field is named, and what is not is shut."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message_factory import GetMessageClass

from spine import trust
from spine.common.v1 import common_pb2
from spine.consumers.v1 import consumers_pb2
from spine.dsi.v1 import dsi_pb2
from spine.errors import Invalid, Reason
from spine.governance.v1 import governance_pb2
from spine.identifiers import Identifiers, Kind
from spine.ledger.v1 import ledger_pb2
from spine.metering.v1 import aggregates_pb2
from spine.pairwise import FIELDS, REFUSED, SAME_TO_EVERYBODY, TREATED, TYPES, Treatment
from spine.reference.v1 import reference_pb2
from spine.services import translation, wire
from spine.services.translation import Party, closed, closing, opened
from tests.helpers.leaves import TIMESTAMP, Value, filled, leaves

ROOT = Path(__file__).parents[2]
MADE = Identifiers(bytes(range(64)))
ONE, TWO = (Party(name, MADE) for name in ("p-one", "p-two"))
MPAN = "2000027391990"
SEALED = (Treatment.NAMED, Treatment.HANDED_BACK, Treatment.COMPARED)
# How fields are called that name a thing, or are handed back.
NAMING = ("mpxn", "mpxns", "only_mpxn", "consent_id", "tenancy_id", "asset_id", "change_id")


def methods() -> dict[str, MethodDescriptor]:
    """Every method of every service that there is."""
    found: dict[str, MethodDescriptor] = {}
    for path in sorted((ROOT / "proto").rglob("*.proto")):
        name = ".".join(path.relative_to(ROOT / "proto").with_suffix("").parts) + "_pb2"
        for service in importlib.import_module(name).DESCRIPTOR.services_by_name.values():
            found |= {f"{service.full_name}/{m.name}": m for m in service.methods}
    return found


METHODS = methods()
OUTPUTS = {METHODS[name].output_type.full_name: METHODS[name].output_type for name in TREATED}


def unnamed(kind: Descriptor, seen: set[str] | None = None) -> Iterator[str]:
    """Fields of an answer, at any depth, of which the table says nothing."""
    seen = set() if seen is None else seen
    if kind.full_name in seen:
        return
    seen.add(kind.full_name)
    for field in kind.fields:
        rule, inside = translation.rule_of(field), field.message_type
        if inside is None or inside.full_name == TIMESTAMP:
            if rule is None:
                yield field.full_name
        elif rule is None or rule.treatment in (Treatment.SHUFFLED, Treatment.JOINED):
            yield from unnamed(inside, seen)


def test_the_table_says_of_every_field_of_every_answer_what_is_done_with_it() -> None:
    assert {name for kind in OUTPUTS.values() for name in unnamed(kind)} == set()


def unlisted(kind: Descriptor) -> Iterator[str]:
    """Fields of a request, at any depth, of which the table says nothing."""
    for field in kind.fields:
        rule, inside = translation.rule_of(field), field.message_type
        if inside is not None and inside.full_name != TIMESTAMP and rule is None:
            yield from unlisted(inside)
        elif rule is None:
            yield field.full_name


def test_the_table_says_of_every_field_of_every_request_what_is_done_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inputs = [METHODS[name].input_type for name in TREATED]
    assert {field for kind in inputs for field in unlisted(kind)} == set()
    field = "spine.dsi.v1.GetReadingsRequest.as_of_known"
    monkeypatch.delitem(FIELDS, field)
    assert {field for kind in inputs for field in unlisted(kind)} == {field}


AS_OF = sorted(
    (name, field.name)
    for name in TREATED
    for field in METHODS[name].input_type.fields
    if field.name.startswith("as_of")
)


@pytest.mark.parametrize(("name", "field"), AS_OF)
@pytest.mark.parametrize("seconds", [0, 1_700_000_000])
def test_nothing_is_answered_as_of_an_instant_which_would_tell_instants_by_halving(
    name: str, field: str, seconds: int
) -> None:
    assert len(AS_OF) == 12
    request = GetMessageClass(METHODS[name].input_type)()
    assert opened(ONE, request) == request
    getattr(request, field).FromSeconds(seconds)
    getattr(request, field).SetInParent()
    with pytest.raises(Invalid) as refused:
        opened(ONE, request)
    assert (refused.value.reason, refused.value.field) == (Reason.IDENTIFIERS_PAIRWISE, field)


def test_its_own_reads_are_looked_for_by_the_second() -> None:
    request = ledger_pb2.ListReadsRequest()
    request.since.FromNanoseconds(1_700_000_000_123_456_789)
    assert opened(ONE, request).since.ToNanoseconds() == 1_700_000_000 * 10**9


def test_a_field_that_the_table_does_not_name_is_found_and_left_empty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(FIELDS, "spine.dsi.v1.MeteringPoint.supplier")
    closing.cache_clear()
    try:
        assert "spine.dsi.v1.MeteringPoint.supplier" in {
            name for kind in OUTPUTS.values() for name in unnamed(kind)
        }
        point = dsi_pb2.MeteringPoint(mpxn=MPAN, supplier="north-supply", fuel="GAS")
        assert (closed(ONE, point).supplier, point.fuel) == ("", "GAS")
    finally:
        closing.cache_clear()


def test_the_table_names_nothing_that_is_not_there_and_each_method_once() -> None:
    pool = dsi_pb2.DESCRIPTOR.pool
    for name in FIELDS:
        assert pool.FindFieldByName(name) is not None
    for name in TYPES:
        assert pool.FindMessageTypeByName(name) is not None
    assert TREATED | SAME_TO_EVERYBODY | REFUSED.keys() <= METHODS.keys()
    assert not TREATED & SAME_TO_EVERYBODY and not (TREATED | SAME_TO_EVERYBODY) & REFUSED.keys()
    assert all(rule.why for rule in (*FIELDS.values(), *TYPES.values()))
    assert all(rule.kind is not None for rule in FIELDS.values() if rule.treatment in SEALED)


def asked(kind: Descriptor) -> Iterator[FieldDescriptor]:
    """The fields of a request, at any depth."""
    for field in kind.fields:
        yield field
        if field.message_type is not None and field.message_type.full_name != TIMESTAMP:
            yield from asked(field.message_type)


@pytest.mark.parametrize("name", sorted(TREATED))
def test_whatever_names_a_thing_in_a_request_is_opened(name: str) -> None:
    for field in asked(METHODS[name].input_type):
        rule = translation.rule_of(field)
        if field.name in NAMING:
            assert rule is not None and rule.treatment is Treatment.NAMED, field.full_name
        if field.name == "cursor":
            assert rule is not None and rule.treatment is Treatment.HANDED_BACK, field.full_name


def secret(field: FieldDescriptor) -> Value:
    """A value that is the same to everybody, short enough for any kind of name."""
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
            return f"b-{field.name}".encode()
        case FieldDescriptor.CPPTYPE_STRING:
            return f"GetAsset/{field.name}"[:16]
        case FieldDescriptor.CPPTYPE_BOOL:
            return True
        case FieldDescriptor.CPPTYPE_MESSAGE:
            return 1_700_000_000_123_456_789
        case FieldDescriptor.CPPTYPE_ENUM:
            return 1
        case _:
            return 7


def answer(kind: Descriptor) -> Any:
    return filled(GetMessageClass(kind)(), secret)


def shared(one: Any, two: Any) -> set[str]:
    """The paths at which both were told the same."""
    return {path for path, _ in set(leaves(one)) & set(leaves(two))}


@pytest.mark.parametrize("name", sorted(OUTPUTS))
def test_two_parties_are_told_the_same_only_where_the_table_says_so(name: str) -> None:
    kind = OUTPUTS[name]
    plain = answer(kind)
    one, two = closed(ONE, answer(kind)), closed(TWO, answer(kind))
    rules = dict(by_path(kind))
    told = {path for path, rule in rules.items() if rule in (Treatment.TOLD, Treatment.BY_SECOND)}
    bare = {path for path, rule in rules.items() if rule is Treatment.BARE}
    assert shared(one, two) <= told | bare
    for path, value in leaves(one):
        if rules[path] is not Treatment.TOLD:
            assert (path, value) not in set(leaves(plain)), path
    both = shared(plain, plain)
    assert both > shared(one, two) or both <= told, "the naive answers have more in common"


def by_path(kind: Descriptor, path: str = "") -> Iterator[tuple[str, Treatment]]:
    for field in kind.fields:
        here = f"{path}.{field.name}" if path else field.name
        rule, inside = translation.rule_of(field), field.message_type
        if inside is None or inside.full_name == TIMESTAMP:
            yield here, Treatment.WITHHELD if rule is None else rule.treatment
        elif inside.full_name in TYPES:
            yield from (
                (f"{here}.{f.name}", TYPES[inside.full_name].treatment) for f in inside.fields
            )
        else:
            yield from by_path(inside, here)


def token(*partitions: int, topics: tuple[str, ...] = ("consumers.events.v1",)) -> Any:
    made = common_pb2.PositionToken(log_id=bytes(32))
    for partition in partitions:
        for topic in topics:
            made.positions.add(topic=topic, partition=partition, offset=2**40)
    return made


def test_no_token_tells_by_its_length_in_how_many_partitions_meters_are() -> None:
    apart, together = token(*range(8)), token(0)
    naive = {
        len(MADE.close_once(Kind.POSITIONS, ONE.name, each.SerializeToString()))
        for each in (apart, together)
    }
    assert len(naive) == 2, "the naive token tells"
    for made in (apart, together):
        assert not closed(ONE, dsi_pb2.CheckAccessResponse(as_of=made)).HasField("as_of")
        answer = consumers_pb2.ConsentResponse(consent_id="c", positions=made)
        assert not closed(ONE, answer).HasField("positions")


def test_tokens_of_one_meter_are_of_one_length() -> None:
    every_topic = (*trust.DATA_TOPICS, trust.CONSUMER_LOG)
    tokens = (token(0), token(1023, topics=every_topic), token(7, topics=every_topic[:2]))
    answers = [closed(ONE, dsi_pb2.GetReadingsResponse(positions=each)) for each in tokens]
    assert len({len(each.positions.sealed) for each in answers}) == 1


def test_a_request_is_opened_to_what_it_was_closed_from() -> None:
    asset = "urn:energyos:asset:01JZ000000000000000000BAD1"
    request = dsi_pb2.GetAssetRequest(
        mpxn=ONE.named(Kind.METER, MPAN),
        asset_id=ONE.named(Kind.ASSET, asset),
        consent_id=ONE.named(Kind.CONSENT, "my-advice"),
        purpose="ENERGY_ADVICE",
    )
    token = dsi_pb2.GetAssetResponse()
    token.positions.log_id = bytes(32)
    token.positions.positions.add(topic="consumers.events.v1", partition=3, offset=17)
    plain = token.positions.SerializeToString()
    request.at_least.CopyFrom(closed(ONE, token).positions)
    assert not request.at_least.positions and not request.at_least.log_id
    meant = opened(ONE, request)
    assert (meant.mpxn, meant.asset_id, meant.consent_id) == (MPAN, asset, "my-advice")
    assert meant.at_least.SerializeToString() == plain
    assert request.mpxn.startswith("mtr_"), "the caller's own request stays as it is"


def test_no_words_of_whoever_recorded_a_consent_are_told() -> None:
    record = {
        "parties": {"processor": "one-of-a-kind", "tier": "T1"},
        "evidence": {"notice_language": "en-x-house7", "channel": "DESK_7", "method": "IN_PERSON"},
        "state": {"reason": "CASE_4711", "changed_by": "governance"},
    }
    consent = dsi_pb2.Consent(state="SUSPENDED", record=record)
    told = closed(ONE, dsi_pb2.ListConsentsResponse(consents=[consent])).consents[0]
    left = {"T1", "IN_PERSON", "governance", "SUSPENDED"}
    assert {value for _, value in leaves(told)} == left
    assert {value for _, value in leaves(consent)} > left, "they are there to be told"


def test_runs_that_differ_in_nothing_but_their_batch_are_told_as_one() -> None:
    columns = dsi_pb2.HalfHourColumns(values_wh=[1] * 6)
    for offset, quality in ((5, "A"), (9, "A"), (9, "E")):
        run = columns.runs.add(half_hours=2, quality=quality)
        run.version.offset = offset
    told = closed(ONE, dsi_pb2.GetReadingsResponse(columns=columns)).columns
    assert [(run.half_hours, run.quality) for run in told.runs] == [(4, "A"), (2, "E")]
    assert not any(run.HasField("version") for run in told.runs)


def test_lists_are_in_an_order_of_the_partys_own() -> None:
    ids = [f"consent-{n:02d}" for n in range(20)]
    orders = []
    for party in (ONE, TWO):
        listed = dsi_pb2.ListConsentsResponse(consents=[{"consent_id": each} for each in ids])
        told = [each.consent_id for each in closed(party, listed).consents]
        assert told == sorted(told)
        orders.append([party.meant(Kind.CONSENT, text, "consent_id") for text in told])
    assert sorted(orders[0]) == ids and orders[0] != orders[1] != ids


@pytest.mark.parametrize("topic", ["nowhere", "", "consumers.events.v1\0"])
def test_a_position_of_a_topic_that_no_log_has_is_refused_and_not_overlooked(topic: str) -> None:
    for request in (
        dsi_pb2.GetReadingsRequest,
        ledger_pb2.ListReadsRequest,
        aggregates_pb2.ListAggregatesRequest,
        reference_pb2.ListCodesRequest,
        governance_pb2.ListParticipantsRequest,
    ):
        unknown = request(at_least=token(3, topics=("consumers.events.v1", topic)))
        with pytest.raises(Invalid) as refused:
            wire.at_least(unknown, bytes(32), 4)
        assert (refused.value.reason, refused.value.field) == (Reason.POSITION_INVALID, "at_least")


def test_a_sealed_token_of_a_party_that_is_given_mpxns_is_refused_and_not_overlooked() -> None:
    log_id = bytes(32)
    request = dsi_pb2.GetReadingsRequest(at_least=token(3))
    assert [place.partition for place in wire.at_least(request, log_id, 4)] == [3]
    answer = closed(ONE, dsi_pb2.GetReadingsResponse(positions=token(3)))
    with pytest.raises(Invalid) as refused:
        wire.at_least(dsi_pb2.GetReadingsRequest(at_least=answer.positions), log_id, 4)
    assert (refused.value.reason, refused.value.field) == (Reason.POSITION_INVALID, "at_least")
