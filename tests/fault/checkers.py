"""What must hold after a run, whatever was broken meanwhile. Each takes linear time.

A checker returns what contradicts it, so that a control run can show that it finds something.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import psutil

from tests.fault.journal import INDETERMINATE, OK, Journal, Operation

CLOCKS_APART_S: Final = 1.0
MAX_FILES: Final = 600
MAX_MORE_FILES: Final = 150
MAX_MEMORY_MB: Final = 600.0
MAX_MORE_MEMORY_MB: Final = 250.0
# From a decision to the death of its server, and from that to its being noticed.
NOTICED_WITHIN_S: Final = 20.0


def consent_violations(journal: Journal) -> list[Operation]:
    """Reads that returned data although their consent was over before they began.

    A consent is granted once and revoked once, so its revocation needs no search: a read is wrong
    if the revocation of the consent that it names was acknowledged before the read was invoked.
    """
    over = {str(o.about["consent_id"]): o.ended for o in journal.of("revoke")}
    return [
        read
        for read in journal.of("read")
        if read.invoked > over.get(str(read.result["consent_id"]), read.invoked)
    ]


def decided_out_of_place(journal: Journal) -> list[Operation]:
    """Reads with data that the log places outside of the life of their consent."""
    granted = {str(o.result["consent_id"]): o.result for o in journal.of("grant")}
    revoked = {str(o.about["consent_id"]): o.result for o in journal.of("revoke")}
    wrong = []
    for read in journal.of("read"):
        consent_id, offset = str(read.result["consent_id"]), int(read.result["offset"])
        begins, ends = granted.get(consent_id), revoked.get(consent_id)
        early = begins is not None and offset <= begins["offset"]
        late = ends is not None and offset >= ends["offset"]
        if not consent_id or early or late:
            wrong.append(read)
    return wrong


def commands_out_of_order(journal: Journal) -> list[Operation]:
    """Acknowledged commands that stand twice in one place, or earlier than one that ended before
    they began.
    """
    commands = [o for o in journal.operations if o.kind in ("grant", "revoke") and o.outcome == OK]
    places = Counter(_place(o) for o in commands)
    wrong = [o for o in commands if places[_place(o)] > 1]
    for partition in {o.result["partition"] for o in commands}:
        here = [o for o in commands if o.result["partition"] == partition]
        ends = sorted(here, key=lambda o: o.ended)
        highest, done = -1, 0
        for command in sorted(here, key=lambda o: o.invoked):
            while done < len(ends) and ends[done].ended < command.invoked:
                highest = max(highest, ends[done].result["offset"])
                done += 1
            if command.result["offset"] < highest:
                wrong.append(command)
    return wrong


def _place(operation: Operation) -> tuple[int, int, int]:
    place = operation.result
    return int(place["partition"]), int(place["offset"]), int(place["entry"])


def lost_or_doubled(journal: Journal, applied: Counter[tuple[int, int]]) -> list[str]:
    """Acknowledged commands that the log, folded again, did not apply exactly once.

    `applied`: how many commands were applied at each (partition, offset).
    """
    acknowledged = [
        o for o in journal.operations if o.kind in ("grant", "revoke") and o.outcome == OK
    ]
    return [
        f"{o.kind} at {o.result['partition']}@{o.result['offset']}: applied {count} times"
        for o in acknowledged
        if (count := applied[o.result["partition"], o.result["offset"]]) != 1
    ]


@dataclass(frozen=True, slots=True)
class Resources:
    """What a process holds: its number, open files and sockets, resident memory in MB."""

    pid: int
    files: int
    memory_mb: float


def held_by(processes: Mapping[str, int]) -> dict[str, Resources]:
    """What processes hold now, by name."""
    held = {}
    for name, pid in processes.items():
        process = psutil.Process(pid)
        memory_mb = process.memory_info().rss / 2**20
        held[name] = Resources(pid, process.num_fds(), memory_mb)
    return held


def unbounded(before: Mapping[str, Resources], after: Mapping[str, Resources]) -> list[str]:
    """Processes that hold more than any may, or, if they lived on, much more than before."""
    wrong = []
    for name, now in after.items():
        then = before[name] if before[name].pid == now.pid else Resources(now.pid, 0, 0.0)
        lived_on = then.files > 0
        if now.files > MAX_FILES or (lived_on and now.files - then.files > MAX_MORE_FILES):
            wrong.append(f"{name} holds {now.files} files, {then.files} before")
        more_mb = now.memory_mb - then.memory_mb
        if now.memory_mb > MAX_MEMORY_MB or (lived_on and more_mb > MAX_MORE_MEMORY_MB):
            wrong.append(f"{name} holds {now.memory_mb:.0f} MB, {then.memory_mb:.0f} before")
    return wrong


def unbalanced(report: dict[str, Any]) -> list[str]:
    """Topic-partitions of an audit whose fold did not account for every entry (rule 8)."""
    parts = ("applied", "duplicate", "void", "quarantined", "held", "access")
    return [
        f"{place['topic']}-{place['partition']}"
        for place in report["partitions"]
        if place["consumed"] != sum(place[part] for part in parts)
    ]


def unexplained(report: dict[str, Any], kills: Sequence[float]) -> list[str]:
    """Findings of an audit that no fault of the run explains.

    A decision without an outcome is explained by a process killed soon after (`kills`, in seconds
    since 1970), or by an append that stands twice, and by nothing else.
    """
    return [
        f"{finding['verdict']} {finding['place']}: {finding['why']}"
        for finding in report["findings"]
        if finding["verdict"] != "UNCONFIRMED"
        or not (_killed_after(finding["at"], kills) or "names another place" in finding["why"])
    ]


def _killed_after(decided: str, kills: Sequence[float]) -> bool:
    at = datetime.fromisoformat(decided).timestamp()
    return any(at - CLOCKS_APART_S <= kill <= at + NOTICED_WITHIN_S for kill in kills)


def never_ended(journal: Journal) -> list[Operation]:
    """Operations without an end, and commands that nobody ever acknowledged."""
    return [
        o
        for o in journal.operations
        if not o.outcome or (o.kind != "read" and o.outcome == INDETERMINATE)
    ]
