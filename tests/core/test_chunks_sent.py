"""Several chunks in one message: each says where its own member was decided, and under what."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from spine.access import Ruling
from spine.dsi.answering import Answer
from spine.dsi.chunks import message_of
from spine.dsi.reads import Judged
from spine.dsi.stream import Chunk
from spine.dsi.v1 import dsi_pb2
from spine.encoded import as_message
from spine.event import AccessRequest
from spine.gb import Interval
from spine.policy import Permit
from spine.rows import Decided

MEMBERS: Final = ("1200000000003", "2000027391990", "7654321", "76543210")
ASKED: Final = Interval(datetime(2025, 6, 1, tzinfo=UTC), datetime(2025, 6, 2, tzinfo=UTC))
PERMITS: Final = (
    Permit((ASKED,)),
    Permit((ASKED,), "theirs", 1),
    Permit((ASKED,), "theirs", 2),
    Permit((ASKED,)),
)
REQUEST: Final = AccessRequest(
    bytes(16),
    "adviser",
    "data_user",
    b"",
    "",
    "StreamReadings",
    "ENERGY_ADVICE",
    "CONSENT",
    "HH_CONSUMPTION",
    "AI",
    "",
    MEMBERS,
    ASKED.start,
    ASKED.end,
    None,
    None,
    0,
)


def judged() -> list[Judged]:
    decided = tuple(
        Decided(3, REQUEST, member, permit, 1_750_000_000_000, 2)
        for member, permit in zip(MEMBERS, PERMITS, strict=True)
    )
    ruling = Ruling(REQUEST, 1, 40, decided, (), 0.0)
    return [Judged(ruling, each) for each in decided]


def sent(members: list[Judged]) -> list[Any]:
    chunks = [Chunk(each.decided.member, 0, each, Answer(0, b"digest")) for each in members]
    request = dsi_pb2.StreamReadingsRequest(in_columns=True, members_per_message=4)
    message = message_of(chunks, request, lambda _: dsi_pb2.StreamReadingsResponse().positions)
    answer: Any = as_message(message)
    return list(answer.members)


def test_each_member_is_sent_with_its_own_decision() -> None:
    members = sent(judged())
    assert [member.mpxn for member in members] == [*MEMBERS]
    assert [(m.decision.consent_id, m.decision.consent_version) for m in members] == [
        (permit.consent_id, permit.consent_version) for permit in PERMITS
    ]
    assert {(m.decision.offset, m.decision.entry) for m in members} == {(40, 3)}


def test_what_follows_on_a_decision_is_not_taken_for_it() -> None:
    first, *_ = before = judged()
    later = replace(first, ruling=replace(first.ruling, offset=41))
    elsewhere = replace(first, decided=replace(first.decided, entry=4, policy_version=1))
    said = [member.decision for member in sent([*before[:1], later, elsewhere, first])]
    assert [(d.offset, d.entry, d.policy_version) for d in said] == [
        (40, 3, 2),
        (41, 3, 2),
        (40, 4, 1),
        (40, 3, 2),
    ]
