"""What every process of the spine is made of: the log it belongs to, its folds, key and server.

Built once from `Settings` by the command line. A process says where it listens in
`<data_dir>/services/<name>.json`, and takes the same port again when it comes back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import IO, Any, Final

import structlog

from spine import trust
from spine.admission import Admission
from spine.codec import Codec, tools
from spine.config import Settings
from spine.domain import Domain, HistoryLayout
from spine.errors import Reason
from spine.event import SignerRole
from spine.files import claimed
from spine.fold import FaustFolds
from spine.identifiers import Identifiers
from spine.identity import SERVER_PREFIX, Authority, Identity, signing_key
from spine.limits import Excess, PartyLimits
from spine.listening import Limits
from spine.log import Appender, Kafka, LogReader, LogUnfit, verify_topics
from spine.opening import LogIdentity, check_held
from spine.partition import PartitionFold
from spine.policy import Role
from spine.replay import StoredFold
from spine.rocks import DamagedStore
from spine.schemas import Schemas
from spine.server import Service, SpineServer, build_server
from spine.services.certificates import kept
from spine.services.pairwise import Pairwise
from spine.signing import Signer, verify
from spine.stopping import stop_after, told_to_stop
from spine.store import MemoryRows, Store
from spine.whereabouts import announce, remembered_port
from spine.writer import LogWriter

LOG_FILE: Final = "log.json"
# What a process that is told to stop still waits for, each: a broker may be away for long.
END_TIMEOUT_S: Final = 10.0
NOT_SERVING_AFTER_S: Final = 10.0
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Domains:
    """The domains this installation coordinates, by the topic each is folded from."""

    governance: Domain
    by_topic: Mapping[str, Domain]

    @property
    def layouts(self) -> Mapping[str, HistoryLayout]:
        """How old rows lie in files, of the topics whose stores may hand some over."""
        found = ((topic, domain.history) for topic, domain in self.by_topic.items())
        return {topic: layout for topic, layout in found if layout is not None}

    def __iter__(self) -> Any:
        return iter((self.governance, *self.by_topic.values()))


@dataclass(frozen=True, slots=True)
class Runtime:
    """One process's view of the installation."""

    settings: Settings
    kafka: Kafka
    identity: LogIdentity
    domains: Domains
    codec: Codec

    @classmethod
    def of(cls, settings: Settings, kafka: Kafka, domains: Domains) -> Runtime:
        """Open the log that was created in the data folder; LogUnfit if there is none."""
        identity = LogIdentity.load(settings.data_dir / LOG_FILE)
        if settings.log_id is not None and identity.log_id.hex() != settings.log_id:
            raise LogUnfit(Reason.LOG_DIFFERS, "the log here is not the one that is pinned")
        return cls(settings, kafka, identity, domains, Codec(Schemas.load(), domains))

    @property
    def partitions(self) -> int:
        """Partitions of every meter-keyed topic."""
        return self.identity.opening.partition_count

    def stores(self, process: str) -> Path:
        """Where a process keeps its stores."""
        return self.settings.data_dir / "stores" / process

    def stored_fold(
        self, path: Path, topic: str, partition: int, store: type[Store] = Store
    ) -> StoredFold:
        """The fold of one topic-partition, its store under `path`."""
        return StoredFold(
            path / f"{topic}-{partition}",
            topic,
            partition,
            self.identity.log_id,
            tools(self.codec, verify),
            self.domains.by_topic.get(topic),
            self.domains.governance,
            self.codec.schemas.set_hash,
            store,
        )

    def memory_fold(self, topic: str, partition: int) -> PartitionFold:
        """A fold of one topic-partition that is thrown away: for who reads it once."""
        return PartitionFold(
            topic,
            partition,
            self.identity.log_id,
            tools(self.codec, verify),
            MemoryRows(),
            self.domains.by_topic.get(topic),
            self.domains.governance,
        )

    def folds(
        self, process: str, topics: Iterable[str], group: str | None = None, keep: bool = True
    ) -> FaustFolds:
        """The partitions of these topics, hosted by Faust for one process of a group.

        Every member of the group keeps all of them, or else those only that it is assigned.
        """
        opens = {
            (topic, partition): partial(self.stored_fold, self.stores(process), topic, partition)
            for topic in topics
            for partition in range(self.partitions if topic in trust.METER_KEYED else 1)
        }
        log = f"spine-{self.identity.log_id.hex()[:8]}"
        return FaustFolds(
            f"{log}-{group or process}",
            self.kafka,
            [opened() for opened in opens.values()] if keep else (),
            opens={} if keep else opens,
            member=f"{log}-{process}",
            datadir=self.stores(process) / "faust",
            session_timeout_s=self.settings.faust_session_timeout_s,
            heartbeat_s=self.settings.faust_heartbeat_s,
        )

    def signer(self, role: SignerRole) -> Signer:
        """The signing key this installation keeps for a role."""
        return Signer.of(signing_key(self.settings.data_dir, role))

    def writer(self, appender: Appender, role: SignerRole, name: str) -> LogWriter:
        """A writer that signs for a role."""
        source = f"/energyos/{role}/{name}"
        return LogWriter(appender, self.signer(role), self.identity.log_id, self.codec, source)

    def authority(self) -> Authority:
        """The development authority of the data folder; Invalid(IDENTITY_MISSING) if none."""
        return Authority.open(self.settings.data_dir / "identities")

    def own_identity(self, role: Role, name: str) -> Identity:
        """The identity of a process, which the development authority issues (again, if it is due).

        What was put in the folder from elsewhere counts as it is, and so does whatever is there
        where the authority's key is not at hand. Invalid(IDENTITY_MISSING) if there is neither.
        """
        identities = self.settings.data_dir / "identities"
        alias = f"{SERVER_PREFIX}{name}"
        if (identities / alias).exists() and not Authority.is_at_hand(identities):
            return Identity(identities / alias)
        return self.authority().issue_server(role, name, (self.settings.listen_host,), alias)

    def server(
        self,
        name: str,
        role: Role,
        services: Sequence[Service],
        port: int,
        serving: Callable[[], bool],
        request_bytes: int | None = None,
        admission: Admission | None = None,
        met: Callable[[Exception], None] = lambda _: None,
    ) -> SpineServer:
        """A server under the identity of this process."""
        settings, limits = self.settings, Limits()
        # All of a server's streams may come to one of those that accept, and there is room for as
        # many that other servers pass on.
        own = settings.calls_under_way + 2 * settings.streams_open
        return build_server(
            self.own_identity(role, name),
            services,
            host=settings.listen_host,
            port=port or remembered_port(settings.data_dir, name, settings.listen_host),
            limits=Limits(
                request_bytes=request_bytes or settings.max_request_bytes,
                metadata_bytes=settings.max_metadata_bytes,
                handshake_timeout_ms=settings.handshake_timeout_ms,
                deadline_s=settings.max_deadline_s,
                concurrent_calls=limits.concurrent_calls + own,
            ),
            reflect=settings.reflection,
            serving=serving,
            admission=admission or admission_of(settings),
            met=met,
        )

    def verify_held(self) -> None:
        """LogUnfit(LOG_DIFFERS) if the brokers hold the log of another folder, LOG_MISSING if that
        cannot be told. Blocking.
        """
        check_held(self.kafka, self.codec, self.identity, self.settings.data_dir)

    def verify_log(self) -> None:
        """The same, and LogUnfit(TOPIC_SETTINGS) if a topic is not set as the log needs it."""
        self.verify_held()
        verify_topics(self.kafka, self.partitions, self.settings.min_insync_replicas)

    def reader(self) -> LogReader:
        """A plain reader of the log."""
        return LogReader(self.kafka)


def admission_of(
    settings: Settings,
    held: Callable[[str], bool] = lambda party: False,
    report: Callable[[Excess], None] = lambda excess: None,
) -> Admission:
    """Who may call one server, as it is set."""
    limits = PartyLimits(
        settings.party_cost_per_s,
        settings.party_burst,
        settings.party_meters_per_hour,
        settings.anomaly_reads_per_hour,
        settings.anomaly_commands_per_hour,
        settings.anomaly_refusals_per_hour,
    )
    most = settings.calls_under_way, settings.streams_open
    return Admission(limits, *most, held=held, report=report)


# -- running --------------------------------------------------------------------------------------


class Process:
    """A process of the spine from its start to its end: folds first, then the server."""

    def __init__(self, runtime: Runtime, name: str) -> None:
        stop_after(runtime.settings.supervisor_pid)
        self.runtime, self.name = runtime, name
        self.appender = Appender(runtime.kafka)
        self.folds: FaustFolds | None = None
        self.server: SpineServer | None = None
        self.ready = False
        self.admission: Admission | None = None
        settings = runtime.settings
        key = cache(partial(Identifiers.of, settings.data_dir, settings.identifiers_key))
        self.pairwise = Pairwise(self.identifiers_of, key)
        self._claim: IO[str] | None = None
        self._ending: list[Callable[[], Any]] = []

    def on_end(self, close: Callable[[], Any]) -> None:
        """Call this at the end, last come first called; it may be a coroutine function."""
        self._ending.append(close)

    async def fold(
        self,
        topics: Iterable[str],
        group: str | None = None,
        keep: bool = True,
        *,
        holds: bool = False,
    ) -> FaustFolds:
        """Verify the log, catch up and keep folding these topics (see `Runtime.folds`), with
        `holds` who is held too.
        """
        if holds:
            topics = (*topics, trust.QUARANTINE_TOPIC)
        await asyncio.to_thread(self.runtime.verify_log)
        self._claim_stores()
        await self.appender.start()
        self.folds = self.runtime.folds(self.name, topics, group, keep)
        await self.folds.start()
        if holds:  # whichever member of a group Faust delivers to, a hold holds at all of them
            self.folds[trust.QUARANTINE_TOPIC, 0].watchers += 1
        return self.folds

    def _claim_stores(self) -> None:
        """Pushback(STARTING) if a process of this name runs already: a store has one writer."""
        self._claim = claimed(self.runtime.stores(self.name), f"a {self.name} process")

    async def identifiers_of(self, role: Role, party: str) -> trust.Identifiers:
        """What governance says that the party is given in that role.

        Asked of the fold of who is held, which every process that serves parties follows at once;
        where there is none, nobody's standing is known, and nobody is given MPxNs.
        """
        folds = {} if self.folds is None else self.folds.folds
        known = folds.get((trust.QUARANTINE_TOPIC, 0))
        if known is None:
            return trust.Identifiers.PAIRWISE
        return known.stored.fold.identifiers(role, party)

    async def serve(
        self, role: Role, services: Sequence[Service], port: int, request_bytes: int | None = None
    ) -> None:
        """Answer from now on, and say where."""
        runtime = self.runtime
        told = [self.pairwise.around(service) for service in services]
        self.server = runtime.server(
            self.name, role, told, port, self.serves, request_bytes, self.admission, self.met
        )
        await self.server.start()
        issue = partial(runtime.own_identity, role, self.name)
        self.on_end(asyncio.create_task(kept(self.server.certificate, issue)).cancel)
        self.ready = True
        host = runtime.settings.listen_host
        announce(runtime.settings.data_dir, self.name, host, self.server.port)
        _log.info("process.ready", process=self.name, port=self.server.port)

    def met(self, error: Exception) -> None:
        """End the process if the error is that a store of its folds is damaged, as the folds do."""
        if isinstance(error, DamagedStore) and self.folds is not None:
            self.folds.met(error)

    def serves(self) -> bool:
        """Whether it answers and its folds move: what a health check is told."""
        still_s = 0.0 if self.folds is None else self.folds.still_s
        return self.ready and still_s < NOT_SERVING_AFTER_S

    async def until_signalled(self) -> None:
        """Run until told to stop, then stop in order."""
        await told_to_stop()
        await self.stop()

    async def stop(self) -> None:
        """Stop answering, then folding, then appending; let go of the stores."""
        self.ready = False
        if self.server is not None:
            await self.server.stop()
        for close in reversed(self._ending):
            try:
                result = close()
                if asyncio.iscoroutine(result):
                    await asyncio.wait_for(result, END_TIMEOUT_S)
            except Exception as error:
                _log.warning("process.end_failed", process=self.name, reason=repr(error))
        if self.folds is not None:
            await self.folds.stop()
        await self.appender.stop()
        if self.folds is not None:
            self.folds.close()
        if self._claim is not None:
            self._claim.close()
