"""What is listed as quarantined is kept once; what cannot be read of it holds up nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from spine import quarantine, trust
from spine.archive import ArchiveDamaged
from spine.errors import Pushback, Reason
from spine.event import LogRecord, Quarantined
from spine.log import LogUnfit
from spine.quarantine import KeptKeys, Listed, QuarantineKeeper
from tests.helpers.records import MemoryLog

TOPIC = trust.READINGS_TOPIC
RULE = str(Reason.READINGS_MALFORMED)
DAMAGED, SILENT = 4, 5


class Log(MemoryLog):
    """A log that counts the records that are read of each topic, and fails at certain offsets."""

    def __init__(self) -> None:
        super().__init__()
        self.read_of: Counter[str] = Counter()

    def read(
        self, topic: str, partition: int, start: int, end: int | None = None
    ) -> Iterator[LogRecord]:
        if topic == TOPIC and start == DAMAGED:
            raise ArchiveDamaged(Reason.ARCHIVE_DAMAGED, "a segment is torn")
        if topic == TOPIC and start == SILENT:
            raise Pushback(Reason.LOG_UNREACHABLE, "the log does not answer")
        for record in super().read(topic, partition, start, end):
            self.read_of[topic] += 1
            yield record

    async def write(
        self, kind: str, topic: str, partition: int, value: Quarantined, key: bytes
    ) -> None:
        """Append as a writer does."""
        await self.append(topic, partition, key, (), b"")

    async def run(self, work: Callable[[Any], Any]) -> Any:
        """Work as a reader's thread does."""
        return work(self)

    def kept(self) -> list[bytes | None]:
        """The places that are kept, in their order."""
        return [record.key for record in super().read(trust.QUARANTINE_TOPIC, 0, 0)]


def keeper_of(log: Any) -> QuarantineKeeper:
    return QuarantineKeeper(log)


def listed(*offsets: int) -> list[Listed]:
    return [Listed(TOPIC, 0, offset, -1, RULE) for offset in offsets]


def places(*offsets: int) -> list[bytes]:
    return [f"{TOPIC}-0-{offset}--1".encode() for offset in offsets]


async def filled(records: int) -> Any:
    log = Log()
    for _ in range(records):
        await log.append(TOPIC, 0, None, (), b"refused")
    return log


class Afresh(KeptKeys):
    """Naive: reads all of it at each look."""

    def read_on(self, reader: Any) -> Any:
        self._next = 0
        return super().read_on(reader)


@pytest.mark.parametrize("naive", [False, True])
async def test_what_is_kept_is_read_once_however_many_pages_are_listed(
    monkeypatch: pytest.MonkeyPatch, naive: bool
) -> None:
    if naive:
        monkeypatch.setattr(quarantine, "KeptKeys", Afresh)
    log = await filled(4)
    keeper = keeper_of(log)
    for offset in range(4):
        await keeper.keep(listed(offset), log)
    await keeper.keep(listed(0, 1, 2, 3), log)
    assert log.kept() == places(0, 1, 2, 3), "each once"
    again = keeper_of(log)
    await again.keep(listed(0, 1), log)
    await again.keep(listed(2, 3), log)
    assert log.kept() == places(0, 1, 2, 3), "whoever keeps them after a restart sees them, too"
    read = log.read_of[trust.QUARANTINE_TOPIC]
    assert read == (1 + 2 + 3 + 4 + 4 + 4 if naive else 4 + 4)


async def test_what_another_kept_meanwhile_is_not_kept_again() -> None:
    log = await filled(2)
    one, other = keeper_of(log), keeper_of(log)
    await one.keep(listed(0), log)
    await other.keep(listed(0, 1), log)
    await one.keep(listed(1), log)
    assert log.kept() == places(0, 1)


async def test_an_entry_whose_record_cannot_be_read_is_passed_over_and_named() -> None:
    log = await filled(4)
    log.leave_hole(TOPIC, 0)
    log.keep(LogRecord(TOPIC, 0, 6, 0, None, (), b"refused"))
    log.cut(TOPIC, 0, 1)
    asked = listed(0, 2, DAMAGED, 6, 99)
    with capture_logs() as logs:
        await keeper_of(log).keep(asked, log)
    assert log.kept() == places(2, 6)
    unread = [said["place"] for said in logs if said["event"] == "quarantine.unread"]
    assert [place.encode() for place in unread] == places(0, DAMAGED, 99)

    # The naive way: what is listed is there.
    for offset, failure in ((0, LogUnfit), (DAMAGED, ArchiveDamaged), (99, StopIteration)):
        with pytest.raises(failure):
            next(log.read(TOPIC, 0, offset, offset + 1))


async def test_a_log_that_does_not_answer_is_asked_again() -> None:
    """It is no fault of the entry, which must not be left out for it."""
    log = await filled(SILENT + 1)
    with pytest.raises(Pushback):
        await keeper_of(log).keep(listed(1, SILENT), log)
    assert log.kept() == []
