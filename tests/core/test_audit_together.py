"""Answers that an audit makes together are the ones it makes one by one, and are said in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from domains.metering.views import Said, as_of_each
from spine import audit_turns, trust
from spine.dsi import again
from spine.dsi.again import Rebuilder
from spine.policy import Category
from spine.rows import Decided
from spine.verdict import ToRebuild, Verdict
from tests.core.test_again import ENDS, ROWS, of_which_all_is_recorded, reads
from tests.core.test_audit import lived
from tests.helpers.history import Audited, History, audit, day, rebuild
from tests.helpers.records import NEIGHBOUR, revoked

ASKED = [ToRebuild(*each) for each in of_which_all_is_recorded()]


def anew(asked: Sequence[ToRebuild]) -> list[Any]:
    return [whole(rebuild(each.decided, each.rows, each.below)) for each in asked]


def whole(answer: Any) -> Any:
    return answer.rows, answer.digest, answer.absent, list(answer.half_hours)


@settings(max_examples=60, deadline=None)
@given(
    before=st.lists(reads(), max_size=4),
    asked=st.lists(reads(), min_size=1, max_size=12),
    most=st.sampled_from([1, 2, 8]),
    room=st.sampled_from([10, 1_000, 1_000_000]),
)
def test_whatever_was_kept_before_answers_made_together_are_those_made_alone(
    before: list[tuple[Decided, dict[str, int]]],
    asked: list[tuple[Decided, dict[str, int]]],
    most: int,
    room: int,
) -> None:
    together = [ToRebuild(decided, ROWS, below) for decided, below in asked]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(again, "KEPT_OF_ONE_MAX", most)
        patch.setattr(again, "KEPT_MAX", most)
        patch.setattr(again, "HALF_HOURS_MAX", room)
        rebuilder = Rebuilder()
        for decided, below in before:
            rebuilder(decided, ROWS, below)
        for _ in range(2):
            assert list(map(whole, rebuilder.each(together))) == anew(together)
            kept = sum(each.half_hours for each in rebuilder._kept.values())
            assert rebuilder._half_hours == kept <= room and len(rebuilder._kept) <= most
        for each in together:
            made = rebuilder(each.decided, each.rows, each.below)
            assert whole(made) == whole(rebuild(each.decided, each.rows, each.below))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(ASKED), max_size=20))
def test_meters_intervals_and_stores_are_told_apart(asked: list[ToRebuild]) -> None:
    rebuilder = Rebuilder()
    for _ in range(2):
        assert list(map(whole, rebuilder.each(asked))) == anew(asked)


def test_each_is_read_as_of_its_own_position(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads of two meters, of which one named an earlier position."""
    first = ASKED[0]
    other = replace(first.decided, member=NEIGHBOUR)
    readings = first.below[trust.READINGS_TOPIC]
    for late in (first.decided, other):
        early = other if late is first.decided else first.decided
        before = {**first.below, trust.READINGS_TOPIC: readings - 2}
        asked = [structs.replace(first, decided=late), ToRebuild(early, first.rows, before)]
        assert list(map(whole, Rebuilder().each(asked))) == anew(asked)
        complete = as_of_each

        def naive(said: Sequence[Said], below: Sequence[int], made: Any = complete) -> Any:
            return made(said, [max(below)] * len(below))

        monkeypatch.setattr(again, "as_of_each", naive)
        assert list(map(whole, Rebuilder().each(asked))) != anew(asked), "a later one is no secret"
        monkeypatch.setattr(again, "as_of_each", complete)


def test_what_is_kept_of_one_meter_keeps_nothing_of_the_others() -> None:
    rebuilder = Rebuilder()
    rebuilder.each(ASKED)
    kept = list(rebuilder._kept.values())
    assert len(kept) > 1
    for each in kept:
        of_columns = [column for made in each.columns.values() for column in arrays(made)]
        assert of_columns and all(column.base is None for column in of_columns)
        assert all(column.base is None for column in arrays(each.said.kept))
        (made,) = each.columns.values()
        naive = made.part(0, each.said.count, made.first)
        assert all(column.base is not None for column in arrays(naive)), "else this finds nothing"


def arrays(of: Any) -> list[np.ndarray[Any, Any]]:
    return [value for value in map(partial(getattr, of), of.__slots__) if hasattr(value, "base")]


def test_only_half_hours_from_readings_are_made_together() -> None:
    read = ASKED[0].decided
    rebuilder = Rebuilder()
    assert rebuilder.half_hours(read, ENDS) >= 46
    assert not rebuilder.half_hours(read, {trust.METERING_TOPIC: 9}), "a call says what is missing"
    for category in (Category.METERING_POINT, Category.CONSENTS, Category.ASSET):
        other = replace(read, request=replace(read.request, category=category))
        assert not rebuilder.half_hours(other, ENDS)


def audited(history: History, at_once: int, half_hours: int = 200_000) -> Audited:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit_turns, "TOGETHER_MAX", at_once)
        patch.setattr(audit_turns, "HALF_HOURS_TOGETHER_MAX", half_hours)
        return audit(history.records())


def asked_of_all_sorts() -> History:
    """Reads of which some wait for others and some do not; of each sort, one is not the same."""
    history = lived()
    history.readings(first_wh=20, mpxn=NEIGHBOUR)
    for number in range(4):
        early = history.positions(trust.READINGS_TOPIC, trust.METERING_TOPIC)
        history.read(history.asked(), history.asked(NEIGHBOUR), history.asked(party="stranger"))
        history.read(history.asked(category=Category.METERING_POINT))
        history.readings(first_wh=300 + number)
        history.read(vector=early)
        history.read(history.asked(interval_from=day(6, 1), interval_to=day(6, 3)))
    history.read(digest=b"\x01" * 32)
    history.read(history.asked(category=Category.METERING_POINT), digest=b"\x01" * 32)
    history.read(consent_id="another")
    behind = history.ask()
    shown = history.outcome(behind.record, behind.decided[0])
    history.readings(first_wh=900)
    ahead = history.outcome(history.ask().record, behind.decided[0])
    history.tell(replace(shown, digest=ahead.digest))  # made from later rows than it says
    blind = history.ask(vector=())
    asked = blind.decided[0].request.request_id
    history.tell(replace(shown, request_id=asked, decided_offset=blind.record.offset))
    history.ask()
    history.facts(revoked())
    history.read()
    return history


@pytest.mark.parametrize(("at_once", "half_hours"), [(2, 200_000), (3, 200_000), (256, 100)])
def test_lines_come_in_the_order_of_the_log_however_many_answers_are_made_at_once(
    at_once: int, half_hours: int
) -> None:
    history = asked_of_all_sorts()
    alone = audited(history, 1)
    assert alone.verdicts[Verdict.SAME] > 20 and alone.verdicts[Verdict.DIFFERENT] == 5
    assert len({line.explained for line in alone.lines}) > 3
    assert audited(history, 256) == alone
    assert audited(history, at_once, half_hours) == alone
