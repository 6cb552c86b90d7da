"""The client under those who read the log: kafka-python, which blocks, set up to outlast a broker.

As it comes, it asks whoever led a partition before for as long as that broker answers at all, waits
for one silent broker as long as it would for the whole answer, and after a long absence looks for a
broker twice a minute. One broker of three that is lost, frozen or back would stop every reader.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any, Final

from kafka import KafkaConsumer
from kafka.errors import KafkaError, UnknownBrokerIdError

from spine import compressing
from spine.errors import Pushback, Reason
from spine.log_greeting import greet

compressing.read_at_once()
# How long a reader goes on asking; longer than it takes to notice a lost broker and elect another.
ANSWER_WITHIN_S: Final = 30.0
# How long one broker may be silent before another is asked, and how old "who leads what" may be.
SILENT_FOR_MS: Final = 10_000
KNOWN_FOR_MS: Final = 5_000
FETCH_BYTES: Final = 8 << 20
SETTINGS: Final[Mapping[str, Any]] = {
    "group_id": None,
    "enable_auto_commit": False,
    "auto_offset_reset": "none",
    "allow_auto_create_topics": False,
    "fetch_max_wait_ms": 100,
    "max_poll_records": 5_000,
    "metrics_enabled": False,
    "request_timeout_ms": SILENT_FOR_MS,
    "metadata_max_age_ms": KNOWN_FOR_MS,
    "reconnect_backoff_max_ms": 1_000,
    # What it may speak at most: said here, it does not ask one broker before it is made, and leaves
    # no thread behind when that one is silent.
    "api_version": (4, 0),
}


def connect(options: Mapping[str, Any], fetch_bytes: int) -> KafkaConsumer:
    """A client that knows the cluster, and fetches about so much of a partition at a time.

    Pushback if no broker takes us in time (`greet`), without whom this client would wait for ever.
    """
    greet(options, ANSWER_WITHIN_S)
    consumer = KafkaConsumer(**options, **SETTINGS, max_partition_fetch_bytes=fetch_bytes)
    deadline = time.monotonic() + ANSWER_WITHIN_S
    while True:
        try:
            consumer.bootstrap(timeout_ms=KNOWN_FOR_MS, refresh=True)
        except KafkaError as error:
            if time.monotonic() > deadline:
                consumer.close()
                raise Pushback(Reason.LOG_UNREACHABLE, "no broker answers") from error
        else:
            return consumer


def ask(question: Any, about: Collection[Any], within_s: float | None = None) -> dict[Any, Any]:
    """What a client's method says of these places. Pushback(LOG_UNREACHABLE) if it is not told in
    that time, `ANSWER_WITHIN_S` if none is given.
    """
    deadline = time.monotonic() + (ANSWER_WITHIN_S if within_s is None else within_s)
    while True:
        left_ms = max(1, int((deadline - time.monotonic()) * 1000))
        try:
            found: dict[Any, Any] = question(about, timeout_ms=left_ms)
        # A leader that it has yet to hear of, or that is known of some of the partitions only.
        except (UnknownBrokerIdError, KeyError) as error:
            if time.monotonic() > deadline:
                raise unanswered() from error
            time.sleep(0.1)
        except KafkaError as error:
            raise unanswered() from error
        else:
            return found


def unanswered() -> Pushback:
    """The log does not answer now; it may later."""
    return Pushback(Reason.LOG_UNREACHABLE, "the log does not answer")
