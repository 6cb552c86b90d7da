"""Follows many partitions of the log at once, with a plain reader. Blocking; one user at a time.

Unlike a fold's host it is told of records as they come, in the order of each partition, and of no
group's decisions: what it has read is its user's business.
"""

from __future__ import annotations

from collections.abc import Mapping

from kafka import TopicPartition
from kafka.errors import KafkaError, OffsetOutOfRangeError

from spine import log_client
from spine.errors import Reason
from spine.event import LogRecord
from spine.log import Kafka, LogReader, LogUnfit, from_consumer


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
