"""Commands of the auditor: the whole log again, and who read what."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.progress import Progress

from spine import trust
from spine.audit import audit as audit_log
from spine.audit_pass import AUDITED, Means
from spine.audit_report import EVERYTHING, AuditReport, Line, Selection
from spine.collecting import collecting_seldom
from spine.config import Settings
from spine.console.context import AsJson, instant, runtime, use
from spine.console.jobs import processes
from spine.console.keys import KeysAtHand
from spine.console.output import (
    EXIT_DIFFERENT,
    EXIT_NOT_JUDGED,
    details,
    err,
    instant_said,
    out,
    say,
    say_json,
    table,
)
from spine.dsi.again import Rebuilder
from spine.dsi.answering import said_at
from spine.errors import Invalid, NotFound, Reason
from spine.files import scratch
from spine.gb import parse_mpxn
from spine.murmur2 import murmur2_partition
from spine.reducers import AtHand
from spine.runtime import Runtime
from spine.scratch import ScratchStore
from spine.sealing import Vault
from spine.verdict import Verdict

PLACE: Final = re.compile(r"(?:consumers\.events\.v1-)?(\d+)@(\d+)(?:\.(\d+))?")
REQUEST_ID: Final = re.compile(r"[0-9a-f]{32}")

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
    entry: Annotated[
        str,
        typer.Argument(help="One decision: PARTITION@OFFSET[.ENTRY], or a request id in hex."),
    ] = "",
    all_: Annotated[bool, typer.Option("--all", help="Every access record of the log.")] = False,
    since: Annotated[str, typer.Option(help="Only what was asked since this date or time.")] = "",
    party: Annotated[str, typer.Option(help="Only what this party asked.")] = "",
    mpxn: Annotated[str, typer.Option("--mpxn", help="Only what was asked of this meter.")] = "",
    jobs: Annotated[int, typer.Option(min=1, help="Processes that share the partitions.")] = 1,
    vault: Annotated[
        Path | None, typer.Option(help="Keys of what is sealed; unset: those of the data folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fold the log again, decide every read again, rebuild every answer, and compare."""
    selection = _selection(entry, since, party, mpxn)
    if all_ == (selection != EVERYTHING):
        raise typer.BadParameter("say which decisions to audit, or --all for the whole log")
    lines: list[Line] = []
    report = run_audit(lines.append if entry else None, not as_json, selection, jobs, vault)
    if entry and not lines:
        raise NotFound(Reason.DECISION_UNKNOWN, f"the log holds no decision at {entry}")
    if as_json:
        shown = as_dict(report)
        say_json(shown | {"lines": [line_json(line) for line in lines]} if entry else shown)
    else:
        for line in lines:
            details(f"{line.verdict}", _told(line))
        _show(report, balances=not entry)
    if not report.ok:
        raise typer.Exit(EXIT_DIFFERENT)
    if report.not_at_hand:
        raise typer.Exit(EXIT_NOT_JUDGED)


def access_list(
    mpxn: Annotated[str, typer.Option("--mpxn", help="Only this meter.")] = "",
    party: Annotated[str, typer.Option("--party", help="Only reads of this party.")] = "",
    as_json: AsJson = False,
) -> None:
    """Every read and refusal in the log, with what became of it."""
    lines: list[Line] = []

    run_audit(lines.append, not as_json, Selection(party=party, member=mpxn))
    lines.sort(key=lambda line: (line.at, line.partition, line.offset, line.entry))
    if as_json:
        say_json([line_json(line) for line in lines])
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


def run_audit(
    on_line: Callable[[Line], None] | None = None,
    show: bool = False,
    selection: Selection = EVERYTHING,
    jobs: int = 1,
    vault: Path | None = None,
) -> AuditReport:
    """Audit the log of this data folder in throw-away stores; `jobs` processes at a time.

    `vault`: another than the data folder's own, for answers that showed what is sealed.
    """
    this = runtime()
    partitions: Sequence[int] = range(this.partitions)
    if selection.place is not None:
        partitions = [p for p in partitions if p == selection.place[0]]
    elif selection.member:
        partitions = [murmur2_partition(selection.member.encode(), this.partitions)]
    if jobs > 1 and len(partitions) > 1:
        return _audit_apart(this, selection, partitions, on_line, show, jobs, vault)
    with _bar(show) as progress:
        return _audit_here(this, selection, partitions, on_line or _unheard, progress, vault)


@contextmanager
def _bar(show: bool) -> Iterator[Callable[[int, int], None]]:
    """How far the audit is, for people; gives what is to be told of it."""
    with Progress(console=err, disable=not show, transient=True) as bar:
        task = bar.add_task("auditing", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _unheard(line: Line) -> None:
    """Nobody wants every line: the findings stand in the report."""


def _audit_here(
    this: Runtime,
    selection: Selection,
    partitions: Sequence[int],
    on_line: Callable[[Line], None],
    progress: Callable[[int, int], None],
    vault: Path | None,
) -> AuditReport:
    at_hand = AtHand(this.domains.governance, this.domains.by_topic)
    keys, reader = KeysAtHand(this, vault), this.reader()
    try:
        with collecting_seldom(), scratch(this.settings.data_dir) as folder:
            rebuild, stores = Rebuilder(keys), Path(folder)
            opened = partial(this.stored_fold, store=ScratchStore)
            means = Means(reader, stores, at_hand, opened, rebuild, said_at, selection)
            # At once: the client waits a tenth of a second whenever it comes to know of a topic.
            reader.ends([(topic, partition) for partition in partitions for topic in AUDITED])
            return audit_log(means, partitions, on_line, progress)
    finally:
        reader.close()
        keys.close()


def _audit_apart(
    this: Runtime,
    selection: Selection,
    partitions: Sequence[int],
    on_line: Callable[[Line], None] | None,
    show: bool,
    jobs: int,
    vault: Path | None,
) -> AuditReport:
    """The same, each partition in one of several processes; lines come partition by partition."""
    if vault is not None:
        Vault.look_into(vault).close()  # what is wrong with it is said here, and once
    report = AuditReport()
    _known[:] = [this]
    with processes(min(jobs, len(partitions))) as pool:
        tasks = [  # before the bar: it has a thread of its own
            pool.submit(_audit_one, this.settings, selection, partition, on_line is not None, vault)
            for partition in partitions
        ]
        with _bar(show) as progress:
            _gather(report, tasks, on_line, progress)
    return report


def _gather(
    report: AuditReport,
    tasks: Sequence[Future[tuple[AuditReport, list[Line]]]],
    on_line: Callable[[Line], None] | None,
    progress: Callable[[int, int], None],
) -> None:
    """Take in what the other processes found, in the order of the partitions."""
    for done, task in enumerate(tasks, 1):
        part, lines = task.result()
        report.add(part)
        for line in lines:
            assert on_line is not None
            on_line(line)
        progress(done, len(tasks))


def _audit_one(
    chosen: Settings,
    selection: Selection,
    partition: int,
    every_line: bool,
    vault: Path | None,
) -> tuple[AuditReport, list[Line]]:
    if not _known:
        use(chosen)
        _known.append(runtime())
    lines = list[Line]()
    on_line = lines.append if every_line else _unheard
    return _audit_here(_known[0], selection, [partition], on_line, lambda *_: None, vault), lines


# One for all partitions that a process is given: what they have in common it reads once. A copy of
# the first process has that one's.
_known: list[Runtime] = []


def _selection(entry: str, since: str, party: str, mpxn: str) -> Selection:
    """What the command line narrows an audit to; Invalid for an entry of no form."""
    place, request_id = None, b""
    if found := PLACE.fullmatch(entry):
        partition, offset, number = found.groups()
        place = (int(partition), int(offset), None if number is None else int(number))
    elif REQUEST_ID.fullmatch(entry):
        request_id = bytes.fromhex(entry)
    elif entry:
        message = f"{entry!r} is neither PARTITION@OFFSET[.ENTRY] nor a request id"
        raise Invalid(Reason.FIELD_INVALID, message, field="entry")
    member = str(parse_mpxn(mpxn)) if mpxn else ""
    return Selection(party, member, instant(since, "since") if since else None, place, request_id)


def as_dict(report: AuditReport) -> dict[str, object]:
    """A report for programs."""
    return {
        "counts": {str(verdict): report.counts[verdict] for verdict in Verdict},
        "inadmissible": report.inadmissible,
        "not_at_hand": report.not_at_hand,
        "ok": report.ok,
        "findings": [line_json(line) for line in report.findings],
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


def _show(report: AuditReport, balances: bool = True) -> None:
    columns = ("topic", "consumed", "applied", "duplicate", "void", "quarantined", "held", "access")
    sums: dict[str, list[int]] = {}
    for balance in report.balances:
        c = balance.counts
        numbers = (c.consumed, c.applied, c.duplicate, c.void, c.quarantined, c.held, c.access)
        before = sums.get(balance.topic, [0] * len(numbers))
        sums[balance.topic] = [a + b for a, b in zip(before, numbers, strict=True)]
    if balances:
        table("What the folds consumed", columns, [(topic, *n) for topic, n in sums.items()])
    for line in report.findings:
        mark = MARKS[line.verdict]
        place = f"{line.partition}@{line.offset}.{line.entry}"
        out.print(f"[{mark}]{line.verdict}[/] {place} {line.party}: {line.why}")
        if line.explained:
            out.print(f"  {line.explained}")
    counted = ", ".join(
        f"[{MARKS[verdict]}]{report.counts[verdict]} {verdict}[/]" for verdict in Verdict
    )
    say(f"Every decision made again, every answer rebuilt: {counted}")
    if report.not_at_hand:
        say(f"{report.not_at_hand} name reducers of another build: audit them with that build")
    if report.inadmissible:
        say(f"{report.inadmissible} access records were not validly signed and decide nothing")


def _row(line: Line) -> tuple[object, ...]:
    return (
        instant_said(line.at),
        f"{line.role}/{line.party}",
        line.member,
        line.purpose,
        line.reason or line.decision,
        line.consent_id or line.basis,
        line.release,
        line.rows,
        f"{line.partition}@{line.offset}.{line.entry}",
    )


def _told(line: Line) -> dict[str, object]:
    """One decision for people, part by part."""
    return {
        name.replace("_", " "): _text(value) for name, value in line_json(line).items() if value
    }


def _text(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    return instant_said(value) if isinstance(value, datetime) else value


def line_json(line: Line) -> dict[str, object]:
    """One decision for programs."""
    return {
        "verdict": str(line.verdict),
        "why": line.why,
        "explained": line.explained,
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
