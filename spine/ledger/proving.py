"""Proofs of records together with what is shown of them, under one checkpoint. Blocking."""

from __future__ import annotations

from spine.codec import Codec
from spine.errors import NotFound, Reason
from spine.event import AccessRequests, LogRecord
from spine.ledger.entries import Place
from spine.ledger.library import Json, Prover, shown_json, stored_json
from spine.log import LogReader


class LogProver:
    """Proves what the log holds: reads the record, and lets the prover say where it stands."""

    def __init__(self, prover: Prover, log: LogReader, codec: Codec) -> None:
        self._prover, self._log, self._codec = prover, log, codec

    def record(self, place: Place, offset: int) -> LogRecord:
        """The record at that offset; NotFound(POSITION_INVALID) if there is none.

        Of a partition that is under no head, or before the first offset, the log is not asked.
        """
        known = place in self._prover.heads and offset >= 0
        for record in self._log.read(*place, offset, offset + 1) if known else ():
            return record
        raise NotFound(Reason.POSITION_INVALID, f"{place[0]}-{place[1]} has no record at {offset}")

    def proof(self, record: LogRecord, entry: int | None = None) -> Json:
        """Its proof, without its value; with `entry` that one request of it is shown.

        NotFound(POSITION_INVALID) if no published head covers it yet.
        """
        proof = self._prover.prove((record.topic, record.partition), record.offset)
        proof["stored"] = stored_json(record, with_value=False)
        if entry is not None:
            proof["shown"] = shown_request(self._codec, record, entry)
        return proof


def shown_request(codec: Codec, record: LogRecord, entry: int) -> Json:
    """One request of an access record, by itself; NotFound(POSITION_INVALID) if it has none."""
    value = codec.decode(record.value or b"")
    if not isinstance(value, AccessRequests) or entry >= len(value.entries):
        raise NotFound(Reason.POSITION_INVALID, "the record there holds no such request")
    return shown_json(value.salt_seed, codec.entries(record.value or b""), entry)
