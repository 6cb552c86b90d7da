"""Where an answer came from, stated so that whoever gets it can check without us. Pure.

Three kinds of steps, as the provenance records of the sector have them: *origin* (who sent the
batches of readings behind the answer), *permission* (the request, and what it was permitted under),
*transfer* (to whom, and the digest of what was released). They are the lines of a signed note under
the ledger's key; beside it stand the proofs that each record it names is in the log.
`provenance_check` checks, and shares no code with this.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import quote

import numpy as np

from spine.answer import HalfHours
from spine.event import LogRecord
from spine.gb import HALF_HOUR, half_hour_start, iso_milliseconds
from spine.ledger.entries import RecordLeaf
from spine.ledger.library import Json
from spine.ledger.note import Note
from spine.ledger.provenance_check import FIRST_LINE, PROVENANCE_FORMAT
from spine.ledger.register import Outcome, Read
from spine.merkle import leaf_hash

# A month's answer rests on some 31 batches; a longer one is asked for page by page.
BATCHES_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch of readings, and who sent it, as its coordinator recorded."""

    record: LogRecord
    sender: str
    reference: str
    source_digest: bytes


@dataclass(frozen=True, slots=True)
class Records:
    """The records behind an answer, as the log holds them; batches by offset."""

    request: LogRecord
    outcome: LogRecord
    batches: Mapping[int, Batch]


def batches_of(rows: HalfHours) -> dict[int, int]:
    """The batches behind an answer by their offsets, and how many of its half hours each gave."""
    given = rows.columns.offsets[rows.absent == 0]
    offsets, counts = np.unique(given, return_counts=True)
    return dict(zip(offsets.tolist(), counts.tolist(), strict=True))


def statement(
    log_id: bytes, read: Read, outcome: Outcome, rows: HalfHours, records: Records, at: datetime
) -> str:
    """The text that is signed: what the answer is, then its steps, each naming its record."""
    begin = half_hour_start(rows.columns.first)
    end = begin + len(rows) * HALF_HOUR
    header = {
        "log": log_id.hex(),
        "stated at": iso_milliseconds(at),
        "metering point": rows.mpxn,
        "measurement quantity": read.request.measurement_quantity,
        "half hours": f"{iso_milliseconds(begin)} {iso_milliseconds(end)}",
        "as of": " ".join(f"{p.topic}-{p.partition}@{p.offset}" for p in read.positions),
    }
    lines = [f"{name}: {value}" for name, value in header.items()]
    for offset, count in batches_of(rows).items():
        batch = records.batches[offset]
        said = {
            "sender": batch.sender,
            "reference": batch.reference,
            "source": batch.source_digest.hex(),
            "half-hours": count,
        }
        lines.append(_step("origin", batch.record, said))
    request = read.request
    permission = {
        "entry": read.entry,
        "at": iso_milliseconds(read.at),
        "purpose": request.purpose,
        "basis": request.basis,
        "category": request.category,
        "consent": read.consent_id,
        "version": read.consent_version,
        "policy": read.policy_version,
    }
    lines.append(_step("permission", records.request, permission))
    transfer = {
        "to": f"{request.role}/{request.party}",
        "rows": outcome.rows,
        "sha256": outcome.digest.hex(),
    }
    lines.append(_step("transfer", records.outcome, transfer))
    return "".join(f"{line}\n" for line in (FIRST_LINE, *lines))


def document(signed: Note, proofs: Sequence[Json], keys: Json) -> str:
    """The whole record, as it is handed out: JSON. Format and keys are said once for all proofs."""
    bare = [{k: v for k, v in proof.items() if k not in ("format", "keys")} for proof in proofs]
    said = {
        "format": PROVENANCE_FORMAT,
        "keys": keys,
        "statement": str(signed),
        "proofs": bare,
    }
    return json.dumps(said, indent=1) + "\n"


def _step(kind: str, record: LogRecord, said: Mapping[str, object]) -> str:
    place = f"{record.topic}-{record.partition}@{record.offset}"
    leaf = leaf_hash(RecordLeaf.of(record).encode()).hex()
    words = " ".join(f"{name}={quote(str(value), safe='/:')}" for name, value in said.items())
    return f"{kind}: {place} leaf={leaf} {words}"
