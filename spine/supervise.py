"""`spine up`: the embedded broker and every process of the spine, kept running on one machine.

Whatever ends without being asked to is started again, the broker included.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog

from spine.embedded import EmbeddedKafka, EmbeddedKafkaError
from spine.whereabouts import UNFIT

PROCESSES: Final[dict[str, tuple[str, ...]]] = {
    "governance": ("coordinator", "governance"),
    "consumers": ("coordinator", "consumers"),
    "metering": ("coordinator", "metering"),
    "assets": ("coordinator", "btm_assets"),
    "readings": ("readings",),
    "dsi": ("dsi",),
    "ledger": ("ledger", "run"),
}
# What `spine up` starts beside the ledger where no other witnesses are set.
WITNESSES: Final = ("first", "second", "third")
WITNESS_PREFIX: Final = "witness-"
# Of these there may be several, which share the partitions.
SHARED: Final = ("dsi", "readings")
STOP_TIMEOUT_S: Final = 10.0
LOOK_EVERY_S: Final = 0.2
RESTART_PAUSE_S: Final = (0.0, 0.5, 1.0, 2.0, 5.0)
STEADY_AFTER_S: Final = 30.0
# How often it is said which processes are still waited for.
SAY_EVERY_S: Final = 60.0
LOG_BYTES_MAX: Final = 64 << 20
_log = structlog.get_logger()


def kind_of(process: str) -> str:
    """What a process is: `dsi-2` is a `dsi`; the name itself for all that is there once."""
    kind, _, member = process.partition("-")
    return kind if member and kind in SHARED else process


def processes(counts: Mapping[str, int]) -> dict[str, tuple[str, ...]]:
    """The command of each process, with so many of each kind that can be shared.

    The first of a kind bears its plain name, so that one more or fewer leaves its store alone.
    """
    chosen = dict(PROCESSES)
    for kind, count in counts.items():
        for member in range(2, count + 1):
            chosen[f"{kind}-{member}"] = (*PROCESSES[kind], "--member", str(member))
    return chosen


@dataclass(slots=True)
class Child:
    """One supervised process and how often it had to be started."""

    name: str
    process: subprocess.Popen[bytes]
    started: float = field(default_factory=time.monotonic)
    starts: int = 1


class Supervisor:
    """Starts and keeps the broker (unless the cluster is an external one) and the processes."""

    def __init__(
        self,
        data_dir: Path,
        kafka: EmbeddedKafka | None,
        environment: dict[str, str],
        witnesses: Iterable[str] = (),
        counts: Mapping[str, int] | None = None,
    ) -> None:
        self._commands = processes(counts or {})
        self._data_dir, self._kafka, self._environment = data_dir, kafka, environment
        self.witnesses = tuple(f"{WITNESS_PREFIX}{name}" for name in witnesses)
        self.children: dict[str, Child] = {}

    def start(self, note: Callable[[str], None] = lambda _: None) -> None:
        """Start every process; returns once all of them answer. The broker must be up.

        One that folds its log from the first record is waited for, however long that takes.
        TimeoutError if one keeps ending.
        """
        for name in (*self.witnesses, *self._commands):
            self._launch(name)
        waiting = {*self.witnesses, *self._commands}
        said = time.monotonic()
        while waiting:
            self.look()
            for name in sorted(waiting):
                if self.answers(name):
                    waiting.discard(name)
                    unfit = self._announced(name).get(UNFIT)
                    note(f"{name}: {unfit}" if unfit else name)
            if waiting and time.monotonic() - said > SAY_EVERY_S:
                said = time.monotonic()
                if ending := [name for name in sorted(waiting) if self._keeps_ending(name)]:
                    logs = self._data_dir / "logs"
                    raise TimeoutError(f"ending again and again, see {logs}: {', '.join(ending)}")
                note(f"waiting for {', '.join(sorted(waiting))}")
            time.sleep(LOOK_EVERY_S)

    def run(self, stopped: Callable[[], bool]) -> None:
        """Keep everything running until `stopped`."""
        while not stopped():
            self.look()
            self.trim_logs()
            time.sleep(LOOK_EVERY_S)

    def look(self) -> None:
        """Start again whatever has ended."""
        if self._kafka is not None and not self._kafka.is_alive():
            _log.warning("supervisor.restart", process="kafka")
            self._start_broker(self._kafka)
        for child in list(self.children.values()):
            if child.process.poll() is not None and self._rested(child):
                _log.warning(
                    "supervisor.restart", process=child.name, exit_code=child.process.returncode
                )
                self._launch(child.name)

    def trim_logs(self) -> None:
        """Keep of each log its end: what is too long moves to `<name>.log.1`, over what was there.

        Processes append, so a log that is emptied under them goes on at its beginning.
        """
        for name in self.children:
            log = self._data_dir / "logs" / f"{name}.log"
            if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
                shutil.copyfile(log, log.with_suffix(".log.1"))
                os.truncate(log, 0)

    def _start_broker(self, kafka: EmbeddedKafka) -> None:
        """Start the broker again; at another port, the processes follow it."""
        before = kafka.bootstrap
        try:
            kafka.start()
        except EmbeddedKafkaError as error:
            _log.error("supervisor.restart_failed", process="kafka", reason=str(error))
            return
        if kafka.bootstrap != before:
            for child in self.children.values():
                child.process.terminate()

    def stop(self) -> None:
        """End every process this supervisor started, then the broker."""
        for child in self.children.values():
            if child.process.poll() is None:
                child.process.terminate()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for child in self.children.values():
            try:
                child.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
        if self._kafka is not None:
            self._kafka.stop()

    def answers(self, name: str) -> bool:
        """Whether the present process of that name has said where it listens."""
        return bool(self._announced(name).get("pid") == self.children[name].process.pid)

    def _announced(self, name: str) -> dict[str, Any]:
        """What the process of that name last said of where it listens; nothing if it has not."""
        try:
            said = (self._data_dir / "services" / f"{name}.json").read_text()
            announced: dict[str, Any] = json.loads(said)
        except (FileNotFoundError, ValueError):
            return {}
        return announced

    def _keeps_ending(self, name: str) -> bool:
        child = self.children[name]
        return child.starts > 1 and time.monotonic() - child.started < STEADY_AFTER_S

    def _rested(self, child: Child) -> bool:
        lived = time.monotonic() - child.started
        if lived > STEADY_AFTER_S:
            child.starts = 1
        return lived >= RESTART_PAUSE_S[min(child.starts, len(RESTART_PAUSE_S)) - 1]

    def _launch(self, name: str) -> None:
        logs = self._data_dir / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        command, environment = self.command(name)
        with (logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        before = self.children.get(name)
        self.children[name] = Child(name, process, starts=before.starts + 1 if before else 1)

    def command(self, name: str) -> tuple[list[str], dict[str, str]]:
        """What starts a process: its command line, and what is set in its environment."""
        environment = self._environment | {"SPINE_SUPERVISOR_PID": str(os.getpid())}
        if self._kafka is not None:
            environment["SPINE_KAFKA_BOOTSTRAP"] = self._kafka.bootstrap
        return [sys.executable, "-m", *self._module(name)], environment

    def _module(self, name: str) -> tuple[str, ...]:
        """The module that is the process of that name; a witness needs little and starts small."""
        if name.startswith(WITNESS_PREFIX):
            return "spine.ledger.witnessing", name.removeprefix(WITNESS_PREFIX)
        return "spine", *self._commands[name]
