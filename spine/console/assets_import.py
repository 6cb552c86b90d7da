"""`spine assets import`: a register's file in, and what became of every row and every asset.

Each declaration goes to the coordinator as a command of its own, under a key made of its content:
the same file again finds everything declared already. Rows and assets balance, always.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import grpc
import typer
from rich.progress import Progress

from domains.btm_assets import adapters
from domains.btm_assets.adapters.report import Bucket, Declaration, Report, check_size
from spine.btm_assets.v1 import btm_assets_pb2, btm_assets_pb2_grpc
from spine.console.client import CALL_S, Client
from spine.console.context import As, AsJson, settings, target_of
from spine.console.output import err, say, say_json, table
from spine.domain import Actor
from spine.errors import NotPermitted, Pushback, Reason
from spine.ingest import Balance
from spine.server import connect, error_from
from spine.services.asset_groups import group_to

AT_ONCE: Final = 16
# After so many meters that are not the sender's, the file is not the sender's either.
STRANGERS_MAX: Final = 500
ATTEMPTS: Final = 5
# A failure that another attempt may mend; all others are about the one asset.
NOT_NOW: Final = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"})
RECORDED, REPEATED, NOT_SENT, TO_SEND = "recorded", "declared_before", "not_sent", "to_send"
GROUPS: Final[Mapping[str, Any]] = {
    "kind": btm_assets_pb2.Kind,
    "specification": btm_assets_pb2.Specification,
    "connection": btm_assets_pb2.Connection,
    "ownership": btm_assets_pb2.Ownership,
    "registration": btm_assets_pb2.Registration,
    "operational": btm_assets_pb2.Operational,
}
MetersFile = Annotated[
    Path | None,
    typer.Option(
        "--meters",
        exists=True,
        dir_okay=False,
        help="CSV of chargeDeviceID and mpan, for a register that names no meters.",
    ),
]


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What became of one file. `assets` has what the coordinator said of those to be declared."""

    name: str
    rows: Balance
    assets: Balance
    found: Mapping[str, int]
    examples: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        """A report for programs."""
        return {
            "file": self.name,
            "rows": self.rows.as_dict(),
            "assets": self.assets.as_dict(),
            "findings": dict(self.found),
        }


def import_register(
    files: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, help="Registers.")],
    as_: As,
    meters: MetersFile = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read, do not send.")] = False,
    as_json: AsJson = False,
) -> None:
    """Declare what stands in an Embedded Capacity Register or the charge point registry (CSV)."""
    known = {} if meters is None else adapters.read_meters(read(meters))
    # Everything is read before anything is sent: a wrong file among good ones records nothing.
    taken = [(path.name, adapters.read(read(path), Actor("", as_), known)) for path in files]
    reports = []
    for name, imported in taken:
        said = Counter({TO_SEND: len(imported.declarations)})
        if not dry_run:
            said = send(name, imported.declarations, as_, show=not as_json)
        reports.append(joined(name, imported.report, said))
    if as_json:
        say_json([report.as_dict() for report in reports])
    else:
        for report in reports:
            _show(report)
    if left := sum(report.assets.buckets.get(NOT_SENT, 0) for report in reports):
        if any(
            report.assets.buckets.get(Reason.NOT_PERMITTED, 0) >= STRANGERS_MAX
            for report in reports
        ):
            message = f"{left} assets were not sent: too many of these meters are not the sender's"
            raise NotPermitted(Reason.NOT_PERMITTED, message)
        message = f"{left} assets were not sent: run it again, what was recorded is known"
        raise Pushback(Reason.INDETERMINATE, message)


def read(path: Path) -> bytes:
    """The bytes of a file; Invalid(REQUEST_TOO_LARGE) without reading one that is too large."""
    check_size(path.stat().st_size)
    return path.read_bytes()


def joined(name: str, report: Report, said: Mapping[str, int]) -> ImportReport:
    """The file's own report, with what became of the assets that were to be declared."""
    rows = {str(bucket): count for bucket, count in report.rows.by_bucket.items() if count}
    left = {str(b): n for b, n in report.assets.by_bucket.items() if n and b != Bucket.DECLARED}
    examples: dict[str, str] = {}
    for finding in report.findings:
        place = "" if finding.row is None else f" (row {finding.row})"
        examples.setdefault(str(finding.reason), f"{finding.message}{place}")
    return ImportReport(
        name,
        Balance(report.rows.total, rows),
        Balance(report.assets.total, {bucket: n for bucket, n in said.items() if n} | left),
        {str(reason): count for reason, count in sorted(report.found.items())},
        examples,
    )


def send(
    name: str, declarations: tuple[Declaration, ...], alias: str, *, show: bool = False
) -> Counter[str]:
    """Declare them as that identity; how many were recorded, known, or refused for which reason."""
    home = settings().data_dir
    identity = Client(home, alias).identity
    target = target_of(home, "assets")
    with Progress(console=err, disable=not show, transient=True) as bar:
        task = bar.add_task(name, total=len(declarations))
        return asyncio.run(_send(target, identity, declarations, lambda: bar.advance(task)))


async def _send(
    target: str, identity: Path, declarations: tuple[Declaration, ...], done: Callable[[], None]
) -> Counter[str]:
    said: Counter[str] = Counter()
    waiting = list(reversed(declarations))

    async with connect(target, identity) as channel:
        stub = btm_assets_pb2_grpc.BtmAssetsStub(channel)

        async def work() -> None:
            while waiting and not said[NOT_SENT] and said[Reason.NOT_PERMITTED] < STRANGERS_MAX:
                said[await _declare(stub, waiting.pop())] += 1
                done()

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    said[NOT_SENT] += len(waiting)
    return said


async def _declare(stub: Any, declaration: Declaration) -> str:
    """What the coordinator says of one declaration; `NOT_SENT` if it goes on saying "not now"."""
    request = request_of(declaration)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            answer = await stub.DeclareAsset(request, timeout=CALL_S)
            return REPEATED if answer.replayed else RECORDED
        except grpc.aio.AioRpcError as error:
            failure = error_from(error)
            if failure.code not in NOT_NOW:
                return failure.reason or failure.code
            if attempt < ATTEMPTS:
                await asyncio.sleep(failure.retry_after_s or 1.0)
    return NOT_SENT


def request_of(declaration: Declaration) -> Any:
    """The request that declares it, under a key that follows from what it says."""
    command = declaration.command
    groups = {
        name: group_to(getattr(command.details, name), message) for name, message in GROUPS.items()
    }
    request = btm_assets_pb2.DeclareAssetRequest(
        mpxn=declaration.mpxn,
        asset_id=command.asset_id,
        links=[group_to(link, btm_assets_pb2.Link) for link in command.links],
        **groups,
    )
    content = request.SerializeToString(deterministic=True)
    request.idempotency_key = hashlib.sha256(content).hexdigest()
    return request


def _show(report: ImportReport) -> None:
    say(f"[bold]{report.name}[/]")
    say(f"rows    {report.rows}")
    say(f"assets  {report.assets}")
    if report.found:
        columns = ("finding", "times", "the first of them")
        rows = [(name, n, report.examples.get(name, "")) for name, n in report.found.items()]
        table("Findings", columns, rows)
