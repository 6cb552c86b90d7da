"""Why a half hour has no value: one reason each, made again from the log alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import groupby
from typing import Any

import numpy as np
import pytest

from domains.metering.events import (
    MeterCommunicationLost,
    MeterCommunicationRestored,
    MeteringPointRegistered,
)
from domains.metering.readings import ReadingsBatch
from spine import trust
from spine.answer import Circumstances
from spine.dsi import answering
from spine.event import DataPosition, RecordType
from spine.gb import HALF_HOUR
from spine.verdict import Verdict
from tests.helpers.history import History, audit, day
from tests.helpers.records import BEGUN, BY_METERING, METER, PARTITION, granted, moved_in
from tests.helpers.samples import readings_batch, withdrawn

MIDNIGHT = day(6, 1)
DATA = (trust.READINGS_TOPIC, trust.METERING_TOPIC)


def batch(first: int, end: int, name: bytes, wh: int = 7) -> ReadingsBatch:
    """A batch with values of half hours [first, end) of 2025-06-01 only."""
    said = (np.arange(48) >= first) & (np.arange(48) < end)
    return replace(
        readings_batch(METER, PARTITION),
        batch_id=name.ljust(16, b"."),
        present=np.packbits(said, bitorder="little").tobytes(),
        values=np.where(said, wh, 0).astype("<i4").tobytes(),
        quality=bytes(48),
    )


def put(history: History, value: object) -> None:
    log = history.log(trust.READINGS_TOPIC)
    history.keep(log.build(RecordType.READINGS, value, BY_METERING))


def told(
    history: History, vector: tuple[DataPosition, ...] | None = None, **asked: Any
) -> list[str]:
    """Runs of the answer: how many half hours, and recorded or why not."""
    read = history.read(history.asked(**asked), vector=vector or history.positions(*DATA))
    rows = history.answer(read.record, read.decided[0]).half_hours
    kinds = (str(row.absent or "recorded") for row in rows)
    return [f"{len(list(run))} {kind}" for kind, run in groupby(kinds)]


def lived() -> History:
    """A meter of which much can be said."""
    history = History()
    hour = timedelta(hours=1)
    history.facts(
        MeteringPointRegistered("ELECTRICITY", "_K", "IMPORT", "AI", MIDNIGHT + hour, BEGUN)
    )
    history.facts(moved_in(), granted())
    history.facts(MeterCommunicationLost(MIDNIGHT + 5 * hour, BEGUN))
    history.facts(MeterCommunicationRestored(MIDNIGHT + 7 * hour, BEGUN))
    put(history, batch(20, 30, b"values"))
    put(history, withdrawn(METER, PARTITION, 24, 28))
    put(history, batch(26, 36, b"negative", wh=-1))
    put(history, withdrawn(METER, PARTITION, 40, 42, "of nothing"))
    return history


WHOLE = [
    "2 NEVER_RECORDED",  # before it was registered
    "8 LATE",
    "4 METER_NOT_COMMUNICATING",
    "6 LATE",
    "4 recorded",
    "2 WITHDRAWN",
    "2 QUARANTINED",  # refused after the withdrawal
    "2 recorded",
    "6 QUARANTINED",
    "12 LATE",  # the withdrawal of what had no value says nothing
]


def test_each_half_hour_has_one_reason_and_the_audit_gives_it_again() -> None:
    history = lived()
    assert told(history) == WHOLE
    assert audit(history.records(), on_disk=True).verdicts == {Verdict.SAME: 1}


def test_a_value_that_comes_later_ends_every_other_reason_and_no_earlier_answer_changes() -> None:
    history = lived()
    before = history.positions(*DATA)
    put(history, batch(0, 48, b"all of them"))
    assert told(history) == ["48 recorded"]
    assert told(history, before) == WHOLE
    assert audit(history.records()).verdicts == {Verdict.SAME: 2}


def test_what_is_not_due_or_not_covered_says_nothing_of_the_meter() -> None:
    history = lived()
    history.facts(MeterCommunicationLost(day(7, 1), BEGUN))
    ahead: dict[str, Any] = {
        "interval_from": BEGUN - timedelta(hours=1),
        "interval_to": BEGUN + timedelta(days=1),
    }
    assert [each.split()[1] for each in told(history, **ahead)] == [
        "METER_NOT_COMMUNICATING",
        "NOT_DUE_YET",
    ]
    moving: dict[str, Any] = {"interval_from": day(2, 28), "interval_to": day(3, 2)}
    assert told(history, **moving) == ["48 CONSENT_DOES_NOT_COVER", "48 NEVER_RECORDED"]


def test_reasons_are_seen_from_the_time_asked_for() -> None:
    history = lived()
    noon = MIDNIGHT + timedelta(hours=12, minutes=10)
    beyond_noon = ["4 NOT_DUE_YET", "2 recorded", "18 NOT_DUE_YET"]
    assert told(history, as_of_known=noon) == [*WHOLE[:5], *beyond_noon]
    assert audit(history.records()).verdicts == {Verdict.SAME: 1}


OLD = (trust.READINGS_TOPIC,)


def test_a_request_that_does_not_name_the_registry_is_answered_as_ever() -> None:
    history = lived()
    assert told(history, history.positions(*OLD)) == [
        "20 NEVER_RECORDED",
        "4 recorded",
        "4 NEVER_RECORDED",
        "2 recorded",
        "18 NEVER_RECORDED",
    ]
    assert audit(history.records()).verdicts == {Verdict.SAME: 1}


def test_new_reasons_for_old_answers_would_make_them_different(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Naive: the auditor explains what the build of that time could not."""
    history = lived()
    told(history, history.positions(*OLD))
    naive = Circumstances(BEGUN)
    monkeypatch.setattr(answering, "circumstances_of", lambda decided, sources: naive)
    assert audit(history.records()).verdicts == {Verdict.DIFFERENT: 1}


def test_a_batch_nobody_responsible_signed_says_nothing_of_a_meter() -> None:
    history = lived()
    value = batch(0, 48, b"forged", wh=-1)
    history.keep(history.log(trust.READINGS_TOPIC).build(RecordType.READINGS, value, None))
    assert told(history) == WHOLE


@pytest.mark.parametrize(
    "changes",
    [
        {"reason": "because it was wrong"},
        {"rows": 0},
        {"rows": 1 << 30},
        {"withdrawn": b""},
        {"days": b""},
        {"measurement_quantity": "ai"},
        {"batch_id": b""},
    ],
)
def test_a_withdrawal_that_breaks_a_rule_withdraws_nothing(changes: dict[str, Any]) -> None:
    history = lived()
    put(history, replace(withdrawn(METER, PARTITION, reference="bad"), **changes))
    assert told(history) == WHOLE
    head = history.folds[trust.READINGS_TOPIC].head
    assert head is not None and (head.counts.quarantined, head.counts.balanced) == (2, True)


def test_a_withdrawal_holds_exactly_the_half_hours_of_its_interval() -> None:
    for first, end in ((0, 48), (5, 6), (47, 48)):
        record = withdrawn(METER, PARTITION, first, end)
        bits = np.unpackbits(np.frombuffer(record.withdrawn, np.uint8), bitorder="little")
        assert np.flatnonzero(bits).tolist() == list(range(first, end))
    assert timedelta(days=1) == HALF_HOUR * 48
