"""What a record of the log is: its parts, what its signature covers, and who may write it.

Everything here is for ever: a record written today must be read, verified and judged the same way
in twenty years. The layout is explained in DESIGN.md, "The log"; golden bytes in `tests/golden`
hold it.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Final

from msgspec import Struct

NO_PREDECESSOR: Final = -1
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# All requests of one record are judged at the same instant.
INSTANTS_KEPT_MAX: Final = 1_024
PLACES_KEPT_MAX: Final = 1_024
HEADER_NAMES_KEPT_MAX: Final = 256
_INT: Final = struct.Struct(">i").pack

SIGNED_TAG: Final = b"energyos-record-v1\x00"
SIGNATURE_HEADER: Final = "sig"
KEY_ID_HEADER: Final = "kid"
TYPE_HEADER: Final = "t"
PRODUCED_AT_HEADER: Final = "pt"
ENTRIES_ROOT_HEADER: Final = "mr"


class RecordType(StrEnum):
    """The `t` header. One letter, because it is paid for on every record."""

    OPENING = "o"
    FACTS = "f"
    COPY = "g"
    ACCESS = "a"
    OUTCOMES = "x"
    READINGS = "r"
    QUARANTINE = "q"


class SignerRole(StrEnum):
    """Who a signing key speaks for. A fact whose type does not match its signer's role is void."""

    ROOT = "root"
    GOVERNANCE = "governance"
    CONSUMERS = "consumers"
    METERING = "metering"
    BTM_ASSETS = "btm_assets"
    DSI = "dsi"


@dataclass(frozen=True, slots=True)
class LogRecord:
    """A record as the broker gave it. `append_ms` is the broker's append time, milliseconds UTC."""

    topic: str
    partition: int
    offset: int
    append_ms: int
    key: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    value: bytes | None

    def header(self, name: str) -> bytes | None:
        """The value of the one header of that name; None if it is absent or given twice."""
        found = [value for key, value in self.headers if key == name]
        return found[0] if len(found) == 1 else None

    def digest(self) -> bytes:
        """SHA-256 over position and content, kept with a store's position to know its log again.

        Total: whatever a broker took from anybody has a digest, also what could never be signed.
        """
        digest = hashlib.sha256(b"energyos-position-v1\x00")
        place = struct.pack(">qqi", self.offset, self.append_ms, self.partition)
        parts: list[bytes | None] = [place, self.topic.encode(), self.key, self.value]
        for name, content in self.headers:
            parts += [name.encode("utf-8", "surrogatepass"), content]
        for part in parts:
            digest.update(struct.pack(">q", -1 if part is None else len(part)) + (part or b""))
        return digest.digest()


@dataclass(frozen=True, slots=True)
class Opening:
    """First record of every partition. The log id is the hash of all of it but the partition."""

    generation: int
    partition_count: int
    root_key: bytes
    created_at: datetime
    nonce: bytes

    def log_id(self) -> bytes:
        """32 bytes that name this log for ever; pinned in settings and under every signature."""
        body = struct.pack(">iiq", self.generation, self.partition_count, epoch_ms(self.created_at))
        return hashlib.sha256(b"energyos-log-v1\x00" + body + self.root_key + self.nonce).digest()


class Fact(Struct, frozen=True):
    """One thing that happened: `type` is `<domain>.<EventName>`, `body` its framed Avro."""

    type: str
    occurred_at: datetime
    body: bytes


class Command(Struct, frozen=True):
    """The facts of one accepted command. They apply together or are void together.

    `id` is derived from party, method and idempotency key; `request_digest` tells a repeated
    request from another one under the same key. `previous_offset` and `previous_entry` name the
    last applied command of the same subject in this topic; `NO_PREDECESSOR` at first.
    """

    id: bytes
    subject: str
    request_digest: bytes
    previous_offset: int
    previous_entry: int
    actor: str
    facts: tuple[Fact, ...]


class Facts(Struct, frozen=True):
    """The value of a FACTS record: one command, or a bulk list in which each stands alone."""

    topic: str
    partition: int
    commands: tuple[Command, ...]


@dataclass(frozen=True, slots=True)
class Header:
    """A Kafka header inside a governance copy."""

    name: str
    value: bytes


@dataclass(frozen=True, slots=True)
class GovernanceCopy:
    """A home record of governance, bytes and signature unchanged, in a partition it concerns.

    `home_offset` orders copies; `previous_home_offset` is the copy due before this one.
    """

    home_topic: str
    home_partition: int
    home_offset: int
    home_append_ms: int
    previous_home_offset: int
    home_key: bytes | None
    home_headers: tuple[Header, ...]
    home_value: bytes

    def home(self) -> LogRecord:
        """The home record, as its own partition holds it."""
        return LogRecord(
            self.home_topic,
            self.home_partition,
            self.home_offset,
            self.home_append_ms,
            self.home_key,
            tuple((h.name, h.value) for h in self.home_headers),
            self.home_value,
        )


@dataclass(frozen=True, slots=True)
class DataPosition:
    """How far a read may look: records of that topic-partition below `offset`, and no further."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class AccessRequest:
    """One request for data, as logged before any data is read. Frozen: see DESIGN.md, "A read".

    `meters` is one meter or a set of up to 1,000 of one partition. Instants are UTC. `vector` is
    the index of the request's data positions in the record. `as_of_known` was turned into those
    positions before the append; the instant is kept to say what was asked.
    """

    request_id: bytes
    party: str
    role: str
    certificate_fingerprint: bytes
    forwarded_by: str
    method: str
    purpose: str
    basis: str
    category: str
    measurement_quantity: str
    consent_id: str
    meters: tuple[str, ...]
    interval_from: datetime
    interval_to: datetime
    as_of_valid: datetime | None
    as_of_known: datetime | None
    vector: int


@dataclass(frozen=True, slots=True)
class AccessRequests:
    """The value of an ACCESS record: a batch of requests to one partition, signed once.

    The `mr` header holds the Merkle root over the salted entries; the salts come from `salt_seed`,
    which stays in this record, so one entry can be shown without the others.
    """

    topic: str
    partition: int
    server: str
    salt_seed: bytes
    vectors: tuple[tuple[DataPosition, ...], ...]
    entries: tuple[AccessRequest, ...]


@dataclass(frozen=True, slots=True)
class AbsentRun:
    """Consecutive half hours of an answer that carry no value, all for one typed reason."""

    start: datetime
    half_hours: int
    reason: str


@dataclass(frozen=True, slots=True)
class AccessOutcome:
    """What became of one decided request (or one member, or one chunk of it).

    `release` is RELEASED, REFUSED or NOT_RELEASED; `reason` is a `Reason`, empty for a full
    release. `digest` covers the canonical rows with every absent half hour as its typed reason.
    """

    request_id: bytes
    decided_partition: int
    decided_offset: int
    decided_entry: int
    member: str
    chunk: int
    decision: str
    reason: str
    release: str
    release_reason: str
    consent_id: str
    consent_version: int
    policy_version: int
    reducer_version: int
    schema_set: bytes
    tzdata_version: str
    rows: int
    digest: bytes
    absent: tuple[AbsentRun, ...]


@dataclass(frozen=True, slots=True)
class AccessOutcomes:
    """The value of an OUTCOMES record."""

    topic: str
    partition: int
    server: str
    entries: tuple[AccessOutcome, ...]


@dataclass(frozen=True, slots=True)
class Sealed:
    """Personal data under a subject's own key (AES-256-GCM). Policy never reads inside.

    `key_id` names the key in the key store; `context` is bound into the seal, so that a sealed
    field cannot be cut out and pasted elsewhere.
    """

    key_id: str
    nonce: bytes
    ciphertext: bytes
    context: str


@dataclass(frozen=True, slots=True)
class Quarantined:
    """Refused input, kept whole: the rule it broke, its bytes and where it stood."""

    source_topic: str
    source_partition: int
    source_offset: int
    source_entry: int
    source_append_ms: int
    rule: str
    key: bytes | None
    headers: tuple[Header, ...]
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Settled:
    """What was done with one quarantined entry, by whom: a later record of the same type.

    `how` is REDRIVEN (appended again, at the place named) or RELEASED (looked at, left out).
    """

    source_topic: str
    source_partition: int
    source_offset: int
    source_entry: int
    how: str
    settled_by: str
    reason: str
    redriven_partition: int
    redriven_offset: int
    settled_at: datetime


def epoch_ms(instant: datetime) -> int:
    """Milliseconds since 1970-01-01 UTC, exactly."""
    delta = instant - _EPOCH
    return delta.days * 86_400_000 + delta.seconds * 1_000 + delta.microseconds // 1_000


@lru_cache(INSTANTS_KEPT_MAX)
def from_epoch_ms(milliseconds: int) -> datetime:
    """The UTC instant of that many milliseconds since 1970-01-01."""
    return _EPOCH + timedelta(milliseconds=milliseconds)


@lru_cache(PLACES_KEPT_MAX)
def _place(topic: str, partition: int) -> bytes:
    name = topic.encode()
    return struct.pack(">H", len(name)) + name + struct.pack(">i", partition)


@lru_cache(HEADER_NAMES_KEPT_MAX)
def _counted(header: str) -> bytes:
    encoded = header.encode()
    return struct.pack(">H", len(encoded)) + encoded


def _framed(
    topic: str,
    partition: int,
    key: bytes | None,
    headers: tuple[tuple[str, bytes], ...],
    value: bytes | None,
) -> bytes:
    parts = [_place(topic, partition), _INT(-1 if key is None else len(key)), key or b""]
    signed = [(header, content) for header, content in headers if header != SIGNATURE_HEADER]
    parts.append(struct.pack(">H", len(signed)))
    for header, content in signed:
        parts += (_counted(header), _INT(len(content)), content)
    parts.append(hashlib.sha256(value).digest() if value is not None else bytes(32))
    return b"".join(parts)


def signed_bytes(
    log_id: bytes,
    topic: str,
    partition: int,
    key: bytes | None,
    headers: tuple[tuple[str, bytes], ...],
    value: bytes | None,
) -> bytes:
    """What the signature of a record covers: log, place, key, headers but `sig`, and value hash.

    The value enters by its SHA-256, so that a proof can show that a record was signed, with its
    headers, without showing the value.
    """
    return SIGNED_TAG + log_id + _framed(topic, partition, key, headers, value)
