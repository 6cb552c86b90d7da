"""States of meters by the thousand are cut out of their rows as decoding the rows gives them."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domains.consumers.decider import CONSUMERS
from domains.consumers.evolve import evolve
from spine.codec import pack, unpack
from spine.errors import Bug
from spine.policy import MeterAccess
from spine.services.meters import packed_state
from tests.helpers.records import granted, moved_in

DECODER = msgspec.msgpack.Decoder(tuple[int, int, msgspec.Raw])
NUMBERS = st.one_of(
    st.integers(0, (1 << 63) - 1), st.sampled_from([0, 127, 128, 255, 256, 65_535, 65_536, 1 << 32])
)
STATES = (
    MeterAccess(),
    evolve(MeterAccess(), moved_in()),
    evolve(evolve(MeterAccess(), moved_in()), granted()),
)


@given(NUMBERS, NUMBERS, st.sampled_from(STATES))
def test_a_state_is_cut_out_as_it_is_decoded(offset: int, entry: int, state: MeterAccess) -> None:
    row = pack((offset, entry, state))
    packed = packed_state(row)
    assert packed == bytes(DECODER.decode(row)[2]) == pack(state)
    again = unpack(packed, CONSUMERS.state_type)
    assert again == unpack(row, CONSUMERS.row_type)[2]


@pytest.mark.parametrize("row", [b"", b"\x93", b"\x93\x01", b"\x92\x01\x01", pack((-1, -1, {}))])
def test_what_is_no_row_of_a_subject_is_a_bug(row: bytes) -> None:
    with pytest.raises(Bug):
        packed_state(row)
