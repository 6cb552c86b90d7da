"""The columns of many answers at once, as one message of a stream holds them.

Numpy makes bytes of the numbers of all of them together, and the library reads them into each
message: to hand it a number, or a run, after the other takes several times as long. What is sent
is what the library makes of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from spine.answer import ABSENT, HalfHours, Ints
from spine.dsi.rows import HALF_HOUR_S
from spine.dsi.v1 import dsi_pb2


def put_columns(messages: Sequence[Any], rows: Sequence[HalfHours]) -> None:
    """Put the half hours of each answer into its `HalfHourColumns`, as `put_half_hours` does."""
    if not rows:
        return
    told = _Told.of(rows)
    recorded = told.absent == 0
    values = told.values_wh[recorded]
    packed = _varints((values << 1) ^ (values >> 63))
    begins = np.cumsum([0, *(len(each) for each in rows)])
    edges = told.edges(begins)
    runs = told.runs(edges)
    first_run = np.searchsorted(edges, begins).tolist()
    first_value = np.concatenate(([0], np.cumsum(recorded)))[begins].tolist()
    for number, (message, each) in enumerate(zip(messages, rows, strict=True)):
        message.start.seconds = each.columns.first * HALF_HOUR_S
        said = packed[first_value[number] : first_value[number + 1]].tobytes()
        wire = [_head(2, len(said)), said, *runs[first_run[number] : first_run[number + 1]]]
        message.MergeFromString(b"".join(wire))


@dataclass(frozen=True, slots=True, eq=False)
class _Told:
    """The columns of several answers, one after the other."""

    absent: NDArray[np.uint8]
    values_wh: Ints
    quality: Ints
    qualities: tuple[str, ...]
    offsets: Ints
    rows: Ints

    @classmethod
    def of(cls, rows: Sequence[HalfHours]) -> _Told:
        columns = [each.columns for each in rows]
        known = dict.fromkeys(each.qualities for each in columns)
        names = tuple(dict.fromkeys(chain.from_iterable(known)))
        quality = [each.quality for each in columns]
        if len(known) > 1:
            quality = [
                np.array([names.index(name) for name in each.qualities] or [0])[each.quality]
                for each in columns
            ]
        return cls(
            np.concatenate([each.absent for each in rows]),
            np.concatenate([each.values_wh for each in columns]),
            np.concatenate(quality),
            names,
            np.concatenate([each.offsets for each in columns]),
            np.concatenate([each.rows for each in columns]),
        )

    def edges(self, begins: Ints) -> Ints:
        """Where runs begin, if answers begin there; the end of all comes last."""
        edges = np.ones(len(self.absent) + 1, np.bool_)
        differs = edges[1:-1]
        np.not_equal(self.offsets[1:], self.offsets[:-1], out=differs)
        differs |= self.rows[1:] != self.rows[:-1]
        differs |= self.quality[1:] != self.quality[:-1]
        if self.absent.any():
            differs &= self.absent[1:] == 0
            differs |= self.absent[1:] != self.absent[:-1]
        edges[begins] = True
        return np.flatnonzero(edges)

    def runs(self, edges: Ints) -> list[bytes]:
        """Each run as the field of a message that it is."""
        starts, half_hours = edges[:-1], np.diff(edges)
        kinds = np.where(self.absent, -1 - self.absent.astype(np.int64), self.quality)[starts]
        runs = np.empty(len(starts), np.object_)
        for kind in np.unique(kinds).tolist():
            of = kinds == kind
            said: list[_Part] = [_NUMBER[1], _varints(half_hours[of])]
            if kind < 0:
                why = dsi_pb2.Absent.Value(f"ABSENT_{ABSENT[-1 - kind]}")
                said += [_NUMBER[2], bytes([why])]
            else:
                offsets, rows = self.offsets[starts[of]], self.rows[starts[of]]
                version: list[_Part] = [_NUMBER[1], _varints(offsets), _NUMBER[2], _varints(rows)]
                said += [*_field(3, [self.qualities[kind].encode()]), *_field(4, version)]
            runs[of] = _joined(_field(3, said), int(of.sum()))
        found: list[bytes] = runs.tolist()
        return found


# Protocol Buffers by hand, as bytes or a row of bytes for each of many messages.
_Part = bytes | NDArray[np.uint8]
_NUMBER: Final = {field: bytes([field << 3]) for field in (1, 2)}


def _field(field: int, content: Sequence[_Part]) -> list[_Part]:
    """A field that holds a text or a message."""
    size = sum(part.shape[1] if isinstance(part, np.ndarray) else len(part) for part in content)
    return [_head(field, size), *content]


def _head(field: int, size: int) -> bytes:
    """What stands before a text, a message or packed numbers of that many bytes."""
    head = bytearray([field << 3 | 2])
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head)


def _varints(numbers: Ints) -> NDArray[np.uint8]:
    """Numbers as varints of as many bytes as the largest needs, a row each. Any parser reads a
    longer one than there need be, and none of them is sent: the library writes its own.
    """
    unsigned = numbers.view(np.uint64)
    bits = int(unsigned.max()).bit_length() if len(unsigned) else 0
    width = max(-(-bits // 7), 1)
    groups = np.empty((len(numbers), width), np.uint8)
    for place in range(width):
        groups[:, place] = (unsigned >> np.uint64(7 * place)).astype(np.uint8) | np.uint8(0x80)
    groups[:, -1] &= np.uint8(0x7F)
    return groups


def _joined(parts: Sequence[_Part], count: int) -> list[bytes]:
    """The bytes of each of so many messages, of parts that are as long in all of them."""
    columns = [
        part
        if isinstance(part, np.ndarray)
        else np.broadcast_to(np.frombuffer(part, np.uint8), (count, len(part)))
        for part in parts
    ]
    whole = np.ascontiguousarray(np.hstack(columns))
    joined: list[bytes] = whole.view(f"V{whole.shape[1]}").ravel().tolist()
    return joined
