"""Deliveries made ready before a clock starts: the bytes of their messages, on the disk.

Who sends readings has them. A load test that makes a country's days while it measures takes the
processor from what it measures, so it makes them first. They lie in a file and not in memory, which
would have to be as large as the country's day; a message is read as it is sent.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from loadtest.deliveries import Delivery, Due


@dataclass(frozen=True, slots=True)
class Ready:
    """One call: its messages as the bytes that gRPC sends, and what must come of it."""

    due: Due
    repeated: bool
    file: IO[bytes]
    places: Sequence[tuple[int, int]]  # of each message: where it starts, and its length

    def messages(self) -> Iterator[bytes]:
        """The bytes of each message of the call."""
        for start, length in self.places:
            yield os.pread(self.file.fileno(), length, start)


def made_ready(made: Iterable[Delivery], file: IO[bytes]) -> Mapping[str, Sequence[Ready]]:
    """Each sender's calls in the order of its deliveries, written to the end of an open file."""
    by_sender: dict[str, list[Ready]] = defaultdict(list)
    at = file.tell()
    for delivery in made:
        places = []
        for message in delivery.requests():
            places.append((at, file.write(message.SerializeToString())))
            at += places[-1][1]
        ready = Ready(delivery.due, delivery.repeated, file, places)
        by_sender[delivery.sender].append(ready)
    file.flush()
    os.fsync(file.fileno())  # or it is written while the clock runs
    return by_sender
