"""Whether the log's topics still are as the log needs them: asked now and then, beside the ledger.

Processes verify topics at their start, and may then run for months: somebody who sets a retention
meanwhile has the brokers delete the log under them. Reads, commands and heads go on; it is an
alarm, so that it is set right before anything is lost.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from spine import telemetry, trust
from spine.archive import ArchiveDamaged
from spine.follower import PointReader
from spine.log import Kafka, partition_counts, wrong_settings

LOOK_EVERY_S: Final = 60.0
_log = structlog.get_logger()


class TopicWatch:
    """Raises the alarm once for each thing that is found wrong, and again if it was right since."""

    def __init__(self, kafka: Kafka, meter_keyed: int, min_insync: int) -> None:
        counts = partition_counts(meter_keyed) | {trust.CHECKPOINTS_TOPIC: 1}
        self._asked = kafka, counts, min_insync
        self.wrong: frozenset[str] = frozenset()

    async def look(self) -> None:
        """Look once. Pushback(LOG_UNREACHABLE) if the log does not answer, and nothing is known."""
        before, self.wrong = self.wrong, await asyncio.to_thread(found_wrong, *self._asked)
        for wrong in sorted(self.wrong - before):
            telemetry.ledger_alarms.add(1, {"kind": "topics"})
            _log.error("ledger.alarm", kind="topics", wrong=wrong)
        for right in sorted(before - self.wrong):
            _log.info("ledger.topics_right", was=right)


def found_wrong(kafka: Kafka, counts: dict[str, int], min_insync: int) -> frozenset[str]:
    """A sentence for each partition whose beginning is gone, and for each wrong setting.

    A beginning that the archive holds is not gone; whether it does cannot be told of a partition
    whose segments are damaged, which is wrong too. Blocking.
    """
    reader = PointReader(kafka)
    try:
        there = {topic: min(count, reader.partitions_of(topic)) for topic, count in counts.items()}
        asked = [(topic, p) for topic, count in there.items() for p in range(count)]
        wrong = {
            f"{topic}-{partition}: {_lost(first)}"
            for (topic, partition), first in reader.firsts(asked)
            if first != 0
        }
    finally:
        reader.close()
    return frozenset(wrong.union(wrong_settings(kafka, counts, min_insync)))


def _lost(first: int | ArchiveDamaged) -> str:
    if isinstance(first, ArchiveDamaged):
        return f"the brokers deleted its first records, and the archive is damaged: {first.message}"
    return "the brokers deleted its first records, and no archive has them"
