"""What can be looked up is written down, and what is written down is there.

Tables of `docs/reference.md` are held against the code in both directions; in all pages, every
command, setting, code and link must exist. What clients are handed is run by `test_client_example`.
"""

from __future__ import annotations

import inspect
import json
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from grpc import StatusCode

from domains.metering.aggregates import Suppressed
from spine import event, reducers, telemetry, trust, writer
from spine.answer import Absent, Release
from spine.cli import command_line
from spine.config import Settings
from spine.console.output import EXIT_CODES, EXIT_DIFFERENT, EXIT_NOT_JUDGED
from spine.errors import Reason
from spine.event import RecordType, SignerRole
from spine.fold import EXIT_FOLD_FAILED
from spine.policy import Basis, Category, ConsentState, Role
from spine.policy_data import POLICY_DATA, bases_of, purposes_of
from spine.verdict import Verdict
from spine.view import CLOCK_TOLERANCE_MS

ROOT = Path(__file__).parents[1]
REFERENCE = (ROOT / "docs/reference.md").read_text()
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("domains/*/README.md")])
CODE = "\n".join(
    path.read_text()
    for folder in ("spine", "domains")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path.name != "errors.py" and "_pb2" not in path.name
)
SHELL_CODES = (0, 1, 2)  # done, anything else, wrong usage


# Reading the pages


def section(title: str, text: str = REFERENCE) -> str:
    """What stands below a heading, up to the next of its level or above."""
    level = title.split(" ")[0]
    match = re.search(rf"^{re.escape(title)}\n(.*?)(?=^#{{1,{len(level)}}} |\Z)", text, re.M | re.S)
    assert match, f"there is no section {title!r}"
    return match[1]


def rows(text: str) -> list[list[str]]:
    """The cells of every table row but the headers."""
    lines = text.splitlines()
    return [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for number, line in enumerate(lines)
        if line.startswith("|")
        and not line.startswith("|--")
        and not (number + 1 < len(lines) and lines[number + 1].startswith("|--"))
    ]


def codes(cell: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def named(title: str, text: str = REFERENCE) -> list[str]:
    """The first code of every row of a section."""
    return [codes(row[0])[0] for row in rows(section(title, text))]


def once(found: list[str], wanted: Any) -> None:
    """All of them, each once, and nothing else."""
    assert sorted(found) == sorted(map(str, wanted))


# The reference, in both directions


@cache
def commands() -> dict[str, frozenset[str]]:
    """Every command and its options, as typer built them."""

    def walk(node: Any, path: tuple[str, ...]) -> Iterator[tuple[str, frozenset[str]]]:
        for name, child in getattr(node, "commands", {}).items():
            yield from walk(child, (*path, name))
        if not hasattr(node, "commands"):
            options = (p.opts for p in node.params if p.param_type_name == "option")
            yield " ".join(path), frozenset(o for opts in options for o in opts) - {"--help"}

    return dict(walk(typer.main.get_command(command_line()), ("spine",)))


def test_every_command_and_option() -> None:
    documented = {codes(row[0])[0]: set(codes(row[1])) for row in rows(section("## Commands"))}
    assert documented == {name: set(options) for name, options in commands().items()}


def test_every_exit_code() -> None:
    found = [int(row[0]) for row in rows(section("## Exit codes"))]
    audits = {EXIT_DIFFERENT, EXIT_NOT_JUDGED}
    said = {*SHELL_CODES, *EXIT_CODES.values(), *audits, EXIT_FOLD_FAILED}
    assert found == sorted(said)


def test_every_setting_with_its_default() -> None:
    found = {codes(row[0])[0]: row[1].strip("`") for row in rows(section("## Settings"))}
    fields = Settings.model_fields
    assert found == {f"SPINE_{name.upper()}": shown(f.default) for name, f in fields.items()}


def shown(default: object) -> str:
    """A default as the page spells it."""
    match default:
        case None:
            return "unset"
        case bool():
            return str(default).lower()
        case _:
            return str(default)


def test_a_setting_is_called_reserved_if_nothing_reads_it() -> None:
    reserved = {codes(row[0])[0] for row in rows(section("## Settings")) if "Reserved" in row[2]}
    config = (ROOT / "spine/config.py").read_text()
    elsewhere = CODE.replace(config, "")
    unread = {n for n in Settings.model_fields if not re.search(rf"\.{n}\b", elsewhere)}
    assert reserved == {f"SPINE_{name.upper()}" for name in unread}
    assert CLOCK_TOLERANCE_MS == 5_000


def test_every_metric_with_its_unit() -> None:
    found = [(codes(row[0])[0], row[1]) for row in rows(section("## Metrics"))]
    assert found == [(metric.name, metric.unit) for metric in telemetry.METRICS]


def test_every_span() -> None:
    literal = re.findall(r"telemetry\.span\(\s*\"([^\"]+)\"", CODE)
    once(named("## Spans"), {"<service>/<method>", *literal})


def test_every_topic_and_who_may_write_it() -> None:
    found = {codes(row[0])[0]: set(codes(row[3])) for row in rows(section("## Topics"))}
    assert list(found) == list(trust.TOPICS)
    may: dict[str, set[str]] = {topic: set() for topic in trust.TOPICS}
    for (topic, record_type), signers in trust.MAY_WRITE.items():
        if record_type is not RecordType.COPY:
            may[topic] |= {str(signer) for signer in signers}
    assert found == may
    copiers = {
        s for (_, kind), by in trust.MAY_WRITE.items() if kind is RecordType.COPY for s in by
    }
    assert copiers == {SignerRole.ROOT, SignerRole.GOVERNANCE}


def test_every_header() -> None:
    others = CODE.replace((ROOT / "spine/event.py").read_text(), "")
    names = (vars(event) | vars(reducers)).items()
    constants = {name: value for name, value in names if name.endswith("_HEADER")}
    own = {value for name, value in constants.items() if re.search(rf"\b{name}\b", others)}
    cloud_events = set(re.findall(r'"(ce_\w+)"', inspect.getsource(writer)))
    once(named("## Headers"), {*own, *cloud_events, telemetry.TRACEPARENT})


def test_every_record_type() -> None:
    once(named("## Record types"), RecordType)


def test_every_released_schema_with_its_id() -> None:
    found = {codes(row[1])[0]: int(row[0]) for row in rows(section("## Schemas"))}
    assert found == json.loads((ROOT / "schemas/ids.json").read_text())
    values = [codes(row[1])[0] for row in rows(section("## Record types"))]
    assert {f"{value.replace('.', '/')}/1" for value in values} <= found.keys()


def test_every_reason_in_the_order_of_the_code() -> None:
    assert named("## Reasons") == [str(reason) for reason in Reason]


def test_reasons_are_grouped_as_in_the_code() -> None:
    groups = re.split(r"\n\n", inspect.getsource(Reason))
    inside = [re.findall(r"^    (\w+) = ", group, re.M) for group in groups]
    reasons = section("## Reasons")
    titles = re.findall(r"^### .+$", reasons, re.M)
    assert [named(title, reasons) for title in titles] == [names for names in inside if names]
    comments = re.findall(r"^    # (.+)$", inspect.getsource(Reason), re.M)
    assert [title.removeprefix("### ") for title in titles[:-1]] == comments


def test_a_reason_is_called_reserved_if_nothing_gives_it() -> None:
    found = {codes(row[0])[0] for row in rows(section("## Reasons")) if "Reserved" in row[1]}
    given = {str(r) for r in Reason if re.search(rf"\bReason\.{r}\b", CODE)}
    assert found == set(Reason) - given - {Reason.BUG}


@pytest.mark.parametrize("version", POLICY_DATA)
def test_all_that_a_policy_says(version: int) -> None:
    table = rows(section(f"## Policy {version}"))
    found = {codes(row[0])[0]: [codes(cell) for cell in row[1:4]] for row in table}
    bases = bases_of(version)
    assert found == {b: [t["roles"], t["purposes"], t["categories"]] for b, t in bases.items()}
    assert set().union(*map(bases_of, POLICY_DATA)) == set(Basis)


def test_the_rest_of_what_policy_2_says() -> None:
    found = {codes(row[0])[0]: row[4:] for row in rows(section("## Policy 2"))}
    assert found == {
        basis: [
            terms["granularity"].lower().replace("_", " "),
            " ".join(f"`{code}`" for code in terms["objection_shuts"]) or "no",
            "yes" if terms["opt_in"] else "no",
            str(terms["aggregation_min"]),
            str(terms["reminder_months"] or "none"),
            "yes" if terms["sure"] else "no",
        ]
        for basis, terms in bases_of(2).items()
    }


def test_every_role_category_and_signer() -> None:
    once(named("## Identities"), Role)
    assert set(Category) <= set(codes(section("## Policy 1")))
    assert set(SignerRole) <= set(codes(section("## Topics")))


# All pages


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_command_that_a_page_names(page: Path) -> None:
    text = page.read_text()
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    inline = codes(re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    for said in (*lines, *inline):
        if match := re.match(r"(?:\$ )?(?:\.venv/bin/)?(spine [a-z].*)", said):
            check_command(match[1], page)


def check_command(said: str, page: Path) -> None:
    """The words name a command, or a group of them followed by an ellipsis or nothing."""
    words = shlex.split(said.split(" #")[0], posix=True)
    path = " ".join(words[: next((n for n, w in enumerate(words) if w.startswith("-")), None)])
    options = {word.split("=")[0] for word in words if word.startswith("--")} - {"--help"}
    full = [name for name in commands() if f"{path} ".startswith(f"{name} ")]
    if full:
        assert options <= commands()[full[0]], f"{page.name}: {said}"
        return
    group = path.removesuffix(" …")
    assert any(name.startswith(f"{group} ") for name in commands()), f"{page.name}: {said}"
    assert not options, f"{page.name}: {said}"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_setting_that_a_page_names(page: Path) -> None:
    settings = {f"SPINE_{name.upper()}" for name in Settings.model_fields}
    for name in re.findall(r"\bSPINE_[A-Z0-9_]+(?:\*|\b)", page.read_text()):
        found = {s for s in settings if s == name or (name[-1] == "*" and s.startswith(name[:-1]))}
        assert found, f"{name} is no setting"


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/*.md")), ids=page_id)
def test_every_code_that_a_page_names(page: Path) -> None:
    """Reasons, roles and states in capitals: no page tells of one that does not exist."""
    known = {str(word) for kind in (Reason, Basis, Category, ConsentState) for word in kind}
    known |= {str(word) for kind in (Release, Absent, Verdict, Suppressed) for word in kind}
    known |= {purpose for version in POLICY_DATA for purpose in purposes_of(version)}
    known |= {code.name for code in StatusCode} | {"PLAINTEXT", "SASL_PLAINTEXT", "SASL_SSL"}
    said = {code for code in codes(page.read_text()) if re.fullmatch(r"[A-Z]+(_[A-Z]+)+", code)}
    assert {code for code in said if not code.startswith("SPINE_")} <= known


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}"


def anchors(page: Path) -> set[str]:
    """The headings of a page as links name them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_file_of_the_file_map_exists() -> None:
    table = rows(section("## File map", (ROOT / "DESIGN.md").read_text()))
    assert table
    for where, what in table:
        for place in places(codes(where), codes(what)):
            assert place.exists() or place.with_suffix(".py").exists(), place.relative_to(ROOT)


def places(where: list[str], what: list[str]) -> Iterator[Path]:
    """The files that a row names: modules below the folder of the first, or of each domain."""
    if where[0] == "domains/<domain>/":
        for domain in sorted(path.parent for path in ROOT.glob("domains/*/README.md")):
            count = {"governance": 3, "metering": len(what)}.get(domain.name, 4)
            yield from (domain / name for name in what[:count])
    else:
        folder = Path(where[0]).parent if where[0].startswith("spine/") else Path()
        yield ROOT / where[0]
        yield from (ROOT / folder / name for name in where[1:])
