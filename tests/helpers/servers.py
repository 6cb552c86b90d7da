"""Several DSI servers under one supervisor: killed, one after the other, while clients read.

`python -m tests.helpers.servers 20` runs an installation of its own with two servers, kills one of
them so many times and prints how long its partitions were without an answer.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc

from spine import trust
from spine.config import Settings
from spine.console import context
from spine.console.client import interval
from spine.console.processes import running
from spine.dsi.v1 import dsi_pb2, dsi_pb2_grpc, members_pb2, members_pb2_grpc
from spine.identity import DEV_SERVER_NAME
from spine.murmur2 import murmur2_partition
from spine.policy import Role
from spine.server import connect_sync, error_from
from spine.whereabouts import service_target

PARTITIONS = 4
# A meter in each partition, in their order.
METERS = ("1600000000020", "1600000000000", "1600000000050", "1600000000060")
DAY = (datetime(2024, 7, 1, tzinfo=UTC), datetime(2024, 7, 2, tzinfo=UTC))
TERMS = {"purpose": "ENERGY_ADVICE", "basis": "CONSENT", "interval": interval(*DAY)}
CALL_S = 10.0
WAIT_S = 60.0
PAUSE_S = 0.05
# What the promise allows, p99.
TAKEOVER_S = 5.0


def until(what: str, true: Callable[[], object]) -> float:
    """Wait until it holds; how many seconds that took."""
    began = time.monotonic()
    while not true():
        if time.monotonic() - began > WAIT_S:
            raise AssertionError(f"{what}: not within {WAIT_S:g} s")
        time.sleep(0.02)
    return time.monotonic() - began


def claimed(data_dir: Path, name: str, asker: str = "dsi") -> set[int]:
    """The partitions of the consumer log that a server announces; none if it does not answer."""
    identity = data_dir / "identities" / f"server-{asker}"
    target = service_target(data_dir, name)
    with connect_sync(target, identity, server_name=DEV_SERVER_NAME) as channel:
        try:
            said = members_pb2_grpc.MembersStub(channel).Standing(
                members_pb2.StandingRequest(), timeout=1
            )
        except grpc.RpcError:
            return set()
    if said.member != name:
        return set()
    return {claim.partition for claim in said.claims if claim.topic == trust.CONSUMER_LOG}


def shared(data_dir: Path, names: Sequence[str]) -> bool:
    """Whether these servers have the partitions between them, each its own, each some."""
    each = [claimed(data_dir, name) for name in names]
    return all(each) and sum(map(len, each)) == PARTITIONS == len(set().union(*each))


class Reader:
    """The adviser's reads through one server, on one connection."""

    def __init__(self, data_dir: Path, name: str, alias: str = "bright-advice") -> None:
        target = service_target(data_dir, name)
        identity = data_dir / "identities" / alias
        self._channel = connect_sync(target, identity, server_name=DEV_SERVER_NAME)
        self._dsi = dsi_pb2_grpc.DsiStub(self._channel)

    def read(self, mpxn: str) -> Any:
        """A day of a meter."""
        return self._dsi.GetReadings(dsi_pb2.GetReadingsRequest(mpxn=mpxn, **TERMS), timeout=CALL_S)

    def close(self) -> None:
        """Disconnect."""
        self._channel.close()


class Load:
    """Readers that go on until they are told to stop; what they were refused, and whether for good.

    A read that is refused with a retry hint is tried again after it. One refused without a hint, or
    again and again beyond `WAIT_S`, is a failure.
    """

    def __init__(self, reader: Reader, meters: Sequence[str] = METERS) -> None:
        self._reader, self._meters = reader, meters
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(m,)) for m in meters]
        self.answered = 0
        self.pushed_back: list[str] = []
        self.failures: list[str] = []

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(WAIT_S)

    def _run(self, mpxn: str) -> None:
        first_refused = 0.0
        while not self._stop.is_set():
            try:
                assert self._reader.read(mpxn).decision.consent_id
                self.answered += 1
                first_refused = 0.0
                time.sleep(PAUSE_S)
            except grpc.RpcError as error:
                failure = error_from(error)
                first_refused = first_refused or time.monotonic()
                if failure.retry_after_s is None or time.monotonic() - first_refused > WAIT_S:
                    self.failures.append(f"{failure.code} {failure.reason} {failure.message}")
                    return
                self.pushed_back.append(failure.reason)
                time.sleep(failure.retry_after_s)


def takeover_s(data_dir: Path, kill: Callable[[], object], victim: str, survivor: str) -> float:
    """Kill a server; the seconds until the survivor has answered for each of its partitions."""
    lost = set[int]()

    def named() -> bool:
        lost.update(claimed(data_dir, victim))
        return bool(lost)

    until(f"{victim} names the partitions that it has to lose", named)
    reader = Reader(data_dir, survivor)
    for meter in METERS:
        reader.read(meter)
    try:
        kill()
        began = time.monotonic()
        for partition in sorted(lost):
            until(f"partition {partition}", functools.partial(answers, reader, METERS[partition]))
        return time.monotonic() - began
    finally:
        reader.close()


def answers(reader: Reader, mpxn: str) -> bool:
    """Whether a read of the meter is answered now."""
    try:
        return bool(reader.read(mpxn).decision.consent_id)
    except grpc.RpcError:
        return False


def settle(spine: Any) -> None:
    """A meter in each partition, occupied, with a consent to the adviser; `spine` as in e2e."""
    from tests.e2e.conftest import grant

    for partition, meter in enumerate(METERS):
        assert murmur2_partition(meter.encode(), PARTITIONS) == partition
        spine.meter(meter, "north-supply")
        grant(spine.occupier(meter, f"occupier-{partition}"), meter, "bright-advice")


@contextmanager
def two_servers() -> Iterator[Any]:
    """An installation with two DSI servers, kept up, and everything to read."""
    from tests.e2e.conftest import Installation

    with tempfile.TemporaryDirectory() as folder:
        chosen = Settings(data_dir=Path(folder))
        context.use(chosen)
        stop = threading.Event()
        with running(chosen, counts={"dsi": 2}) as supervisor:
            keeper = threading.Thread(target=supervisor.run, args=(stop.is_set,))
            keeper.start()
            try:
                spine = Installation(chosen.data_dir, supervisor)
                spine.party("north-supply", Role.SUPPLIER)
                spine.party("bright-advice", Role.DATA_USER)
                settle(spine)
                yield spine
            finally:
                stop.set()
                keeper.join()


def kill_again_and_again(spine: Any, kills: int, note: Callable[[str], None]) -> list[float]:
    """Kill the two supervised servers in turn; each comes back and shares again before the next."""
    names = ("dsi", "dsi-2")
    taken = []
    for number in range(kills):
        until("shared out", lambda: shared(spine.data_dir, names))
        victim, survivor = names if number % 2 else names[::-1]
        kill = spine.supervisor.children[victim].process.kill
        seconds = takeover_s(spine.data_dir, kill, victim, survivor)
        began = time.monotonic()
        until(f"{victim} back", functools.partial(claimed, spine.data_dir, victim))
        back_s = seconds + time.monotonic() - began
        note(f"{number + 1}: {victim} answered for after {seconds:.3f} s, back in {back_s:.1f} s")
        taken.append(seconds)
    return taken


def say(line: str) -> None:
    """One line, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """Print p50 and p99; 1 if the promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kills", type=int, nargs="?", default=20)
    kills = parser.parse_args().kills
    with two_servers() as spine:
        taken = kill_again_and_again(spine, kills, say)
    p99 = max(taken) if kills < 100 else statistics.quantiles(taken, n=100)[98]
    say(f"{kills} kills: takeover p50 {statistics.median(taken):.3f} s, p99 {p99:.3f} s")
    return int(p99 > TAKEOVER_S)


if __name__ == "__main__":
    sys.exit(main())
