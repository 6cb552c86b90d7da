"""Rows, cursors, tokens and facts that somebody has tampered with: an error, never a crash loop."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domains.consumers.decider import CONSUMERS
from domains.governance.decider import GOVERNANCE
from spine import supervise, trust
from spine.claims import KEPT_S, Claims
from spine.codec import pack, unpack
from spine.dsi.service import _cursor, _resume
from spine.errors import Conflict, Invalid, Reason
from spine.event import DataPosition, from_epoch_ms
from spine.gb import on_the_grid
from spine.log import LogReader
from spine.replay import StoredFold, rebuild
from spine.rocks import DAMAGE_MARK, DamagedStore
from spine.rows import HEAD_ROW, SUBJECT_PREFIX, Malformed
from spine.services.governance import _after
from spine.store import POSITION_ROW, StorePosition
from tests.helpers.records import (
    CODEC,
    LOG_ID,
    METER,
    PARTITION,
    TOOLS,
    MemoryLog,
    command,
    granted,
    moved_in,
    revoked,
    started,
)

ROOT = Path(__file__).parents[2]


# What a store is made to say of itself


def story() -> MemoryLog:
    log, _ = started()
    first = log.keep(log.facts(command(METER, moved_in(), granted())))
    log.keep(log.facts(command(METER, revoked(), previous=(first.offset, 0))))
    return MemoryLog(*log.records)


def opened(path: Path) -> StoredFold:
    schema_set = CODEC.schemas.set_hash
    place = (trust.CONSUMER_LOG, PARTITION, LOG_ID)
    return StoredFold(path, *place, TOOLS, CONSUMERS, GOVERNANCE, schema_set)


def tamper(fold: StoredFold, key: bytes, value: bytes) -> None:
    """Write a row past the fold, with checksums that hold."""
    fold.store._db.put(key, value)
    fold.close()


POSITION = StorePosition(LOG_ID, trust.CONSUMER_LOG, PARTITION, 4, bytes(32))
TAMPERED: dict[str, tuple[bytes, bytes]] = {
    "a position of rubbish": (POSITION_ROW, b"\xc1rubbish"),
    "a position cut off": (POSITION_ROW, pack(POSITION)[:-3]),
    "a position of another shape": (POSITION_ROW, pack({"offset": "4"})),
    "a position of nothing": (POSITION_ROW, b""),
    "a position far ahead": (
        POSITION_ROW,
        pack(replace(POSITION, offset=1 << 60)),
    ),
    "a head of rubbish": (HEAD_ROW, b"\xc1"),
    "a head of another shape": (HEAD_ROW, pack([1, 2, 3])),
}


@pytest.mark.parametrize(("key", "value"), TAMPERED.values(), ids=TAMPERED)
def test_a_store_that_says_rubbish_of_itself_comes_back_from_the_log(
    tmp_path: Path, key: bytes, value: bytes
) -> None:
    log = cast(LogReader, story())
    fold = opened(tmp_path / "fold")
    rebuild(fold, log)
    expected = fold.store.digest()
    tamper(fold, key, value)
    again = opened(tmp_path / "fold")
    rebuild(again, log)
    assert again.store.digest() == expected
    again.close()


def test_a_row_of_rubbish_ends_the_process_once_and_the_next_start_rebuilds(
    tmp_path: Path,
) -> None:
    log = story()
    fold = opened(tmp_path / "fold")
    rebuild(fold, cast(LogReader, log))
    expected = fold.store.digest()
    tamper(fold, SUBJECT_PREFIX + METER.encode(), b"\xc1")
    damaged = opened(tmp_path / "fold")
    assert damaged.check(cast(LogReader, log)) == ""
    with pytest.raises(DamagedStore):
        damaged.fold.subject(METER)
    assert (tmp_path / "fold" / DAMAGE_MARK).exists()
    damaged.close()
    healed = opened(tmp_path / "fold")
    rebuild(healed, cast(LogReader, log))
    assert healed.store.digest() == expected
    healed.close()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_no_bytes_of_a_row_end_in_anything_but_a_value_or_malformed(row: bytes) -> None:
    for kind in (StorePosition, CONSUMERS.row_type, tuple[str, str]):
        try:
            unpack(row, kind)
        except Malformed:
            continue


# What a caller is given to send back


VECTOR = (DataPosition(trust.READINGS_TOPIC, 3, 17),)
GOOD = _cursor(b"request", from_epoch_ms(1_767_225_600_000), VECTOR)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_cursor_with_anything_changed_is_the_same_or_refused(data: st.DataObject) -> None:
    changed = list(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at] = data.draw(st.characters(codec="ascii"))
    try:
        start, vector = _resume("".join(changed), b"request")
    except Invalid as refused:
        assert refused.reason is Reason.CURSOR_INVALID
        return
    assert on_the_grid(start) and all(isinstance(p, DataPosition) for p in vector)


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=80), st.binary(max_size=60).map(lambda b: b.hex())))
def test_no_text_as_a_cursor_ends_in_anything_but_a_refusal(text: str) -> None:
    with pytest.raises(Invalid):
        _resume(text, b"request")
    try:
        _after(text)
    except Invalid as refused:
        assert refused.reason is Reason.CURSOR_INVALID


# Without asserts


FACTS_OF_NOBODY = """
from domains.governance.decider import GOVERNANCE
from domains.metering.events import MeteringPointDeregistered
from spine import trust
from tests.helpers.records import *
from tests.helpers.records import METERING, trust
assert False, "asserts are on"
scene = Scene()
before = scene.home.records[-1].offset
kid = trust.key_subject(bytes(8))
for subject, event in (
    (kid, trust.SigningKeyRevoked("X")),
    (trust.party_subject("nobody"), trust.ParticipantSuspended("X")),
):
    home = scene.home.say((subject, event))
    applied = scene.fold.apply(scene.log.keep(scene.log.copy(home, before)))
    before = home.offset
    print([str(r.reason) for r in applied.refusals], scene.fold.standing(subject))
points = Scene(topic=trust.METERING_TOPIC, domain=METERING)
ended = MeteringPointDeregistered(BEGUN, BEGUN)
points.log.keep(points.log.facts(command(METER, ended, domain=METERING), by=BY_METERING))
print([str(r.reason) for r in points.fold.apply(points.log.records[-1]).refusals])
"""


def test_the_rules_hold_in_a_python_that_skips_asserts() -> None:
    done = subprocess.run(
        [sys.executable, "-O", "-c", FACTS_OF_NOBODY],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        *["[] Standing(key=None, participant=None, policy=None)"] * 2,
        "['RECORD_OUT_OF_RANGE']",
    ]


# What would grow for ever


def test_claims_forget_what_nobody_sends_again(tmp_path: Path) -> None:
    now = [1_000_000.0]
    claims = Claims(tmp_path, LOG_ID, clock=lambda: now[0])

    def claim(digest: bytes) -> None:
        claims.claim("supplier", "north", "StartSupply", "key-1", digest)

    claim(b"first")
    now[0] += KEPT_S - 1
    with pytest.raises(Conflict):
        claim(b"second")
    now[0] += 2
    claim(b"second")
    claims.close()


def test_logs_keep_their_end_and_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "LOG_BYTES_MAX", 100)
    supervisor = supervise.Supervisor(tmp_path, None, {})
    supervisor.children = {"dsi": cast(Any, None)}
    log = tmp_path / "logs" / "dsi.log"
    log.parent.mkdir()
    with log.open("ab", buffering=0) as held:
        for number in range(30):
            held.write(b"line %02d of a long log\n" % number)
            supervisor.trim_logs()
    assert log.stat().st_size <= 130
    assert (tmp_path / "logs" / "dsi.log.1").stat().st_size <= 130
    kept = (tmp_path / "logs" / "dsi.log.1").read_text() + log.read_text()
    assert "line 29" in kept
