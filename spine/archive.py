"""Archived segments of the log: offsets, append times and original bytes, each file under a digest.

What Kafka no longer holds may be read from here, and then it is the log: folds, audits and proofs
read through `spine.log.LogReader`, which goes on below the first offset of the broker where an
archive reaches it. Every record bears its own signature, and a store knows the digest of the record
it stands on; the digests here only say early, and by name, which file was damaged or is missing.

A segment `<first offset>.segment` in the folder of its topic-partition is zstd over a header line
in JSON and the records one after the other: length (4 bytes, big-endian), then MessagePack of
offset, append time, key, headers and value. Its header names the SHA-256 of the file before it.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import msgspec
import zstandard

from spine.errors import Reason, SpineError
from spine.event import LogRecord

SEGMENT_BYTES: Final = 64 << 20
SUFFIX: Final = ".segment"
VERSION: Final = 1
_LENGTH: Final = struct.Struct(">I")
_Row = tuple[int, int, bytes | None, tuple[tuple[bytes, bytes | None], ...], bytes | None]
_packer: Final = msgspec.msgpack.Encoder()
_unpacker: Final = msgspec.msgpack.Decoder(_Row)


class ArchiveDamaged(SpineError):
    """A segment is damaged, missing, or of another log."""

    grpc_code = "FAILED_PRECONDITION"


def _damaged(message: str) -> ArchiveDamaged:
    return ArchiveDamaged(Reason.ARCHIVE_DAMAGED, message)


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What a segment says of itself: records of [first, next), and the file before it."""

    version: int
    log_id: str
    topic: str
    partition: int
    first: int
    next: int
    records: int
    append_ms_max: int
    previous: str


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment file and its header."""

    path: Path
    header: SegmentHeader

    def records(self) -> Iterator[LogRecord]:
        """Its records in order; ArchiveDamaged where the file is, or holds fewer or more."""
        header, count = self.header, 0
        try:
            with _opened(self.path) as stream:
                stream.readline()
                while length := stream.read(_LENGTH.size):
                    row = _unpacker.decode(stream.read(_LENGTH.unpack(length)[0]))
                    offset, append_ms, key, headers, value = row
                    named: Any = tuple((_name(name), content) for name, content in headers)
                    place = header.topic, header.partition, offset, append_ms
                    count += 1
                    yield LogRecord(*place, key, named, value)
        except (OSError, ValueError, zstandard.ZstdError, struct.error) as error:
            raise _damaged(f"{self.path.name}: {type(error).__name__}") from None
        if count != header.records:
            raise _damaged(f"{self.path.name} holds {count} records of {header.records}")


class Archive:
    """The archived segments of one log below a folder; without a folder there are none."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._listed: dict[tuple[str, int], tuple[tuple[str, ...], list[Segment]]] = {}

    def segments(self, topic: str, partition: int) -> list[Segment]:
        """The segments of a topic-partition by offset; ArchiveDamaged if one between is missing."""
        place = (topic, partition)
        if self.folder is None:
            return []
        files = sorted((self.folder / f"{topic}-{partition}").glob(f"*{SUFFIX}"))
        names = tuple(file.name for file in files)
        if place not in self._listed or self._listed[place][0] != names:
            found = [Segment(file, _header(file)) for file in files]
            for before, after in pairwise(found):
                if after.header.first != before.header.next:
                    raise _damaged(f"no segment begins at {before.header.next} of {place}")
            self._listed[place] = (names, found)
        return self._listed[place][1]

    def bounds(self, topic: str, partition: int) -> tuple[int, int] | None:
        """First archived offset, and the one after the last; None if there is no segment."""
        found = self.segments(topic, partition)
        return (found[0].header.first, found[-1].header.next) if found else None

    def read(self, topic: str, partition: int, start: int, end: int) -> Iterator[LogRecord]:
        """Archived records with start <= offset < end, in order."""
        for segment in self.segments(topic, partition):
            if segment.header.next > start and segment.header.first < end:
                yield from (r for r in segment.records() if start <= r.offset < end)

    def reaches(self, topic: str, partition: int, held_from: int) -> int:
        """The first offset of the log of which the broker holds what is from `held_from` on.

        An archive that leaves a gap to that is no part of it.
        """
        known = self.bounds(topic, partition) if held_from else None
        return held_from if known is None or known[1] < held_from else min(known[0], held_from)

    def offset_at(self, topic: str, partition: int, epoch_ms: int, held_from: int) -> int | None:
        """The first offset below `held_from` appended at or after that time, if there is one."""
        if self.reaches(topic, partition, held_from) == held_from:
            return None
        for segment in self.segments(topic, partition):
            if segment.header.append_ms_max >= epoch_ms:
                at = next(r.offset for r in segment.records() if r.append_ms >= epoch_ms)
                return at if at < held_from else None
        return None

    def extend(
        self,
        log_id: bytes,
        topic: str,
        partition: int,
        records: Iterable[LogRecord],
        segment_bytes: int = SEGMENT_BYTES,
    ) -> list[Segment]:
        """Archive the records that follow on what is archived; the new segments.

        A segment is written whole or not at all, so a run that is cut short is simply repeated.
        """
        waiting = iter(records)
        made: list[Segment] = []
        while taken := _until_full(waiting, segment_bytes):
            made.append(self._write(log_id, topic, partition, taken))
        return made

    def _write(self, log_id: bytes, topic: str, partition: int, taken: list[LogRecord]) -> Segment:
        known = self.segments(topic, partition)
        first = known[-1].header.next if known else 0
        header = SegmentHeader(
            VERSION,
            log_id.hex(),
            topic,
            partition,
            first,
            taken[-1].offset + 1,
            len(taken),
            max(record.append_ms for record in taken),
            _sha256(known[-1].path) if known else "",
        )
        assert self.folder is not None
        path = self.folder / f"{topic}-{partition}" / f"{first:020d}{SUFFIX}"
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = msgspec.json.encode(header) + b"\n" + b"".join(map(_row, taken))
        unfinished = path.with_suffix(".part")
        with unfinished.open("wb") as file:
            file.write(zstandard.ZstdCompressor().compress(whole))
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        return Segment(path, header)

    def verify(self, log_id: bytes, topic: str, partition: int) -> int:
        """Read every segment of a topic-partition; how many records. ArchiveDamaged names a file.

        Each must be of this log, hold what its header says in rising order, and follow on the
        bytes of the one before.
        """
        previous, count = "", 0
        for segment in self.segments(topic, partition):
            header, name = segment.header, segment.path.name
            if (header.log_id, header.topic, header.partition) != (log_id.hex(), topic, partition):
                raise _damaged(f"{name} is of another log or partition")
            if header.previous != previous:
                raise _damaged(f"{name} does not follow on the bytes of the file before it")
            offsets = [record.offset for record in segment.records()]
            rising = all(a < b for a, b in pairwise(offsets))
            within = all(header.first <= offset < header.next for offset in offsets)
            if not rising or not within:
                raise _damaged(f"{name} does not hold what its header says")
            previous, count = _sha256(segment.path), count + len(offsets)
        return count


def _until_full(records: Iterator[LogRecord], most: int) -> list[LogRecord]:
    """The next records, as many as fill a segment."""
    taken, size = [], 0
    for record in records:
        taken.append(record)
        size += len(record.value or b"") + len(record.key or b"")
        if size >= most:
            break
    return taken


def _row(record: LogRecord) -> bytes:
    headers = tuple((n.encode("utf-8", "surrogatepass"), content) for n, content in record.headers)
    packed = _packer.encode((record.offset, record.append_ms, record.key, headers, record.value))
    return _LENGTH.pack(len(packed)) + packed


def _name(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedReader]:
    """The uncompressed bytes of a file."""
    with path.open("rb") as file:
        unpacked: Any = zstandard.ZstdDecompressor().stream_reader(file)
        yield io.BufferedReader(unpacked)


def _header(path: Path) -> SegmentHeader:
    try:
        with _opened(path) as stream:
            header = msgspec.json.decode(stream.readline(), type=SegmentHeader)
    except (OSError, ValueError, zstandard.ZstdError) as error:
        raise _damaged(f"{path.name}: {type(error).__name__}") from None
    if header.version != VERSION or path.name != f"{header.first:020d}{SUFFIX}":
        raise _damaged(f"{path.name} is no segment by that name")
    return header


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
