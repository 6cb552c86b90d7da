"""The record of a consent at the command line, and the receipts of its versions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from domains.consumers import receipts
from spine.console.consents import ConsentId
from spine.console.context import CONSENTS, As, AsJson, Mpxn, group
from spine.console.output import EXIT_DIFFERENT, details, err, say, say_json, when
from spine.console.parties import client
from spine.console.reading import AsOfKnown, AsOfValid, ByBasis, clocks, decided
from spine.errors import Invalid, NotPermitted, Reason
from spine.ledger.note import MalformedNote, VerifierKey
from spine.policy import Basis
from spine.signing import verify


def add_to(app: typer.Typer) -> None:
    """The commands of this module, among those about consents."""
    consent = group(app, "consent", CONSENTS)
    consent.command("record")(show_record)
    consent.command()(receipt)


def show_record(
    mpxn: Mpxn,
    consent_id: ConsentId,
    as_: As,
    purpose: Annotated[str, typer.Option(help="Purpose code.")] = "OWN_USE",
    basis: ByBasis = Basis.SUBJECT,
    as_of_valid: AsOfValid = "",
    as_of_known: AsOfKnown = "",
    as_json: AsJson = False,
) -> None:
    """The whole record of a consent of yours, in the blocks of ISO/IEC TS 27560."""
    at = clocks(as_of_valid, as_of_known)
    answer = client(as_).dsi("ListConsents", mpxn=mpxn, purpose=purpose, basis=basis, **at)
    found = next((one for one in answer.consents if one.consent_id == consent_id), None)
    if found is None:
        raise NotPermitted(Reason.NOT_PERMITTED, "there is no such consent for you here")
    blocks = in_blocks(mpxn, found)
    if as_json:
        say_json(blocks)
        return
    for name, block in blocks.items():
        details(name, {part.replace("_", " "): text(value) for part, value in block.items()})
    if not found.HasField("record"):
        say("The consent is from before there were records.")
    say(decided(answer.decision))


def receipt(
    paths: Annotated[
        list[Path], typer.Argument(exists=True, dir_okay=False, help="One or more receipts.")
    ],
    key: Annotated[str, typer.Option(help="The coordinator's key as you know it.")] = "",
    as_json: AsJson = False,
) -> None:
    """Check receipts offline, and the chain of several; exit code 6 if not all is intact."""
    try:
        known = VerifierKey.parse(key) if key else None
    except MalformedNote as problem:
        raise Invalid(Reason.FIELD_INVALID, f"--key: {problem}", field="key") from None
    found = {path: _read(path, known) for path in paths}
    faults = receipts.chain_faults(each.says for each in found.values())
    if as_json:
        listed = [_as_dict(each, known) for each in found.values()]
        several = {"receipts": listed, "faults": faults}
        say_json(listed[0] | {"faults": faults} if len(listed) == 1 else several)
    else:
        for path, each in found.items():
            _told(path, each, known)
        for fault in faults:
            err.print(f"[bold red]✗[/] {escape(fault)}")
        if len(found) > 1 and not faults:
            say("Where one follows on another, it names the hash of that one.")
    if faults or not all(each.intact for each in found.values()):
        raise typer.Exit(EXIT_DIFFERENT)


def _read(path: Path, known: VerifierKey | None) -> receipts.Read:
    try:
        return receipts.read(path.read_text(encoding="utf-8"), verify, known)
    except UnicodeDecodeError:
        raise Invalid(Reason.FILE_UNRECOGNISED, f"{path.name} is no text") from None


def _as_dict(found: receipts.Read, known: VerifierKey | None) -> dict[str, Any]:
    key_said = {"key": str(found.key), "key_known": known is not None}
    return {"intact": found.intact, **key_said, "says": dict(found.says)}


def _told(path: Path, found: receipts.Read, known: VerifierKey | None) -> None:
    if not found.intact:
        problem = f"{path.name}: the receipt was changed, or that key never signed it"
        err.print(f"[bold red]✗[/] {escape(problem)}")
    elif known is not None:
        details("[green]✓[/] genuine: that key signed every word of it", found.says)
    else:
        details("intact, by the key that it names itself", found.says)
        say("That proves nothing before the key is compared with the coordinator's: see --key.")


def in_blocks(mpxn: str, consent: Any) -> dict[str, dict[str, Any]]:
    """The record of a consent, block by block; what was not said is empty.

    `sealed` says that the text shown, the account or the id of the evidence is kept, sealed.
    """
    said = consent.record
    subject, times, evidence = said.subject, said.times, said.evidence
    proved = _parts(subject, "relation", "authentication_level", "authentication_method")
    noticed = _parts(evidence, "notice_language", "channel", "evidence", "method")
    return {
        "header": {
            "consent_id": consent.consent_id,
            "schema": said.header.schema,
            "created_at": _when(said.header, "created_at"),
            "version": said.header.version,
            "previous": said.header.previous.hex(),
            "hash": said.header.hash.hex(),
        },
        "subject": {"consumer": subject.consumer_ref, **proved},
        "scope": {
            "metering_point": mpxn,
            "uprn": said.scope.uprn,
            "categories": [*consent.categories],
            "history_from": when(consent.history_from),
            "granularity": said.scope.granularity,
        },
        "purpose": {
            "purpose": consent.purpose,
            "lawful_basis": Basis.CONSENT,
            "onward_sharing": said.purpose.onward_sharing,
            "recipients": [*said.purpose.recipients],
        },
        "parties": {
            "data_user": consent.data_user,
            "tier": said.parties.tier,
            "holders": [*said.parties.holders],
            "processor": said.parties.processor,
        },
        "time": {
            "valid_from": when(consent.valid_from),
            "expires": when(consent.expires),
            "granted_at": _when(times, "granted_at"),
            "data_from": _when(times, "data_from"),
            "last_confirmed": _when(times, "confirmed_at"),
        },
        "evidence": {
            "notice_sha256": evidence.notice_sha256.hex(),
            **noticed,
            "sealed": said.purpose.details,
        },
        "state": {
            "state": consent.state,
            "scope_version": consent.version,
            "changed_at": when(consent.changed_at),
            **_parts(said.state, "changed_by", "reason"),
        },
    }


def _when(message: Any, name: str) -> str:
    return when(getattr(message, name)) if message.HasField(name) else ""


def _parts(message: Any, *names: str) -> dict[str, Any]:
    return {name: getattr(message, name) for name in names}


def text(value: object) -> str:
    """A part of a block for people."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
