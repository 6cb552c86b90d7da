"""What the brokers keep of a record is compressed at the level that this process chose."""

from __future__ import annotations

from collections.abc import Callable

import cramjam
import pytest
from aiokafka import codec

from spine import compressing
from spine.embedded import EmbeddedKafka
from spine.log import Appender, Kafka

# Of a batch: its length stands behind its offset, and its records at the end.
LENGTH, ATTRIBUTES, RECORDS = slice(8, 12), slice(21, 23), 61
CODEC_BITS, ZSTD = 0x07, 4
VALUE = b"".join(n.to_bytes(4, "little") for n in range(0, 60_000, 7))


async def kept(broker: EmbeddedKafka, topic: str) -> bytes:
    """The compressed records of the one batch of a topic, as the broker has it on its disk."""
    appender = Appender(Kafka(broker.bootstrap))
    await appender.start()
    try:
        await appender.append(topic, 0, None, (), VALUE)
    finally:
        await appender.stop()
    batch = (broker.folder / "log" / f"{topic}-0" / f"{0:020}.log").read_bytes()
    assert int.from_bytes(batch[ATTRIBUTES]) & CODEC_BITS == ZSTD
    end = LENGTH.stop + int.from_bytes(batch[LENGTH])
    return batch[RECORDS:end]


def at_level(level: int, compressed: bytes) -> bytes:
    """The same records at another level."""
    return bytes(cramjam.zstd.compress(cramjam.zstd.decompress(compressed), level=level))


async def test_what_is_appended_is_kept_at_the_level_chosen(
    kafka: EmbeddedKafka,
    new_topic: Callable[[EmbeddedKafka], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(codec.zstd_encode, "__defaults__", (None,))
    with monkeypatch.context() as naive:  # asks aiokafka for zstd, and leaves the level to it
        naive.setattr(compressing, "zstd", lambda: "zstd")
        found = await kept(kafka, new_topic(kafka))
        assert found == at_level(3, found) != at_level(1, found)
    found = await kept(kafka, new_topic(kafka))
    assert found == at_level(1, found) != at_level(3, found)
