"""Checks a provenance record offline: who sent what is in an answer, and on what leave it went out.

It shares no code with what makes them, as `verifier` beside it does not; both may be copied out and
run: `python provenance_check.py RECORD.json [ANSWER.json]`. An answer is one page of readings as
`spine read --json` prints it; what it holds must come to the digest that was recorded of it.
"""

from __future__ import annotations

import json
import struct
import sys
from base64 import b64decode
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

try:
    from spine.ledger import verifier as v
except ImportError:  # copied out, beside verifier.py
    import verifier as v  # type: ignore[import-not-found, no-redef]

PROVENANCE_FORMAT = "energyos-provenance/1"
FIRST_LINE = "energyos.provenance.v1"
STEPS = ("origin", "permission", "transfer")


class Step:
    """A line of the statement: what happened, at which place of the log, and what is said of it."""

    def __init__(self, kind: str, words: str) -> None:
        place, *said = words.split(" ")
        self.kind, self.place = kind, place
        self.said = {
            name: unquote(value) for name, _, value in (each.partition("=") for each in said)
        }


def check_provenance(
    document: dict[str, Any], keys: v.Keys, answer: dict[str, Any] | None = None
) -> list[str]:
    """What a record shows, statement by statement; Wrong at the first that does not hold."""
    if document["format"] != PROVENANCE_FORMAT:
        raise v.Wrong("not a provenance record of this ledger")
    header, steps = _statement(document["statement"], keys)
    leaves: dict[str, bytes] = {}
    said: list[str] = []
    for proof in document["proofs"]:
        shown = v.check_proof(proof, keys)
        said = said or [shown[0]]
        entry = v.unbase64(proof["record"]["entry"])
        leaves["{}-{}@{}".format(*v.place_of(entry))] = v.leaf_of(entry)
    if len(leaves) != len(steps) or {step.place for step in steps} != set(leaves):
        raise v.Wrong("the proofs are not of the records that the statement names")
    for step in steps:
        if leaves[step.place].hex() != step.said["leaf"]:
            raise v.Wrong(f"{step.place} is another record than the statement speaks of")
        said.append(_told(step))
    if answer is not None:
        said.append(_check_answer(answer, header["metering point"], steps))
    return said


def _statement(raw: str, keys: v.Keys) -> tuple[dict[str, str], list[Step]]:
    """What the log's key signed, and its steps; Wrong if it did not."""
    text, _, signed = raw.rpartition("\n\n")
    text += "\n"
    name, kind, key_id, public = v.key_of(keys.log)
    blobs = [b64decode(line.split(" ")[2], validate=True) for line in signed.splitlines()]
    mine = [blob[4:] for blob in blobs if blob[:4] == key_id]
    if kind != v.LOG_KEY or not any(v.signed_by(public, text.encode(), each) for each in mine):
        raise v.Wrong(f"{name} did not sign the statement")
    first, *lines = text.splitlines()
    if first != FIRST_LINE:
        raise v.Wrong("what is signed is no provenance record")
    pairs = [line.split(": ", 1) for line in lines]
    steps = [Step(kind_, words) for kind_, words in pairs if kind_ in STEPS]
    if [step.kind for step in steps[-2:]] != ["permission", "transfer"]:
        raise v.Wrong("a statement ends with a permission and a transfer")
    return {each: words for each, words in pairs if each not in STEPS}, steps


def _told(step: Step) -> str:
    said = step.said
    match step.kind:
        case "origin":
            return f"{step.place}: {said['sender']} sent {said['half-hours']} half hours of it"
        case "permission":
            under = (
                f"consent {said['consent']} v{said['version']}"
                if said["consent"]
                else said["basis"]
            )
            return f"{step.place}: asked for {said['purpose']}, permitted under {under}"
        case _:
            return f"{step.place}: {said['rows']} half hours released to {said['to']}"


def _check_answer(answer: dict[str, Any], mpxn: str, steps: Sequence[Step]) -> str:
    """That these are the half hours that were released, from those batches."""
    rows, transfer = answer["rows"], steps[-1]
    if v.sha256(canonical(mpxn, rows)).hex() != transfer.said["sha256"]:
        raise v.Wrong("the answer is not the one that was released")
    given = Counter(int(row["version"].split(".")[0]) for row in rows if "value_wh" in row)
    named = {
        int(step.place.rpartition("@")[2]): int(step.said["half-hours"])
        for step in steps
        if step.kind == "origin"
    }
    if given != named:
        raise v.Wrong("the answer rests on other batches than the statement names")
    return f"the answer is the one that was released: {sum(given.values())} half hours of {mpxn}"


def canonical(mpxn: str, rows: Sequence[dict[str, Any]]) -> bytes:
    """What the digest of half hours covers: of each its value and version, or why it has none."""
    out = [b"energyos-half-hours-v1\x00"]
    for row in rows:
        start = datetime.strptime(row["start"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        start_ms = round(start.timestamp() * 1000)
        out.append(_short(mpxn) + struct.pack(">q", start_ms))
        if "value_wh" in row:
            offset, place = map(int, row["version"].split("."))
            out.append(struct.pack(">Bq", 1, row["value_wh"]) + _short(row["quality"]))
            out.append(struct.pack(">qi", offset, place))
        else:
            out.append(b"\x00" + _short(row["absent"]))
    return b"".join(out)


def _short(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack(">B", len(encoded)) + encoded


def verify(path: Path, keys: v.Keys | None = None, answer: Path | None = None) -> v.Report:
    """Check a record, and the answer that came with it, by these keys (its own if None)."""
    report = v.Report()
    try:
        document = json.loads(path.read_text("utf-8"))
        page = None if answer is None else _page(json.loads(answer.read_text("utf-8")))
        trusted = keys or v.Keys.of(document["keys"])
        report.checked += check_provenance(document, trusted, page)
    except v.Wrong as wrong:
        report.wrong.append(str(wrong))
    except (LookupError, ValueError, TypeError, AttributeError, struct.error, OSError) as error:
        report.wrong.append(f"malformed: {type(error).__name__}: {error}")
    return report


def _page(answer: Any) -> dict[str, Any]:
    """A page by itself, or the only one of a list."""
    if isinstance(answer, list):
        if len(answer) != 1:
            raise v.Wrong("an answer of several pages has a record for each: check page by page")
        answer = answer[0]
    page: dict[str, Any] = answer
    return page


def main() -> int:
    """Check the record named on the command line; 0 if all of it holds, else 6."""
    report = verify(Path(sys.argv[1]), answer=Path(sys.argv[2]) if sys.argv[2:] else None)
    sys.stdout.write("".join(f"{line}\n" for line in report.checked))
    sys.stderr.write("".join(f"WRONG  {line}\n" for line in report.wrong))
    return 0 if report.ok else 6


if __name__ == "__main__":
    sys.exit(main())
