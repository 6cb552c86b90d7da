"""Commands that change things: participants, meters, tenancies, supply, agents."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from domains.governance.decider import check_role
from spine.console.client import Client, stamp
from spine.console.context import (
    CONSENT_SERVICE,
    METERING_POINTS,
    OPERATOR,
    As,
    AsJson,
    Mpxn,
    group,
    instant,
    settings,
)
from spine.console.output import listed, say, say_json
from spine.identity import Authority
from spine.policy import Role

From = Annotated[str, typer.Option("--from", help="Date or time, UTC.")]
Until = Annotated[str, typer.Option("--until", help="Date or time, UTC; exclusive.")]


def add_to(app: typer.Typer) -> None:
    """The commands of this module."""
    participant = typer.Typer(no_args_is_help=True, help="Organisations and what they may do.")
    participant.command()(admit)
    participant.command()(suspend)
    participant.command()(reinstate)
    participant.command("list")(list_participants)
    app.add_typer(participant, name="participant")
    meter = group(app, "meter", METERING_POINTS)
    meter.command("register")(register)
    meter.command("supply")(supply)
    meter.command("agent")(agent)
    tenancy = typer.Typer(no_args_is_help=True, help="Who lives where.")
    tenancy.command("start")(start_tenancy)
    tenancy.command("end")(end_tenancy)
    app.add_typer(tenancy, name="tenancy")


def client(alias: str) -> Client:
    """The calls of one identity."""
    return Client(settings().data_dir, alias)


def acknowledge(answer: Any, what: str, as_json: bool, **more: object) -> None:
    """Say that a command was recorded, and where."""
    record = answer.record
    if as_json:
        at = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
        say_json({"done": what, "replayed": answer.replayed, "record": at, **more})
    else:
        say(f"{what}  [dim]{place(record)}[/]")


def place(record: Any) -> str:
    """Where a record stands, as people read it; nothing for no record."""
    return f"{record.topic}-{record.partition}@{record.offset}" if record.topic else ""


# -- participants ---------------------------------------------------------------------------------


def admit(
    party: Annotated[str, typer.Argument(help="Party id; also the name of its certificate.")],
    role: Annotated[Role, typer.Option(help="Role to accredit it for.")],
    name: Annotated[str, typer.Option(help="Name of the organisation.")] = "",
    scheme: Annotated[str, typer.Option(help="Accreditation scheme.")] = "DSI",
    tier: Annotated[str, typer.Option(help="Tier of the scheme.")] = "1",
    as_: As = OPERATOR,
    as_json: AsJson = False,
) -> None:
    """Admit an organisation, accredit it, and issue its development certificate."""
    check_role(role)
    _authority(settings().data_dir).check_free(party, role, party)
    calls = client(as_)
    calls.governance("AdmitParticipant", party=party, name=name or party)
    answer = calls.governance(
        "GrantAccreditation",
        party=party,
        role=role,
        scheme=scheme,
        tier=tier,
        effective_from=stamp(datetime.now(UTC) - timedelta(minutes=1)),
    )
    issue(settings().data_dir, role, party)
    acknowledge(answer, f"{party} admitted as {role}; {holding(answer)}", as_json)


def holding(answer: Any) -> str:
    """How far a fact of governance has spread by the answer."""
    return f"{answer.partitions_holding} of {answer.partitions_total} partitions hold it"


def _authority(data_dir: Path) -> Authority:
    return Authority.open(data_dir / "identities")


def issue(data_dir: Path, role: Role, party: str, alias: str | None = None) -> None:
    """A development certificate for a party, kept under its name; Invalid(IDENTITY_MISSING) without
    an authority.
    """
    _authority(data_dir).issue_client(role, party, alias)


def suspend(
    party: Annotated[str, typer.Argument(help="Party id.")],
    reason: Annotated[str, typer.Option(help="Why, as a code.")] = "UNDER_INVESTIGATION",
    as_: As = OPERATOR,
    as_json: AsJson = False,
) -> None:
    """Suspend an organisation; acknowledged once every partition of every topic holds it."""
    answer = client(as_).governance("SuspendParticipant", party=party, reason=reason)
    acknowledge(answer, f"{party} suspended; {holding(answer)}", as_json)


def reinstate(
    party: Annotated[str, typer.Argument(help="Party id.")],
    reason: Annotated[str, typer.Option(help="Why, as a code.")] = "CLEARED",
    as_: As = OPERATOR,
    as_json: AsJson = False,
) -> None:
    """Lift the suspension of an organisation."""
    answer = client(as_).governance("ReinstateParticipant", party=party, reason=reason)
    acknowledge(answer, f"{party} reinstated", as_json)


def list_participants(as_: As = OPERATOR, as_json: AsJson = False) -> None:
    """Every organisation, its roles, under which scheme and tier, and whether it is suspended."""
    calls = client(as_)
    page = calls.governance("ListParticipants")
    found = list(page.participants)
    while page.next_cursor:
        page = calls.governance("ListParticipants", cursor=page.next_cursor)
        found += page.participants
    rows = [
        (
            p.party,
            p.name,
            ", ".join(a.role for a in p.accreditations),
            ", ".join(f"{a.scheme} {a.tier}".strip() for a in p.accreditations),
            p.suspended,
            p.identifiers,
        )
        for p in found
    ]
    columns = ("party", "name", "roles", "schemes and tiers", "suspended", "identifiers")
    listed("Participants", columns, rows, as_json)


# -- meters ---------------------------------------------------------------------------------------


def register(
    mpxn: Mpxn,
    from_: From,
    as_: As,
    gsp_group: Annotated[str, typer.Option(help="Such as _C; empty if not known.")] = "",
    as_json: AsJson = False,
) -> None:
    """Register a metering point, so that its readings are accepted."""
    answer = client(as_).metering(
        "RegisterMeteringPoint",
        mpxn=mpxn,
        gsp_group=gsp_group,
        registered_from=stamp(instant(from_)),
    )
    acknowledge(answer, "metering point registered", as_json)


def supply(
    mpxn: Mpxn,
    supplier: Annotated[str, typer.Argument(help="Party id of the supplier.")],
    from_: From,
    as_: As = CONSENT_SERVICE,
    as_json: AsJson = False,
) -> None:
    """Record who supplies a meter from a day on."""
    answer = client(as_).consumers(
        "StartSupply", mpxn=mpxn, supplier=supplier, effective_from=stamp(instant(from_))
    )
    acknowledge(answer, f"supply by {supplier} recorded", as_json)


def agent(
    mpxn: Mpxn,
    party: Annotated[str, typer.Argument(help="Party id of the data service.")],
    from_: From,
    as_: As = CONSENT_SERVICE,
    as_json: AsJson = False,
) -> None:
    """Appoint a data service to a meter."""
    answer = client(as_).consumers(
        "AppointAgent",
        mpxn=mpxn,
        agent=party,
        agent_role=Role.DATA_SERVICE,
        effective_from=stamp(instant(from_)),
    )
    acknowledge(answer, f"{party} appointed", as_json)


# -- tenancies ------------------------------------------------------------------------------------


def start_tenancy(
    mpxn: Mpxn,
    from_: From,
    alias: Annotated[str, typer.Option("--alias", help="Name for the consumer's certificate.")],
    name: Annotated[str, typer.Option(help="The person's name; sealed before it is logged.")] = "",
    contact: Annotated[str, typer.Option(help="A contact; sealed before it is logged.")] = "",
    as_: As = CONSENT_SERVICE,
    as_json: AsJson = False,
) -> None:
    """Record that somebody moves in, and issue the consumer's development certificate."""
    _authority(settings().data_dir).check_free(alias, Role.CONSUMER)
    answer = client(as_).consumers(
        "StartTenancy",
        mpxn=mpxn,
        effective_from=stamp(instant(from_)),
        person={"name": name, "contact": contact},
    )
    issue(settings().data_dir, Role.CONSUMER, answer.consumer_ref, alias)
    acknowledge(
        answer,
        f"tenancy {answer.tenancy_id} of {answer.consumer_ref} started",
        as_json,
        consumer_ref=answer.consumer_ref,
        tenancy_id=answer.tenancy_id,
    )


def end_tenancy(
    mpxn: Mpxn,
    tenancy_id: Annotated[str, typer.Argument(help="The tenancy.")],
    until: Until,
    as_: As = CONSENT_SERVICE,
    as_json: AsJson = False,
) -> None:
    """Record that somebody moves out; consents of that tenancy end with it."""
    answer = client(as_).consumers(
        "EndTenancy", mpxn=mpxn, tenancy_id=tenancy_id, effective_to=stamp(instant(until))
    )
    acknowledge(answer, "tenancy ended", as_json)
