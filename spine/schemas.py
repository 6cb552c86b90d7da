"""The released Avro schemas: fixed ids, files that never change, FULL_TRANSITIVE between versions.

`schemas/ids.json` gives each `<domain>/<Name>/<version>` its id for ever. A schema is refused that
is recursive or has array items of no size, because a decoder can be made to fall over either
(reliability: fastavro dies on deep recursion and allocates without bound on `array<null>`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import fastavro
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from avro.schema import parse as parse_strictly

from spine.errors import Bug, Invalid, Reason

SCHEMAS_DIR: Final = Path(__file__).parent.parent / "schemas"
NAMESPACE: Final = "energyos."


@dataclass(frozen=True, slots=True)
class Schema:
    """One released version: `name` is `<domain>.<Name>`, `parsed` what fastavro works with."""

    id: int
    name: str
    version: int
    text: str
    parsed: Any


class Schemas:
    """All released schemas, by id and by name."""

    def __init__(self, schemas: Mapping[int, Schema]) -> None:
        self.by_id = schemas
        self.latest: dict[str, Schema] = {}
        for schema in sorted(schemas.values(), key=lambda s: s.version):
            self.latest[schema.name] = schema

    @classmethod
    def load(cls, directory: Path = SCHEMAS_DIR) -> Schemas:
        """Read every released schema; Invalid(SCHEMA_INCOMPATIBLE) if one breaks a rule."""
        ids: dict[str, int] = json.loads((directory / "ids.json").read_text())
        if len(set(ids.values())) != len(ids):
            raise Invalid(Reason.SCHEMA_INCOMPATIBLE, "two schemas share an id")
        loaded = {}
        for path, schema_id in ids.items():
            domain, name, version = path.split("/")
            text = (directory / f"{path}.avsc").read_text()
            declared = json.loads(text)
            full_name = f"{declared['namespace']}.{declared['name']}"
            if full_name != f"{NAMESPACE}{domain}.{name}":
                raise Invalid(Reason.SCHEMA_INCOMPATIBLE, f"{path} declares {full_name}")
            parsed = fastavro.parse_schema(declared)
            _refuse_unbounded(parsed, path, {})
            loaded[schema_id] = Schema(schema_id, f"{domain}.{name}", int(version), text, parsed)
        return cls(loaded)

    @cached_property
    def set_hash(self) -> bytes:
        """32 bytes that name this set of schemas: SHA-256 over ids and canonical texts."""
        digest = hashlib.sha256()
        for schema_id, schema in sorted(self.by_id.items()):
            canonical = json.dumps(json.loads(schema.text), sort_keys=True, separators=(",", ":"))
            digest.update(f"{schema_id}:{canonical}\n".encode())
        return digest.digest()

    def named(self, name: str) -> Schema:
        """The latest version of a schema."""
        try:
            return self.latest[name]
        except KeyError:
            raise Bug(f"no released schema is called {name}") from None

    def incompatibilities(self) -> Iterator[str]:
        """One sentence for every pair of versions of which one cannot read the other."""
        for old in self.by_id.values():
            for new in self.by_id.values():
                if old.name == new.name and old.version != new.version:
                    yield from incompatibilities(new, old)


def incompatibilities(reader: Schema, writer: Schema) -> Iterator[str]:
    """Why data of the writer's version cannot be read with the reader's, by the rules of Avro."""
    result = ReaderWriterCompatibilityChecker().get_compatibility(
        parse_strictly(reader.text), parse_strictly(writer.text)
    )
    if result.compatibility is not SchemaCompatibilityType.compatible:
        for message in result.messages or {"incompatible"}:
            yield f"{reader.name} {reader.version} cannot read {writer.version}: {message}"


def _refuse_unbounded(
    node: Any, path: str, known: dict[str, Any], inside: tuple[str, ...] = ()
) -> None:
    """Refuse recursion, records without fields, and arrays or maps whose items take no bytes.

    `node` is as fastavro parsed it: names in full. `known` collects the named types met so far.
    """
    match node:
        case str() if node in inside:
            raise Invalid(Reason.SCHEMA_INCOMPATIBLE, f"{path} is recursive at {node}")
        case list():
            for branch in node:
                _refuse_unbounded(branch, path, known, inside)
        case {"type": "record", "fields": fields, "name": name}:
            if not fields:
                raise Invalid(Reason.SCHEMA_INCOMPATIBLE, f"{path}: record {name} has no fields")
            for field in fields:
                _refuse_unbounded(field["type"], path, known, (*inside, name))
            known[name] = node
        case {"type": "fixed", "name": name}:
            known[name] = node
        case {"type": "array", "items": items} | {"type": "map", "values": items}:
            _refuse_unbounded(items, path, known, inside)
            if _takes_no_bytes(items, known):
                raise Invalid(Reason.SCHEMA_INCOMPATIBLE, f"{path}: items without a size")
        case {"type": dict() | list() as inner}:
            _refuse_unbounded(inner, path, known, inside)
        case _:
            pass


def _takes_no_bytes(node: Any, known: Mapping[str, Any]) -> bool:
    """Whether values of this type are written as nothing at all."""
    match node:
        case "null" | {"type": "null"} | {"type": "fixed", "size": 0}:
            return True
        case str() if node in known:
            return _takes_no_bytes(known[node], known)
        case {"type": "record", "fields": fields}:
            return all(_takes_no_bytes(field["type"], known) for field in fields)
        case _:
            return False
