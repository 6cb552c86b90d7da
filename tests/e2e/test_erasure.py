"""What was personal is gone from every file, and every proof and decision stands."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from spine.console.client import Client, stamp
from spine.console.context import CONSENT_SERVICE
from spine.event import Sealed
from spine.sealing import VAULT_FILE, Vault
from spine.server import error_from
from tests.e2e.conftest import Installation, audit

MPAN = "1900012345918"
MARKER = "Marker-Of-Erasure Example"
PERSON = {"name": MARKER, "contact": "erase-me@example.org"}


@pytest.fixture(scope="module")
def wren(spine: Installation) -> Client:
    spine.meter(MPAN, "north-supply")
    return spine.occupier(MPAN, "wren", PERSON)


def files_with(data_dir: Path, needle: bytes) -> list[str]:
    """Every file of the data folder that holds these bytes: broker, stores, vault, logs, all."""
    found = []
    for path in data_dir.rglob("*"):
        try:
            if path.is_file() and needle in path.read_bytes():
                found.append(path.name)
        except FileNotFoundError:
            continue
    return found


def key_of(data_dir: Path, subject: str) -> bytes | None:
    with sqlite3.connect(data_dir / VAULT_FILE) as db:
        row = db.execute("SELECT key FROM keys WHERE subject = ?", (subject,)).fetchone()
    db.close()
    return None if row is None else bytes(row[0])


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.2)
    return holds()


def test_an_erased_consumer_is_gone_and_every_decision_stands(
    spine: Installation, wren: Client, tmp_path: Path
) -> None:
    own: dict[str, Any] = {"mpxn": MPAN, "purpose": "OWN_USE", "basis": "SUBJECT"}
    before = wren.dsi("GetMeteringPoint", **own).decision
    subject = spine.references["wren"]
    key = key_of(spine.data_dir, subject)
    assert key is not None
    assert files_with(spine.data_dir, key) == [VAULT_FILE], "or the search finds nothing at all"
    copy = shutil.copy(spine.data_dir / VAULT_FILE, tmp_path / "copy.sqlite")
    answer = wren.erasures("EraseSubject", consumer_ref=subject)
    assert answer.standing == "ERASED"
    assert (answer.record.topic, answer.record.partition) == ("consumers.erasures.v1", 0)
    assert files_with(spine.data_dir, key) == []
    assert files_with(spine.data_dir, MARKER.encode()) == []
    entry = f"{before.partition}@{before.offset}.{before.entry}"
    code, report = audit(spine, tmp_path, entry)
    assert (code, report["counts"]["SAME"]) == (0, 1)
    assert Path(copy).read_bytes().find(key) >= 0
    brought_back(spine, Path(copy), key)
    assert within(60, lambda: key_of(spine.data_dir, subject) is None), "the deed is done again"


def brought_back(spine: Installation, copy: Path, key: bytes) -> None:
    """An old copy of the vault's keys stands where the vault does."""
    with sqlite3.connect(copy) as old:
        rows = old.execute("SELECT key_id, subject, key FROM keys").fetchall()
    old.close()
    with sqlite3.connect(spine.data_dir / VAULT_FILE, timeout=10) as db:
        db.executemany("INSERT OR REPLACE INTO keys VALUES (?, ?, ?)", rows)
        db.commit()
    db.close()


def test_nothing_is_sealed_for_who_was_erased(spine: Installation, wren: Client) -> None:
    subject = spine.references["wren"]
    with pytest.raises(grpc.RpcError) as refused:
        spine.as_(CONSENT_SERVICE).consumers(
            "StartTenancy",
            mpxn="1900012345927",
            consumer_ref=subject,
            effective_from=stamp(datetime.now(UTC)),
            person=PERSON,
        )
    assert error_from(refused.value).reason == "SUBJECT_ERASED"


def test_a_legal_duty_keeps_the_key_and_ends_by_itself(spine: Installation) -> None:
    subject = "c-of-a-debtor"
    spine.as_(CONSENT_SERVICE).consumers(
        "StartTenancy",
        mpxn="1900012345936",
        consumer_ref=subject,
        effective_from=stamp(datetime.now(UTC)),
        person=PERSON,
    )
    soon = datetime.now(UTC) + timedelta(seconds=10)
    answer = spine.as_(CONSENT_SERVICE).erasures(
        "EraseSubject", consumer_ref=subject, duty="TAX_RECORDS", keep_until=stamp(soon)
    )
    assert (answer.standing, answer.duty) == ("RESTRICTED", "TAX_RECORDS")
    if datetime.now(UTC) < soon:
        assert key_of(spine.data_dir, subject) is not None
    assert within(60, lambda: key_of(spine.data_dir, subject) is None)


def test_a_vault_that_only_forgets_where_the_key_is_leaves_it_in_the_file(tmp_path: Path) -> None:
    """The naive deletion: the row is gone and its bytes are not."""
    vault = Vault.open(tmp_path / VAULT_FILE)
    sealed: Sealed = vault.seal("c-1", "person/t-1", MARKER.encode())
    key = key_of(tmp_path, "c-1")
    assert key is not None
    vault._db.execute("PRAGMA secure_delete = OFF")
    vault.destroy("c-1")
    assert vault.unseal(sealed) is None
    vault.close()
    assert files_with(tmp_path, key) == [VAULT_FILE]
