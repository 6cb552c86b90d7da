"""What a record of many commands came to, where another coordinator's came first."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from domains.governance.decider import GOVERNANCE, tightens
from spine.coordinator import Coordinator
from spine.errors import Conflict, Reason
from spine.event import Command
from spine.orders import Handled
from spine.rows import AppliedCommand

APPENDED = 7
OURS, OTHERS = b"o" * 32, b"x" * 32


async def test_a_key_that_another_used_for_another_request_meanwhile_is_a_conflict() -> None:
    """Neither fold had the other's when it decided; what was refused must not look recorded."""
    applied = {
        b"here": AppliedCommand(APPENDED, 0, OURS),
        b"same": AppliedCommand(APPENDED - 1, 0, OURS),
        b"another": AppliedCommand(APPENDED - 1, 0, OTHERS),
        b"another beside it": AppliedCommand(APPENDED, 1, OTHERS),
    }
    live: Any = SimpleNamespace(
        passed=_at_once,
        stored=SimpleNamespace(partition=0, fold=SimpleNamespace(applied_command=applied.get)),
    )
    writer: Any = SimpleNamespace(write=_appended)
    coordinator = Coordinator(GOVERNANCE, {}, writer, 4, tightens)  # type: ignore[arg-type]
    names = [*applied, b"lost"]
    commands = tuple(Command(name, "s", OURS, -1, 0, "by", ()) for name in names)
    found = dict(zip(names, await coordinator._append_all(live, commands), strict=True))
    topic = GOVERNANCE.topic
    assert found[b"here"] == Handled(topic, 0, APPENDED, 0, False)
    assert found[b"same"] == Handled(topic, 0, APPENDED - 1, 0, True)
    assert [_reason(found[name]) for name in names[2:]] == [
        Reason.IDEMPOTENCY_CONFLICT,
        Reason.IDEMPOTENCY_CONFLICT,
        Reason.RACE_LOST,
    ]


def _reason(answer: object) -> Reason:
    assert isinstance(answer, Conflict)
    return answer.reason


async def _at_once(*_: Any) -> None:
    return None


async def _appended(*_: Any) -> Any:
    return SimpleNamespace(offset=APPENDED)
