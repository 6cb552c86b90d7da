"""One process of each kind dies at its worst moment; `make fault` tries all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from spine.codec import tools
from spine.console import context
from spine.log import partition_counts
from spine.partition import PartitionFold
from spine.policy import Role
from spine.signing import verify
from spine.store import MemoryRows
from tests.e2e.conftest import audit
from tests.fault.checkers import unbalanced, unexplained
from tests.fault.failpoints import arm, dies_at, in_background, insist
from tests.fault.installation import Faulty
from tests.fault.nemesis import await_successor, kills
from tests.fault.race import Meter

WORST = [
    ("append.after-send", "consumers"),
    ("fold.before-commit", "readings"),
]


@pytest.mark.parametrize(("point", "name"), WORST)
def test_a_process_that_dies_at_its_worst_moment_costs_nothing(
    spine: Faulty, meters: list[Meter], tmp_path: Path, point: str, name: str
) -> None:
    dies_at(spine, name, point, meters[0], tmp_path)


def test_a_suspension_half_spread_and_its_opposite_end_alike_everywhere(
    spine: Faulty, tmp_path: Path
) -> None:
    """Governance dies between two copies; the board has changed its mind before it is back."""
    spine.party("shady-data", Role.DATA_USER)
    board = spine.as_("governance-board")
    victim = arm(spine, "governance", "spread.after-copy:7,spread.one-by-one")

    def command(method: str, reason: str) -> None:
        key = f"{method}-half"
        fields = {"party": "shady-data", "reason": reason, "idempotency_key": key}
        insist(lambda: board.governance(method, **fields))

    suspending = in_background(lambda: command("SuspendParticipant", "INQUIRY"))
    victim.wait(60)
    half = held_by_partition("shady-data")
    assert len(set(half.values())) == 2, "the suspension is in some partitions and not in others"
    reinstating = in_background(lambda: command("ReinstateParticipant", "CLEARED"))
    await_successor(spine, "governance", victim.pid)
    suspending.join(60)
    reinstating.join(60)
    whole = held_by_partition("shady-data")
    assert len(set(whole.values())) == 1
    code, report = audit(spine, tmp_path)
    assert code == 0
    assert unbalanced(report) == []
    assert unexplained(report, kills) == []


def held_by_partition(party: str) -> dict[tuple[str, int], str]:
    """What each partition of the log, folded again, holds of a participant."""
    runtime = context.runtime()
    reader = runtime.reader()
    held = {}
    for topic, count in partition_counts(runtime.partitions).items():
        for partition in range(count):
            fold = PartitionFold(
                topic,
                partition,
                runtime.identity.log_id,
                tools(runtime.codec, verify),
                MemoryRows(),
                runtime.domains.by_topic.get(topic),
                runtime.domains.governance,
            )
            for record in reader.read(topic, partition, 0):
                fold.apply(record)
            held[topic, partition] = str(fold.participant(party))
    reader.close()
    return held
