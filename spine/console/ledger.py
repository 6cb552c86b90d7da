"""Commands of the ledger: run it, prove what is in it, and check proofs anywhere."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from spine import trust
from spine.audit_report import Line, Selection
from spine.console.audits import line_json, run_audit
from spine.console.context import AsJson, Mpxn, runtime, settings
from spine.console.jobs import processes
from spine.console.output import EXIT_DIFFERENT, err, instant_said, out, say, say_json, table
from spine.errors import Invalid, NotFound, Reason
from spine.event import AccessRequests, LogRecord
from spine.ledger.book import PUBLIC
from spine.ledger.continued import check_growth
from spine.ledger.entries import Place
from spine.ledger.library import Json, Library, stored_json
from spine.ledger.note import Checkpoint, Note, VerifierKey
from spine.ledger.proving import LogProver, shown_request
from spine.ledger.published import heads_in
from spine.ledger.verifier import MALFORMED, Keys, Misused, Report, Wrong, keys_named, verify
from spine.rows import Malformed, UnknownSchema
from spine.runtime import Runtime

LEDGER: Final = "ledger"
_PLACE: Final = re.compile(
    r"(?:(?P<topic>[a-z_.0-9]+)-)?(?P<partition>\d+)@(?P<offset>\d+)(?:\.(?P<entry>\d+))?"
)
_REQUEST: Final = re.compile(r"[0-9a-f]{32}")

LogKey = Annotated[str | None, typer.Option("--key", help="The log's key as you know it.")]
WitnessKeys = Annotated[
    list[str] | None, typer.Option("--witness", help="A witness's key as you know it.")
]
Quorum = Annotated[int, typer.Option("--quorum", help="How many witnesses must have cosigned.")]
Out = Annotated[Path | None, typer.Option("--out", help="Write it to this file.")]


def add_to(app: typer.Typer) -> None:
    """The commands of this module."""
    ledger = typer.Typer(no_args_is_help=True, help="The log as a transparency log.")
    ledger.command("run")(run)
    ledger.command("head")(head)
    ledger.command("prove")(prove)
    ledger.command("reads")(reads)
    ledger.command("consistency")(consistency)
    ledger.command("export")(export)
    ledger.command("verify")(verify_)
    app.add_typer(ledger, name="ledger")
    app.command()(witness)


def run() -> None:
    """Run the process that keeps the ledger: trees over the log, signed heads, tiles over HTTP."""
    from spine.console.processes import run_process
    from spine.services.ledger import start_ledger

    run_process(LEDGER, start_ledger)


def witness(
    name: Annotated[str, typer.Argument(help="What this witness is called; its folder and key.")],
) -> None:
    """Run a witness of a ledger: it cosigns a head only if that continues all it has seen."""
    from spine.ledger.witnessing import run as run_witness

    run_witness(settings(), name)


def head(out_: Out = None) -> None:
    """The published head: a signed note, to be kept and held against a later one."""
    note = str(library().note())
    _write(note, out_)


def prove(
    entry: Annotated[
        str,
        typer.Argument(help="topic-partition@offset, partition@offset.entry, or a request id."),
    ],
    value: Annotated[
        bool, typer.Option("--value", help="Show the whole record, not only its digest.")
    ] = False,
    out_: Out = None,
) -> None:
    """Prove that a record, or one request of an access record, stands where it stands."""
    this = runtime()
    reader = this.reader()
    try:
        place, offset, shown = find(this, entry)
        proof = library().prove(place, offset)
        record = next(reader.read(*place, offset, offset + 1))
        proof["stored"] = stored_json(record, with_value=value)
        if shown is not None:
            proof["shown"] = shown_request(this.codec, record, shown)
    finally:
        reader.close()
    _write(json.dumps(proof, indent=1) + "\n", out_)


def reads(
    mpxn: Mpxn,
    folder: Annotated[Path, typer.Option("--out", help="Where the proofs go.")],
    party: Annotated[str, typer.Option("--party", help="Only reads of this party.")] = "",
    as_json: AsJson = False,
) -> None:
    """Who read a meter and why: every read and refusal, each with its proof; sets are resolved."""
    this = runtime()
    lines: list[Line] = []
    run_audit(lines.append, not as_json, Selection(party=party, member=mpxn))
    lines.sort(key=lambda line: (line.at, line.partition, line.offset, line.entry))
    folder.mkdir(parents=True, exist_ok=True)
    listed = []
    reader = this.reader()
    try:
        prover = LogProver(library().prover(), reader, this.codec)
        for number, line in enumerate(lines, 1):
            name = f"{number:04d}.json"
            try:
                record = prover.record((trust.CONSUMER_LOG, line.partition), line.offset)
                proof = prover.proof(record, line.entry if line.entry >= 0 else None)
            # Newer than the published head; or an outcome that names a place where no decision is,
            # and such a line hides no others.
            except (NotFound, Malformed, UnknownSchema):
                name = ""
            else:
                (folder / name).write_text(json.dumps(proof, indent=1) + "\n", "utf-8")
            listed.append(line_json(line) | {"proof": name})
    finally:
        reader.close()
    if as_json:
        say_json(listed)
        return
    columns = ("when", "party", "purpose", "decision", "under", "released", "proof")
    table("Who read the meter, and why", columns, (_told(line) for line in listed))
    say(f"proofs in {folder}: check them with `spine ledger verify {folder}`")


def _told(line: Json) -> tuple[object, ...]:
    return (
        instant_said(line["at"]),
        f"{line['role']}/{line['party']}",
        line["purpose"],
        line["reason"] or line["decision"],
        line["consent_id"] or line["basis"],
        line["release"],
        line["proof"] or "none yet",
    )


def consistency(
    old: Annotated[str, typer.Argument(help="A head that was kept: a file, or its size.")],
    new: Annotated[str, typer.Argument(help="A later one; the published one if not given.")] = "",
    out_: Out = None,
) -> None:
    """Prove that a later head, and every partition under it, continues an earlier one.

    Where it does not, what is written is the evidence of it, and the exit code is 6.
    """
    books = library()
    proof = books.consistency(_note(books, old), _note(books, new) if new else books.note())
    _write(json.dumps(proof, indent=1) + "\n", out_)
    try:
        check_growth(proof, Keys(proof["keys"]["log"]))  # who witnesses may have changed since
    except (Wrong, *MALFORMED) as wrong:
        report_checks(Report(wrong=[f"it does not hold: {wrong}"]), None, as_json=False)


def export(
    folder: Annotated[Path, typer.Argument(help="Where to; made if it is not there.")],
    topic: Annotated[list[str] | None, typer.Option(help="Only these topics.")] = None,
    records: Annotated[
        bool, typer.Option("--records", help="The stored records too, personal data included.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a folder that proves the published head leaf by leaf, anywhere and without us."""
    this, books = runtime(), library()
    places = list(books.sizes(Checkpoint.parse(books.note().text).size))
    unknown = set(topic or ()) - {name for name, _ in places}
    if unknown:
        message = f"the ledger has no {', '.join(sorted(unknown))}"
        raise Invalid(Reason.CODE_UNKNOWN, message, field="topic")
    chosen = [place for place in places if not topic or place[0] in topic]
    if records:
        with closing(this.reader()) as reader:
            written = books.export(folder, chosen, lambda place: reader.read(*place, 0))
    else:
        written = books.export(folder, chosen)
    leaves = sum(written.values())
    if as_json:
        say_json({"partitions": len(written), "leaves": leaves, "records": records})
    else:
        say(f"{leaves} leaves of {len(written)} partitions written to {folder}")


def verify_(
    path: Annotated[
        Path, typer.Argument(exists=True, help="A proof, or a folder that was exported.")
    ],
    key: LogKey = None,
    witness_: WitnessKeys = None,
    quorum: Quorum = 2,
    since: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="The head you kept; a proof begins at it."),
    ] = None,
    jobs: Annotated[
        int, typer.Option(min=1, help="Processes that share the partitions of a folder.")
    ] = 1,
    as_json: AsJson = False,
) -> None:
    """Check a proof or an exported folder offline; exit code 6, and what is wrong, if it fails."""
    keys = keys_of(key, witness_, quorum)
    check_kind(path)
    if jobs == 1 or not path.is_dir():
        with as_typed():
            report = verify(path, keys, since=since)
        report_checks(report, keys, as_json)
        return
    with as_typed(), processes(min(jobs, os.cpu_count() or 1)) as pool:
        report = verify(path, keys, pool.map, since)
    report_checks(report, keys, as_json)


@contextmanager
def as_typed() -> Iterator[None]:
    """Invalid(FIELD_INVALID), with what was typed, for what the checks cannot do as asked."""
    try:
        yield
    except Misused as misused:
        raise Invalid(Reason.FIELD_INVALID, str(misused)) from None


def keys_of(key: str | None, witnesses: list[str] | None, quorum: int) -> Keys | None:
    """The keys as typed; None to go by those that a proof names itself.

    Invalid(FIELD_MISSING) for witnesses without the log's key, Invalid(FIELD_INVALID) for no keys.
    """
    if witnesses and key is None:
        raise Invalid(Reason.FIELD_MISSING, "witnesses count beside the log's key", field="key")
    with as_typed():
        return keys_named(key, witnesses or (), quorum)


def report_checks(report: Report, keys: Keys | None, as_json: bool) -> None:
    """Say what holds and what does not; exit code 6 if anything does not."""
    if as_json:
        said = {"ok": report.ok, "checked": report.checked, "wrong": report.wrong}
        say_json(said | {"own_keys": keys is None})
    else:
        for line in report.checked:
            out.print(f"[green]✓[/] {line}")
        for line in report.wrong:
            err.print(f"[bold red]✗[/] {line}")
        if report.ok and keys is None:
            say("By the keys that it names itself: compare them with those you know.")
    if not report.ok:
        raise typer.Exit(EXIT_DIFFERENT)


def check_kind(path: Path) -> None:
    """Invalid if it is no proof at all, rather than one that fails."""
    if path.is_dir():
        if not any(path.iterdir()):
            raise Invalid(Reason.FILE_EMPTY, f"{path.name} holds nothing")
        return
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise Invalid(Reason.FILE_UNRECOGNISED, f"{path.name} is no proof of a ledger")


# What commands share


def library() -> Library:
    """What the ledger of this data folder has published."""
    return Library(settings().data_dir / LEDGER / PUBLIC)


def find(this: Runtime, entry: str) -> tuple[Place, int, int | None]:
    """Place and offset of an entry as typed, and which request of the record, if one is meant.

    Invalid(POSITION_INVALID) if it reads like nothing, NotFound(POSITION_INVALID) if it is nowhere.
    """
    if _REQUEST.fullmatch(entry):
        return _by_request(this, bytes.fromhex(entry))
    found = _PLACE.fullmatch(entry)
    if found is None:
        message = "an entry reads topic-partition@offset, partition@offset.entry, or a request id"
        raise Invalid(Reason.POSITION_INVALID, message, field="entry")
    place = (found["topic"] or trust.CONSUMER_LOG, int(found["partition"]))
    return place, int(found["offset"]), None if found["entry"] is None else int(found["entry"])


def _by_request(this: Runtime, request_id: bytes) -> tuple[Place, int, int]:
    for place, record, value in _access_records(this):
        for entry, request in enumerate(value.entries):
            if request.request_id == request_id:
                return place, record.offset, entry
    raise NotFound(Reason.POSITION_INVALID, "no request of that id is in the log")


def _access_records(this: Runtime) -> Iterator[tuple[Place, LogRecord, AccessRequests]]:
    reader = this.reader()
    try:
        for partition in range(this.partitions):
            for record in reader.read(trust.CONSUMER_LOG, partition, 0):
                if record.header("t") == b"a":
                    value: Any = this.codec.decode(record.value or b"")
                    yield (trust.CONSUMER_LOG, partition), record, value
    finally:
        reader.close()


def _note(books: Library, said: str) -> Note:
    """A head by its file, or by its size from the topic of the heads."""
    if Path(said).is_file():
        try:
            text = Path(said).read_text("utf-8")
            return Note.parse(json.loads(text)["checkpoint"] if text[:1] == "{" else text)
        except MALFORMED:
            raise Invalid(Reason.FIELD_INVALID, f"{said} holds no head", field="old") from None
    if not said.isdecimal():
        raise Invalid(Reason.FIELD_INVALID, f"{said} is neither a file nor a size", field="old")
    latest, key = books.note(), VerifierKey.parse(books.keys()["log"])
    if Checkpoint.parse(latest.text).size == int(said):
        return latest
    this = runtime()
    reader = this.reader()
    try:
        records = reader.read(trust.CHECKPOINTS_TOPIC, 0, 0)
        for size, note in heads_in(records, this.codec, key):
            if size == int(said):
                return note
    finally:
        reader.close()
    raise NotFound(Reason.POSITION_INVALID, f"no head of size {said} was published")


def _write(text: str, path: Path | None) -> None:
    if path is None:
        out.print(text, end="", markup=False)
    else:
        path.write_text(text, "utf-8")
        say(f"written to {path}")
