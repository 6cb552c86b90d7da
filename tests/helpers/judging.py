"""Every decision of a log, held against the independent calculator of rights.

The fold says which events count and what it decided; from there on the calculator knows nothing of
it: it is told the events in their order and asked what they entitle to, by the version of the
policy that they adopted last and not by the one that the fold says it went by.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from spine import trust
from spine.errors import Reason
from spine.event import LogRecord, from_epoch_ms
from spine.policy import Decision, Permit
from spine.policy_data import FIRST_POLICY
from spine.rows import Applied, Decided
from spine.runtime import Runtime
from tests.helpers.rights import Event, Right, Span, agree, rights

Question = tuple[Decided, datetime, list[Right]]
# Refused for what the spine could not know just then, and not for what anybody is entitled to.
NOT_OF_RIGHTS = frozenset({Reason.CLOCK_UNSURE, Reason.PARTITION_CLOSED, Reason.METER_CLOSED})


def plain(value: Any) -> dict[str, Any]:
    """A record as the calculator reads it: its fields by name."""
    return {name: getattr(value, name) for name in type(value).__match_args__}


def permitted_by(decision: Decision) -> dict[str, list[Span]] | None:
    """A decision as the calculator compares it."""
    if not isinstance(decision, Permit):
        return None
    return {decision.consent_id: [(part.start, part.end) for part in decision.covered]}


def judge(runtime: Runtime, untold: Collection[str] = ()) -> tuple[int, list[str]]:
    """How many decisions on rights the log holds, and those that the calculator disagrees with.

    It is not told events of the names in `untold`, so that a run can show that it would notice.
    """
    count, disagreed = 0, []
    with TemporaryDirectory() as scratch:
        for partition in range(runtime.partitions):
            for decided, now, found in _questions(runtime, Path(scratch), partition, untold):
                if getattr(decided.decision, "reason", None) in NOT_OF_RIGHTS:
                    continue
                count += 1
                if not agree(permitted_by(decided.decision), found):
                    disagreed.append(f"{decided} at {now} against {found}")
    return count, disagreed


def adopted(policy: Sequence[Event]) -> int:
    """The version in force after these events of the policy's subject."""
    versions = [int(said["version"]) for name, said in policy if name == "PolicyVersionAdopted"]
    return versions[-1] if versions else FIRST_POLICY


def _questions(
    runtime: Runtime, scratch: Path, partition: int, untold: Collection[str]
) -> list[Question]:
    """Every decision of a partition, and what the events before it entitle to."""
    asked: list[Question] = []
    told: dict[str, list[Event]] = defaultdict(list)
    stored = runtime.stored_fold(scratch, trust.CONSUMER_LOG, partition)
    reader = runtime.reader()

    def listen(record: LogRecord, applied: Applied) -> None:
        for subject, event in applied.events:
            if (name := type(event).__name__) not in untold:
                told[subject].append((name, plain(event)))
        for decided in stored.fold.decide_access(record) if applied.access else ():
            request, now = decided.request, from_epoch_ms(decided.now_ms)
            meter, party = told[decided.member], told[trust.party_subject(request.party)]
            tables = [
                [plain(row) for row in said["rows"]]
                for name, said in told[trust.EQUIVALENCE_SUBJECT]
                if name == "EquivalenceTableAdopted"
            ]
            version = adopted(told[trust.POLICY_SUBJECT])
            entitled = rights(plain(request), meter, party, now, tables, version)
            asked.append((decided, now, entitled))

    stored.catch_up(reader, on_record=listen)
    reader.close()
    stored.close()
    return asked
