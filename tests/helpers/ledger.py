"""A small ledger on the disk, without a broker: records, a book over them, witnesses of it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from spine.event import LogRecord
from spine.files import write_whole
from spine.ledger.book import KEYS_FILE, Book, Sealed, origin_of
from spine.ledger.library import Library
from spine.ledger.note import ED25519, Note, VerifierKey, parse_signature
from spine.ledger.witness import Witness
from spine.signing import public_bytes

PLACES = [("consumers.events.v1", 0), ("consumers.events.v1", 1), ("governance.events.v1", 0)]
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEY = VerifierKey(origin_of(bytes(32)), ED25519, public_bytes(PRIVATE))


def record(offset: int, place: tuple[str, int] = PLACES[0], says: str = "") -> LogRecord:
    """A record of the log; nothing in it is signed, and the ledger does not ask."""
    value = f"{offset} {says}".encode()
    headers = (("t", b"f"), ("sig", bytes(64)))
    return LogRecord(*place, offset, 1_767_225_600_000 + offset, None, headers, value)


def open_book(folder: Path) -> Book:
    """The book of a folder."""
    return Book(folder, KEY, PRIVATE.sign, PLACES)


def sealed(book: Book, records: Iterable[LogRecord]) -> Sealed:
    """One more epoch, over these records."""
    for each in records:
        book.append(each)
    made = book.seal(1_767_225_600_000)
    assert made is not None
    return made


def published(book: Book, made: Sealed, witnesses: Iterable[Witness] = ()) -> Note:
    """Have a head cosigned, publish it, and say whose signatures count."""
    asked = list(witnesses)
    lines = [w.add(Library(book.public).growth(w.size, made.note)) for w in asked]
    note = made.note.with_signatures(map(parse_signature, lines))
    keys = {"log": str(KEY), "witnesses": [str(w.key) for w in asked], "quorum": len(asked)}
    write_whole(book.public / KEYS_FILE, json_bytes(keys), sync=False)
    book.publish(note)
    return note


def json_bytes(value: object) -> bytes:
    """JSON, as files hold it."""
    return json.dumps(value).encode()
