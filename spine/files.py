"""Files that appear whole or not at all, and folders that one process has for itself."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

from spine.errors import Pushback, Reason


def write_whole(path: Path, content: bytes, *, sync: bool) -> None:
    """Put a file in place at once; with `sync` it survives a loss of power."""
    draft = path.with_name(f".{path.name}.new")
    try:
        descriptor = os.open(draft, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(draft, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
    try:  # without a file object, which takes longer to make than most of these to write
        written = os.write(descriptor, content)
        while written < len(content):
            written += os.write(descriptor, content[written:])
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    draft.replace(path)
    if sync:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def scratch(data_dir: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder for what is thrown away at the end, on the disk of the data folder: what folds the
    whole log once can be as large as the stores there, and `/tmp` is often small or memory.
    """
    home = data_dir / "scratch"
    home.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=home)


def write_private(path: Path, content: bytes) -> None:
    """Readable by its owner from the first byte on, and on the disk before anybody relies on it."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def appear(home: Path, files: Mapping[str, bytes], *, replace: bool = False) -> None:
    """Put a folder of private files in place whole, with `replace` in place of the one there.

    Where another process is first, its folder stays.
    """
    home.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=".new-", dir=home.parent))
    fresh, stale = beside / "fresh", beside / "stale"
    try:
        fresh.mkdir(mode=0o700)
        for name, content in files.items():
            write_private(fresh / name, content)
        if replace:
            with suppress(FileNotFoundError):
                home.rename(stale)
        try:
            fresh.rename(home)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    finally:
        shutil.rmtree(beside)


def claimed(folder: Path, who: str) -> IO[str]:
    """Take a folder for this process until what is returned is closed, or the process ends.

    Pushback(STARTING) if another has it; `who` says what that is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    claim = (folder / "claim").open("w")
    try:
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        claim.close()
        message = f"{who} of this data folder is running already"
        raise Pushback(Reason.STARTING, message) from None
    return claim
