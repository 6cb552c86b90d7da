"""The process of a witness: it answers over HTTP, and needs nothing of the log it watches over.

`POST /add-heads` takes a head and cosigns it; 200 with the signature line, 400 for what is no head
of its log, 409 with the size it stands at, 422 for a fork or what is not shown to go on.
`GET /checkpoint` gives the last head it cosigned, `GET /key` its public key, `GET /health` whether
it serves. One whose folder is not whole stays, and answers all of them with 503 and why: it would
have to sign what it cannot know to go on, and to start it again brings nothing back. A folder that
just cannot be used is opened again every few seconds. It starts small, without Kafka, Faust and
gRPC.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import structlog
from aiohttp import web

from spine.config import Settings, from_environment
from spine.errors import Invalid, Reason
from spine.files import claimed, write_whole
from spine.ledger.note import MalformedNote, VerifierKey
from spine.ledger.witness import Fork, NotNow, Unfit, Unproven, Unusable, Witness
from spine.stopping import stop_after, told_to_stop
from spine.telemetry import set_up_logging
from spine.whereabouts import UNFIT

ADD_HEADS: Final = "/add-heads"
HEALTH: Final = "/health"
# What a health check is told; behind the latter, the reason.
SERVING: Final = "SERVING"
NOT_SERVING: Final = "NOT_SERVING"
SIZE_TYPE: Final = "text/x.tlog.size"
REQUEST_BYTES_MAX: Final = 8 << 20
# Never a name of a process of the spine: whoever runs a witness need not run anything else.
PREFIX: Final = "witness-"
# How often a folder that cannot be used is opened again.
AGAIN_S: Final = 3.0
_log = structlog.get_logger()


def key_name(name: str) -> str:
    """What a witness calls itself in signatures."""
    return f"energyos.spine/witness/{name}"


class WitnessServer:
    """Serves one witness, one request after the other."""

    def __init__(self, witness: Witness) -> None:
        self._witness = witness
        self._stuck = ""
        # One thread: what is checked and what is kept must not come between one another.
        self._thread = ThreadPoolExecutor(1, "witness")
        self.app = web.Application(client_max_size=REQUEST_BYTES_MAX)
        self.app.router.add_post(ADD_HEADS, self._add)
        self.app.router.add_get("/checkpoint", self._checkpoint)
        self.app.router.add_get("/key", self._key)
        self.app.router.add_get(HEALTH, self._health)

    async def _add(self, request: web.Request) -> web.Response:
        body = await request.read()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._answer, body)

    def _answer(self, body: bytes) -> web.Response:
        try:
            line = self._witness.add(json.loads(body))
            self._stuck = ""
            return web.Response(text=line)
        except NotNow as not_now:
            text = f"{not_now.size}\n"
            return web.Response(status=409, text=text, content_type=SIZE_TYPE)
        except (Fork, Unproven) as refused:
            return web.Response(status=422, text=f"{refused.message}\n")
        except (Invalid, ValueError, RecursionError) as error:
            return web.Response(status=400, text=f"{error}\n")
        except OSError as error:
            why = f"{Reason.WITNESS_UNFIT}: its folder cannot be written: {error.strerror}"
            if why != self._stuck:  # and not again for every head
                _log.error("witness.stuck", detail=why)
            self._stuck = why
            return self._not_serving()

    def _not_serving(self) -> web.Response:
        return web.Response(status=503, text=f"{NOT_SERVING} {self._stuck}\n")

    async def _checkpoint(self, _: web.Request) -> web.Response:
        if self._stuck:
            return self._not_serving()
        note = self._witness.note
        return web.Response(text=note) if note else web.Response(status=404)

    async def _key(self, _: web.Request) -> web.Response:
        return web.Response(text=f"{self._witness.key}\n")

    async def _health(self, _: web.Request) -> web.Response:
        return self._not_serving() if self._stuck else web.Response(text=f"{SERVING}\n")


def refusing(unfit: Unfit) -> web.Application:
    """What says of a witness that it signs nothing, and why."""

    async def say(_: web.Request) -> web.Response:
        return web.Response(status=503, text=f"{NOT_SERVING} {unfit}\n")

    app = web.Application(client_max_size=REQUEST_BYTES_MAX)
    app.router.add_route("*", "/{any:.*}", say)
    return app


def run(settings: Settings, name: str) -> None:
    """Run a witness until it is told to stop; Invalid(FIELD_MISSING) without the log's key."""
    set_up_logging(settings.log_level)
    stop_after(settings.supervisor_pid)
    try:
        log_key = VerifierKey.parse(settings.witness_log_key or "")
    except MalformedNote as malformed:
        message = f"SPINE_WITNESS_LOG_KEY: {malformed}"
        raise Invalid(Reason.FIELD_MISSING, message, field="witness_log_key") from None
    asyncio.run(_stand(settings, name, log_key))


async def _stand(settings: Settings, name: str, log_key: VerifierKey) -> None:
    """Serve it until told to stop; what cannot be used now is opened again, until it can be."""
    told = asyncio.create_task(told_to_stop())
    with ExitStack() as held:
        now = _found(settings, name, log_key, held)
        while not told.done():
            found = now
            async with _served(found, settings, name):
                while not told.done() and str(now) == str(found):
                    again_s = AGAIN_S if isinstance(found, Unusable) else None
                    await asyncio.wait([told], timeout=again_s)
                    if not told.done():
                        now = await asyncio.to_thread(_found, settings, name, log_key, held)


def _found(settings: Settings, name: str, log_key: VerifierKey, held: ExitStack) -> Witness | Unfit:
    """The witness, or why there is none; its folder is held, unless that cannot be used."""
    folder = settings.data_dir / "witnesses" / name
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        held.enter_context(claimed(folder, f"the witness {name}"))
        return Witness(folder, key_name(name), log_key)
    except (OSError, Unusable) as error:
        held.close()
        return error if isinstance(error, Unusable) else Unusable.after(error)
    except Unfit as unfit:
        return unfit


@asynccontextmanager
async def _served(found: Witness | Unfit, settings: Settings, name: str) -> AsyncIterator[None]:
    app = refusing(found) if isinstance(found, Unfit) else WitnessServer(found).app
    announced = {UNFIT: str(found)} if isinstance(found, Unfit) else {"key": str(found.key)}
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, settings.listen_host, settings.witness_port)
        await site.start()
        port = runner.addresses[0][1]
        said = {"host": settings.listen_host, "port": port, "pid": os.getpid(), **announced}
        path = settings.data_dir / "services" / f"{PREFIX}{name}.json"
        try:
            write_whole(path, json.dumps(said).encode(), sync=False)
        except OSError as error:  # those who are told of it otherwise reach it still
            _log.error("witness.not_announced", witness=name, port=port, reason=error.strerror)
        if isinstance(found, Unfit):
            _log.error("witness.unfit", witness=name, reason=found.reason, detail=found.message)
        else:
            _log.info("witness.ready", witness=name, port=port, stands_at=found.size)
        yield
    finally:
        await runner.cleanup()


def local_witnesses(data_dir: Path) -> dict[str, str]:
    """The witnesses that `spine up` runs in this data folder: address by key.

    One whose file is damaged, or gone by the time that it is read, is not there; nor is one that
    signs nothing, and has said so.
    """
    found: dict[str, str] = {}
    for path in sorted((data_dir / "services").glob(f"{PREFIX}*.json")):
        try:
            said = json.loads(path.read_text("utf-8"))
            if UNFIT in said:
                continue
            key = str(VerifierKey.parse(said["key"]))
            found[key] = f"http://{said['host']}:{said['port']}"
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _log.warning("witness.not_listed", file=path.name, reason=type(error).__name__)
    return found


if __name__ == "__main__":
    run(from_environment(), sys.argv[1])
