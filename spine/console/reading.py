"""Commands that ask the DSI: readings, streams, metering points, consents, and advice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from spine.console.client import interval, stamp
from spine.console.context import CONSENTS, METERING_POINTS, As, AsJson, Mpxn, group, instant
from spine.console.output import details, fail_rpc, json_text, listed, say, say_json, table, when
from spine.console.parties import client
from spine.dsi.v1 import dsi_pb2
from spine.policy import Basis, Category

Purpose = Annotated[str, typer.Option(help="Purpose code, such as ENERGY_ADVICE.")]
ByBasis = Annotated[Basis, typer.Option("--basis", help="Lawful basis.")]
FromTime = Annotated[str, typer.Option("--from", help="First half hour, UTC.")]
ToTime = Annotated[str, typer.Option("--to", help="End, UTC, exclusive.")]
AsOfValid = Annotated[str, typer.Option("--as-of-valid", help="As it held then; now if unset.")]
AsOfKnown = Annotated[str, typer.Option("--as-of-known", help="As it was known then.")]


def add_to(app: typer.Typer) -> None:
    """The commands of this module."""
    app.command()(read)
    app.command()(watch)
    meter = group(app, "meter", METERING_POINTS)
    consent = group(app, "consent", CONSENTS)
    meter.command("show")(show_meter)
    meter.command("tenancies")(show_tenancies)
    consent.command("show")(show_consents)
    consent.command("explain")(explain)


def read(
    mpxn: Mpxn,
    from_: FromTime,
    to: ToTime,
    purpose: Purpose,
    as_: As,
    basis: ByBasis = Basis.CONSENT,
    as_of_known: AsOfKnown = "",
    rows: Annotated[
        bool, typer.Option("--rows", help="Every half hour, not just the days.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Keep the answer in this file, as JSON.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read the half hours of a meter, if a live consent or duty covers them at this instant.

    A page that is refused though others are permitted is said, and the exit code is that of it.
    """
    refused = list[int]()
    asked = {"purpose": purpose, "basis": basis, "interval": interval(instant(from_), instant(to))}
    asked |= clocks(known=as_of_known)
    told = client(as_).readings(mpxn, lambda error: refused.append(fail_rpc(error)), **asked)
    pages = list(told)
    if out is not None:
        out.write_text(json_text([page_as_dict(page) for page in pages]), "utf-8")
    if as_json:
        say_json([page_as_dict(page) for page in pages])
    else:
        _show(pages, rows)
    if refused:
        raise typer.Exit(refused[-1])


def _show(pages: list[Any], each: bool) -> None:
    """What was read, for people: each half hour, or the days."""
    half_hours = [row for page in pages for row in page.rows]
    if each:
        table("Half hours", ("start", "Wh", "quality"), _lines(half_hours))
    else:
        table("Readings by UTC day", ("day", "kWh", "half hours", "absent"), _days(half_hours))
    say(decided(pages[-1].decision))


def watch(
    mpxns: Annotated[list[str], typer.Argument(help="MPxNs to follow.")],
    from_: FromTime,
    to: ToTime,
    purpose: Purpose,
    as_: As,
    basis: ByBasis = Basis.CONSENT,
    as_json: AsJson = False,
) -> None:
    """Stream half hours and each new version, until the consent ends."""
    asked = interval(instant(from_), instant(to))
    terms: dict[str, Any] = {"purpose": purpose, "basis": basis, "interval": asked}
    with client(as_).stream(mpxns, follow=True, **terms) as call:
        for chunk in call:
            if as_json:
                say_json(chunk_as_dict(chunk))
            else:
                say(describe_chunk(chunk))


def show_meter(
    mpxn: Mpxn,
    purpose: Purpose,
    as_: As,
    basis: ByBasis = Basis.CONSENT,
    as_of_valid: AsOfValid = "",
    as_of_known: AsOfKnown = "",
    as_json: AsJson = False,
) -> None:
    """The standing data of a metering point."""
    at = clocks(as_of_valid, as_of_known)
    answer = client(as_).dsi("GetMeteringPoint", mpxn=mpxn, purpose=purpose, basis=basis, **at)
    point = answer.metering_point
    shown = {
        "mpxn": point.mpxn,
        "fuel": point.fuel,
        "gsp_group": point.gsp_group,
        "energy_direction": point.energy_direction,
        "measurement_quantity": point.measurement_quantity,
        "registered_from": when(point.registered_from),
        "effective_to": when(point.effective_to) if point.HasField("effective_to") else "",
        "supplier": point.supplier,
    }
    if as_json:
        say_json(shown)
    else:
        details("Metering point", shown)
        say(decided(answer.decision))


def show_consents(
    mpxn: Mpxn,
    purpose: Purpose,
    as_: As,
    basis: ByBasis = Basis.CONSENT,
    as_of_valid: AsOfValid = "",
    as_of_known: AsOfKnown = "",
    as_json: AsJson = False,
) -> None:
    """Your own consents at a meter."""
    at = clocks(as_of_valid, as_of_known)
    answer = client(as_).dsi("ListConsents", mpxn=mpxn, purpose=purpose, basis=basis, **at)
    columns = ("consent", "version", "state", "data user", "purpose", "categories", "expires")
    rows = [
        (
            c.consent_id,
            c.version,
            c.state,
            c.data_user,
            c.purpose,
            ", ".join(c.categories),
            when(c.expires),
        )
        for c in answer.consents
    ]
    listed("Consents", columns, rows, as_json)


def show_tenancies(
    mpxn: Mpxn,
    purpose: Purpose,
    as_: As,
    basis: ByBasis = Basis.CONSENT,
    as_of_valid: AsOfValid = "",
    as_of_known: AsOfKnown = "",
    as_json: AsJson = False,
) -> None:
    """The tenancies of a meter that concern you."""
    at = clocks(as_of_valid, as_of_known)
    answer = client(as_).dsi("ListTenancies", mpxn=mpxn, purpose=purpose, basis=basis, **at)
    columns = ("tenancy", "from", "to")
    rows = [
        (
            t.tenancy_id,
            when(t.effective_from),
            when(t.effective_to) if t.HasField("effective_to") else "",
        )
        for t in answer.tenancies
    ]
    listed("Tenancies", columns, rows, as_json)


def clocks(valid: str = "", known: str = "") -> dict[str, Any]:
    """The fields of a query that name its two clocks, as far as they were typed."""
    typed = {"as_of_valid": valid, "as_of_known": known}
    return {name: stamp(instant(text, name)) for name, text in typed.items() if text}


def explain(
    mpxn: Mpxn,
    data_user: Annotated[str, typer.Option(help="Who would read.")],
    purpose: Purpose,
    as_: As,
    category: Annotated[
        Category, typer.Option(help="What would be read.")
    ] = Category.HH_CONSUMPTION,
    as_json: AsJson = False,
) -> None:
    """What a read would come to now, and the rule and fact that settle it. Advisory."""
    question = dsi_pb2.AccessQuestion(
        mpxn=mpxn, data_user=data_user, purpose=purpose, category=category
    )
    answer = client(as_).dsi("CheckAccess", questions=[question])
    (advice,) = answer.advice
    place = f"{advice.fact.topic}-{advice.fact.partition}@{advice.fact.offset}"
    shown = {
        "would_permit": advice.would_permit,
        "reason": advice.reason,
        "rule": advice.rule,
        "fact": place if advice.fact.topic else "",
        "consent_id": advice.consent_id,
    }
    if as_json:
        say_json(shown)
    else:
        details("What a read would come to", shown)


# -- how answers are shown ------------------------------------------------------------------------


def decided(decision: Any) -> str:
    """Where and under what a read was permitted, in a line."""
    under = f" under consent {decision.consent_id} v{decision.consent_version}"
    at = f"at partition {decision.partition} offset {decision.offset}"
    if not decision.offset:  # a party with pairwise identifiers is told no place
        at = f"as request {decision.request_id.hex()}"
    return f"[green]permitted[/] {at}{under if decision.consent_id else ''}"


def describe_chunk(chunk: Any) -> str:
    """A chunk of a stream, in a line."""
    if chunk.refused:
        return f"[red]cut[/] {chunk.mpxn}: {chunk.refused}"
    present = [row for row in chunk.rows if row.WhichOneof("reading") == "value_wh"]
    kwh = sum(row.value_wh for row in present) / 1000
    return (
        f"chunk {chunk.chunk} of {chunk.mpxn}: {len(present)} half hours, {kwh:,.3f} kWh, "
        f"decided at {chunk.decision.partition}@{chunk.decision.offset}"
    )


def page_as_dict(page: Any) -> dict[str, Any]:
    """A page for programs."""
    return {
        "rows": [_row(row) for row in page.rows],
        "decision": _decision(page.decision),
        "digest": page.digest,
        "positions": [
            {"topic": p.topic, "partition": p.partition, "offset": p.offset}
            for p in page.positions.positions
        ],
    }


def chunk_as_dict(chunk: Any) -> dict[str, Any]:
    """A chunk for programs."""
    return {
        "mpxn": chunk.mpxn,
        "chunk": chunk.chunk,
        "refused": chunk.refused,
        "rows": [_row(row) for row in chunk.rows],
        "decision": None if chunk.refused else _decision(chunk.decision),
        "digest": chunk.digest,
    }


def _decision(decision: Any) -> dict[str, Any]:
    return {
        "request_id": decision.request_id,
        "partition": decision.partition,
        "offset": decision.offset,
        "entry": decision.entry,
        "decided_at": when(decision.decided_at),
        "consent_id": decision.consent_id,
    }


def _row(row: Any) -> dict[str, Any]:
    if row.WhichOneof("reading") == "value_wh":
        version = f"{row.version.offset}.{row.version.row}"
        value = {"value_wh": row.value_wh, "quality": row.quality, "version": version}
        return {"start": when(row.start)} | value
    return {"start": when(row.start), "absent": absent(row)}


def absent(row: Any) -> str:
    """The typed reason for which a half hour has no value."""
    return dsi_pb2.Absent.Name(row.absent).removeprefix("ABSENT_")


def _lines(rows: list[Any]) -> Iterator[tuple[object, ...]]:
    for row in rows:
        if row.WhichOneof("reading") == "value_wh":
            yield when(row.start), row.value_wh, row.quality
        else:
            yield when(row.start), "", absent(row)


def _days(rows: list[Any]) -> Iterator[tuple[object, ...]]:
    days: dict[str, list[Any]] = {}
    for row in rows:
        days.setdefault(when(row.start)[:10], []).append(row)
    for day, members in days.items():
        present = [row for row in members if row.WhichOneof("reading") == "value_wh"]
        missing = Counter(absent(row) for row in members if row.WhichOneof("reading") == "absent")
        why = ", ".join(f"{count} {reason}" for reason, count in sorted(missing.items()))
        kwh = f"{sum(row.value_wh for row in present) / 1000:,.3f}" if present else ""
        yield day, kwh, len(present), why
