"""What is for ever: bytes on the log, what is signed, hashes, and histories that fold as they did.

The files beside this one are written only under SPINE_REWRITE_GOLDEN=1, and a change in one of
them is a change of what the log means: new entries may be added, old ones never altered.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from domains.btm_assets import BTM_ASSETS
from domains.consumers.acknowledgements import ACKNOWLEDGEMENTS
from domains.consumers.decider import CONSUMERS
from domains.consumers.deletion_terms import DELETION_TERMS_HASHES
from domains.consumers.erasure import ERASURES
from domains.consumers.fan_out import CONSENT_FAN_OUT
from domains.governance.decider import GOVERNANCE
from domains.governance.holds import PARTY_HOLDS
from domains.metering import AGGREGATES, METERING, READINGS
from domains.metering.catalogue import METERING_STANDING
from spine import merkle, trust
from spine.accreditation import table_digest
from spine.answer import half_hours_digest, records_digest
from spine.codec import SPINE_RECORDS
from spine.domain import Actor, Domain
from spine.event import Command, Facts, LogRecord, Opening, signed_bytes
from spine.murmur2 import murmur2_partition
from spine.orders import Order
from spine.partition import PartitionFold
from spine.policy import MeterAccess
from spine.policy_data import POLICY_DATA, data_hash
from spine.rows import Counts, Head, Subject
from spine.schemas import SCHEMAS_DIR
from spine.signing import sign
from spine.store import StorePosition
from spine.vocabulary import vocabulary
from tests.helpers import stories
from tests.helpers.half_hours import in_columns
from tests.helpers.records import (
    BEGUN,
    BY_CONSUMERS,
    CODEC,
    LOG_ID,
    METER,
    OPENING,
    TOOLS,
    command,
    digest,
    granted,
    moved_in,
    refold,
)
from tests.helpers.samples import HALF_HOURS, REQUEST, TERMS, VALUES

HERE = Path(__file__).parent
REWRITE = os.environ.get("SPINE_REWRITE_GOLDEN") == "1"
RECORDS = {*SPINE_RECORDS.values(), *READINGS.records.values(), *AGGREGATES.records.values()}
HISTORIES: Mapping[str, Domain] = {
    "consumers": CONSUMERS,
    "readings": READINGS,
    "corrections": READINGS,
    "gas": READINGS,
    "aggregates": AGGREGATES,
    "registry": METERING,
    "assets": BTM_ASSETS,
    "orders": CONSENT_FAN_OUT,
    "records": CONSUMERS,
    "objections": CONSUMERS,
    "erasures": ERASURES,
    "acknowledgements": ACKNOWLEDGEMENTS,
    "webhooks": ACKNOWLEDGEMENTS,
    "confirmations": ACKNOWLEDGEMENTS,
    "holds": PARTY_HOLDS,
    "standing": METERING_STANDING,
    "governance": GOVERNANCE,
    "equivalence": GOVERNANCE,
    "identifiers": GOVERNANCE,
}
STORIES = {name: getattr(stories, f"{name}_story") for name in HISTORIES}


def kept(name: str) -> Any:
    """What the golden file of that name holds."""
    return json.loads((HERE / f"{name}.json").read_text())


def check(name: str, made: Any) -> None:
    """It is as it was; or it is written, if that was asked for."""
    if REWRITE:
        (HERE / f"{name}.json").write_text(json.dumps(made, indent=1) + "\n")
    assert made == kept(name)


# Schemas and values


def test_no_released_schema_file_changes() -> None:
    files = sorted(SCHEMAS_DIR.glob("**/*.avsc"))
    made = {str(f.relative_to(SCHEMAS_DIR)): sha256(f.read_bytes()).hexdigest() for f in files}
    check("schemas", made)


def test_every_schema_file_has_an_id_and_no_id_was_given_away() -> None:
    ids: dict[str, int] = json.loads((SCHEMAS_DIR / "ids.json").read_text())
    files = {str(f.relative_to(SCHEMAS_DIR).with_suffix("")) for f in SCHEMAS_DIR.glob("**/*.avsc")}
    assert files == set(ids)
    check("ids", ids)


def test_every_released_version_has_its_bytes() -> None:
    ids = json.loads((SCHEMAS_DIR / "ids.json").read_text())
    assert list(VALUES) == list(ids)
    check("values", {name: CODEC.encode(value).hex() for name, value in VALUES.items()})


@pytest.mark.parametrize("name", VALUES)
def test_the_bytes_still_decode_to_their_value(name: str) -> None:
    framed = bytes.fromhex(kept("values")[name])
    domain, event, _ = name.split("/")
    if type(VALUES[name]) in RECORDS:
        decoded = CODEC.decode(framed)
    else:
        decoded = CODEC.decode_event(f"{domain}.{event}", framed)
    assert decoded == VALUES[name]


# What is signed and hashed


def fixed_record() -> LogRecord:
    """A record to sign: every part of it is there."""
    return LogRecord(
        trust.CONSUMER_LOG,
        3,
        17,
        1_767_225_600_123,
        METER.encode(),
        (("t", b"f"), ("kid", BY_CONSUMERS.kid), ("pt", bytes(8))),
        bytes.fromhex(kept("values")["spine/Facts/1"]),
    )


def covered(record: LogRecord) -> bytes:
    return signed_bytes(
        LOG_ID, record.topic, record.partition, record.key, record.headers, record.value
    )


def marks() -> dict[str, Any]:
    """Every hash, signature and derived id that the log or an auditor relies on."""
    record = fixed_record()
    nothing = replace(record, key=None, value=None)
    signature = sign(BY_CONSUMERS.private, covered(record))
    signed = replace(record, headers=(*record.headers, ("sig", signature)))
    assert covered(signed) == covered(record)
    entries = [CODEC.encode_entry(replace(REQUEST, vector=i)) for i in range(5)]
    seed = bytes(range(32))
    leaves = [merkle.salted_leaf(merkle.salt(seed, i), e) for i, e in enumerate(entries)]
    adopted = VALUES["governance/EquivalenceTableAdopted/1"]
    assert isinstance(adopted, trust.EquivalenceTableAdopted)
    vocabularies = {v: known for v in POLICY_DATA if (known := vocabulary(v)) is not None}
    order = Order(METER, None, Actor("consent_service", "portal"), "Grant", "key-1", bytes(32))
    return {
        "log_id": OPENING.log_id().hex(),
        "signed_bytes": covered(record).hex(),
        "signed_bytes_of_nothing": covered(nothing).hex(),
        "signature": signature.hex(),
        "record_digest": signed.digest().hex(),
        "key_id": BY_CONSUMERS.kid.hex(),
        "entry": entries[0].hex(),
        "salt": merkle.salt(seed, 3).hex(),
        "leaf": leaves[3].hex(),
        "path": [sibling.hex() for sibling in merkle.path(leaves, 3)],
        "root": merkle.salted_root(seed, entries).hex(),
        "command_id": order.id.hex(),
        "half_hours_digest": half_hours_digest(in_columns(HALF_HOURS)).hex(),
        "no_half_hours_digest": half_hours_digest(in_columns(())).hex(),
        "records_digest": records_digest((TERMS, OPENING)).hex(),
        "policy_data": {str(v): data_hash(d).hex() for v, d in POLICY_DATA.items()},
        "vocabulary": {str(v): vocabularies[v].digest.hex() for v in POLICY_DATA},
        "deletion_terms": {str(v): h.hex() for v, h in DELETION_TERMS_HASHES.items()},
        "equivalence_table": table_digest(trust.Equivalence(adopted.version, adopted.rows)).hex(),
        "partitions": {
            mpxn: [murmur2_partition(mpxn.encode(), n) for n in (1, 4, 128, 256)]
            for mpxn in ("1200000000003", "1900012345678", "2376543210123", "7612345", "12345678")
        },
    }


def test_hashes_signatures_and_ids_come_out_as_ever() -> None:
    check("marks", marks())


def test_murmur2_agrees_with_kafkas_own_vectors() -> None:
    """The pairs of Apache Kafka's UtilsTest.testMurmur2, as partitions of 2^31."""
    hashes = {
        b"21": -973932308,
        b"foobar": -790332482,
        b"a-little-bit-long-string": -985981536,
        b"a-little-bit-longer-string": -1486304829,
        b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
        b"abc": 479470107,
    }
    for key, hashed in hashes.items():
        assert murmur2_partition(key, 1 << 31) == hashed & 0x7FFFFFFF


# Rows


def rows() -> dict[str, str]:
    """Rows as a store packs them."""
    state = MeterAccess()
    for event in (moved_in(), granted()):
        state = CONSUMERS.evolve(state, event)
    counts = Counts(9, 3, 1, 2, 1, 1, 1)
    head = Head(LOG_ID, 1, 4, OPENING.root_key, b"opening", 1_767_225_600_123, 7, 42, 1, "", counts)
    return {
        "head": TOOLS.pack(head).hex(),
        "subject": TOOLS.pack((17, 1, state)).hex(),
        "position": TOOLS.pack(StorePosition(LOG_ID, "t", 3, 41, bytes(32))).hex(),
    }


def test_rows_are_packed_as_ever_and_read_back() -> None:
    check("rows", rows())
    packed = kept("rows")
    head = TOOLS.unpack(bytes.fromhex(packed["head"]), Head)
    assert TOOLS.pack(head).hex() == packed["head"]
    offset, entry, state = TOOLS.unpack(bytes.fromhex(packed["subject"]), CONSUMERS.row_type)
    subject = Subject(offset, entry, state)
    assert (subject.offset, subject.entry) == (17, 1)
    assert subject.state.consents[0].consent_id == "consent-1"


# Histories


def record_as_json(record: LogRecord) -> dict[str, Any]:
    return {
        "offset": record.offset,
        "append_ms": record.append_ms,
        "key": None if record.key is None else record.key.hex(),
        "headers": [[name, value.hex()] for name, value in record.headers],
        "value": None if record.value is None else record.value.hex(),
    }


def record_from_json(topic: str, partition: int, raw: dict[str, Any]) -> LogRecord:
    return LogRecord(
        topic,
        partition,
        raw["offset"],
        raw["append_ms"],
        None if raw["key"] is None else bytes.fromhex(raw["key"]),
        tuple((name, bytes.fromhex(value)) for name, value in raw["headers"]),
        None if raw["value"] is None else bytes.fromhex(raw["value"]),
    )


def folded(records: list[LogRecord], domain: Domain) -> dict[str, Any]:
    rows = refold(records, domain)
    stored = rows.get(b"\x00head")
    assert stored is not None
    counts: Counts = TOOLS.unpack(stored, Head).counts
    return {
        "reducers": [domain.version, GOVERNANCE.version],
        "digest": digest(rows).hex(),
        "counts": {name: getattr(counts, name) for name in Counts.__struct_fields__},
    }


@pytest.mark.parametrize("name", HISTORIES)
def test_a_recorded_history_folds_to_what_it_always_did(name: str) -> None:
    if REWRITE and not (HERE / f"history-{name}.json").exists():  # what is recorded stays
        story = STORIES[name]()
        history: dict[str, Any] = {
            "topic": story[0].topic,
            "partition": story[0].partition,
            "log_id": LOG_ID.hex(),
            **folded(story, HISTORIES[name]),
            "records": [record_as_json(r) for r in story],
        }
        (HERE / f"history-{name}.json").write_text(json.dumps(history, indent=1) + "\n")
    history = kept(f"history-{name}")
    place = history["topic"], history["partition"]
    records = [record_from_json(*place, raw) for raw in history["records"]]
    assert history["log_id"] == LOG_ID.hex()
    now = folded(records, HISTORIES[name])
    assert now["counts"] == history["counts"]
    # Rows may be shaped anew, but only under another version of the reducers: stores rebuild then.
    if now["reducers"] == history["reducers"]:
        assert now["digest"] == history["digest"]


@pytest.mark.parametrize("name", HISTORIES)
def test_a_history_that_lacks_a_record_is_noticed(name: str) -> None:
    history = kept(f"history-{name}")
    place = history["topic"], history["partition"]
    records = [record_from_json(*place, raw) for raw in history["records"]]
    for left_out in range(1, len(records)):
        rest = records[:left_out] + records[left_out + 1 :]
        assert folded(rest, HISTORIES[name])["digest"] != history["digest"]


class ReadsAhead(PartitionFold):
    """Looks for the rows of every command before, and so keeps at hand what each comes to say."""

    def _apply_command(self, domain: Domain, offset: int, entry: int, *given: Any) -> None:
        command: Command = given[0]
        self.read_ahead(domain, [(command.subject, command.id)])
        super()._apply_command(domain, offset, entry, *given)


class GoesByKeyAlone(ReadsAhead):
    """Naive: stays with what it first knew of a subject, whatever its row says now."""

    def _subject_at(self, domain: Domain, key: bytes) -> Subject:
        first: dict[bytes, Subject] = self.__dict__.setdefault("first", {})
        return first.setdefault(key, super()._subject_at(domain, key))


def test_recorded_histories_fold_to_the_same_rows_by_states_that_are_kept() -> None:
    """The naive fold does not, wherever a subject has more than one command."""
    others = []
    for name, domain in HISTORIES.items():
        history = kept(f"history-{name}")
        place = history["topic"], history["partition"]
        records = [record_from_json(*place, raw) for raw in history["records"]]
        read, by_kept, naive = (
            digest(refold(records, domain, fold))
            for fold in (PartitionFold, ReadsAhead, GoesByKeyAlone)
        )
        assert by_kept == read, name
        if naive != read:
            others.append(name)
    assert {"consumers", "registry", "assets", "governance", "orders"} <= {*others}


def unshown(domain: Domain) -> list[int]:
    """The earlier versions that a domain claims to judge, and of which no recorded history shows
    that it may: there is none, or it folds to other rows now.
    """
    return [version for version in sorted(domain.judges) if not _shown(domain, version)]


def _shown(domain: Domain, version: int) -> bool:
    own = [name for name, each in HISTORIES.items() if each.name == domain.name]
    found = []
    for history in map(kept, (f"history-{name}" for name in own)):
        if history["topic"] == domain.topic and history["reducers"][0] == version:
            place = history["topic"], history["partition"]
            records = [record_from_json(*place, raw) for raw in history["records"]]
            found.append(folded(records, domain)["digest"] == history["digest"])
    return bool(found) and all(found)


@pytest.mark.parametrize("name", HISTORIES)
def test_who_judges_answers_of_an_earlier_version_folds_its_histories_the_same(name: str) -> None:
    assert unshown(HISTORIES[name]) == []


def test_a_claim_that_no_recorded_history_shows_is_noticed() -> None:
    assert unshown(replace(READINGS, judges=frozenset({1}))) == [1], "they fold otherwise now"
    assert unshown(replace(METERING, judges=frozenset({1}))) == [1], "there are none"
    assert unshown(replace(BTM_ASSETS, version=2, judges=frozenset({1}))) == []


def test_an_opening_of_other_content_has_another_log_id() -> None:
    ids = {
        OPENING.log_id(),
        replace(OPENING, generation=2).log_id(),
        replace(OPENING, partition_count=8).log_id(),
        replace(OPENING, root_key=bytes(32)).log_id(),
        replace(OPENING, created_at=BEGUN.replace(hour=1)).log_id(),
        replace(OPENING, nonce=bytes(16)).log_id(),
    }
    assert len(ids) == 6
    assert isinstance(CODEC.decode(CODEC.encode(OPENING)), Opening)
    facts = Facts(trust.CONSUMER_LOG, 3, (command(METER, moved_in()),))
    assert CODEC.decode(CODEC.encode(facts)) == facts
