"""Commands about what folds refused or could not read, straight from the log and the stores."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from spine.codec import unpack
from spine.console.client import Client
from spine.console.context import OPERATOR, As, AsJson, runtime, settings
from spine.console.output import details, instant_said, listed, say, say_json
from spine.errors import NotFound, Reason
from spine.event import KEY_ID_HEADER, TYPE_HEADER, Facts, SignerRole
from spine.files import scratch
from spine.quarantine import OWNERS, Case, Place, read_cases
from spine.rows import CLOSED_PREFIX, HEAD_ROW, HELD_PREFIX, Head, Malformed, UnknownSchema
from spine.store import StoreReader
from spine.trust import QUARANTINE_TOPIC

PlaceArgument = Annotated[str, typer.Argument(help="Topic, partition, offset, entry, as listed.")]
Why = Annotated[str, typer.Option(help="Why, as a code.")]
PROCESS_OF: Final = {
    SignerRole.GOVERNANCE: "governance",
    SignerRole.CONSUMERS: "consumers",
    SignerRole.METERING: "metering",
    SignerRole.BTM_ASSETS: "assets",
}


def add_to(app: typer.Typer) -> None:
    """The commands of this module."""
    group = typer.Typer(
        no_args_is_help=True, help="What folds refused, and what they hold until a build reads it."
    )
    group.command("list")(list_)
    group.command("show")(show)
    group.command("redrive")(redrive)
    group.command("release")(release)
    group.command("held")(held)
    app.add_typer(group, name="quarantine")


def _cases() -> dict[Place, Case]:
    this = runtime()
    reader = this.reader()
    try:
        return read_cases(reader, this.memory_fold(QUARANTINE_TOPIC, 0))
    finally:
        reader.close()


def list_(
    all_: Annotated[bool, typer.Option("--all", help="Those that are settled too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Every quarantined entry that waits: where it stands, when it came, which rule it broke."""
    rows = [
        (
            str(place),
            _when(case.kept.source_append_ms),
            case.kept.rule,
            _type(case),
            len(case.kept.value or b""),
            case.settled.how if case.settled else "",
        )
        for place, case in _cases().items()
        if all_ or case.settled is None
    ]
    columns = ("place", "appended", "rule", "type", "bytes", "settled")
    listed("Quarantined", columns, rows, as_json)


def show(place: PlaceArgument, as_json: AsJson = False) -> None:
    """One quarantined entry whole: headers, bytes, what can be read of it, what was done."""
    where = Place.parse(place)
    case = _cases().get(where)
    if case is None:
        raise NotFound(Reason.QUARANTINE_UNKNOWN, "nothing of that place is quarantined")
    kept, settled = case.kept, case.settled
    shown: dict[str, object] = {
        "place": str(where),
        "appended": _when(kept.source_append_ms),
        "rule": kept.rule,
        "type": _type(case),
        "signed_by": _header(case, KEY_ID_HEADER).hex(),
        "key": (kept.key or b"").decode("utf-8", "replace"),
        "holds": _read(case, where.entry),
        "headers": {header.name: header.value.hex() for header in kept.headers},
        "value": "kept in the log only" if kept.value is None else kept.value.hex(),
        "settled": "" if settled is None else f"{settled.how} by {settled.settled_by}",
        "reason": "" if settled is None else settled.reason,
    }
    if as_json:
        say_json(shown)
    else:
        details(f"Quarantined: {where}", shown)


def redrive(
    place: PlaceArgument,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
    reason: Why = "CAUSE_REMOVED",
    as_: As = OPERATOR,
    as_json: AsJson = False,
) -> None:
    """Append a quarantined entry again, if it keeps the rules now; done by its coordinator."""
    answer = Client(settings().data_dir, as_).operations(
        _process(place), "Redrive", place=place, reason=reason, dry_run=dry_run
    )
    _settled(place, answer, as_json)


def release(
    place: PlaceArgument, reason: Why = "LOOKED_INTO", as_: As = OPERATOR, as_json: AsJson = False
) -> None:
    """Leave a quarantined entry out of the log for good: somebody has looked at it."""
    answer = Client(settings().data_dir, as_).operations(
        _process(place), "Release", place=place, reason=reason
    )
    _settled(place, answer, as_json)


def held(as_json: AsJson = False) -> None:
    """What is closed because a process here could not read a record of it, by process and topic.

    A closed meter or partition opens again when a build that understands the record starts.
    """
    rows = list(held_rows(settings().data_dir / "stores"))
    columns = ("process", "topic", "partition", "closed", "reason", "records")
    listed("Closed until a build understands what they hold", columns, rows, as_json)


def held_rows(stores: Path) -> Iterator[tuple[str, str, int, str, str, str]]:
    """What the stores of a data folder say is closed; a partition as a whole is named `*`.

    The last column is where the records stand that could not be read, offset and entry each.
    """
    for path in sorted(stores.glob("*/*-*")):
        topic, _, partition = path.name.rpartition("-")
        if topic not in OWNERS or not partition.isdecimal():
            continue
        with scratch(stores.parent) as folder:
            store = StoreReader(path, Path(folder) / "secondary")
            if store.refresh():
                for closed, reason, places in _closed(store):
                    yield path.parent.name, topic, int(partition), closed, reason, places
            store.close()


def _closed(store: StoreReader) -> Iterator[tuple[str, str, str]]:
    records: dict[str, list[str]] = {}
    for key, row in store.scan(HELD_PREFIX, HELD_PREFIX + b"\xff"):
        place = key.removeprefix(HELD_PREFIX)
        offset, entry = int.from_bytes(place[:8]), int.from_bytes(place[8:])
        records.setdefault(unpack(row, tuple[str, str])[0], []).append(f"{offset}/{entry}")
    head = store.get(HEAD_ROW)
    whole = "" if head is None else unpack(head, Head).closed
    if whole:
        yield "*", whole, ", ".join(records.get("", ()))
    for key, row in store.scan(CLOSED_PREFIX, CLOSED_PREFIX + b"\xff"):
        subject = key.removeprefix(CLOSED_PREFIX).decode("utf-8", "replace")
        yield subject, unpack(row, str), ", ".join(records.get(subject, ()))


def _process(place: str) -> str:
    owner = OWNERS.get(Place.parse(place).topic)
    if owner is None:
        raise NotFound(Reason.QUARANTINE_UNKNOWN, "nobody keeps what is quarantined of that topic")
    return PROCESS_OF[owner]


def _settled(place: str, answer: Any, as_json: bool) -> None:
    record = answer.record
    if as_json:
        at = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
        say_json(
            {
                "place": place,
                "how": answer.how,
                "what": answer.what,
                "record": at if record.topic else None,
                "replayed": answer.replayed,
            }
        )
    elif record.topic:
        say(f"{answer.how}: {answer.what}  {record.topic}-{record.partition}@{record.offset}")
    else:
        say(f"{answer.how}: {answer.what}".rstrip(": "))


def _when(milliseconds: int) -> str:
    return instant_said(datetime.fromtimestamp(milliseconds / 1_000, UTC))


def _header(case: Case, name: str) -> bytes:
    return next((h.value for h in case.kept.headers if h.name == name), b"")


def _type(case: Case) -> str:
    return _header(case, TYPE_HEADER)[:16].decode("utf-8", "replace")


def _read(case: Case, entry: int) -> str:
    """What can be read of it: the kinds of its facts, or of its value; never what they say."""
    try:
        value = runtime().codec.decode(case.kept.value or b"")
    except (Malformed, UnknownSchema) as problem:
        return f"nothing this build can read ({type(problem).__name__})"
    if isinstance(value, Facts) and entry < len(value.commands):
        return ", ".join(fact.type for fact in value.commands[entry].facts)
    return type(value).__name__
