"""Commands of whom it concerns: who may read my meter, who did, and who supplied it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import grpc
import typer

from spine.console.client import Client, stamp
from spine.console.context import As, AsJson, Mpxn, instant
from spine.console.objecting import objections
from spine.console.output import say, say_json, table, when
from spine.console.parties import client
from spine.console.personal import record
from spine.policy import Basis
from spine.server import error_from

PAGE: Final = 200
# Of the hash of a record, enough to tell two versions apart.
HASH_CHARS: Final = 12
# What a consumer can still take back.
REVOCABLE: Final = frozenset({"REQUESTED", "ACTIVE", "SUSPENDED", "NOT_YET_VALID"})


def add_to(app: typer.Typer) -> None:
    """The commands of this module."""
    mine = typer.Typer(no_args_is_help=True, help="What concerns you.")
    mine.command("consents")(consents)
    mine.command("objections")(objections)
    mine.command("switches")(switches)
    mine.command("reads")(reads)
    mine.command("receipt")(receipt)
    mine.command("record")(record)
    app.add_typer(mine, name="my")


def consents(as_: As, as_json: AsJson = False) -> None:
    """Every consent at your meters, live or over: for whom, who else gets it, its last use."""
    caller = client(as_)
    listed = [
        line
        for meter in caller.ledger("ListOwnMeters").meters
        for line in _consents_at(caller, meter.mpxn, as_)
    ]
    if as_json:
        say_json(listed)
        return
    terms = ("data user", "recipients", "purpose", "categories", "expires")
    columns = ("meter", "consent", "state", *terms, "last read", "record", "take it back with")
    shown = (line | {"record": line["record"][:HASH_CHARS]} for line in listed)
    table("Your consents", columns, (tuple(line.values()) for line in shown))


def switches(as_: As, as_json: AsJson = False) -> None:
    """Who supplied your meters while you lived there. A switch ends no consent."""
    listed = [
        {
            "mpxn": meter.mpxn,
            "supplier": supply.supplier,
            "from": when(supply.effective_from),
            "to": when(supply.effective_to) if supply.HasField("effective_to") else "",
        }
        for meter in client(as_).ledger("ListOwnMeters").meters
        for supply in meter.supplies
    ]
    if as_json:
        say_json(listed)
    else:
        columns = ("meter", "supplier", "from", "to")
        table("Your suppliers", columns, (tuple(line.values()) for line in listed))


def receipt(
    consent_id: Annotated[str, typer.Argument(help="The consent.")],
    mpxn: Mpxn,
    as_: As,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Folder to write it to, beside earlier ones.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The signed receipt of a consent of yours as it stands, whoever gave it in your name."""
    found = client(as_).consumers("GetReceipt", mpxn=mpxn, consent_id=consent_id)
    name = f"{consent_id}-{found.version}-{found.state}-{mpxn}.txt"
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(found.receipt, "utf-8")
    if as_json:
        file = {} if folder is None else {"file": name}
        say_json({"version": found.version, "state": found.state, "receipt": found.receipt} | file)
    elif folder is None:
        typer.echo(found.receipt, nl=False)  # as it is signed, byte for byte
    else:
        say(f"receipt in {folder / name}: check it with `spine consent receipt`")


def _consents_at(caller: Client, mpxn: str, alias: str) -> Iterator[dict[str, str]]:
    """The caller's consents at a meter; reading them is logged and decided like every read."""
    own = {"mpxn": mpxn, "purpose": "OWN_USE", "basis": Basis.SUBJECT}
    last: dict[str, str] = {}
    for read in _pages(caller, mpxn, "", with_proofs=False):
        if read.consent_id and read.release in ("RELEASED", ""):  # without outcome: presumed so
            last.setdefault(read.consent_id, when(read.at))
    try:
        found = caller.dsi("ListConsents", **own).consents
    except grpc.RpcError as error:
        if error_from(error).code != "PERMISSION_DENIED":
            raise
        return  # who is yet to move in has no consents there
    for consent in found:
        taken_back = f"spine consent revoke {consent.consent_id} {mpxn} --as {alias}"
        yield {
            "mpxn": mpxn,
            "consent_id": consent.consent_id,
            "state": consent.state,
            "data_user": consent.data_user,
            "recipients": ", ".join(consent.record.purpose.recipients),
            "purpose": consent.purpose,
            "categories": ", ".join(consent.categories),
            "expires": when(consent.expires),
            "last_read": last.get(consent.consent_id, ""),
            "record": consent.record.header.hash.hex(),
            "revoke": taken_back if consent.state in REVOCABLE else "",
        }


def reads(
    mpxn: Mpxn,
    as_: As,
    since: Annotated[str, typer.Option(help="Only what was asked since this date or time.")] = "",
    folder: Annotated[
        Path | None, typer.Option("--out", help="Where the proof of each goes.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Who read the meter and why: of an occupier's own time; of a data user, its own reads."""
    listed = []
    for number, read in enumerate(_pages(client(as_), mpxn, since, folder is not None), 1):
        name = f"{number:04d}.json" if read.proof else ""
        if folder is not None and name:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(read.proof, "utf-8")
        listed.append(_as_dict(read) | ({"proof": name} if folder is not None else {}))
    if as_json:
        say_json(listed)
        return
    columns = ("when", "party", "purpose", "decision", "under", "released", "rows", "place")
    table("Reads of the meter", columns, map(_told, listed))
    if folder is not None:
        say(f"proofs in {folder}: check them with `spine ledger verify {folder}`")


def _pages(caller: Client, mpxn: str, since: str, with_proofs: bool) -> Iterator[Any]:
    asked: dict[str, Any] = {"mpxn": mpxn, "with_proofs": with_proofs, "page_size": PAGE}
    if since:
        asked["since"] = stamp(instant(since, "since"))
    while True:
        page = caller.ledger("ListReads", **asked)
        yield from page.reads
        if not page.next_cursor:
            return
        asked["cursor"] = page.next_cursor


def _as_dict(read: Any) -> dict[str, Any]:
    """A line for programs."""
    place = read.request
    return {
        "at": when(read.at),
        "party": read.party,
        "role": read.role,
        "method": read.method,
        "purpose": read.purpose,
        "basis": read.basis,
        "category": read.category,
        "from": when(read.interval.start),
        "to": when(read.interval.end),
        "decision": "PERMIT" if read.permitted else "REFUSE",
        "reason": read.refused,
        "consent_id": read.consent_id,
        "consent_version": read.consent_version,
        "release": read.release,
        "rows": read.rows,
        "metering_points": read.metering_points,
        "request_id": read.request_id,
        "place": f"{place.partition}@{place.offset}.{place.entry}",
    }


def _told(line: dict[str, Any]) -> tuple[object, ...]:
    return (
        line["at"],
        f"{line['role']}/{line['party']}",
        line["purpose"],
        line["reason"] or line["decision"],
        line["consent_id"] or line["basis"],
        line["release"],
        line["rows"],
        line["place"],
    )
