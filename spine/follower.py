"""Reads many partitions of the log at once, with a plain reader. Blocking; one user at a time.

`LogFollower`, unlike a fold's host, is told of records as they come, in the order of each
partition, and of no group's decisions: what it has read is its user's business. `PointReader` looks
at one record of each partition, in as many questions for thirty partitions as for one.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

from kafka import TopicPartition
from kafka.errors import KafkaError, OffsetOutOfRangeError

from spine import log_client
from spine.archive import ArchiveDamaged
from spine.errors import Pushback, Reason
from spine.event import LogRecord
from spine.log import POLL_MS, Kafka, LogReader, LogUnfit, from_consumer

# How long each partition may take where they are asked one by one, because not all answer.
ALONE_S: Final = 1.0
Place = tuple[str, int]


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

    def read_to_end(self, places: Collection[Place]) -> list[Place]:
        """Which of these partitions were read as far as the log goes now. Pushback where silent."""
        ends = self.ends(places)
        try:
            return [
                place
                for place, end in ends.items()
                if self._consumer.position(TopicPartition(*place)) >= end
            ]
        except KafkaError as error:
            raise log_client.unanswered() from error


class PointReader(LogReader):
    """Reads single records, each of another partition."""

    def partitions_of(self, topic: str) -> int:
        """How many partitions a topic has; 0 if there is none, of which nothing may be asked."""
        try:
            return len(self._consumer.partitions_for_topic(topic))
        except KafkaError as error:
            raise log_client.unanswered() from error

    def firsts(self, places: Collection[Place]) -> Iterator[tuple[Place, int | ArchiveDamaged]]:
        """The first offset of each of these topic-partitions, archive included, or what is damaged
        there.
        """
        asked = [TopicPartition(*place) for place in places]
        for at, held_from in log_client.ask(self._consumer.beginning_offsets, asked).items():
            place = (at.topic, at.partition)
            try:
                yield place, self._archive.reaches(*place, held_from)
            except ArchiveDamaged as damage:
                yield place, damage

    def found_at(self, offsets: Mapping[Place, int]) -> Iterator[tuple[Place, LogRecord | None]]:
        """The records at these offsets, by topic and partition; None where the log has none.

        Each as soon as it is known: Pushback(LOG_UNREACHABLE) comes after all that answered. What
        only the archive holds is read from there.
        """
        bounds = self._bounds({TopicPartition(*place): offset for place, offset in offsets.items()})
        wanted = dict[TopicPartition, int]()
        for place, (start, end) in bounds.items():
            offset = offsets[place.topic, place.partition]
            if start <= offset < end:
                wanted[place] = offset
            else:
                record = self._archived(place, offset, start) if offset < start else None
                yield (place.topic, place.partition), record
        for place, message in self._first_from(wanted):
            there = message is not None and message.offset == wanted[place]
            yield (place.topic, place.partition), from_consumer(message) if there else None
        if len(bounds) < len(offsets):
            raise log_client.unanswered()

    def _bounds(self, places: Collection[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        """The first offset and the one after the last of those whose leader answers."""
        asked = self._consumer.beginning_offsets, self._consumer.end_offsets
        try:
            starts, ends = (log_client.ask(question, list(places)) for question in asked)
            return {place: (starts[place], ends[place]) for place in places}
        except Pushback:  # of all, if one is silent
            found = dict[TopicPartition, tuple[int, int]]()
        for place in places:
            with suppress(Pushback):
                start, end = (log_client.ask(each, [place], ALONE_S)[place] for each in asked)
                found[place] = start, end
        return found

    def _archived(self, place: TopicPartition, offset: int, start: int) -> LogRecord | None:
        topic, partition = place.topic, place.partition
        if offset < self._archive.reaches(topic, partition, start):
            return None
        return next(iter(self._archive.read(topic, partition, offset, offset + 1)), None)

    def _first_from(
        self, offsets: Mapping[TopicPartition, int]
    ) -> Iterator[tuple[TopicPartition, Any]]:
        """The first message at or after these offsets of each partition; None if it has none."""
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
                        yield place, messages[0]
                for place in [p for p, at in waiting.items() if self._consumer.position(p) > at]:
                    del waiting[place]
                    yield place, None  # a hole, and nothing after it
        except KafkaError as error:
            # Also if it was cut off below us just now: asked again, we know.
            raise log_client.unanswered() from error
