"""Which partition a key belongs to: of many at once as of each by itself."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from spine.murmur2 import COLUMN_KEYS_MIN, murmur2_partition, murmur2_partitions

MPANS = [f"{10**12 + 7919 * n}".encode() for n in range(500)]


@given(st.lists(st.binary(max_size=20), max_size=50), st.integers(1, 1 << 31))
def test_keys_of_any_length_belong_where_each_does(keys: list[bytes], count: int) -> None:
    assert murmur2_partitions(keys, count) == [murmur2_partition(key, count) for key in keys]


@given(st.integers(0, 17).flatmap(lambda n: st.lists(st.binary(min_size=n, max_size=n))))
def test_keys_of_one_length_belong_where_each_does(keys: list[bytes]) -> None:
    keys = keys * COLUMN_KEYS_MIN
    assert murmur2_partitions(keys, 128) == [murmur2_partition(key, 128) for key in keys]


def test_metering_points_are_spread_over_all_partitions() -> None:
    homes = murmur2_partitions(MPANS, 16)
    assert homes == [murmur2_partition(mpan, 16) for mpan in MPANS]
    assert set(homes) == set(range(16))
