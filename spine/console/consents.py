"""Commands about consents: asking for one, giving, narrowing and ending it."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from spine.console.client import stamp
from spine.console.context import CONSENT_SERVICE, CONSENTS, As, AsJson, group, instant
from spine.console.output import out, say, say_json, table, when
from spine.console.parties import client, place

ConsentId = Annotated[str, typer.Argument(help="The consent.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Write nothing; say what it would open and shut.")
]


def _folder(path: Path | None) -> Path | None:
    """A folder that can be written to, before anything is asked for."""
    if path is not None:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise typer.BadParameter(f"no folder can be made there: {error.strerror}") from None
        if not os.access(path, os.W_OK):
            raise typer.BadParameter("the folder cannot be written to")
    return path


Receipts = Annotated[
    Path | None,
    typer.Option(
        "--receipts",
        callback=_folder,
        help="Folder for signed receipts, one for each metering point.",
    ),
]
Meters = Annotated[list[str], typer.Argument(help="One or more MPxNs.")]
# What the record of a consent says besides.
Relation = Annotated[str, typer.Option(help="ACCOUNT_HOLDER, OCCUPIER or AGENT.")]
Level = Annotated[str, typer.Option(help="How sure: LOW, SUBSTANTIAL or HIGH.")]
ProvedBy = Annotated[str, typer.Option(help="How, as a code such as LOGIN.")]
Uprn = Annotated[str, typer.Option(help="Of the premises.")]
Finest = Annotated[str, typer.Option(help="HALF_HOUR, DAY or READING at the finest.")]
Onward = Annotated[bool, typer.Option("--onward-sharing", help="It may go to the recipients.")]
Recipient = Annotated[
    list[str] | None, typer.Option("--recipient", help="Who may be given it, repeatable.")
]
Processor = Annotated[str, typer.Option(help="Who processes for the data user.")]
Shown = Annotated[str, typer.Option(help="The purpose as shown; sealed.")]
Account = Annotated[str, typer.Option(help="Account reference; sealed.")]
EvidenceId = Annotated[str, typer.Option(help="Id of the evidence; sealed.")]
DEFAULT_CATEGORIES: Final = ("HH_CONSUMPTION",)
BARRED: Final = "no such consent here; its id is barred"


def add_to(app: typer.Typer) -> None:
    """The commands of this module."""
    consent = group(app, "consent", CONSENTS)
    consent.command()(request)
    consent.command()(grant)
    consent.command()(narrow)
    consent.command()(revoke)
    consent.command()(withdraw)
    consent.command()(decline)
    consent.command("suspend")(hold)
    consent.command()(resume)


def request(
    mpxns: Meters,
    purpose: Annotated[str, typer.Option(help="Purpose code.")],
    history_from: Annotated[str, typer.Option(help="Earliest half hour asked for.")],
    expires: Annotated[str, typer.Option(help="End of the consent asked for.")],
    answer_by: Annotated[str, typer.Option(help="Until when the consumer can answer.")],
    as_: As,
    data_user: Annotated[str, typer.Option(help="Who would read; yourself if empty.")] = "",
    category: Annotated[list[str] | None, typer.Option(help="Category, repeatable.")] = None,
    granularity: Finest = "",
    onward_sharing: Onward = False,
    recipients: Recipient = None,
    processor: Processor = "",
    purpose_text: Shown = "",
    as_json: AsJson = False,
) -> None:
    """Ask the occupier for consent."""
    answer = client(as_).consumers(
        "RequestConsent",
        mpxns=mpxns,
        data_user=data_user or as_,
        terms=_terms(purpose, category, history_from, expires),
        answer_by=stamp(instant(answer_by)),
        record={
            "granularity": granularity,
            "onward_sharing": onward_sharing,
            "recipients": recipients or (),
            "processor": processor,
            "purpose_text": purpose_text,
        },
    )
    _legs(answer, as_json)


def grant(
    mpxns: Meters,
    data_user: Annotated[str, typer.Option(help="Party id of who may read.")],
    purpose: Annotated[str, typer.Option(help="Purpose code, such as ENERGY_ADVICE.")],
    history_from: Annotated[str, typer.Option(help="Earliest half hour that it opens.")],
    expires: Annotated[str, typer.Option(help="When it ends by itself.")],
    as_: As,
    category: Annotated[list[str] | None, typer.Option(help="Category, repeatable.")] = None,
    consent_id: Annotated[
        str, typer.Option(help="Its id, or that of the request it answers.")
    ] = "",
    notice: Annotated[str, typer.Option(help="Notice shown; sealed before it is logged.")] = "",
    relation: Relation = "",
    authentication_level: Level = "",
    authentication_method: ProvedBy = "",
    uprn: Uprn = "",
    granularity: Finest = "",
    onward_sharing: Onward = False,
    recipients: Recipient = None,
    processor: Processor = "",
    evidence_method: ProvedBy = "",
    purpose_text: Shown = "",
    account: Account = "",
    evidence_id: EvidenceId = "",
    receipts_: Receipts = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Allow somebody to read, as the occupier (--as its certificate) or on its behalf."""
    answer = client(as_).consumers(
        "GrantConsent",
        consent_id=consent_id,
        mpxns=mpxns,
        data_user=data_user,
        terms=_terms(purpose, category, history_from, expires),
        notice={"text": notice, "language": "en-GB", "channel": "CLI"},
        record={
            "relation": relation,
            "authentication_level": authentication_level,
            "authentication_method": authentication_method,
            "uprn": uprn,
            "granularity": granularity,
            "onward_sharing": onward_sharing,
            "recipients": recipients or (),
            "processor": processor,
            "evidence_method": evidence_method,
            "purpose_text": purpose_text,
            "account_reference": account,
            "evidence_id": evidence_id,
        },
        dry_run=dry_run,
    )
    _answered(answer, receipts_, dry_run, as_json)


def narrow(
    consent_id: ConsentId,
    mpxns: Meters,
    as_: As,
    category: Annotated[list[str] | None, typer.Option(help="What is left.")] = None,
    history_from: Annotated[str, typer.Option(help="Later start.")] = "",
    expires: Annotated[str, typer.Option(help="Earlier end.")] = "",
    receipts_: Receipts = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Allow less under the same consent; it gets a new version."""
    fields: dict[str, Any] = {}
    if history_from:
        fields["history_from"] = stamp(instant(history_from))
    if expires:
        fields["expires"] = stamp(instant(expires))
    answer = client(as_).consumers(
        "NarrowConsent",
        consent_id=consent_id,
        mpxns=mpxns,
        categories=category or (),
        dry_run=dry_run,
        **fields,
    )
    _answered(answer, receipts_, dry_run, as_json)


def revoke(
    consent_id: ConsentId,
    mpxns: Meters,
    as_: As,
    receipts_: Receipts = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Take a consent back. When this returns, no read begun afterwards passes."""
    answer = client(as_).consumers(
        "RevokeConsent", consent_id=consent_id, mpxns=mpxns, dry_run=dry_run
    )
    _answered(answer, receipts_, dry_run, as_json)


def decline(consent_id: ConsentId, mpxns: Meters, as_: As, as_json: AsJson = False) -> None:
    """Say no to a request, as the occupier or on its behalf."""
    answer = client(as_).consumers("DeclineConsent", consent_id=consent_id, mpxns=mpxns)
    _legs(answer, as_json)


def hold(
    consent_id: ConsentId,
    mpxns: Meters,
    reason: Annotated[str, typer.Option(help="Why, as a code.")] = "UNDER_INVESTIGATION",
    as_: As = CONSENT_SERVICE,
    as_json: AsJson = False,
) -> None:
    """Suspend a consent while something is looked into."""
    answer = client(as_).consumers(
        "SuspendConsent", consent_id=consent_id, mpxns=mpxns, reason=reason
    )
    _legs(answer, as_json)


def resume(
    consent_id: ConsentId, mpxns: Meters, as_: As = CONSENT_SERVICE, as_json: AsJson = False
) -> None:
    """Lift the suspension of a consent."""
    answer = client(as_).consumers("ResumeConsent", consent_id=consent_id, mpxns=mpxns)
    _legs(answer, as_json)


def withdraw(consent_id: ConsentId, mpxns: Meters, as_: As, as_json: AsJson = False) -> None:
    """Give a consent up, as the data user."""
    answer = client(as_).consumers("WithdrawConsent", consent_id=consent_id, mpxns=mpxns)
    _legs(answer, as_json)


def _terms(
    purpose: str, category: list[str] | None, history_from: str, expires: str
) -> dict[str, Any]:
    return {
        "purpose": purpose,
        "categories": category or DEFAULT_CATEGORIES,
        "history_from": stamp(instant(history_from)),
        "valid_from": stamp(datetime.now(UTC)),
        "expires": stamp(instant(expires)),
    }


def _keep(answer: Any, folder: Path | None) -> None:
    """Write the receipts, each under its consent, version and metering point."""
    if folder is None:
        return
    for leg in answer.legs:
        if leg.receipt:
            name = f"{answer.consent_id}-{leg.version}-{leg.state}-{leg.mpxn}.txt"
            (folder / name).write_text(leg.receipt, encoding="utf-8")


def _answered(answer: Any, folder: Path | None, dry_run: bool, as_json: bool) -> None:
    """Say what was answered before the receipts are kept, of which a dry run has none."""
    if dry_run:
        _rehearsed(answer, as_json)
    else:
        _legs(answer, as_json)
    _keep(answer, folder)


def _rehearsed(answer: Any, as_json: bool) -> None:
    """What a dry run found: how each leg would stand, and each stretch it would open or shut."""
    legs = {leg.mpxn: leg.refused or leg.state or BARRED for leg in answer.legs}
    anyway = {leg.mpxn: leg.reads_refused for leg in answer.legs if leg.reads_refused}
    columns = ("metering point", "would", "purpose", "category", "metered", "read")
    rows = [
        (leg.mpxn, would, one.purpose, one.category, *_both(one))
        for leg in answer.legs
        for would, found in (("open", leg.opens), ("shut", leg.shuts))
        for one in found
    ]
    if as_json:
        changes = [dict(zip(columns, row, strict=True)) for row in rows]
        said = {"consent_id": answer.consent_id, "legs": legs, "changes": changes}
        say_json(said | {"reads_refused": anyway})
        return
    say(f"dry run of consent {answer.consent_id}: nothing was written")
    for mpxn, state in legs.items():
        say(f"  {mpxn}  would be: {state}")
        if mpxn in anyway:
            say(f"  {mpxn}  the data user's reads are refused anyway: {anyway[mpxn]}")
    if rows:
        table("", columns, rows)
    else:
        say("  nothing that can be read now or later would change")


def _both(one: Any) -> tuple[str, str]:
    """The stretch of time that was metered, and the one in which it can be read."""
    ends = (("metered_from", "metered_to"), ("read_from", "read_until"))
    metered, read = (
        " to ".join(when(getattr(one, end)) if one.HasField(end) else "open" for end in pair)
        for pair in ends
    )
    return metered, read


def _legs(answer: Any, as_json: bool) -> None:
    legs = [
        {
            "mpxn": leg.mpxn,
            "state": leg.state,
            "version": leg.version,
            "refused": leg.refused,
            "record": place(leg.record),
        }
        for leg in answer.legs
    ]
    if as_json:
        say_json({"consent_id": answer.consent_id, "legs": legs, "replayed": answer.replayed})
        return
    say(f"consent {answer.consent_id}")
    for leg in legs:
        became = leg["refused"] or leg["state"] or BARRED
        out.print(f"  {leg['mpxn']}  {became}  [dim]{leg['record']}[/]")
