"""The process of the ledger: it follows the log, seals epochs, has them cosigned, publishes them.

One thread reads the log and keeps the book; the event loop asks the witnesses and publishes. Where
the log below is not the one that was signed, nothing is signed any more: the process stays, goes on
serving what is published, says NOT_SERVING, and has raised an alarm.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, Final, TypeVar

import structlog

from spine import telemetry, trust
from spine.codec import Codec
from spine.errors import Bug, Pushback, Reason, SpineError
from spine.files import claimed
from spine.follower import LogFollower, PointReader
from spine.identity import signing_key
from spine.ledger.book import PUBLIC, Book, Sealed, origin_of
from spine.ledger.cosigning import Cosigned, Witnesses
from spine.ledger.library import Library, growth_json
from spine.ledger.note import ED25519, Note, PublishedHead, VerifierKey, sign
from spine.ledger.published import published_since
from spine.log import Appender, Kafka, LogUnfit, create_missing, verify_settings
from spine.opening import LogIdentity
from spine.signing import public_bytes, verify

LEDGER: Final = "ledger"
POLL_MS: Final = 100
# A poll gives what an earlier one asked the brokers for, and asks anew: after so long their answers
# are there, and say all that has come since.
ANSWERED_S: Final = 0.02
# So many bytes in one poll: the log is being caught up with, and read on without a pause.
MANY: Final = 512 << 10
CHECK_LOG_EVERY_S: Final = 10.0
UNCHECKED_FOR_S: Final = 3 * CHECK_LOG_EVERY_S
HELD_BACK_AFTER_S: Final = 5.0
CLOCKS_APART_MS: Final = 600_000
# A witness may say another thing of each head: so much of it is kept.
ACCUSATIONS_MAX: Final = 1_000
PAUSE_S: Final = 1.0
_log = structlog.get_logger()
T = TypeVar("T")


def ledger_key(data_dir: Path, log_id: bytes) -> VerifierKey:
    """The public key of the ledger of a data folder."""
    public = public_bytes(signing_key(data_dir, LEDGER))
    return VerifierKey(origin_of(log_id), ED25519, public)


def prepare_topic(kafka: Kafka, replicas: int, min_insync: int) -> list[str]:
    """Create the topic of the heads if a log was opened before there was one, and verify it."""
    counts = {trust.CHECKPOINTS_TOPIC: 1}
    created = create_missing(kafka, counts, replicas, min_insync)
    verify_settings(kafka, counts, min_insync)
    return created


def check_log(book: Book, reader: PointReader) -> None:
    """LogUnfit(LOG_DIFFERS) unless the log still holds the last record of every tree.

    Pushback(LOG_UNREACHABLE) if a partition is silent; those that answer are judged all the same.
    """
    leaves = {(leaf.topic, leaf.partition): leaf for leaf in book.last_leaves()}
    for place, held in reader.found_at({p: leaf.offset for p, leaf in leaves.items()}):
        book.check_log([leaves[place]], {leaves[place]: held}.get)


@dataclass(slots=True)
class Waiting:
    """Records in the book that no published head covers: the append time of the oldest."""

    since_ms: list[tuple[int, int]] = field(default_factory=list)

    def took(self, append_ms: int, epochs: int) -> None:
        """A record went into the book when so many epochs were sealed."""
        if not self.since_ms or self.since_ms[-1][0] < epochs:
            self.since_ms.append((epochs, append_ms))

    def published(self, size: int) -> int | None:
        """The append time of the oldest record that a head of that size is the first to cover."""
        covered = [at for epochs, at in self.since_ms if epochs < size]
        self.since_ms = self.since_ms[len(covered) :]
        return min(covered, default=None)


class Keeper:
    """Keeps one book: from the log into the trees, sealed, cosigned, published."""

    def __init__(
        self,
        folder: Path,
        kafka: Kafka,
        identity: LogIdentity,
        places: list[tuple[str, int]],
        codec: Codec,
        appender: Appender,
        witnesses: Witnesses,
        epoch_s: float,
    ) -> None:
        private = signing_key(folder.parent, LEDGER)
        self._folder, self._kafka, self._places = folder, kafka, places
        self._codec, self._appender = codec, appender
        self._witnesses, self._epoch_s = witnesses, epoch_s
        self.key = VerifierKey(origin_of(identity.log_id), ED25519, public_bytes(private))
        self._sign = private.sign
        self._thread = ThreadPoolExecutor(1, "ledger")
        self._waiting = Waiting()
        self._tasks: list[asyncio.Task[None]] = []
        self._pending: Sealed | None = None
        self._pending_since = 0.0
        self._news = asyncio.Event()
        self._alarmed = False
        self._looked_at = time.monotonic()
        self._unchecked = False
        self._accused: set[str] = set()
        self._claim: IO[str] | None = None
        self.refusal = ""
        self.book: Book | None = None
        self._follower: LogFollower | None = None
        self._library = Library(folder / PUBLIC)

    async def start(self) -> None:
        """Open the book and begin to follow the log; Pushback(STARTING) if another process does.

        If what is signed does not fit the log, it is said and nothing more is signed.
        """
        self._claim = claimed(self._folder, "a ledger process")
        try:
            await self._do(self._open)
        except LogUnfit as unfit:
            self._refuse(unfit)
            return
        work = (self._follow, self._publish, self._look_again)
        self._tasks = [asyncio.create_task(self._watched(each)) for each in work]

    @property
    def keeps(self) -> bool:
        """Whether heads are still signed."""
        return not self.refusal

    @property
    def held_back(self) -> bool:
        """Whether a head has waited for witnesses for so long that the alarm was raised."""
        return self._alarmed

    @property
    def unchecked(self) -> bool:
        """Whether no look at the log succeeded for so long that no head is sealed meanwhile."""
        return self._unchecked

    def sign(self, text: str) -> Note:
        """A statement under the ledger's key; never a head, which only an epoch is a reason for.

        LogUnfit(LOG_DIFFERS) once nothing is signed any more.
        """
        if text.startswith(self.key.name):
            raise Bug("a head is signed when its epoch is sealed")
        if self.refusal:
            raise LogUnfit(Reason.LOG_DIFFERS, self.refusal)
        return Note(text, (sign(text, self.key, self._sign),))

    async def stop(self) -> None:
        """Stop following; what is sealed stays on the disk."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._witnesses.close()
        if self._follower is not None:
            await self._do(self._follower.close)
        self._thread.shutdown(wait=True)
        if self._claim is not None:
            self._claim.close()

    async def _do(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    # In the thread

    def _open(self) -> None:
        book = Book(self._folder, self.key, self._sign, self._places)
        reader = PointReader(self._kafka)
        try:
            # Whatever goes beyond this book was appended after its last epoch: older heads that
            # stand there once more hide nothing.
            since = max(0, book.sealed_at_ms - CLOCKS_APART_MS)
            for note in published_since(reader, self._codec, self.key, since):
                book.check_published(note, verify)
            book.check_published(book.published, verify)
            check_log(book, reader)
        finally:
            reader.close()
        self._looked_at = time.monotonic()
        self.book = book
        self._follower = LogFollower(self._kafka, book.places)
        sealed = book.sealed
        published = book.published
        if sealed is not None and (published is None or published.text != sealed.note.text):
            self._pending, self._pending_since = sealed, time.monotonic()

    def _take(self) -> int:
        """Read on; how many bytes came."""
        assert self.book is not None
        if self._follower is None:
            self._follower = LogFollower(self._kafka, self.book.places)
        records = self._follower.poll(POLL_MS)
        for record in records:
            self.book.append(record)
            self._waiting.took(record.append_ms, self.book.size)
        came = sum(len(record.value or b"") for record in records)
        if self.book.missing and came < MANY:
            for place in self._follower.read_to_end(self.book.missing):
                self.book.ended(place)
        return came

    def _on(self, due: float) -> tuple[int, Sealed | None]:
        """Take what came, and seal it if that is `due` by then; how many bytes came."""
        came = self._take()
        if 0 < came < MANY:
            time.sleep(ANSWERED_S)
            came += self._take()
        return came, self._seal() if time.monotonic() >= due else None

    def _seal(self) -> Sealed | None:
        assert self.book is not None
        if self.refusal or self._out_of_sight():
            return None
        return self.book.seal(time.time_ns() // 1_000_000)

    def _out_of_sight(self) -> bool:
        """Whether the last good look is too long ago to sign on; the alarm is raised once."""
        unseen_s = time.monotonic() - self._looked_at
        before, self._unchecked = self._unchecked, unseen_s > UNCHECKED_FOR_S
        if self._unchecked and not before:
            telemetry.ledger_alarms.add(1, {"kind": "not-checked"})
            _log.error("ledger.alarm", kind="not-checked", seconds=round(unseen_s, 1))
        return self._unchecked

    def _grown_since(self, old: int, sealed: Sealed) -> dict[str, Any]:
        growth = sealed.growth_since(old)
        if growth is not None:
            return growth_json(old, sealed.note, sealed.heads, growth)
        return self._library.growth(old, sealed.note, sealed.heads)

    # On the loop

    async def _watched(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do it; what ends it unforeseen ends the signing, for nothing goes on unchecked."""
        try:
            await work()
        except Exception as error:
            self._refuse(error)

    async def _follow(self) -> None:
        """Take what came, seal it, pause; begin again whenever the log was out of reach.

        A question to the broker costs more than the records do: nothing is read that is not sealed
        at once.
        """
        due = 0.0
        telemetry.ledger_held_back_ms.set(0)  # known from the start: an alert tells silence by it
        while not self.refusal:
            try:
                came, sealed = await self._do(partial(self._on, due))
                if sealed is not None:
                    due = time.monotonic() + self._epoch_s
                    if self._pending is None:
                        self._pending_since = time.monotonic()
                    self._pending = sealed
                    self._news.set()
                if came < MANY:
                    await asyncio.sleep(self._epoch_s - ANSWERED_S)
            except LogUnfit as unfit:
                self._refuse(unfit)
            except Pushback as pushback:
                _log.warning("ledger.waits", reason=str(pushback.reason))
                self._follower = None
                await asyncio.sleep(PAUSE_S)

    async def _look_again(self) -> None:
        """Now and then, whether the log still is what was read; beside the work, which goes on."""
        pause = CHECK_LOG_EVERY_S
        while not self.refusal:
            await asyncio.sleep(pause)
            try:
                await asyncio.to_thread(self._checked)
                self._looked_at, pause = time.monotonic(), CHECK_LOG_EVERY_S
            except LogUnfit as unfit:
                self._refuse(unfit)
            except Exception as error:  # nobody knows now: `_out_of_sight` holds the heads back
                pause = min(PAUSE_S, CHECK_LOG_EVERY_S)
                reason = error.reason if isinstance(error, SpineError) else type(error).__name__
                _log.warning("ledger.not_checked", reason=str(reason), detail=str(error))

    def _checked(self) -> None:
        assert self.book is not None
        reader = PointReader(self._kafka)
        try:
            check_log(self.book, reader)
        finally:
            reader.close()

    async def _publish(self) -> None:
        """Have the newest head cosigned and publish it; one at a time, until it is done."""
        assert self.book is not None
        while not self.refusal:
            pending = self._pending
            if pending is None:
                self._news.clear()
                await self._news.wait()
                continue
            try:
                said = await self._witnesses.cosign(pending, self._grown_since)
                self.book.write_keys(self._witnesses.keys, self._witnesses.quorum, verify)
                self._sound(said)
                if self.refusal:
                    return
                if len(said.signatures) >= self._witnesses.quorum:
                    await self._show(pending, said)
                    continue
            except LogUnfit as unfit:
                self._refuse(unfit)
            except (Pushback, LookupError) as error:
                _log.warning("ledger.not_published", reason=str(error))
            self._held_back()
            await asyncio.sleep(self._epoch_s)

    async def _show(self, sealed: Sealed, said: Cosigned) -> None:
        assert self.book is not None
        book, note = self.book, sealed.note.with_signatures(said.signatures)
        # The topic first: a folder that is put back is held against all that anybody saw.
        value = self._codec.encode(PublishedHead(str(note)))
        await self._appender.append(trust.CHECKPOINTS_TOPIC, 0, None, (), value)
        await asyncio.to_thread(book.publish, note)  # the next epoch is taken in meanwhile
        if self._pending is sealed:
            self._pending = None
        self._pending_since, self._alarmed = time.monotonic(), False
        telemetry.ledger_held_back_ms.set(0)
        oldest = self._waiting.published(sealed.head.size)
        if oldest is not None:
            telemetry.ledger_lag_ms.record(max(0, time.time_ns() // 1_000_000 - oldest))

    def _held_back(self) -> None:
        """A head waits for witnesses: reads go on, and somebody must look after it."""
        waited = time.monotonic() - self._pending_since
        telemetry.ledger_held_back_ms.set(int(waited * 1000))
        if waited > HELD_BACK_AFTER_S and not self._alarmed:
            self._alarmed = True
            telemetry.ledger_alarms.add(1, {"kind": "held-back"})
            _log.error("ledger.alarm", kind="held-back", seconds=round(waited, 1))

    def _sound(self, said: Cosigned) -> None:
        """What a witness says against us: that we fork, or that it has seen more than we have."""
        assert self.book is not None and self._pending is not None
        for kind, who in (("fork", said.forks), ("rolled-back", said.ahead)):
            said_by = Counter(map(_accuser, self._accused))
            new = {f"{kind}: {each}" for each in who} - self._accused
            if new := {each for each in new if said_by[_accuser(each)] < ACCUSATIONS_MAX}:
                self._accused |= new
                telemetry.ledger_alarms.add(1, {"kind": kind})
                evidence = {"witnesses": who, "ours": str(self._pending.note)}
                self.book.keep_evidence(kind, evidence)

    def _refuse(self, error: Exception) -> None:
        """Sign nothing any more: the log is another one, or nobody can tell that it is not."""
        if self.refusal:  # the first reason stands
            return
        differs = isinstance(error, LogUnfit)
        self.refusal = error.message if isinstance(error, LogUnfit) else f"failed: {error!r}"
        telemetry.ledger_alarms.add(1, {"kind": "log-differs" if differs else "not-checked"})
        _log.error("ledger.refuses_to_sign", reason=self.refusal)
        self._news.set()


def _accuser(accusation: str) -> str:
    """The witness that says it."""
    return accusation.split(": ")[1]
