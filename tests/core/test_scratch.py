"""What commands fold and throw away is on the disk of the data folder."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

import spine
from spine.files import scratch


def test_what_is_thrown_away_lies_in_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(small))
    with scratch(tmp_path / "data") as one, scratch(tmp_path / "data") as other:
        assert one != other
        assert {Path(each).parent for each in (one, other)} == {tmp_path / "data" / "scratch"}
        with tempfile.TemporaryDirectory() as naive:
            assert Path(naive).parent == small
    assert list((tmp_path / "data" / "scratch").iterdir()) == []


def test_no_command_makes_stores_elsewhere() -> None:
    console = Path(*spine.__path__) / "console"
    assert [path.name for path in console.glob("*.py") if "tempfile" in path.read_text()] == []
