"""Commands about aggregates: publish a day, show it, take it away as a file, check it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from domains.metering.feeder_file import FeederDay, lines
from spine.console.client import Client
from spine.console.context import OPERATOR, As, AsJson, runtime, settings
from spine.console.output import EXIT_DIFFERENT, listed, say, say_json, table, when
from spine.errors import Invalid, NotFound, Reason
from spine.files import scratch, write_whole
from spine.gb import SettlementDate
from spine.services.checking import DIFFERENT, check_publications

DAYS_MAX: Final = 366
Day = Annotated[str, typer.Option("--day", help="UTC day, YYYY-MM-DD.")]
GroupName = Annotated[
    str,
    typer.Argument(
        metavar="[GROUP]", help="A GSP group and its feeders, or a feeder by its dataset id."
    ),
]


def add_to(app: typer.Typer) -> None:
    """The commands of this module."""
    group = typer.Typer(
        no_args_is_help=True,
        help="What many meters used together, published; feeders are synthetic.",
    )
    group.command("publish")(publish)
    group.command("show")(show)
    group.command("export")(export)
    group.command("check")(check)
    app.add_typer(group, name="aggregates")


def publish(day: Day, as_: As = OPERATOR, as_json: AsJson = False) -> None:
    """Publish a UTC day that is over, once: every GSP group with a meter, and its feeders."""
    wanted = _day(day).isoformat()
    answer = Client(settings().data_dir, as_).aggregates("PublishAggregates", day=wanted)
    rows = [
        (each.gsp_group, day, each.record.offset, "published before" if each.replayed else "now")
        for each in answer.publications
    ]
    listed("Aggregates published", ("GSP group", "day", "offset", "when"), rows, as_json)


def show(day: Day, group: GroupName = "", as_: As = OPERATOR, as_json: AsJson = False) -> None:
    """Show what was published of a UTC day, and what is suppressed and why."""
    wanted = _day(day).isoformat()
    found = list(_asked(Client(settings().data_dir, as_), wanted, group))
    if as_json:
        say_json([_plain(each) for each in found])
        return
    columns = ("GSP group", "group", "feeder", "kWh", "devices", "suppressed")
    rows = [
        (
            each.gsp_group,
            each.group,
            each.lv_feeder_name,
            "" if each.suppressed else f"{sum(each.values_wh) / 1_000:.3f}",
            each.devices or "",
            each.suppressed,
        )
        for each in found
    ]
    table(f"Aggregates of {day}, UTC", columns, rows)
    say("[dim]which meter is on which feeder is synthetic[/]")


def export(
    day: Day,
    out: Annotated[Path, typer.Option("--out", help="The file to write.")],
    days: Annotated[int, typer.Option(min=1, max=DAYS_MAX, help="So many days.")] = 1,
    group: GroupName = "",
    as_: As = OPERATOR,
    as_json: AsJson = False,
) -> None:
    """Write what was published as CSV, in the columns of the distributors' feeder data."""
    first = _day(day)
    client = Client(settings().data_dir, as_)
    wanted = [first + timedelta(days=number) for number in range(days)]
    found = [each for one in wanted for each in _asked(client, one.isoformat(), group)]
    written = [_feeder_day(each) for each in found if not each.suppressed]
    write_whole(out, "".join(lines(written)).encode(), sync=False)
    counts = {
        "file": str(out),
        "lines": sum(len(each.values_wh) for each in written),
        "suppressed": len(found) - len(written),
    }
    if as_json:
        say_json(counts)
    else:
        say(f"{out}: {counts['lines']} half hours; {counts['suppressed']} groups suppressed")


def check(
    day: Annotated[str, typer.Option("--day", help="Only this UTC day.")] = "",
    as_json: AsJson = False,
) -> None:
    """Make every publication again from the log, as far as it was read, and compare."""
    chosen = _day(day) if day else None
    this = runtime()
    with closing(this.reader()) as reader, scratch(this.settings.data_dir) as folder:
        found = list(check_publications(this, reader, Path(folder), chosen))
    if chosen is not None and not found:
        raise NotFound(Reason.AGGREGATE_UNKNOWN, f"nothing is published of {day}")
    columns = ("GSP group", "day", "offset", "verdict", "differs")
    rows = [
        (each.gsp_group, each.day.isoformat(), each.offset, each.verdict, ", ".join(each.differs))
        for each in found
    ]
    listed("Publications, made again from the log", columns, rows, as_json)
    if any(each.verdict == DIFFERENT for each in found):
        raise typer.Exit(EXIT_DIFFERENT)


def _asked(client: Client, day: str, group: str) -> Iterator[Any]:
    """What was published of a day; NotFound(AGGREGATE_UNKNOWN) if it is nothing."""
    answer = client.aggregates("ListAggregates", day=day, group=group)
    if not answer.aggregates:
        of = f" of {group}" if group else ""
        raise NotFound(Reason.AGGREGATE_UNKNOWN, f"nothing{of} is published of {day}")
    yield from answer.aggregates


def _day(text: str) -> date:
    try:
        return SettlementDate.parse(text).local
    except Invalid as error:
        raise Invalid(error.reason, error.message, field="day") from None


def _feeder_day(each: Any) -> FeederDay:
    return FeederDay(
        each.group,
        each.dno_name,
        each.dno_alias,
        each.secondary_substation_id,
        each.secondary_substation_name,
        each.lv_feeder_id,
        each.lv_feeder_name,
        date.fromisoformat(each.day),
        each.devices,
        each.values_wh,
        each.published_at.ToDatetime(tzinfo=UTC),
    )


def _plain(each: Any) -> dict[str, object]:
    return {
        "gsp_group": each.gsp_group,
        "group": each.group,
        "day": each.day,
        "devices": each.devices,
        "values_wh": list(each.values_wh),
        "suppressed": each.suppressed,
        "published_at": when(each.published_at),
        "offset": each.record.offset,
    }
