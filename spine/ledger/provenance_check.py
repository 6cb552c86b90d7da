"""Checks a provenance record offline: who sent what is in an answer, and on what leave it went out.

It shares no code with what makes them, as `verifier` beside it does not; both may be copied out:
`python provenance_check.py RECORD.json [ANSWER.json [--page N]] [--key KEY --witness KEY ...]`.
An answer is what `spine read --json` prints, one record is of one page of it, and what that holds
must come to the digest that was recorded of it. That each record named is in the log is proved;
what a step says beside is the word of the ledger, which signed it.
"""

from __future__ import annotations

import json
import re
import struct
import sys
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

if __package__:
    from spine.ledger import verifier as v
else:  # copied out, beside verifier.py
    import verifier as v  # type: ignore[import-not-found, no-redef]

PROVENANCE_FORMAT = "energyos-provenance/1"
FIRST_LINE = "energyos.provenance.v1"
# Each kind of step is about records of one topic.
STEPS = {
    "origin": "metering.readings.v1",
    "permission": "consumers.events.v1",
    "transfer": "access.outcomes.v1",
}
VERSION = re.compile(r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)", re.ASCII)
HALF_HOUR = timedelta(minutes=30)


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
    if len(document["proofs"]) != len(steps) or {step.place for step in steps} != set(leaves):
        raise v.Wrong("the proofs are not of the records that the statement names")
    for step in steps:
        if leaves[step.place].hex() != step.said["leaf"]:
            raise v.Wrong(f"{step.place} is another record than the statement speaks of")
        said.append(_told(step))
    if answer is not None:
        said.append(_check_answer(answer, header, steps))
    return said


def _statement(raw: str, keys: v.Keys) -> tuple[dict[str, str], list[Step]]:
    """What the log's key signed, and its steps; Wrong if it did not."""
    text, _, signed = raw.rpartition("\n\n")
    text += "\n"
    name, kind, key_id, public = v.key_of(keys.log)
    blobs = [v.unbase64(line.split(" ")[2]) for line in signed.removesuffix("\n").split("\n")]
    mine = [blob[4:] for blob in blobs if blob[:4] == key_id]
    if kind != v.LOG_KEY or not any(v.signed_by(public, text.encode(), each) for each in mine):
        raise v.Wrong(f"{name} did not sign the statement")
    first, *lines = text.splitlines()
    if first != FIRST_LINE:
        raise v.Wrong("what is signed is no provenance record")
    pairs = [line.split(": ", 1) for line in lines]
    steps = [Step(each, words) for each, words in pairs if each in STEPS]
    header = [(each, words) for each, words in pairs if each not in STEPS]
    _check_form(dict(header), len(header), steps, name)
    return dict(header), steps


def _check_form(header: dict[str, str], lines: int, steps: Sequence[Step], name: str) -> None:
    """Wrong unless it is one statement about one partition of the log whose key signed it."""
    kinds = [step.kind for step in steps]
    if kinds != ["origin"] * (len(kinds) - 2) + ["permission", "transfer"]:
        raise v.Wrong("a statement has origins, then one permission and one transfer")
    if lines != len(header) or name != f"energyos.spine/log/{header['log']}":
        raise v.Wrong("the statement says something twice, or is of another log")
    partitions = {step.place.rpartition("@")[0].rpartition("-")[2] for step in steps}
    topics = [step.place.rpartition("-")[0] for step in steps]
    if len(partitions) != 1 or topics != [STEPS[kind] for kind in kinds]:
        raise v.Wrong("a step names a record of another topic or partition")


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


def _check_answer(answer: dict[str, Any], header: dict[str, str], steps: Sequence[Step]) -> str:
    """That these are the half hours that were released, by that decision, from those batches."""
    rows, mpxn, permission, transfer = answer["rows"], header["metering point"], *steps[-2:]
    decided = "{partition}@{offset}.{entry}".format(**answer["decision"])
    if decided != f"{permission.place.rpartition('-')[2]}.{permission.said['entry']}":
        raise v.Wrong("the answer was decided elsewhere than the statement says")
    begin, end = map(_instant, header["half hours"].split(" "))
    starts = [_start(row) for row in rows]
    if starts != [begin + place * HALF_HOUR for place in range((end - begin) // HALF_HOUR)]:
        raise v.Wrong("the answer is of other half hours than the statement says")
    if v.sha256(canonical(mpxn, rows)).hex() != transfer.said["sha256"]:
        raise v.Wrong("the answer is not the one that was released")
    given = Counter(_version(row)[0] for row in rows if "value_wh" in row)
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
        start_ms = round(_start(row).timestamp() * 1000)
        out.append(_short(mpxn) + struct.pack(">q", start_ms))
        if row.keys() not in ({"start", "value_wh", "quality", "version"}, {"start", "absent"}):
            raise v.Wrong("a half hour has a value, its quality and version, or why it has none")
        if "value_wh" in row:
            offset, place = _version(row)
            out.append(struct.pack(">Bq", 1, row["value_wh"]) + _short(row["quality"]))
            out.append(struct.pack(">qi", offset, place))
        else:
            out.append(b"\x00" + _short(row["absent"]))
    return b"".join(out)


def _start(row: dict[str, Any]) -> datetime:
    return datetime.strptime(row["start"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


def _instant(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)


def _version(row: dict[str, Any]) -> tuple[int, int]:
    found = VERSION.fullmatch(row["version"])
    if found is None:
        raise v.Wrong("a version is the offset of a batch and a row of it")
    return int(found[1]), int(found[2])


def _short(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack(">B", len(encoded)) + encoded


def verify(
    path: Path,
    keys: v.Keys | None = None,
    answer: Path | None = None,
    number: int | None = None,
) -> v.Report:
    """Check a record, and that page of the answer with it, by these keys (its own if None).

    Misused for a page that the answer does not have, or none named of several.
    """
    report = v.Report()
    try:
        document = _loaded(path)
        if number is not None and answer is None:
            raise v.Misused("--page is of an answer, and none is named")
        page = None if answer is None else _page(_loaded(answer), number)
        trusted = keys or v.Keys.of(document["keys"])
        report.checked += check_provenance(document, trusted, page)
        if number is not None:
            report.checked[-1] = f"page {number}: {report.checked[-1]}"
    except v.Wrong as wrong:
        report.wrong.append(str(wrong))
    except (*v.MALFORMED, struct.error, OSError) as error:
        report.wrong.append(f"malformed: {type(error).__name__}: {error}")
    return report


def _loaded(path: Path) -> Any:
    """The JSON in a file; Wrong if something stands there twice, of which readers see either."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise v.Wrong(f"{path.name} says something twice")
        return dict(pairs)

    return json.loads(path.read_text("utf-8"), object_pairs_hook=once)


def _page(answer: Any, number: int | None) -> dict[str, Any]:
    """That page of a list, the only one if none is named, or a page by itself."""
    pages: list[dict[str, Any]] = answer if isinstance(answer, list) else [answer]
    if number is None and len(pages) != 1:
        raise v.Misused(f"--page: the answer has {len(pages)} pages, and a record is of one")
    place = 1 if number is None else number
    if not 1 <= place <= len(pages):
        raise v.Misused(f"--page: the answer has {len(pages)} pages, and no page {place}")
    return pages[place - 1]


def main() -> int:
    """Check the record named on the command line; 0 if all of it holds, 6 if not, 2 if misused."""
    words = ArgumentParser(description="Checks a provenance record offline.")
    words.add_argument("record", type=v.there)
    words.add_argument("answer", type=v.there, nargs="?")
    words.add_argument("--page", type=int, help="which page of the answer it is of")
    return v.run(words, lambda said, keys: verify(said.record, keys, said.answer, said.page))


if __name__ == "__main__":
    sys.exit(main())
