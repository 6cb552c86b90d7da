"""The main job on real half-hourly readings, as a story of under forty lines."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import grpc

from spine.console import ingesting
from spine.console.audits import run_audit
from spine.console.client import Client, interval, stamp
from spine.console.context import CONSENT_SERVICE, OPERATOR, settings, use
from spine.console.output import EXIT_DIFFERENT, out
from spine.console.parties import issue
from spine.console.processes import running
from spine.event import DataPosition
from spine.policy import Basis, Role
from spine.server import error_from
from spine.services.wire import position_token
from spine.verdict import Verdict

SAMPLES: Final = Path(__file__).parents[2] / "tests" / "data"
PERSE: Final = SAMPLES / "perse" / "perse_meter_history_2024-01-01_2024-08-31.json.gz"
LONDON: Final = SAMPLES / "lcl" / "lcl_MAC003718_2012-10-17_2013-06-30.csv.gz"
PERSE_MPAN: Final = "2000027391990"
LONDON_MPAN: Final = "1200000000011"
JULY: Final = (datetime(2024, 7, 1, tzinfo=UTC), datetime(2024, 7, 8, tzinfo=UTC))
TERMS: Final[Mapping[str, Any]] = {"purpose": "ENERGY_ADVICE", "basis": Basis.CONSENT}


def tell() -> None:
    """Run the story in a folder of its own, from an empty log; raises if a step goes wrong."""
    began = time.monotonic()
    chosen = settings().model_copy(update={"data_dir": settings().data_dir / "demo"})
    shutil.rmtree(chosen.data_dir, ignore_errors=True)
    use(chosen)
    with running(chosen) as supervisor:
        names = [name for name in supervisor.children if name not in supervisor.witnesses]
        watched = f"{len(supervisor.witnesses)} witnesses"
        _line("A broker and its processes", ", ".join(("kafka", *names, watched)))
        people = _people(chosen.data_dir)
        recorded = _readings(chosen.data_dir)
        consent_id = _grant(people["consumer"])
        _permitted(people["adviser"], recorded, began)
        _cut(people["adviser"], people["consumer"], consent_id)
        _refused(people["adviser"])
        _audited()


def _line(what: str, said: str) -> None:
    out.print(f"[bold]{what:<28}[/] {said}")


def _people(data_dir: Path) -> dict[str, Client]:
    """A supplier, an adviser and a consumer, known to the log."""
    board = Client(data_dir, OPERATOR)
    for party, role in (("north-supply", Role.SUPPLIER), ("bright-advice", Role.DATA_USER)):
        board.governance("AdmitParticipant", party=party, name=party)
        answer = board.governance(
            "GrantAccreditation",
            party=party,
            role=role,
            scheme="DSI",
            tier="1",
            effective_from=stamp(datetime.now(UTC) - timedelta(minutes=1)),
        )
        issue(data_dir, role, party)
    _line(
        "Two organisations accredited",
        f"in {answer.partitions_holding} of {answer.partitions_total} partitions",
    )
    service = Client(data_dir, CONSENT_SERVICE)
    for mpan, since in ((PERSE_MPAN, 2024), (LONDON_MPAN, 2012)):
        start = stamp(datetime(since, 1, 1, tzinfo=UTC))
        service.consumers("StartSupply", mpxn=mpan, supplier="north-supply", effective_from=start)
        Client(data_dir, "north-supply").metering(
            "RegisterMeteringPoint", mpxn=mpan, registered_from=start
        )
    answer = service.consumers(
        "StartTenancy",
        mpxn=PERSE_MPAN,
        effective_from=stamp(datetime(2024, 1, 1, tzinfo=UTC)),
        person={"name": "Alex Example", "contact": "alex@example.org"},
    )
    issue(data_dir, Role.CONSUMER, answer.consumer_ref, "alex")
    _line("A consumer moves in", f"as {answer.consumer_ref}; name and contact are sealed")
    return {"adviser": Client(data_dir, "bright-advice"), "consumer": Client(data_dir, "alex")}


def _readings(data_dir: Path) -> Any:
    """Both files; returns the position token from which on a read sees them."""
    positions: list[DataPosition] = []
    for name, path, mpxn in (
        ("A GB meter (Perse)", PERSE, None),
        ("A London home (LCL)", LONDON, LONDON_MPAN),
    ):
        report = ingesting.send(path, "north-supply", mpxn=mpxn, data_dir=data_dir)
        _line(name, ingesting.in_a_line(report))
        positions.extend(report.positions)
    return position_token(report.log_id, positions)


def _grant(consumer: Client) -> str:
    answer = consumer.consumers(
        "GrantConsent",
        mpxns=[PERSE_MPAN],
        data_user="bright-advice",
        terms={
            "purpose": "ENERGY_ADVICE",
            "categories": ["HH_CONSUMPTION"],
            "history_from": stamp(datetime(2024, 1, 1, tzinfo=UTC)),
            "valid_from": stamp(datetime.now(UTC) - timedelta(seconds=1)),
            "expires": stamp(datetime.now(UTC) + timedelta(days=365)),
        },
        notice={"text": "We read your half hours to advise you.", "language": "en-GB"},
    )
    (leg,) = answer.legs
    _line("The consumer consents", f"{leg.state} at {leg.record.partition}@{leg.record.offset}")
    return str(answer.consent_id)


def _permitted(adviser: Client, recorded: Any, began: float) -> None:
    (page,) = adviser.readings(PERSE_MPAN, interval=interval(*JULY), at_least=recorded, **TERMS)
    kwh = sum(row.value_wh for row in page.rows) / 1000
    _line(
        "The adviser reads a week",
        f"[green]permitted[/] at {page.decision.partition}@{page.decision.offset}: "
        f"{len(page.rows)} half hours, {kwh:,.1f} kWh "
        f"({time.monotonic() - began:.0f} s after the start)",
    )


def _cut(adviser: Client, consumer: Client, consent_id: str) -> None:
    """Revoke while a stream is open; the stream ends without a request."""
    chunks: list[Any] = []
    open_ = threading.Event()
    ended: dict[str, Any] = {}

    def follow() -> None:
        with adviser.stream([PERSE_MPAN], follow=True, interval=interval(*JULY), **TERMS) as call:
            try:
                for chunk in call:
                    chunks.append(chunk)
                    open_.set()
            except grpc.RpcError as error:
                ended.update(reason=error_from(error).reason, at=time.monotonic())
                open_.set()

    thread = threading.Thread(target=follow)
    thread.start()
    open_.wait(20)
    time.sleep(0.5)
    consumer.consumers("RevokeConsent", consent_id=consent_id, mpxns=[PERSE_MPAN])
    acknowledged = time.monotonic()
    thread.join(20)
    _line("A stream is open", f"{len([c for c in chunks if not c.refused])} chunk so far, waiting")
    _line(
        "The consumer revokes",
        f"stream [red]cut[/] with {ended['reason']}, "
        f"{(ended['at'] - acknowledged) * 1000:+.0f} ms from the acknowledgement",
    )


def _refused(adviser: Client) -> None:
    try:
        list(adviser.readings(PERSE_MPAN, interval=interval(*JULY), **TERMS))
    except grpc.RpcError as error:
        failure = error_from(error)
        _line("The adviser reads again", f"[red]refused[/] {failure.code}, {failure.reason}")
        return
    raise AssertionError("a read after the revocation was permitted")


def _audited() -> None:
    report = run_audit()
    counts = ", ".join(f"{report.counts[verdict]} {verdict}" for verdict in Verdict)
    _line("The log is audited", f"every decision made again, every answer rebuilt: {counts}")
    if not report.ok:
        raise SystemExit(EXIT_DIFFERENT)
