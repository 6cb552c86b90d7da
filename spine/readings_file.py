"""A readings file on a disk: what it is known by, and its content as often as it is asked for.

A file is known by the SHA-256 of its content, unpacked: packed again, it is still the same file. It
is read once for that before anything is sent, which also finds a damaged gzip file in time. Nothing
here holds more than a piece of it; a packed workbook is unpacked into a temporary file, because a
workbook is not read from its start to its end.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from domains.metering.adapters import unpacked
from domains.metering.adapters.wrappings import is_packed, with_head
from spine import workbook
from spine.errors import Invalid, Reason

PIECE_BYTES: Final = 1 << 16

Watch = Callable[[int], None]


class ReadingsFile:
    """One file; `watch` is told how many of its bytes, as they lie on the disk, are read."""

    def __init__(self, path: Path, watch: Watch = lambda _: None) -> None:
        self.path, self._watch = path, watch
        self.size = path.stat().st_size
        self.digest = b""

    def identify(self) -> bytes:
        """Read it once and return its digest, which `content` then holds it to."""
        digest = hashlib.sha256()
        for piece in self._unpacked():
            digest.update(piece)
        self.digest = digest.digest()
        return self.digest

    def content(self) -> Iterator[bytes]:
        """Its content: unpacked, and a workbook as CSV.

        Invalid(FILE_UNREADABLE) at its end if it is no longer what `identify` read.
        """
        head, pieces = with_head(self._unpacked(), len(workbook.MAGIC))
        if head.startswith(workbook.MAGIC):
            with self._as_file() as file:
                yield from workbook.csv_of(self.path.name, file)
            return
        digest = hashlib.sha256()
        for piece in pieces:
            digest.update(piece)
            yield piece
        if self.digest and digest.digest() != self.digest:
            message = f"{self.path.name} was changed while it was read"
            raise Invalid(Reason.FILE_UNREADABLE, message, field="file")

    def _unpacked(self) -> Iterator[bytes]:
        return unpacked(self.path.name, self._pieces())

    def _pieces(self) -> Iterator[bytes]:
        read = 0
        with self.path.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                read += len(piece)
                self._watch(read)
                yield piece

    @contextmanager
    def _as_file(self) -> Iterator[IO[bytes]]:
        with self.path.open("rb") as file:
            if not is_packed(file.read(2)):
                file.seek(0)
                yield file
                return
        with tempfile.TemporaryFile() as copy:
            for piece in self._unpacked():
                copy.write(piece)
            copy.seek(0)
            yield copy
