"""A partition whose leader is silent keeps nobody from looking at the others."""

from __future__ import annotations

from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.errors import KafkaTimeoutError

from spine import follower, log_client
from spine.errors import Pushback
from spine.event import LogRecord
from spine.follower import PointReader
from spine.log import Kafka

TOPIC = "consumers.events.v1"
SILENT = 2
ASKED = {(TOPIC, partition): 5 for partition in range(5)}


class Consumer:
    """What is asked of the client, over five partitions: one silent, one cut short, one a hole."""

    def __init__(self) -> None:
        self.told = set[int]()

    def beginning_offsets(self, about: Collection[Any], timeout_ms: int) -> dict[Any, int]:
        return self._said(about, 0)

    def end_offsets(self, about: Collection[Any], timeout_ms: int) -> dict[Any, int]:
        return {place: 4 if place.partition == 3 else 9 for place in self._said(about, 9)}

    def _said(self, about: Collection[Any], what: int) -> dict[Any, int]:
        if any(place.partition == SILENT for place in about):
            raise KafkaTimeoutError("a leader is silent")
        return dict.fromkeys(about, what)

    def assign(self, places: list[Any]) -> None:
        self.assigned = places

    def seek(self, place: Any, offset: int) -> None:
        assert place in self.assigned

    resume = pause = lambda self, place: None

    def position(self, place: Any) -> int:
        return 9 if place.partition == 4 else 5

    def poll(self, timeout_ms: int) -> dict[Any, list[Any]]:
        came = [p for p in self.assigned if p.partition in (0, 1) and p.partition not in self.told]
        self.told |= {place.partition for place in came}
        return {place: [message(place)] for place in came}


def message(place: Any) -> Any:
    return SimpleNamespace(
        topic=place.topic,
        partition=place.partition,
        offset=5,
        timestamp=0,
        timestamp_type=1,
        key=None,
        headers=[],
        value=b"v",
    )


def test_what_answers_is_found_before_it_is_said_that_not_all_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log_client, "connect", lambda *_: Consumer())
    monkeypatch.setattr(log_client, "ANSWER_WITHIN_S", 0.2)
    monkeypatch.setattr(follower, "ALONE_S", 0.01)
    reader, found = PointReader(Kafka("nowhere:1")), dict[tuple[str, int], LogRecord | None]()
    with pytest.raises(Pushback):
        for place, record in reader.found_at(ASKED):
            found[place] = record
    assert {partition: record and record.offset for (_, partition), record in found.items()} == {
        0: 5,
        1: 5,
        3: None,
        4: None,
    }
    with pytest.raises(Pushback):
        dict(PointReader(Kafka("nowhere:1")).found_at(ASKED))
    heard = {place: offset for place, offset in ASKED.items() if place[1] != SILENT}
    assert dict(PointReader(Kafka("nowhere:1")).found_at(heard)) == found
    assert TopicPartition(TOPIC, SILENT) not in reader._bounds([TopicPartition(TOPIC, SILENT)])
