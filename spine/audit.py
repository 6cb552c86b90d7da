"""The log again, from its first record, with a plain reader: was every answer what it had to be?

The same pure folds as in the serving processes, in another host: no Faust, no live store. Every
access record is decided again at its own offset, every released answer rebuilt at the positions it
names, and both are held against the outcome that the DSI recorded (`verdict`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from spine.audit_pass import AUDITED, Means, PartitionPass
from spine.audit_report import AuditReport, Line


def audit(
    means: Means,
    partitions: Iterable[int],
    on_line: Callable[[Line], None] = lambda _: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> AuditReport:
    """Audit these partitions in one pass over their log.

    `on_line` gets every decision that is selected, `progress` the records done and in all.
    LogUnfit(LOG_MISSING) if the log no longer reaches back to its first record,
    LogUnfit(LOG_DIFFERS) if a partition does not begin with the opening of this log.
    """
    report, chosen = AuditReport(), list(partitions)
    total = sum(means.reader.bounds(topic, p)[1] for p in chosen for topic in AUDITED)
    done = 0
    for partition in chosen:
        pass_ = PartitionPass(means, report, partition, on_line)
        try:
            for topic in AUDITED:
                before = done

                def folded(records: int, _: int, before: int = before) -> None:
                    progress(min(before + records, total), total)

                done += pass_.fold(topic, folded)
                progress(min(done, total), total)
        finally:
            pass_.close()
    return report
