"""How commands speak: tables for people, JSON for programs, one sentence and a code on failure.

Exit codes: 0 done, 2 wrong usage, 3 refused or not permitted, 4 conflict, 5 not now (try again),
6 an audit or a check found a difference, 7 invalid input or settings, 8 an audit found none but
could not judge answers of another build, 1 anything else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import ValidationError
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from spine.errors import Reason, SpineError
from spine.server import Failure, error_from

EXIT_CODES: Final[Mapping[str, int]] = {
    "INVALID_ARGUMENT": 7,
    "UNAUTHENTICATED": 3,
    "NOT_FOUND": 3,
    "FAILED_PRECONDITION": 3,
    "PERMISSION_DENIED": 3,
    "ABORTED": 4,
    "UNAVAILABLE": 5,
    "DEADLINE_EXCEEDED": 5,
    "RESOURCE_EXHAUSTED": 5,
}
EXIT_DIFFERENT: Final = 6
EXIT_NOT_JUDGED: Final = 8

# Wide enough that no id is ever cut; a terminal wraps what it cannot show.
TABLE_WIDTH: Final = 240

out = Console(highlight=False, soft_wrap=True)
wide = Console(highlight=False, width=TABLE_WIDTH)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def say_json(value: object) -> None:
    """One JSON document on standard output."""
    out.print_json(json_text(value))


def json_text(value: object) -> str:
    """A JSON document, with instants as ISO text and bytes in hex."""
    return json.dumps(value, default=_plain)


def say(text: str) -> None:
    """A line for people."""
    out.print(text)


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], wrapped: str = ""
) -> None:
    """A table for people; the column called `wrapped` may take several lines."""
    made = Table(title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD)
    for column in columns:
        if column == wrapped:
            made.add_column(column, overflow="fold")
        else:  # what does not fit is seen to be cut
            made.add_column(column, no_wrap=True)
    for row in rows:
        made.add_row(*("" if cell is None else str(cell) for cell in row))
    wide.print(made)


def listed(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], as_json: bool
) -> None:
    """Rows as one JSON document of objects, or as a table."""
    if as_json:
        say_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        table(title, columns, rows)


def details(title: str, shown: Mapping[str, object]) -> None:
    """One thing for people, a line for each of its parts."""
    made = Table(title=title, title_justify="left", box=None, show_header=False)
    for name, value in shown.items():
        made.add_row(name, escape(str(value)))
    out.print(made)


def when(stamp: Timestamp) -> str:
    """An instant of an answer, as `instant_said`."""
    return instant_said(stamp.ToDatetime(tzinfo=UTC))


def instant_said(at: datetime) -> str:
    """An instant in UTC as people and programs both read it."""
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def fail(error: SpineError) -> int:
    """Say what a rule of ours said; the exit code."""
    return _fail(error.grpc_code, str(error.reason), error.message)


def fail_rpc(error: grpc.RpcError) -> int:
    """Say what a service said; the exit code."""
    failure = error_from(error)
    if failure.code == "UNAVAILABLE" and not failure.reason:
        where = ", ".join(getattr(error, "__notes__", ())) or "the process"
        message = f"{where} does not answer: is `spine up` running?"
        return _fail(failure.code, Reason.STARTING, message)
    return _fail(failure.code, failure.reason or failure.code, failure.message + _again(failure))


def _again(failure: Failure) -> str:
    """When the server says to ask again, in tenths of a second and no sooner; if it says so."""
    if failure.retry_after_s is None:
        return ""
    return f"; again in {math.ceil(failure.retry_after_s * 10) / 10:g} s"


def fail_settings(error: ValidationError) -> int:
    """Say which settings do not hold; the exit code."""
    for problem in error.errors():
        name = "_".join(str(part) for part in problem["loc"]).upper()
        _fail("INVALID_ARGUMENT", "FIELD_INVALID", f"SPINE_{name}: {problem['msg']}")
    return EXIT_CODES["INVALID_ARGUMENT"]


def _fail(code: str, reason: str, message: str) -> int:
    err.print(f"[bold red]{reason}[/]  {message}")
    return EXIT_CODES.get(code, 1)


def _plain(value: Any) -> object:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(f"no JSON for {type(value).__name__}")
