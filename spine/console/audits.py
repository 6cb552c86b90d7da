"""Commands of the auditor: the whole log again, and who read what."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from spine import trust
from spine.audit import Auditor, AuditReport, Line, Verdict
from spine.console.context import AsJson, runtime
from spine.console.output import EXIT_DIFFERENT, err, out, say, say_json, table
from spine.domain import ReadableRows
from spine.dsi.answering import Answer, Sources, answer
from spine.rows import Decided

MARKS = {
    Verdict.SAME: "green",
    Verdict.DIFFERENT: "bold red",
    Verdict.UNCONFIRMED: "yellow",
    Verdict.CANNOT_TELL: "yellow",
}


def add_to(app: typer.Typer) -> None:
    """The commands of this module."""
    app.command()(audit)
    access = typer.Typer(no_args_is_help=True, help="Who read what.")
    access.command("list")(access_list)
    access.callback()(_access)
    app.add_typer(access, name="access")


def _access() -> None:
    """Who read what."""


def audit(
    all_: Annotated[bool, typer.Option("--all", help="Every access record of the log.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fold the log again, decide every read again, rebuild every answer, and compare."""
    if not all_:
        raise typer.BadParameter("say --all to audit the whole log")
    report = run_audit(show=not as_json)
    if as_json:
        say_json(as_dict(report))
    else:
        _show(report)
    if not report.ok:
        raise typer.Exit(EXIT_DIFFERENT)


def access_list(
    mpxn: Annotated[str, typer.Option("--mpxn", help="Only this meter.")] = "",
    party: Annotated[str, typer.Option("--party", help="Only reads of this party.")] = "",
    as_json: AsJson = False,
) -> None:
    """Every read and refusal in the log, with what became of it."""
    lines: list[Line] = []

    def keep(line: Line) -> None:
        if (not mpxn or line.member == mpxn) and (not party or line.party == party):
            lines.append(line)

    run_audit(keep, show=not as_json)
    lines.sort(key=lambda line: (line.at, line.partition, line.offset, line.entry))
    if as_json:
        say_json([_line(line) for line in lines])
        return
    columns = (
        "when",
        "party",
        "meter",
        "purpose",
        "decision",
        "under",
        "released",
        "rows",
        "place",
    )
    table("Reads and refusals", columns, map(_row, lines))


def run_audit(on_line: Callable[[Line], None] = lambda _: None, show: bool = False) -> AuditReport:
    """Audit the log of this data folder in throw-away stores."""
    this = runtime()
    consumers = this.domains.by_topic[trust.CONSUMER_LOG]
    reader = this.reader()
    with (
        tempfile.TemporaryDirectory(prefix="spine-audit-") as folder,
        Progress(console=err, disable=not show, transient=True) as bar,
    ):
        task = bar.add_task("auditing", total=None)
        auditor = Auditor(
            reader, Path(folder), this.partitions, consumers.version, this.stored_fold, _rebuild
        )
        try:
            return auditor.run(
                on_line, lambda done, total: bar.update(task, completed=done, total=total)
            )
        finally:
            reader.close()


def as_dict(report: AuditReport) -> dict[str, object]:
    """A report for programs."""
    return {
        "counts": {str(verdict): report.counts[verdict] for verdict in Verdict},
        "inadmissible": report.inadmissible,
        "ok": report.ok,
        "findings": [_line(line) for line in report.findings],
        "partitions": [
            {
                "topic": b.topic,
                "partition": b.partition,
                "next_offset": b.next_offset,
                "holes": b.holes,
                "closed": b.closed,
                "consumed": b.counts.consumed,
                "applied": b.counts.applied,
                "duplicate": b.counts.duplicate,
                "void": b.counts.void,
                "quarantined": b.counts.quarantined,
                "held": b.counts.held,
                "access": b.counts.access,
            }
            for b in report.balances
        ],
    }


def _rebuild(
    decided: Decided, rows: Mapping[str, ReadableRows], below: Mapping[str, int]
) -> Answer:
    return answer(decided, decided.access, Sources(rows, below))


def _show(report: AuditReport) -> None:
    columns = ("topic", "consumed", "applied", "duplicate", "void", "quarantined", "held", "access")
    sums: dict[str, list[int]] = {}
    for balance in report.balances:
        c = balance.counts
        numbers = (c.consumed, c.applied, c.duplicate, c.void, c.quarantined, c.held, c.access)
        before = sums.get(balance.topic, [0] * len(numbers))
        sums[balance.topic] = [a + b for a, b in zip(before, numbers, strict=True)]
    table("What the folds consumed", columns, [(topic, *n) for topic, n in sums.items()])
    for line in report.findings:
        mark = MARKS[line.verdict]
        place = f"{line.partition}@{line.offset}.{line.entry}"
        out.print(f"[{mark}]{line.verdict}[/] {place} {line.party}: {line.why}")
    counted = ", ".join(
        f"[{MARKS[verdict]}]{report.counts[verdict]} {verdict}[/]" for verdict in Verdict
    )
    say(f"Every decision made again, every answer rebuilt: {counted}")
    if report.inadmissible:
        say(f"{report.inadmissible} access records were not validly signed and decide nothing")


def _row(line: Line) -> tuple[object, ...]:
    return (
        line.at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        f"{line.role}/{line.party}",
        line.member,
        line.purpose,
        line.reason or line.decision,
        line.consent_id or line.basis,
        line.release,
        line.rows,
        f"{line.partition}@{line.offset}.{line.entry}",
    )


def _line(line: Line) -> dict[str, object]:
    return {
        "verdict": str(line.verdict),
        "why": line.why,
        "at": line.at,
        "place": f"{trust.CONSUMER_LOG}-{line.partition}@{line.offset}.{line.entry}",
        "request_id": line.request_id,
        "mpxn": line.member,
        "party": line.party,
        "role": line.role,
        "method": line.method,
        "purpose": line.purpose,
        "basis": line.basis,
        "decision": line.decision,
        "reason": line.reason,
        "consent_id": line.consent_id,
        "release": line.release,
        "rows": line.rows,
    }
