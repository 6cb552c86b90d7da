"""Bytes to values and back: Avro with the Confluent framing on the log, MessagePack in stores.

Decoding is strict (`exact`): too many bytes, bytes left over, a second way to write the same value
or a value of the wrong shape are all `Malformed`. A schema id this build has not is
`UnknownSchema`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import date, datetime
from functools import lru_cache
from io import BytesIO
from typing import Any, Final

import fastavro
import msgspec

from spine import event
from spine.domain import Domain
from spine.event import AccessOutcomes, AccessRequest, AccessRequests
from spine.exact import RAW, Reader, reader_of, whole
from spine.ledger.note import PublishedHead
from spine.rows import COPIES_REMEMBERED_MAX, Malformed, Reading, Tools, UnknownSchema
from spine.schemas import Schema, Schemas
from spine.writing import Said, Writer, said_by, writer_of

MAGIC: Final = 0
MAX_VALUE_BYTES: Final = 1 << 20
# Of what was encoded to be appended: more than is on its way to the log and back at one time.
WRITTEN_KEPT_MAX: Final = 8_192
# What leaves are made of: as it stands in its record, so that it need not be written again.
REQUEST: Final = "energyos.spine.AccessRequest"
_FRAME = struct.Struct(">bI")
_PASSED_THROUGH = (bytes, datetime, date)

SPINE_RECORDS: Final[Mapping[str, type]] = {
    f"spine.{record.__name__}": record
    for record in (
        event.Opening,
        event.Facts,
        event.GovernanceCopy,
        event.AccessRequests,
        event.AccessOutcomes,
        event.Quarantined,
        PublishedHead,
        event.Settled,
    )
}


class Codec:
    """Encodes and decodes the records of the log and the facts of the given domains."""

    def __init__(self, schemas: Schemas, domains: Iterable[Domain] = ()) -> None:
        self.schemas = schemas
        self._records = dict(SPINE_RECORDS)
        self._events: dict[str, type] = {}
        for domain in domains:
            self._records.update(domain.records)
            self._events.update(domain.events)
        self._names = {cls: name for name, cls in (self._records | self._events).items()}
        requests: Any = schemas.named("spine.AccessRequests").parsed
        (entries,) = (f for f in requests["fields"] if f["name"] == "entries")
        # By itself, or fastavro would parse it again for each entry that is written.
        self._entry = fastavro.parse_schema(entries["type"]["items"])
        self._writers: dict[type, tuple[bytes, Writer, Said | None]] = {}
        self._last: tuple[bytes | None, object, list[bytes]] = None, None, []
        self._written: dict[bytes, object] = {}
        self._readers: dict[int, tuple[Reader, bool]] = {}

    def encode(self, value: object) -> bytes:
        """Confluent-framed Avro of a record or event, in the latest version of its schema."""
        if type(value) is AccessOutcomes:
            frame, write, _ = self._writers.get(AccessOutcomes) or self._writer(AccessOutcomes)
            return frame + write(value)
        return _framed(self.schemas.named(self._names[type(value)]), _plain(value))

    def encode_to_append(self, value: object) -> bytes:
        """The same, for what this process will meet in the log again: when it does, those very
        bytes need not be read to know what they say.
        """
        frame, write, all_said = self._writers.get(type(value)) or self._writer(type(value))
        framed = frame + write(value)
        if all_said is None or all_said(value):
            if len(self._written) >= WRITTEN_KEPT_MAX:
                self._written.clear()
            self._written[framed] = value
        return framed

    def _writer(self, kind: type) -> tuple[bytes, Writer, Said | None]:
        """What writes values of a type, with the frame before them; made when first needed."""
        schema = self.schemas.named(self._names[kind])
        frame = _FRAME.pack(MAGIC, schema.id)
        made = self._writers[kind] = frame, writer_of(schema.parsed), said_by(schema.parsed)
        return made

    def decode(self, framed: bytes) -> object:
        """The record value in those bytes; raises Malformed or UnknownSchema.

        A fold decodes a record, and then whoever hosts it: the same bytes are decoded once.
        """
        return self._decoded(framed)[0]

    def entries(self, framed: bytes) -> list[bytes]:
        """The Avro binary of each request of an access record in those bytes, as `encode_entry`
        gives it; raises as `decode` does.
        """
        return self._decoded(framed)[1]

    def _decoded(self, framed: bytes) -> tuple[object, list[bytes]]:
        """The record value in those bytes, and those of its requests if it is an access record."""
        last, value, entries = self._last
        if last is not framed:
            entries = []
            value = self._written.pop(framed, None)
            if type(value) is AccessRequests or self._names.get(type(value)) not in self._records:
                value = self._decode(framed, self._records, entries)
            self._last = framed, value, entries
        return value, entries

    def decode_event(self, event_type: str, framed: bytes) -> object:
        """The event in those bytes, which must be of the type the fact says it is."""
        cls = self._events.get(event_type)
        if cls is None:
            raise UnknownSchema(event_type)
        written = self._written.pop(framed, None)
        if type(written) is cls:
            return written
        decoded = self._decode(framed, self._events)
        if type(decoded) is not cls:
            raise Malformed(f"{event_type} holds another type")
        return decoded

    def encode_entry(self, request: AccessRequest) -> bytes:
        """The Avro binary of one access request: what its Merkle leaf covers, after the salt."""
        out = BytesIO()
        fastavro.schemaless_writer(out, self._entry, _plain(request))
        return out.getvalue()

    def _reader(self, schema: Schema, cls: type) -> tuple[Reader, bool]:
        """What reads a schema, made when it is first needed, and whether it makes values of the
        class itself; what it gives otherwise is plain.
        """
        found = reader_of(schema.parsed, REQUEST), False
        if schema is self.schemas.named(schema.name):
            # If not: a field is of another type than Avro knows.
            with suppress(LookupError):
                found = reader_of(schema.parsed, REQUEST, cls), True
        self._readers[schema.id] = found
        return found

    def _decode(
        self, framed: bytes, classes: Mapping[str, type], entries: list[bytes] | None = None
    ) -> object:
        if len(framed) > MAX_VALUE_BYTES or len(framed) < _FRAME.size or framed[0] != MAGIC:
            raise Malformed("no Confluent frame")
        _, schema_id = _FRAME.unpack_from(framed)
        schema = self.schemas.by_id.get(schema_id)
        if schema is None:
            raise UnknownSchema(str(schema_id))
        cls = classes.get(schema.name)
        if cls is None:
            raise Malformed(f"{schema.name} has no place here")
        reader, makes = self._readers.get(schema_id) or self._reader(schema, cls)
        try:
            plain = whole(reader, framed, _FRAME.size, entries)
            if makes:
                return plain
            if cls is AccessRequests and entries is not None:
                entries += [entry.pop(RAW) for entry in plain["entries"]]
            latest = self.schemas.named(schema.name)
            if latest is not schema:
                body = BytesIO(framed[_FRAME.size :])
                plain = fastavro.schemaless_reader(body, schema.parsed, latest.parsed)
            value: object = msgspec.convert(plain, cls)
            return value
        except (ValueError, TypeError, LookupError, EOFError, OverflowError, MemoryError) as error:
            raise Malformed(f"{schema.name}: {type(error).__name__}") from None


@lru_cache(maxsize=8)
def tools(codec: Codec, verify: Callable[[bytes, bytes, bytes], bool]) -> Tools:
    """What a pure fold is lent, made from this codec and a way to verify signatures.

    All folds of one codec are lent the same: what governance said has a copy in every partition,
    and what is alike in all of them is read once. It is remembered by everything that goes into it,
    so that no byte of a copy can differ and be taken for another one's.
    """
    remember = lru_cache(COPIES_REMEMBERED_MAX)
    decode = lru_cache(2 * COPIES_REMEMBERED_MAX)(codec.decode)  # what was copied, and the copy
    copied = Reading(remember(verify), decode, remember(codec.decode_event))
    return Tools(verify, codec.decode, codec.decode_event, copied, codec.entries, pack, unpack)


def pack(value: object) -> bytes:
    """A value as a row of a store holds it."""
    return _packer.encode(value)


def unpack(row: bytes, kind: Any) -> Any:
    """The value in a row, as the type it was packed from; Malformed if it is no such value."""
    try:
        return _unpacker(kind).decode(row)
    except (msgspec.MsgspecError, ValueError, OverflowError) as error:
        raise Malformed(f"no row of this kind: {type(error).__name__}") from None


_packer = msgspec.msgpack.Encoder()


@lru_cache(maxsize=64)
def _unpacker(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(kind)


def _framed(schema: Schema, plain: Any) -> bytes:
    out = BytesIO()
    out.write(_FRAME.pack(MAGIC, schema.id))
    fastavro.schemaless_writer(out, schema.parsed, plain)
    return out.getvalue()


def _plain(value: object) -> Any:
    return msgspec.to_builtins(value, builtin_types=_PASSED_THROUGH)
