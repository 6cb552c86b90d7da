"""Every command of the command line, given what it cannot use, or with nothing there to answer.

The commands are those of the tree that typer built, so that a new one is tried as well. Words for
its parameters are found by their names; a parameter that none fits gets a word that may be wrong,
which is as good here. Each failure is one line, a stable reason first, and a documented exit code.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from spine.cli import command_line
from spine.config import Settings
from spine.console import context
from spine.console.logs import issue_identities
from spine.console.output import EXIT_CODES
from spine.errors import Reason
from spine.event import SignerRole
from spine.identity import SERVER_PREFIX, Authority, signing_key
from spine.opening import LogIdentity
from spine.policy import Role
from spine.runtime import LOG_FILE
from spine.signing import Signer
from spine.supervise import PROCESSES
from spine.whereabouts import announce
from tests.helpers.command_line import Said, run

NOBODY = "127.0.0.1:1"
USAGE = 2
WORDS = {
    "answer_by": "2025-01-01",
    "as_": "governance-board",
    "day": "2024-01-01",
    "domain": "metering",
    "expires": "2025-01-01",
    "before": "2024-01-01",
    "from_": "2024-01-01",
    "history_from": "2024-01-01",
    "identifiers": "PAIRWISE",
    "level": "INSPECTION",
    "list_name": "gsp_groups",
    "mpxn": "2000027391990",
    "mpxns": "2000027391990",
    "place": "metering.events.v1-0-1-0",
    "process": "dsi",
    "purpose": "ENERGY_ADVICE",
    "role": "supplier",
    "to": "2024-01-02",
    "until": "2025-01-01",
    "version": "1",
}
TIMES = (
    *("answer_by", "before", "day", "expires", "from_", "history_from", "to", "until"),
    "as_of_known",
)
# What is no input file of any command, and what is said of it.
WRONG_FILES = {
    "empty.csv": (b"", Reason.FILE_EMPTY),
    "page.csv": (b"<!doctype html><title>Sign in</title>", Reason.FILE_UNRECOGNISED),
    "other.csv": (b"colour,size\nred,1\n", Reason.FILE_UNRECOGNISED),
    "torn.csv.gz": (b"\x1f\x8b\x08\x00 not packed", Reason.FILE_UNREADABLE),
}
OF_FILES = {Reason.FILE_EMPTY, Reason.FILE_UNRECOGNISED, Reason.FILE_UNREADABLE}
# They start what would be missing, or need nothing that could be.
STARTS_EVERYTHING = {"up", "demo", "loadtest"}
NEEDS_NOTHING = {"schemas check", "coordinators", "quarantine held", "policy list"}
# They look into the data folder and ask nobody.
ASKS_NOBODY = {"identity issue", "identity list", "history list", "history move"}
# They wait for a broker, as a process should.
IS_A_PROCESS = {"coordinator", "dsi", "readings", "ledger run", "witness"}
# They look at what stands in the data folder before they ask anybody.
LOOKS_INTO_THE_FOLDER = {
    *("ledger head", "ledger consistency", "ledger export", "ledger reads"),
    *("identifiers open", "identifiers show"),
    *("snapshot save", "snapshot restore", "archive segments", "archive verify"),
}


@cache
def commands() -> dict[str, Any]:
    """Every command by its words."""

    def walk(node: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        for name, child in getattr(node, "commands", {}).items():
            yield from walk(child, (*path, name))
        if not hasattr(node, "commands"):
            yield " ".join(path), node

    return dict(walk(typer.main.get_command(command_line()), ()))


def takes_files(parameter: Any) -> bool:
    return bool(parameter.type_descriptor.parameter_info.exists)


def words(name: str, file: Path, /, **instead: str) -> list[str]:
    """The command with a word for each parameter that it needs, or that is given here."""
    said = name.split()
    for parameter in commands()[name].params:
        if not parameter.required and parameter.name not in instead and parameter.name != "all_":
            continue
        plain = str(file) if takes_files(parameter) else WORDS.get(parameter.name, "some-text")
        word = instead.get(parameter.name, plain)
        if parameter.param_type_name == "argument":
            said.append(word)
        else:
            said += [parameter.opts[0]] if parameter.is_flag else [parameter.opts[0], word]
    return said


def failed(said: Said, *reasons: Reason) -> None:
    """One line with one of these reasons, and a documented exit code."""
    assert said.reason in (reasons or set(Reason)), said
    assert said.code in set(EXIT_CODES.values()), said
    assert said.err.strip().count("\n") == 0 and not said.out, said


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "page.csv"
    found.write_bytes(WRONG_FILES[found.name][0])
    return found


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder in which nothing ever ran."""
    monkeypatch.setattr(context, "_used", [Settings(data_dir=tmp_path / "empty")])
    return tmp_path


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder whose installation was stopped: log, identities, addresses of nobody."""
    folder = tmp_path_factory.mktemp("stopped")
    root = Signer.of(signing_key(folder, SignerRole.ROOT))
    LogIdentity.new(root.public_key, 4, context.instant("2024-01-01")).save(folder / LOG_FILE)
    issue_identities(folder)
    authority = Authority.open_or_create(folder / "identities")
    for process in PROCESSES:
        authority.issue_server(Role.DSI, process, alias=f"{SERVER_PREFIX}{process}")
        announce(folder, process, "127.0.0.1", 1)
    return folder


@pytest.fixture
def stopped(left: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    chosen = Settings(data_dir=left, kafka_bootstrap=NOBODY)
    monkeypatch.setattr(context, "_used", [chosen])
    return left


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize("name", sorted(commands().keys() - STARTS_EVERYTHING - NEEDS_NOTHING))
def test_where_nothing_ever_ran_each_command_says_so(name: str, file: Path) -> None:
    failed(run(*words(name, file)))


@pytest.mark.usefixtures("stopped")
@pytest.mark.parametrize(
    "name",
    sorted(commands().keys() - STARTS_EVERYTHING - NEEDS_NOTHING - ASKS_NOBODY - IS_A_PROCESS),
)
def test_where_everything_was_stopped_each_command_says_who_does_not_answer(
    name: str, file: Path
) -> None:
    said = run(*words(name, file))
    if any(takes_files(p) and p.required for p in commands()[name].params):
        failed(said, *OF_FILES, Reason.STARTING)
    elif name in LOOKS_INTO_THE_FOLDER:
        failed(said)
    else:
        failed(said, Reason.STARTING, Reason.LOG_UNREACHABLE)
        assert NOBODY in said.err


@pytest.mark.usefixtures("stopped")
@pytest.mark.parametrize("name", sorted(commands()))
def test_a_word_too_many_an_unknown_option_and_a_missing_one_are_wrong_usage(
    name: str, file: Path
) -> None:
    whole = words(name, file)
    wrong = [[*whole, "--no-such-option"]]
    if any(p.required for p in commands()[name].params):
        wrong.append(name.split())
    if all(p.param_type_name == "option" for p in commands()[name].params):
        wrong.append([*whole, "word-too-many"])
    for line in wrong:
        assert run(*line).code == USAGE, line


def with_parameter(*names: str) -> list[tuple[str, str]]:
    return [(c, p.name) for c, node in commands().items() for p in node.params if p.name in names]


@pytest.mark.usefixtures("stopped")
@pytest.mark.parametrize(("name", "parameter"), with_parameter(*TIMES))
def test_what_is_no_time_is_told_before_anything_is_asked(
    name: str, parameter: str, file: Path
) -> None:
    failed(run(*words(name, file, **{parameter: "yesterday"})), Reason.TIME_INVALID)


@pytest.mark.usefixtures("stopped")
@pytest.mark.parametrize(("name", "parameter"), with_parameter("as_"))
@pytest.mark.parametrize("alias", ["nobody", "", "ca", "../identities/governance-board"])
def test_an_identity_that_is_not_there(name: str, parameter: str, alias: str, file: Path) -> None:
    if any(takes_files(p) and p.required for p in commands()[name].params):
        return
    failed(run(*words(name, file, **{parameter: alias})), Reason.IDENTITY_MISSING)


FILE_COMMANDS = [
    name for name, node in commands().items() if any(takes_files(p) for p in node.params)
]


def test_there_are_commands_that_take_files() -> None:
    assert {"ingest readings", "assets import"} <= set(FILE_COMMANDS)


@pytest.mark.usefixtures("stopped")
@pytest.mark.parametrize("name", FILE_COMMANDS)
@pytest.mark.parametrize("wrong", WRONG_FILES)
def test_a_wrong_file_is_known_before_anything_is_sent(
    name: str, wrong: str, tmp_path: Path
) -> None:
    content, reason = WRONG_FILES[wrong]
    path = tmp_path / wrong
    path.write_bytes(content)
    parameters = commands()[name].params
    given = {p.name: str(path) for p in parameters if takes_files(p) or p.name == "dry_run"}
    failed(run(*words(name, path, **given)), reason, *OF_FILES)


@pytest.mark.usefixtures("stopped")
@pytest.mark.parametrize("name", FILE_COMMANDS)
def test_a_file_that_is_not_there_is_wrong_usage_and_an_empty_folder_no_file(
    name: str, tmp_path: Path
) -> None:
    for path in (tmp_path / "gone.csv", tmp_path):
        given = {p.name: str(path) for p in commands()[name].params if takes_files(p)}
        said = run(*words(name, path, **given))
        assert said.code == USAGE or (path.is_dir() and said.reason == Reason.FILE_EMPTY)
