"""Records are compressed at the level that the process chose, which aiokafka has no setting for."""

import cramjam
import pytest
from aiokafka import codec
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from spine import compressing

UNCOMPRESSED, ZSTD = 0, 4
HEADER_BYTES = 61  # of a batch, which are never compressed
VALUE = b"".join(n.to_bytes(4, "little") for n in range(0, 60_000, 7))


def built(compression: int) -> bytes:
    """A batch of one record as aiokafka's producer builds it; what follows the header."""
    builder = DefaultRecordBatchBuilder(
        2,
        compression,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=0,
        batch_size=1 << 20,
    )
    assert builder.append(0, timestamp=0, key=None, value=VALUE, headers=[]) is not None
    return bytes(builder.build())[HEADER_BYTES:]


def test_a_batch_is_compressed_at_the_level_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    records = built(UNCOMPRESSED)
    chosen, its_own = (bytes(cramjam.zstd.compress(records, level=n)) for n in (1, 3))
    assert chosen != its_own
    monkeypatch.setattr(codec.zstd_encode, "__defaults__", (None,))
    assert built(ZSTD) == its_own, "the naive variant leaves it to the library"
    assert compressing.zstd() == "zstd" and compressing.LEVEL == 1
    assert built(ZSTD) == chosen
