"""Commands about what a meter sends: when it is silent, and which of its values are withdrawn."""

from __future__ import annotations

from typing import Annotated

import typer

from spine.console.client import interval, stamp
from spine.console.context import METERING_POINTS, As, AsJson, Mpxn, group, instant
from spine.console.parties import acknowledge, client
from spine.console.reading import FromTime, ToTime

Since = Annotated[str, typer.Option("--from", help="Date or time, UTC.")]
Until = Annotated[str, typer.Option("--to", help="Date or time, UTC, exclusive.")]
Quantity = Annotated[str, typer.Option("--quantity", help="AI, or AE for export.")]


def add_to(app: typer.Typer) -> None:
    """The commands of this module."""
    meter = group(app, "meter", METERING_POINTS)
    meter.command("silent")(silent)
    meter.command("restored")(restored)
    meter.command("withdraw")(withdraw)


def silent(mpxn: Mpxn, from_: Since, as_: As, as_json: AsJson = False) -> None:
    """Record that a meter does not communicate, until it is said to do so again."""
    since = stamp(instant(from_))
    answer = client(as_).metering("ReportCommunicationLost", mpxn=mpxn, effective_from=since)
    acknowledge(answer, "the meter is recorded as silent", as_json)


def restored(mpxn: Mpxn, to: Until, as_: As, as_json: AsJson = False) -> None:
    """Record that a meter communicates again."""
    until = stamp(instant(to))
    answer = client(as_).metering("ReportCommunicationRestored", mpxn=mpxn, effective_to=until)
    acknowledge(answer, "the meter is recorded as communicating", as_json)


def withdraw(
    mpxn: Mpxn,
    from_: FromTime,
    to: ToTime,
    reason: Annotated[str, typer.Option(help="Why: a code such as WRONG_METER.")],
    as_: As,
    quantity: Quantity = "AI",
    as_json: AsJson = False,
) -> None:
    """Withdraw the values of half hours; what was answered with them stays what it was."""
    answer = client(as_).metering(
        "WithdrawReadings",
        mpxn=mpxn,
        measurement_quantity=quantity,
        interval=interval(instant(from_), instant(to)),
        reason=reason,
    )
    acknowledge(answer, "readings withdrawn", as_json)
