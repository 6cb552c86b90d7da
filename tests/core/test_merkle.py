"""RFC 6962 as Certificate Transparency's own test data has it, and one entry shown by itself."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spine.codec import Codec, tools
from spine.event import AccessRequests, DataPosition, Facts
from spine.merkle import (
    leaf_hash,
    node_hash,
    path,
    root,
    root_from_path,
    salt,
    salted_leaf,
    salted_root,
    salts,
)
from spine.signing import verify
from tests.helpers.records import CODEC, DOMAINS, METER, NEIGHBOUR, Scene, request

# The inputs and roots of the reference implementation's tests (certificate-transparency-go).
INPUTS = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)
LEAVES = [leaf_hash(data) for data in INPUTS]
# Leaf (from 1), size, and the path of it: the same source.
PATHS = [
    (1, 1, []),
    (
        1,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        6,
        8,
        [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (3, 3, ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
    (
        2,
        5,
        [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
]


@pytest.mark.parametrize("size", range(1, 9))
def test_the_root_is_the_references(size: int) -> None:
    assert root(LEAVES[:size]).hex() == ROOTS[size - 1]


def test_the_root_of_nothing() -> None:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert root([]).hex() == empty


@pytest.mark.parametrize(("leaf", "size", "expected"), PATHS)
def test_the_path_is_the_references(leaf: int, size: int, expected: list[str]) -> None:
    siblings = path(LEAVES[:size], leaf - 1)
    assert [s.hex() for s in siblings] == expected
    assert root_from_path(LEAVES[leaf - 1], leaf - 1, size, siblings).hex() == ROOTS[size - 1]


@given(st.lists(st.binary(max_size=4), min_size=1, max_size=40), st.data())
def test_every_path_leads_to_the_root_and_no_wrong_one_does(
    inputs: list[bytes], data: st.DataObject
) -> None:
    leaves = [leaf_hash(each) for each in inputs]
    index = data.draw(st.integers(0, len(leaves) - 1))
    whole, siblings = root(leaves), path(leaves, index)
    assert root_from_path(leaves[index], index, len(leaves), siblings) == whole
    assert root_from_path(leaf_hash(b"another entry"), index, len(leaves), siblings) != whole
    if siblings:
        at = data.draw(st.integers(0, len(siblings) - 1))
        wrong = (*siblings[:at], bytes(32), *siblings[at + 1 :])
        assert root_from_path(leaves[index], index, len(leaves), wrong) != whole


@pytest.mark.parametrize(
    ("index", "size", "siblings"),
    [(0, 1, 1), (0, 2, 0), (0, 2, 2), (2, 2, 1), (-1, 2, 1), (0, 0, 0), (5, 3, 2)],
)
def test_what_no_tree_has_is_no_path(index: int, size: int, siblings: int) -> None:
    with pytest.raises(ValueError, match=r"leaf|path"):
        root_from_path(LEAVES[0], index, size, LEAVES[:siblings])


def test_one_request_is_shown_without_the_others() -> None:
    """From the signed header: the entry, its salt and its path. The others stay hashes."""
    record = Scene().log.access(*(request(METER, n) for n in range(1, 6)))
    assert record.value is not None
    value = CODEC.decode(record.value)
    assert isinstance(value, AccessRequests)
    entries = [CODEC.encode_entry(entry) for entry in value.entries]
    leaves = [salted_leaf(salt(value.salt_seed, i), e) for i, e in enumerate(entries)]
    shown, its_salt, siblings = entries[2], salt(value.salt_seed, 2), path(leaves, 2)
    signed_root = record.header("mr")
    assert root_from_path(salted_leaf(its_salt, shown), 2, 5, siblings) == signed_root
    other = CODEC.encode_entry(request(NEIGHBOUR, 3))
    assert root_from_path(salted_leaf(its_salt, other), 2, 5, siblings) != signed_root
    assert root_from_path(salted_leaf(bytes(16), shown), 2, 5, siblings) != signed_root
    assert root_from_path(salted_leaf(its_salt, shown), 3, 5, siblings) != signed_root


ASKED = st.tuples(st.sampled_from([METER, NEIGHBOUR]), st.integers(0, 99), st.text(max_size=80))


@settings(max_examples=60, deadline=None)
@given(st.lists(ASKED, max_size=6), st.integers(0, 2))
def test_entries_are_the_requests_as_they_stand_in_their_record(
    asked: list[tuple[str, int, str]], vectors: int
) -> None:
    requests = tuple(request(*one) for one in asked)
    positions = ((DataPosition("t", 3, 10),),) * vectors
    value = AccessRequests("t", 3, "dsi-1", bytes(32), positions, requests)
    framed = CODEC.encode(value)
    assert CODEC.entries(framed) == [CODEC.encode_entry(each) for each in requests]
    assert CODEC.decode(framed) == value
    assert CODEC.entries(CODEC.encode(Facts("t", 3, ()))) == []


class GoesByLength(Codec):
    """Naive: takes a record for the one before if it is as long."""

    def _decoded(self, framed: bytes) -> tuple[object, list[bytes]]:
        last, value, entries = self._last
        if last is not None and len(last) == len(framed):
            return value, entries
        return super()._decoded(framed)


@pytest.mark.parametrize(("codec_class", "decided"), [(Codec, []), (GoesByLength, [1])])
def test_a_request_edited_under_the_root_of_another_decides_nothing(
    codec_class: type[Codec], decided: list[int]
) -> None:
    """The naive fold decides what the record before it asked."""
    scene = Scene(tools=tools(codec_class(CODEC.schemas, DOMAINS), verify))
    honest = scene.log.access(request(METER, 1))
    edited = scene.log.access(request(METER, 2), root=honest.header("mr"))
    found = []
    for record in (honest, edited):
        scene.send(record)
        of_record = scene.fold.decide_access(record)
        found.append([int.from_bytes(each.request.request_id, "big") for each in of_record])
    assert found == [[1], decided]


def test_equal_entries_do_not_look_equal_and_another_seed_is_another_root() -> None:
    assert salted_leaf(salt(bytes(32), 0), b"same") != salted_leaf(salt(bytes(32), 1), b"same")
    assert salted_root(bytes(32), [b"same"]) != salted_root(b"\x01" * 32, [b"same"])
    assert len(salt(bytes(32), 0)) == 16


@given(seed=st.binary(max_size=200), count=st.integers(0, 40))
def test_salts_made_together_are_those_made_alone(seed: bytes, count: int) -> None:
    assert salts(seed, count) == [salt(seed, index) for index in range(count)]


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=70))
def test_a_root_is_what_rfc_6962_says_of_it(leaves: list[bytes]) -> None:
    def told(some: list[bytes]) -> bytes:
        if len(some) == 1:
            return some[0]
        split = 1 << ((len(some) - 1).bit_length() - 1)
        return node_hash(told(some[:split]), told(some[split:]))

    assert root(leaves) == (told(leaves) if leaves else hashlib.sha256().digest())
