"""Reads many partitions of the log at once, with a plain reader. Blocking; one user at a time.

`LogFollower`, unlike a fold's host, is told of records as they come, in the order of each
partition, and of no group's decisions: what it has read is its user's business. `PointReader` looks
at one record of each partition, in as many questions for thirty partitions as for one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from kafka import TopicPartition
from kafka.errors import KafkaError, OffsetOutOfRangeError

from spine import log_client
from spine.errors import Reason
from spine.event import LogRecord
from spine.log import POLL_MS, Kafka, LogReader, LogUnfit, from_consumer


class LogFollower(LogReader):
    """Reads on from where it is told to begin, in every partition it is told of."""

    def __init__(self, kafka: Kafka, begin: Mapping[tuple[str, int], int]) -> None:
        """Begin at these offsets, by topic and partition. Pushback(LOG_UNREACHABLE)."""
        super().__init__(kafka)
        places = {TopicPartition(*place): offset for place, offset in begin.items()}
        self._consumer.assign(list(places))
        for place, offset in places.items():
            self._consumer.seek(place, offset)

    def poll(self, timeout_ms: int) -> list[LogRecord]:
        """What has come since; waits no longer than that for the first record.

        LogUnfit(LOG_DIFFERS) if the log ends before where it was read, or no longer reaches back.
        """
        try:
            batches = self._consumer.poll(timeout_ms=timeout_ms)
        except OffsetOutOfRangeError as error:
            message = "the log does not reach where it was read up to"
            raise LogUnfit(Reason.LOG_DIFFERS, message) from error
        except KafkaError as error:
            raise log_client.unanswered() from error
        return [from_consumer(message) for batch in batches.values() for message in batch]


class PointReader(LogReader):
    """Reads single records, each of another partition."""

    def records_at(
        self, offsets: Mapping[tuple[str, int], int]
    ) -> dict[tuple[str, int], LogRecord | None]:
        """The records at these offsets, by topic and partition; None where the log has none.

        What only the archive holds is read from there. Pushback(LOG_UNREACHABLE).
        """
        found: dict[tuple[str, int], LogRecord | None] = dict.fromkeys(offsets)
        places = {TopicPartition(*place): offset for place, offset in offsets.items()}
        starts = log_client.ask(self._consumer.beginning_offsets, list(places))
        ends = log_client.ask(self._consumer.end_offsets, list(places))
        for place, offset in places.items():
            if offset < starts[place]:
                found[place.topic, place.partition] = self._archived(place, offset, starts[place])
        wanted = {p: offset for p, offset in places.items() if starts[p] <= offset < ends[p]}
        for message in self._first_from(wanted):
            place = TopicPartition(message.topic, message.partition)
            if message.offset == wanted[place]:
                found[place.topic, place.partition] = from_consumer(message)
        return found

    def _archived(self, place: TopicPartition, offset: int, start: int) -> LogRecord | None:
        topic, partition = place.topic, place.partition
        if offset < self._archive.reaches(topic, partition, start):
            return None
        return next(iter(self._archive.read(topic, partition, offset, offset + 1)), None)

    def _first_from(self, offsets: Mapping[TopicPartition, int]) -> Iterator[Any]:
        """The first message at or after these offsets of each partition that has one."""
        waiting = dict(offsets)
        self._consumer.assign(list(waiting))
        for place, offset in waiting.items():
            self._consumer.seek(place, offset)
            self._consumer.resume(place)
        deadline = time.monotonic() + log_client.ANSWER_WITHIN_S
        try:
            while waiting:
                if time.monotonic() > deadline:
                    raise log_client.unanswered()
                batches = self._consumer.poll(timeout_ms=POLL_MS)
                for place, messages in batches.items():
                    if waiting.pop(place, None) is not None:
                        self._consumer.pause(place)
                        yield messages[0]
                for place in [p for p, at in waiting.items() if self._consumer.position(p) > at]:
                    del waiting[place]  # a hole, and nothing after it
        except (
            KafkaError
        ) as error:  # also if it was cut off below us just now: asked again, we know
            raise log_client.unanswered() from error
