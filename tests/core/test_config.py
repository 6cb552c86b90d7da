"""A setting that is misspelt is refused with the one that was meant, and not passed over."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from spine import config
from spine.config import OF_THE_TESTS, Settings, from_environment, unknown
from spine.errors import Invalid, Reason

ROOT = Path(__file__).parents[2]
PINNED = "0" * 64


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("SPINE_LOGID", "SPINE_LOG_ID"),
        ("SPINE_KAFKA_BOOTSRAP", "SPINE_KAFKA_BOOTSTRAP"),
        ("spine_fense", "SPINE_FENCE"),
        ("SPINE_QQQQQQQQQQQQQQQQ", ""),
        ("SPINE_", ""),
    ],
)
def test_what_is_no_setting_is_told_with_the_nearest_one(name: str, meant: str) -> None:
    (said,) = unknown([name, "PATH", "XSPINE_LOGID", *OF_THE_TESTS])
    assert said == f"{name} is no setting" + (f": is {meant} meant?" if meant else "")


def test_every_setting_is_known_in_any_case() -> None:
    names = [f"SPINE_{name}" for name in Settings.model_fields]
    assert [*unknown(names), *unknown(map(str.upper, names)), *unknown(map(str.lower, names))] == []


@pytest.mark.parametrize("naive", [False, True])
def test_a_misspelt_pin_does_not_leave_the_log_unpinned(
    monkeypatch: pytest.MonkeyPatch, naive: bool
) -> None:
    monkeypatch.setenv("SPINE_LOGID", PINNED)
    if naive:
        monkeypatch.setattr(config, "unknown", lambda names: ())
        assert from_environment().log_id is None, "naive: passed over"
        return
    with pytest.raises(Invalid) as refused:
        from_environment()
    assert refused.value.reason is Reason.FIELD_INVALID
    monkeypatch.delenv("SPINE_LOGID")
    monkeypatch.setenv("SPINE_LOG_ID", PINNED)
    assert from_environment().log_id == PINNED


@pytest.mark.parametrize(
    ("words", "code"),
    [(("spine", "participant", "list"), 7), (("spine.ledger.witnessing", "first"), 1)],
    ids=["a command", "a witness"],
)
def test_whoever_starts_refuses(words: tuple[str, ...], code: int, tmp_path: Path) -> None:
    chosen = {"SPINE_DATA_DIR": str(tmp_path), "SPINE_LOGID": PINNED, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", *words],
        env=os.environ | chosen,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code
    assert "FIELD_INVALID" in done.stderr and "is SPINE_LOG_ID meant?" in done.stderr
    assert list(tmp_path.iterdir()) == []
