"""What a process has itself encoded to append is known again by its bytes, and says the same.

A codec that reads every record is the oracle: whatever was encoded, and however it comes back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from domains.consumers.decider import CONSUMERS
from spine import codec as spine_codec
from spine.codec import WRITTEN_KEPT_MAX, Codec, pack, tools
from spine.domain import Domain
from spine.event import Facts, RecordType
from spine.rows import Malformed
from spine.schemas import Schemas
from spine.signing import verify
from tests.helpers.records import (
    BEGUN,
    BY_CONSUMERS,
    DOMAINS,
    METER,
    NEIGHBOUR,
    Scene,
    command,
    granted,
    moved_in,
    resumed,
    revoked,
    suspended,
)
from tests.helpers.samples import VALUES

EVENTS: dict[str, tuple[Domain, object]] = {
    domain.event_type(value): (domain, value)
    for value in VALUES.values()
    for domain in DOMAINS
    if domain.events.get(domain.event_type(value)) is type(value)
}
FINER = BEGUN + timedelta(microseconds=1)
ELSEWHEN = BEGUN.astimezone(timezone(timedelta(hours=1)))


def own() -> Codec:
    return Codec(Schemas.load(), DOMAINS)


def back(framed: bytes) -> bytes:
    """The same bytes, as a broker gives them back."""
    return bytes(bytearray(framed))


@pytest.mark.parametrize("event_type", EVENTS)
def test_a_fact_that_was_written_here_is_what_it_is_read_as_elsewhere(event_type: str) -> None:
    _, event = EVENTS[event_type]
    here = own()
    framed = here.encode_to_append(event)
    assert framed == own().encode(event)
    known, read = (
        here.decode_event(event_type, back(framed)),
        own().decode_event(event_type, framed),
    )
    assert known is event
    assert (known, pack(known)) == (read, pack(read))
    assert here.decode_event(event_type, framed) is not event  # once: then it is read


def test_a_record_that_was_written_here_is_what_it_is_read_as_elsewhere() -> None:
    here, facts = own(), Facts("t", 3, (command(METER, moved_in()), command(NEIGHBOUR, granted())))
    framed = here.encode_to_append(facts)
    assert here.decode(back(framed)) is facts
    assert own().decode(framed) == facts


@pytest.mark.parametrize("at", [FINER, ELSEWHEN])
@pytest.mark.parametrize("checked", [True, False], ids=["checked", "naive"])
def test_what_bytes_do_not_say_is_not_remembered(
    at: datetime, checked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not checked:
        monkeypatch.setattr(spine_codec, "said_by", lambda schema: None)
    here, event = own(), structs.replace(moved_in(), effective_from=at)
    framed = here.encode_to_append(event)
    name = CONSUMERS.event_type(event)
    known, read = here.decode_event(name, back(framed)), own().decode_event(name, framed)
    same = repr(known) == repr(read)
    assert same == checked


@pytest.mark.parametrize("at", [FINER, ELSEWHEN])
def test_nor_is_a_record_with_such_an_instant_far_inside(at: datetime) -> None:
    here, written = own(), command(METER, moved_in())
    (fact,) = written.facts
    facts = Facts(
        "t", 3, (structs.replace(written, facts=(structs.replace(fact, occurred_at=at),)),)
    )
    framed = here.encode_to_append(facts)
    assert repr(here.decode(back(framed))) == repr(own().decode(framed))


def test_a_number_that_is_written_and_not_read_is_not_known_here_either() -> None:
    name = "governance.PolicyVersionAdopted"
    event: Any = EVENTS[name][1]
    here = own()
    framed = here.encode_to_append(replace(event, version=2**31))
    for reads in (here, own()):
        with pytest.raises(Malformed):
            reads.decode_event(name, framed)


def test_a_fact_is_no_record_and_a_record_no_fact() -> None:
    here = own()
    fact, record = here.encode_to_append(moved_in()), here.encode_to_append(Facts("t", 3, ()))
    another = here.encode_to_append(moved_in("t-2"))
    attempts: list[Callable[[], object]] = [
        lambda: here.decode(fact),
        lambda: here.decode_event(CONSUMERS.event_type(moved_in()), record),
        lambda: here.decode_event(CONSUMERS.event_type(granted()), another),
    ]
    for attempt in attempts:
        with pytest.raises(Malformed):
            attempt()


def test_no_more_is_kept_than_is_on_its_way() -> None:
    here = own()
    for number in range(WRITTEN_KEPT_MAX + 10):
        here.encode_to_append(structs.replace(moved_in(), tenancy_id=f"t-{number}"))
    assert len(here._written) == 10


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_fold_comes_to_the_same_rows_by_what_it_knows_and_by_what_it_reads(
    data: st.DataObject,
) -> None:
    here = own()
    knows, reads = Scene(tools=tools(here, verify)), Scene(tools=tools(own(), verify))
    said = (moved_in(), granted(), suspended(), resumed(), revoked(), granted("other"))
    for _ in range(data.draw(st.integers(1, 6))):
        subjects = data.draw(st.lists(st.sampled_from([METER, NEIGHBOUR]), min_size=1, max_size=2))
        commands = []
        for subject in subjects:
            row = reads.fold.subject(subject)
            event = data.draw(st.sampled_from(said))
            here.encode_to_append(event)
            commands.append(command(subject, event, previous=(row.offset, row.entry)))
        facts = Facts(knows.log.topic, knows.log.partition, tuple(commands))
        framed = here.encode_to_append(facts)
        record = knows.log.build(RecordType.FACTS, framed, BY_CONSUMERS)
        assert knows.send(record) == reads.send(replace(record, value=back(framed)))
    assert dict(knows.rows.scan(b"", b"\xff" * 9)) == dict(reads.rows.scan(b"", b"\xff" * 9))
