"""Heads in their topic: anybody may have written there, and the same head may stand there again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from spine import trust
from spine.codec import Codec
from spine.event import LogRecord
from spine.ledger.note import Checkpoint, Note, PublishedHead, VerifierKey
from spine.log import LogReader
from spine.rows import Malformed, UnknownSchema
from spine.signing import verify

LAST: Final = 1_000


def heads_in(
    records: Iterable[LogRecord], codec: Codec, key: VerifierKey
) -> Iterator[tuple[int, Note]]:
    """Size and note of each head that this key signed; all else that stands there is passed over:
    nonsense, heads of others, and statements under this key that are no head.
    """
    for record in records:
        try:
            value = codec.decode(record.value or b"")
            note = Note.parse(value.note if isinstance(value, PublishedHead) else "")
            head = Checkpoint.parse(note.text)
        except (Malformed, UnknownSchema, ValueError):
            continue
        if head.origin == key.name and note.signed_by(key, verify) is not None:
            yield head.size, note


def published_since(
    reader: LogReader, codec: Codec, key: VerifierKey, epoch_ms: int
) -> Iterator[Note]:
    """Every head of this key that the broker took in at that time or after, and the last ones in
    any case: whoever asks may have a clock that is fast. Blocking.
    """
    start, end = reader.bounds(trust.CHECKPOINTS_TOPIC, 0)
    begin = min(reader.offset_at(trust.CHECKPOINTS_TOPIC, 0, epoch_ms), max(start, end - LAST))
    records = reader.read(trust.CHECKPOINTS_TOPIC, 0, begin)
    return (note for _, note in heads_in(records, codec, key))
