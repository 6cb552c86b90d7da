"""Released schemas read one another, in both directions, by Avro's rules and on real bytes."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro
import pytest

from spine.codec import Codec
from spine.errors import Bug, Invalid, Reason
from spine.event import SignerRole
from spine.schemas import SCHEMAS_DIR, Schema, Schemas, incompatibilities
from tests.helpers.records import CODEC, DOMAINS
from tests.helpers.samples import VALUES

GOLDEN = Path(__file__).parents[1] / "golden" / "values.json"
RELEASED = Schemas.load()


def versions_of(schemas: Schemas) -> list[tuple[Schema, Schema]]:
    """Every (reader, writer) of one name, each version with itself included."""
    every = schemas.by_id.values()
    return [(r, w) for r in every for w in every if r.name == w.name]


def golden(schemas: Schemas) -> dict[int, bytes]:
    """The kept bytes of each released version, by schema id."""
    kept = {bytes.fromhex(text) for text in json.loads(GOLDEN.read_text()).values()}
    return {int.from_bytes(framed[1:5], "big"): framed for framed in kept}


def rewritten(framed: bytes, reader: Schema, writer: Schema) -> Any:
    """The value as the reader's version sees it, written by it and read again."""
    value = fastavro.schemaless_reader(BytesIO(framed[5:]), writer.parsed, reader.parsed)
    out = BytesIO()
    fastavro.schemaless_writer(out, reader.parsed, value)
    again = fastavro.schemaless_reader(BytesIO(out.getvalue()), reader.parsed, None)
    assert again == value
    return value


def test_every_version_reads_every_other_by_the_rules() -> None:
    assert list(RELEASED.incompatibilities()) == []
    for reader, writer in versions_of(RELEASED):
        assert list(incompatibilities(reader, writer)) == []


def test_every_version_reads_the_kept_bytes_of_every_other() -> None:
    kept = golden(RELEASED)
    assert kept.keys() == RELEASED.by_id.keys()
    for reader, writer in versions_of(RELEASED):
        rewritten(kept[writer.id], reader, writer)


def test_every_schema_is_documented_and_belongs_to_a_class() -> None:
    for schema in RELEASED.by_id.values():
        declared = json.loads(schema.text)
        assert declared["doc"]
        assert all(field["doc"] for field in declared["fields"]), schema.name
        assert type(VALUES[f"{schema.name.replace('.', '/')}/{schema.version}"])
    assert {d.signer for d in DOMAINS} <= set(SignerRole)


def test_the_set_hash_changes_with_any_schema_and_not_with_its_layout(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    path = folder / "consumers/SupplyEnded/1.avsc"
    declared = json.loads(path.read_text())
    path.write_text(json.dumps(declared))
    assert Schemas.load(folder).set_hash == RELEASED.set_hash
    declared["doc"] += " Differently."
    path.write_text(json.dumps(declared))
    assert Schemas.load(folder).set_hash != RELEASED.set_hash


def test_what_was_never_released_is_a_bug() -> None:
    with pytest.raises(Bug):
        RELEASED.named("consumers.NeverHeardOf")


# A second version


def copied(tmp_path: Path) -> Path:
    folder = tmp_path / "schemas"
    shutil.copytree(SCHEMAS_DIR, folder)
    return folder


def release(folder: Path, name: str, schema_id: int, change: Any) -> Schemas:
    """Release version 2 of a schema, as a change of version 1."""
    declared = json.loads((folder / name / "1.avsc").read_text())
    change(declared)
    (folder / name / "2.avsc").write_text(json.dumps(declared))
    ids = json.loads((folder / "ids.json").read_text())
    ids[f"{name}/2"] = schema_id
    (folder / "ids.json").write_text(json.dumps(ids))
    return Schemas.load(folder)


def adds_without_default(declared: dict[str, Any]) -> None:
    declared["fields"].append({"name": "fee_pence", "type": "int", "doc": "x"})


def adds_with_default(declared: dict[str, Any]) -> None:
    declared["fields"].append({"name": "fee_pence", "type": "int", "doc": "x", "default": 0})


def drops_a_field(declared: dict[str, Any]) -> None:
    declared["fields"].pop()


def widens_a_type(declared: dict[str, Any]) -> None:
    declared["fields"][0]["type"] = ["null", "string"]


def renames_a_field(declared: dict[str, Any]) -> None:
    declared["fields"][0]["name"] = "vendor"


@pytest.mark.parametrize(
    "change", [adds_without_default, drops_a_field, widens_a_type, renames_a_field]
)
def test_an_incompatible_version_is_reported(tmp_path: Path, change: Any) -> None:
    schemas = release(copied(tmp_path), "consumers/SupplyEnded", 900, change)
    assert list(schemas.incompatibilities())
    old, new = schemas.by_id[214], schemas.by_id[900]
    framed = golden(RELEASED)[214]
    by_data = []
    for reader, writer, content in ((new, old, framed), (old, new, None)):
        try:
            if content is None:
                value: Any = fastavro.schemaless_reader(BytesIO(framed[5:]), old.parsed, None)
                filled = {"vendor": "s", "fee_pence": 1, **value}
                filled["supplier"] = None if change is widens_a_type else "s"
                out = BytesIO()
                fastavro.schemaless_writer(out, writer.parsed, filled)
                content = bytes(5) + out.getvalue()
            rewritten(content, reader, writer)
        except Exception as error:
            by_data.append(error)
    assert by_data, "the data shows it as well as the rules"


@dataclass(frozen=True)
class SupplyEndedTwo:
    """Version 2 of the event, as a later build would have it."""

    supplier: str
    effective_to: Any
    fee_pence: int


def test_a_compatible_version_reads_the_old_bytes_and_is_read_by_the_old(tmp_path: Path) -> None:
    schemas = release(copied(tmp_path), "consumers/SupplyEnded", 900, adds_with_default)
    assert list(schemas.incompatibilities()) == []
    old, new = schemas.by_id[214], schemas.by_id[900]
    framed = golden(RELEASED)[214]
    assert rewritten(framed, new, old)["fee_pence"] == 0
    codec = Codec(schemas, DOMAINS)
    codec._events["consumers.SupplyEnded"] = SupplyEndedTwo
    decoded = codec.decode_event("consumers.SupplyEnded", framed)
    assert isinstance(decoded, SupplyEndedTwo) and decoded.fee_pence == 0


def test_a_field_that_a_later_version_drops_does_not_make_old_bytes_unreadable(
    tmp_path: Path,
) -> None:
    """Bytes are held against the version that wrote them, before they are read as the latest."""

    def adds(declared: dict[str, Any]) -> None:
        declared["fields"].append({"name": "fee", "type": "int", "doc": "x", "default": 0})

    folder = copied(tmp_path)
    two = release(folder, "consumers/SupplyEnded", 900, adds)
    out = BytesIO()
    value: Any = fastavro.schemaless_reader(
        BytesIO(golden(RELEASED)[214][5:]), two.by_id[214].parsed, None
    )
    fastavro.schemaless_writer(out, two.by_id[900].parsed, {**value, "fee": 7})
    framed = b"\x00" + (900).to_bytes(4, "big") + out.getvalue()
    ids = json.loads((folder / "ids.json").read_text())
    ids["consumers/SupplyEnded/3"] = 901
    (folder / "ids.json").write_text(json.dumps(ids))
    shutil.copy(folder / "consumers/SupplyEnded/1.avsc", folder / "consumers/SupplyEnded/3.avsc")
    three = Schemas.load(folder)
    assert list(three.incompatibilities()) == []
    decoded = Codec(three, DOMAINS).decode_event("consumers.SupplyEnded", framed)
    assert decoded == VALUES["consumers/SupplyEnded/1"]


# What may not be released


def refused(folder: Path) -> None:
    with pytest.raises(Invalid) as refusal:
        Schemas.load(folder)
    assert refusal.value.reason is Reason.SCHEMA_INCOMPATIBLE


def only(tmp_path: Path, fields: list[dict[str, Any]], **named: str) -> Path:
    """A folder with this one schema in it."""
    folder = tmp_path / "schemas"
    (folder / "test/Node").mkdir(parents=True)
    declared = {
        "type": "record",
        "name": "Node",
        "namespace": "energyos.test",
        "fields": fields,
        **named,
    }
    (folder / "test/Node/1.avsc").write_text(json.dumps(declared))
    (folder / "ids.json").write_text('{"test/Node/1": 1}')
    return folder


def field(kind: Any, name: str = "f") -> dict[str, Any]:
    return {"name": name, "type": kind}


def record(name: str, *fields: dict[str, Any]) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": list(fields)}


@pytest.mark.parametrize(
    "kind",
    [
        ["null", "Node"],
        ["null", "energyos.test.Node"],
        {"type": "array", "items": "Node"},
        {"type": "map", "values": "energyos.test.Node"},
        record("Inner", field(["null", "energyos.test.Inner"])),
        record("Inner", field({"type": "array", "items": ["null", "Node"]})),
    ],
)
def test_a_recursive_schema_is_refused(tmp_path: Path, kind: Any) -> None:
    refused(only(tmp_path, [field(kind)]))


@pytest.mark.parametrize(
    "items",
    [
        "null",
        {"type": "null"},
        {"type": "fixed", "name": "Nothing", "size": 0},
        record("Nothing"),
        record("Nothing", field("null")),
        record("Nothing", field("null"), field(record("Less", field("null")), "g")),
    ],
)
@pytest.mark.parametrize("many", ["items", "values"])
def test_items_that_take_no_bytes_are_refused(tmp_path: Path, items: Any, many: str) -> None:
    kind = {"type": "array" if many == "items" else "map", many: items}
    refused(only(tmp_path, [field(kind)]))


def test_items_of_a_named_type_that_takes_no_bytes_are_refused(tmp_path: Path) -> None:
    nothing = {"type": "fixed", "name": "Nothing", "size": 0}
    fields = [field(nothing, "once"), field({"type": "array", "items": "Nothing"}, "many")]
    refused(only(tmp_path, fields))


def test_what_is_bounded_is_released(tmp_path: Path) -> None:
    inner = record("Inner", field("null", "a"), field("int", "b"))
    fields = [field(inner, "one"), field({"type": "array", "items": "Inner"}, "many")]
    assert Schemas.load(only(tmp_path, fields)).by_id.keys() == {1}


def test_two_schemas_of_one_id_are_refused(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    ids = json.loads((folder / "ids.json").read_text())
    ids["spine/Facts/1"] = ids["spine/Opening/1"]
    (folder / "ids.json").write_text(json.dumps(ids))
    refused(folder)


def test_a_schema_that_declares_another_name_is_refused(tmp_path: Path) -> None:
    refused(only(tmp_path, [field("int")], name="Leaf"))
    shutil.rmtree(tmp_path / "schemas")
    refused(only(tmp_path, [field("int")], namespace="energyos.other"))


def test_the_codec_of_these_tests_has_the_released_schemas() -> None:
    assert CODEC.schemas.set_hash == RELEASED.set_hash
