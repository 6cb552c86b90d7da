"""Commands about standing data and the catalogue: `spine reference …` and `spine coordinators`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from spine.catalogue import DataDomain, DataSet, dcat
from spine.codefile import FILE_BYTES_MAX, CodeFile, parse, unreadable
from spine.codelist import NOT_LOADED, changes, problems
from spine.console.client import Client, stamp
from spine.console.context import OPERATOR, As, AsJson, instant, settings
from spine.console.output import out, say, say_json, table
from spine.console.processes import PROCESS_OF
from spine.domain import Actor
from spine.errors import Invalid, NotFound, Reason, Refused
from spine.installation import CATALOGUE
from spine.policy import Role

Paths = Annotated[
    list[Path], typer.Argument(exists=True, help="Files of standing data, or folders of them.")
]
ListName = Annotated[str, typer.Argument(metavar="LIST", help="Such as gsp_groups.")]
SUFFIX: Final = ".csv"


def add_to(app: typer.Typer) -> None:
    """The commands of this module."""
    reference = typer.Typer(no_args_is_help=True, help="Standing data: code lists with days.")
    reference.command("check")(check)
    reference.command("load")(load)
    reference.command("list")(list_lists)
    reference.command("show")(show)
    app.add_typer(reference, name="reference")
    app.command()(coordinators)


# -- files ----------------------------------------------------------------------------------------


def check(paths: Paths, as_json: AsJson = False) -> None:
    """Read files of standing data and say what is wrong with them; nothing is sent."""
    read = list(_read(paths))
    if as_json:
        say_json([{"file": str(path), **_summary(file)} for path, file in read])
        return
    for path, file in read:
        say(f"{path}: {file.domain} {file.list_name}, {_rows(file)}")


def load(paths: Paths, as_: As = OPERATOR, as_json: AsJson = False) -> None:
    """Record what is new in files of standing data. All files are read before one is sent."""
    read = list(_read(paths))
    client = Client(settings().data_dir, as_)
    done = []
    for path, file in read:
        answer = client.reference(_process(file.domain), "LoadCodes", **_request(file))
        done.append({"file": str(path), **_summary(file), **_loaded(answer)})
        if not as_json:
            counts = f"{answer.listed} listed, {answer.withdrawn} withdrawn"
            say(f"{file.domain} {file.list_name}: {counts}, {answer.unchanged} unchanged")
    if as_json:
        say_json(done)


def _read(paths: list[Path]) -> Iterator[tuple[Path, CodeFile]]:
    """Every file below these paths, read and checked; Invalid, naming the file, if one is bad."""
    for path in paths:
        files = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
        if not files:
            raise Invalid(Reason.FILE_EMPTY, f"{path.name}: no file ends with {SUFFIX}")
        for file in files:
            try:
                yield file, _checked(file)
            except (Invalid, Refused) as error:
                raise Invalid(error.reason, f"{file.name}: {error.message}") from None


def _checked(path: Path) -> CodeFile:
    with path.open("rb") as opened:
        file = parse(opened.read(FILE_BYTES_MAX + 1))
    domain = next((d for d in CATALOGUE if d.name == file.domain), None)
    spec = None if domain is None else domain.code_lists.get(file.list_name)
    if spec is None:
        message = f"{file.domain} has no list called {file.list_name}"
        raise Invalid(Reason.LIST_UNKNOWN, message, field="list")
    command = file.command(Actor(Role.GOVERNANCE, ""))
    wrong = [f"line {file.lines[p.row]}: {p.text}" for p in problems(spec, command)]
    if wrong:
        raise unreadable(wrong)
    if not file.withdrawn:  # what is withdrawn, and what goes beside it, only the log can tell
        changes(NOT_LOADED, command)
    return file


def _request(file: CodeFile) -> dict[str, Any]:
    codes = [
        {
            "code": entry.code,
            "label": entry.label,
            "attributes": [{"name": a.name, "value": a.value} for a in entry.attributes],
            "effective_from": entry.effective_from.isoformat(),
            "effective_to": _text(entry.effective_to),
            "source": entry.source,
            "licence": entry.licence,
        }
        for entry in file.listed
    ]
    gone = [
        {"code": w.code, "effective_from": w.effective_from.isoformat(), "why": w.why}
        for w in file.withdrawn
    ]
    return {"list": file.list_name, "codes": codes, "withdrawals": gone}


def _text(day: date | None) -> str:
    return "" if day is None else day.isoformat()


def _summary(file: CodeFile) -> dict[str, object]:
    return {
        "domain": file.domain,
        "list": file.list_name,
        "codes": len(file.listed),
        "withdrawals": len(file.withdrawn),
    }


def _loaded(answer: Any) -> dict[str, object]:
    record = answer.record
    return {
        "listed": answer.listed,
        "withdrawn": answer.withdrawn,
        "unchanged": answer.unchanged,
        "record": {"topic": record.topic, "partition": record.partition, "offset": record.offset},
    }


def _rows(file: CodeFile) -> str:
    withdrawn = f", {len(file.withdrawn)} withdrawn" if file.withdrawn else ""
    return f"{len(file.listed)} codes{withdrawn}"


# -- answers --------------------------------------------------------------------------------------


def list_lists(as_: As = OPERATOR, as_json: AsJson = False) -> None:
    """Every code list, whose it is, and how much stands in it."""
    client = Client(settings().data_dir, as_)
    found: list[dict[str, object]] = []
    for domain in CATALOGUE:
        if not domain.code_lists:
            continue
        answer = client.reference(_process(domain.name), "ListCodeLists")
        found += [
            {
                "list": each.list,
                "domain": answer.domain,
                "title": each.title,
                "live": each.live,
                "entries": each.entries,
            }
            for each in answer.lists
        ]
    if as_json:
        say_json(found)
    else:
        columns = ("list", "domain", "title", "live", "entries")
        table("Standing data", columns, [[row[c] for c in columns] for row in found])


def show(
    list_name: ListName,
    code: Annotated[str, typer.Option("--code", help="Only this one.")] = "",
    as_of_valid: Annotated[str, typer.Option("--as-of-valid", help="Day; today if unset.")] = "",
    as_of_known: Annotated[str, typer.Option("--as-of-known", help="Time, UTC.")] = "",
    known_below: Annotated[int, typer.Option("--known-below", help="Offset in the log.")] = -1,
    all_: Annotated[bool, typer.Option("--all", help="Entries of every day.")] = False,
    as_: As = OPERATOR,
    as_json: AsJson = False,
) -> None:
    """What a list says on a day, as the log told it then or tells it now."""
    asked: dict[str, Any] = {"list": list_name, "as_of_valid": as_of_valid}
    if as_of_known:
        asked["as_of_known"] = stamp(instant(as_of_known, "--as-of-known"))
    if known_below >= 0:
        asked["known_below"] = known_below
    client, process = Client(settings().data_dir, as_), _process(_domain_of(list_name).name)
    if code and not all_:
        answer = client.reference(process, "GetCode", code=code, **asked)
        codes = [answer.code]
    else:
        answer = client.reference(process, "ListCodes", every_day=all_, **asked)
        codes = [each for each in answer.codes if code in ("", each.code)]
    if code and not codes:
        raise NotFound(Reason.CODE_UNKNOWN, "no such code on any day", field="code")
    # None to a party with pairwise identifiers, whose tokens are sealed: it says --as-of-known.
    place = next(iter(answer.positions.positions), None)
    if as_json:
        shown = [_plain(each) for each in codes]
        say_json({"list": list_name, "known_below": place and place.offset, "codes": shown})
        return
    names = sorted({a.name for each in codes for a in each.attributes})
    rows = []
    for each in codes:
        said = {a.name: a.value for a in each.attributes}
        days = (each.effective_from, each.effective_to)
        rows.append((each.code, each.label, *(said.get(n, "") for n in names), *days))
    table(list_name, ("code", "label", *names, "from", "to"), rows)
    for source, licence in sorted({(each.source, each.licence) for each in codes}):
        say(f"[dim]{source}; {licence}[/]")
    if place is not None:
        say(f"[dim]as {place.topic} below offset {place.offset} tells it[/]")


def _plain(code: Any) -> dict[str, object]:
    return {
        "code": code.code,
        "label": code.label,
        "attributes": {a.name: a.value for a in code.attributes},
        "effective_from": code.effective_from,
        "effective_to": code.effective_to or None,
        "source": code.source,
        "licence": code.licence,
    }


def _domain_of(list_name: str) -> DataDomain:
    for domain in CATALOGUE:
        if list_name in domain.code_lists:
            return domain
    raise Invalid(Reason.LIST_UNKNOWN, f"no domain has a list called {list_name}", field="list")


def _process(domain: str) -> str:
    return PROCESS_OF.get(domain, domain)


# -- the catalogue --------------------------------------------------------------------------------


def coordinators(
    as_dcat: Annotated[bool, typer.Option("--dcat", help="DCAT in JSON-LD.")] = False,
    as_json: AsJson = False,
) -> None:
    """The data domains, who coordinates each, and their data sets with owner and sensitivity."""
    if as_dcat:
        out.print_json(json.dumps(dcat(CATALOGUE)))
        return
    if as_json:
        say_json([_domain(domain) for domain in CATALOGUE])
        return
    rows = [
        (domain.name, _coordinator(domain), each.title, each.owner, each.label, each.personal)
        for domain in CATALOGUE
        for each in domain.data_sets
    ]
    columns = ("domain", "coordinator", "data set", "owner", "sensitivity", "personal data")
    table("Data domains and their data sets", columns, rows)


def _coordinator(domain: DataDomain) -> str:
    return f"{domain.coordinator} ({domain.appointment.lower()})"


def _domain(domain: DataDomain) -> dict[str, object]:
    return {
        "domain": domain.name,
        "title": domain.title,
        "coordinator": domain.coordinator,
        "appointment": domain.appointment,
        "data_sets": [_data_set(each) for each in domain.data_sets],
        "code_lists": sorted(domain.code_lists),
    }


def _data_set(each: DataSet) -> dict[str, object]:
    return {
        "id": each.id,
        "title": each.title,
        "description": each.description,
        "owner": each.owner,
        "sensitivity": each.label,
        "personal_data": each.personal,
        "access_rights": each.access_rights,
        "topics": list(each.topics),
        "categories": list(each.categories),
        "methods": list(each.methods),
        "licence": each.licence,
    }
