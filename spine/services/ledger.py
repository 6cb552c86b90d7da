"""The ledger's process: the keeper of the book, its tiles over HTTP, and its health."""

from __future__ import annotations

import asyncio

from aiohttp import web

from spine import trust
from spine.config import Settings
from spine.errors import Invalid, Reason
from spine.ledger.book import PUBLIC
from spine.ledger.cosigning import Witnesses
from spine.ledger.library import Library
from spine.ledger.note import MalformedNote, VerifierKey
from spine.ledger.process import LEDGER, Keeper, prepare_topic
from spine.ledger.serving import tile_server
from spine.ledger.standing import Standings
from spine.ledger.topic_watch import LOOK_EVERY_S, TopicWatch
from spine.ledger.witnessing import local_witnesses
from spine.log import partition_counts
from spine.log_thread import ReaderThread
from spine.policy import Role
from spine.runtime import Process, Runtime
from spine.services.background import every
from spine.services.reads import reads_service
from spine.whereabouts import announce, remembered_port

HTTP_NAME = "ledger-http"


class LedgerProcess(Process):
    """Serves while it keeps the book; one that may not sign any more says so."""

    keeper: Keeper
    standings: Standings

    async def identifiers_of(self, role: Role, party: str) -> trust.Identifiers:
        """What governance says that the party is given in that role; it is read when asked."""
        return await self.standings.identifiers_of(role, party)

    def serves(self) -> bool:
        """Whether heads are still signed: what a health check is told."""
        return super().serves() and self.keeper.keeps


async def start_ledger(runtime: Runtime) -> LedgerProcess:
    """Start keeping the ledger; returns once it answers."""
    settings = runtime.settings
    folder = settings.data_dir / LEDGER
    places = [
        (topic, partition)
        for topic, count in partition_counts(runtime.partitions).items()
        for partition in range(count)
    ]
    await asyncio.to_thread(runtime.verify_log)
    await asyncio.to_thread(
        prepare_topic,
        runtime.kafka,
        settings.replication_factor,
        settings.min_insync_replicas,
    )
    process = LedgerProcess(runtime, LEDGER)
    keeper = Keeper(
        folder,
        runtime.kafka,
        runtime.identity,
        places,
        runtime.codec,
        process.appender,
        Witnesses(lambda: witness_list(settings), settings.ledger_quorum),
        settings.ledger_epoch_s,
    )
    process.keeper = keeper
    await process.appender.start()
    await keeper.start()
    process.on_end(keeper.stop)
    watch = TopicWatch(runtime.kafka, runtime.partitions, settings.min_insync_replicas)
    every(process, LOOK_EVERY_S, watch.look)
    runner = web.AppRunner(tile_server(folder / PUBLIC), access_log=None)
    await runner.setup()
    process.on_end(runner.cleanup)
    host = settings.listen_host
    port = settings.ledger_http_port or remembered_port(settings.data_dir, HTTP_NAME, host)
    await web.TCPSite(runner, host, port).start()
    announce(settings.data_dir, HTTP_NAME, host, runner.addresses[0][1])
    log = ReaderThread(runtime.kafka)
    process.on_end(log.close)
    process.standings = Standings(runtime.memory_fold(trust.GOVERNANCE_TOPIC, 0), log)
    reads = reads_service(process, Library(folder / PUBLIC), keeper.sign)
    await process.serve(Role.AUDITOR, [reads], settings.ledger_port)
    return process


def witness_list(settings: Settings) -> dict[str, str]:
    """The witnesses by their keys: those that are set, or those of this data folder.

    Invalid(FIELD_INVALID) for a setting that does not read key@address.
    """
    if settings.ledger_witnesses is None:
        return local_witnesses(settings.data_dir)
    found: dict[str, str] = {}
    for each in filter(None, settings.ledger_witnesses.split(",")):
        key, at, url = each.strip().partition("@")
        try:
            found[str(VerifierKey.parse(key))] = url if at else ""
        except MalformedNote as malformed:
            message = f"SPINE_LEDGER_WITNESSES: {malformed}"
            raise Invalid(Reason.FIELD_INVALID, message, field="ledger_witnesses") from None
        if not url.startswith(("http://", "https://")):
            message = "SPINE_LEDGER_WITNESSES: a witness reads key@http(s)://host:port"
            raise Invalid(Reason.FIELD_INVALID, message, field="ledger_witnesses")
    return found
