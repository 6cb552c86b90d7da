"""`reads`: one meter's week under consent, against a bare server that sends the same bytes.

Both are called the same way by the same client over the same TLS, from the same number of callers.
Every answer's rows are compared byte by byte with rows that were compared value by value before.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from loadtest.asking import week_reader
from loadtest.results import Bound, Result
from loadtest.serving import Served
from loadtest.traffic import at_pace, by_callers
from spine.identity import SERVER_PREFIX

CALLERS: Final = 128
CALL_S: Final = 20.0

TARGETS: Final = (Bound("ratio_to_echo", least=0.75), Bound("p99_ms", most=30))
GATES: Final = (Bound("ratio_to_echo", least=0.04),)


def run(served: Served, seconds: float) -> Result:
    """The scenario on a country that is served."""
    return asyncio.run(_run(served, seconds))


async def _run(served: Served, seconds: float) -> Result:
    spine = served.spine
    async with week_reader(served) as ask:
        answers = await ask.learn()
        cpu = {name: spine.cpu_s(name) for name in spine.processes}
        most = await by_callers(ask, CALLERS, seconds)
        cpu = {name: spine.cpu_s(name) - before for name, before in cpu.items()}
        alone = await by_callers(ask, 1, seconds / 2)
        half = await at_pace(ask, most.per_s / 2, seconds)
    with _echo(served, answers) as target:
        async with week_reader(served, target) as ask:
            bare = await by_callers(ask, CALLERS, seconds)
            bare_alone = await by_callers(ask, 1, seconds / 2)
    return Result(
        "reads",
        len(served.mpans),
        {
            "calls_per_s": most.per_s,
            "echo_calls_per_s": bare.per_s,
            "ratio_to_echo": most.per_s / bare.per_s,
            "dsi_cpu_ms_per_call": cpu["dsi"] / len(most.latencies_ms) * 1000,
            "alone_p50_ms": alone.at(50),
            "echo_alone_p50_ms": bare_alone.at(50),
            "paced_per_s": half.per_s,
            "p50_ms": half.at(50),
            "p99_ms": half.at(99),
            "parties": len(spine.advisers),
            "calls_checked": len(most.latencies_ms)
            + len(alone.latencies_ms)
            + len(half.latencies_ms),
        },
        TARGETS,
        GATES,
    )


@contextmanager
def _echo(served: Served, answers: dict[bytes, bytes]) -> Iterator[str]:
    """The bare server as a process of its own; its host and port."""
    spine = served.spine
    kept = spine.data_dir / "echo.msgpack"
    kept.write_bytes(msgspec.msgpack.encode(answers))
    identity = spine.identity(f"{SERVER_PREFIX}dsi")
    process = subprocess.Popen(
        [sys.executable, "-m", "loadtest.echo", str(identity), str(kept)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    )
    try:
        assert process.stdout is not None and process.stdin is not None
        port = int(process.stdout.readline())
        yield f"127.0.0.1:{port}"
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(CALL_S)
