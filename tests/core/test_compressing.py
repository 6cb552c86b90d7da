"""Records are compressed at the level that the process chose, which aiokafka has no setting for.

They are read as kafka-python reads them.
"""

import importlib
import threading
from concurrent.futures import ThreadPoolExecutor

import cramjam
import pytest
import zstandard
from aiokafka import codec
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from kafka.codec import zstd_decode
from kafka.record import default_records

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


def frame(content: bytes, *, sized: bool = True) -> bytes:
    """One frame, which says how much is in it or leaves that out, as a producer in Java does."""
    return zstandard.ZstdCompressor(write_content_size=sized).compress(content)


FRAMES = {
    "one": frame(VALUE),
    "one of unknown size": frame(VALUE, sized=False),
    "a small one": frame(b"x"),
    "nothing in it": frame(b""),
    "two": frame(VALUE) + frame(b"more"),
    "cut short": frame(VALUE)[:-9],
    "nothing": b"",
}


@pytest.mark.parametrize("what", FRAMES)
def test_what_was_compressed_is_read_as_the_library_reads_it(what: str) -> None:
    assert compressing.decoded(FRAMES[what]) == zstd_decode(FRAMES[what])


def test_a_second_frame_is_read_which_the_naive_reader_leaves_out() -> None:
    assert zstandard.ZstdDecompressor().decompress(FRAMES["two"]) == VALUE
    assert compressing.decoded(FRAMES["two"]) == VALUE + b"more"


def test_what_is_no_frame_fails_as_it_did() -> None:
    for read in (zstd_decode, compressing.decoded):
        with pytest.raises(zstandard.ZstdError):
            read(b"no frame at all")
    assert compressing.decoded(FRAMES["one"]) == VALUE, "and the next is read"


def test_threads_read_at_once() -> None:
    values = [bytes([n]) * 200_000 for n in range(8)]
    frames = [frame(value) for value in values]
    begin = threading.Barrier(len(frames))

    def read(number: int) -> bool:
        begin.wait()
        return all(compressing.decoded(frames[number]) == values[number] for _ in range(50))

    with ThreadPoolExecutor(len(frames)) as pool:
        assert all(pool.map(read, range(len(frames))))


def test_whoever_reads_the_log_reads_so() -> None:
    importlib.import_module("spine.log_client")
    assert default_records.zstd_decode is compressing.decoded
