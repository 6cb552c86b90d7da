"""What a build cannot read it holds closed; the build that can opens it, to the same rows."""

from pathlib import Path
from typing import cast

from domains.consumers.decider import CONSUMERS
from domains.governance.decider import GOVERNANCE
from spine import trust
from spine.codec import Codec, tools
from spine.console.quarantine import held_rows
from spine.errors import Reason
from spine.event import LogRecord
from spine.log import LogReader
from spine.partition import PartitionFold
from spine.policy import Permit
from spine.replay import StoredFold, rebuild
from spine.rows import Applied, Tools
from spine.schemas import Schemas
from spine.signing import verify
from spine.store import MemoryRows
from tests.helpers.records import (
    CODEC,
    DOMAINS,
    LOG_ID,
    METER,
    NEIGHBOUR,
    PARTITION,
    TOOLS,
    MemoryLog,
    PartitionLog,
    command,
    granted,
    moved_in,
    request,
    resumed,
    started,
    suspended,
)

UNKNOWN = "consumers.ConsentSuspended"


def build_without(name: str) -> tuple[Tools, bytes]:
    """The tools and the schema set of a build that has no such schema."""
    known = {i: s for i, s in CODEC.schemas.by_id.items() if s.name != name}
    codec = Codec(Schemas(known), DOMAINS)
    return tools(codec, verify), codec.schemas.set_hash


def story() -> PartitionLog:
    """Two meters with consents; one is suspended and resumed, the other goes on."""
    log, _ = started()
    fold = PartitionFold(log.topic, PARTITION, LOG_ID, TOOLS, MemoryRows(), CONSUMERS, GOVERNANCE)
    for record in log.records:
        fold.apply(record)
    steps = [
        (METER, (moved_in(), granted())),
        (NEIGHBOUR, (moved_in(), granted())),
        (METER, (suspended(),)),
        (METER, (resumed(),)),
    ]
    for subject, events in steps:
        row = fold.subject(subject)
        record = log.facts(command(subject, *events, previous=(row.offset, row.entry)))
        fold.apply(log.keep(record))
    return log


def opened(path: Path, build: tuple[Tools, bytes]) -> StoredFold:
    return StoredFold(
        path, trust.CONSUMER_LOG, PARTITION, LOG_ID, build[0], CONSUMERS, GOVERNANCE, build[1]
    )


FULL = (TOOLS, CODEC.schemas.set_hash)


def test_a_meter_is_closed_to_the_build_that_cannot_read_it_and_opened_by_the_one_that_can(
    tmp_path: Path,
) -> None:
    log = story()
    reader = cast(LogReader, MemoryLog(*log.records))
    stores = tmp_path / "stores" / "consumers"
    path = stores / f"{trust.CONSUMER_LOG}-{PARTITION}"

    old = opened(path, build_without(UNKNOWN))
    rebuild(old, reader)
    assert old.fold.closed(METER) is Reason.METER_CLOSED
    assert old.fold.closed(NEIGHBOUR) is None
    assert isinstance(old.fold.judge(request(NEIGHBOUR), NEIGHBOUR, 0).decision, Permit)
    old.close()
    ((process, topic, partition, closed, reason, records),) = held_rows(tmp_path / "stores")
    assert (process, topic, partition) == ("consumers", trust.CONSUMER_LOG, PARTITION)
    assert (closed, reason) == (METER, Reason.METER_CLOSED)
    assert len(records.split(", ")) == 2, "the suspension, and the resumption after it"

    new = opened(path, FULL)
    assert "may understand" in new.check(reader)
    rebuild(new, reader)
    assert new.fold.closed(METER) is None
    assert isinstance(new.fold.judge(request(METER), METER, 0).decision, Permit)
    fresh = opened(tmp_path / "fresh", FULL)
    rebuild(fresh, reader)
    assert new.store.digest() == fresh.store.digest()
    new.close()
    fresh.close()
    assert list(held_rows(tmp_path / "stores")) == []


def test_a_build_that_skipped_what_it_cannot_read_would_serve_what_was_suspended() -> None:
    """The naive build: the suspension is passed over, and the meter stays open."""

    class Skips(PartitionFold):
        def _hold(
            self, record: LogRecord, entry: int, subject: str, applied: Applied, reason: Reason
        ) -> None:
            pass

    log = story()
    lesser, _ = build_without(UNKNOWN)
    naive = Skips(log.topic, PARTITION, LOG_ID, lesser, MemoryRows(), CONSUMERS, GOVERNANCE)
    honest = PartitionFold(log.topic, PARTITION, LOG_ID, TOOLS, MemoryRows(), CONSUMERS, GOVERNANCE)
    for record in log.records[:-1]:  # up to the suspension, not to what lifts it
        naive.apply(record)
        honest.apply(record)
    assert isinstance(naive.judge(request(METER), METER, 0).decision, Permit)
    assert not isinstance(honest.judge(request(METER), METER, 0).decision, Permit)
