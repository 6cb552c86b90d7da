"""What a consumers coordinator runs so that everybody whom a consent concerns is told of it."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Final

from domains.consumers import acknowledgements
from spine import trust
from spine.claims import Claims
from spine.consumers.v1 import consumers_pb2, consumers_pb2_grpc
from spine.coordinator import Coordinator
from spine.runtime import Process
from spine.server import Service
from spine.services.announcing import ChangesService
from spine.services.background import every
from spine.services.deletions import DeletionsService
from spine.services.outstanding import Outstanding
from spine.services.webhooks import Webhooks, delivering
from spine.writer import LogWriter

LOOK_EVERY_S: Final = 0.2
COUNT_EVERY_S: Final = 10.0
# Where very much waits, counting it may take so much of the process's time, or be done so seldom.
COUNTING_SHARE: Final = 0.05
COUNTED_WITHIN_S: Final = 60.0
TURNS_AT_THE_START: Final = 100


async def telling(
    process: Process, meters: Coordinator, writer: LogWriter, claims: Claims
) -> list[Service]:
    """The services, and what they do by themselves in the background.

    Where there are many meters, they are `STARTING` until all were looked at.
    """
    assert process.folds is not None
    runtime, tightens = process.runtime, acknowledgements.tightens
    domain = runtime.domains.by_topic[trust.ACKNOWLEDGEMENTS_TOPIC]
    said = Coordinator(domain, process.folds, writer, runtime.partitions, tightens)
    # An acknowledgement is the same command whoever sends it, and needs no key of the caller.
    keyed = Coordinator(domain, process.folds, writer, runtime.partitions, tightens, claims)
    known = Outstanding(meters, said)
    partitions = range(runtime.partitions)
    folds = [process.folds[trust.CONSUMER_LOG, partition] for partition in partitions]
    known.watch(folds, said.live(""))
    await known.look(TURNS_AT_THE_START)
    every(process, LOOK_EVERY_S, known.look)
    every(process, LOOK_EVERY_S, known.look_again)
    every(process, COUNT_EVERY_S, partial(_counted, known))
    webhooks = Webhooks(keyed)
    webhooks.watch()
    changes = Service(
        consumers_pb2.DESCRIPTOR.services_by_name["Changes"].full_name,
        consumers_pb2_grpc.add_ChangesServicer_to_server,
        ChangesService(known, said, webhooks.told),
    )
    deletions = Service(
        consumers_pb2.DESCRIPTOR.services_by_name["Deletions"].full_name,
        consumers_pb2_grpc.add_DeletionsServicer_to_server,
        DeletionsService(known, keyed, runtime.identity.log_id),
    )
    return [changes, deletions, delivering(process, known, webhooks, said, keyed)]


async def _counted(known: Outstanding) -> None:
    began_s = time.thread_time()
    await known.count()
    took_s = time.thread_time() - began_s
    await asyncio.sleep(min(took_s / COUNTING_SHARE, COUNTED_WITHIN_S))
