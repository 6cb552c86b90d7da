"""Checkpoint and tiles over HTTP, as C2SP tlog-tiles has them: files, and nothing that computes.

`/checkpoint`, `/tile/…` for the epochs, `/partitions/<topic>/<n>/tile/…` for each partition,
`/keys.json`. A tile never changes, so it may be kept for ever; a checkpoint may not.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from aiohttp import web

from spine.ledger.book import CHECKPOINT_FILE, KEYS_FILE
from spine.ledger.files import TileFolder
from spine.ledger.tree import TileAddress

_PLACE: Final = re.compile(r"[a-z_]+(?:\.[a-z0-9_]+)+/(?:0|[1-9][0-9]{0,5})")
FOR_EVER: Final = {"Cache-Control": "public, max-age=31536000, immutable"}
NOT_KEPT: Final = {"Cache-Control": "no-cache"}


def tile_server(public: Path) -> web.Application:
    """An application over the public folder of a ledger."""

    def small(name: str, content_type: str) -> web.Response:
        try:
            body = (public / name).read_bytes()
        except FileNotFoundError:
            return web.Response(status=404)
        return web.Response(body=body, content_type=content_type, charset="utf-8", headers=NOT_KEPT)

    def tile(folder: Path, path: str) -> web.Response:
        try:
            body = TileFolder(folder).raw(TileAddress.parse(path))
        except (ValueError, LookupError):
            return web.Response(status=404)
        return web.Response(body=body, content_type="application/octet-stream", headers=FOR_EVER)

    async def checkpoint(_: web.Request) -> web.Response:
        return small(CHECKPOINT_FILE, "text/plain")

    async def keys(_: web.Request) -> web.Response:
        return small(KEYS_FILE, "application/json")

    async def of_epochs(request: web.Request) -> web.Response:
        return tile(public, request.path.removeprefix("/"))

    async def of_partition(request: web.Request) -> web.Response:
        place = f"{request.match_info['topic']}/{request.match_info['partition']}"
        if not _PLACE.fullmatch(place):
            return web.Response(status=404)
        return tile(public / "partitions" / place, f"tile/{request.match_info['path']}")

    app = web.Application()
    app.router.add_get("/checkpoint", checkpoint)
    app.router.add_get("/keys.json", keys)
    app.router.add_get("/tile/{path:.+}", of_epochs)
    app.router.add_get("/partitions/{topic}/{partition}/tile/{path:.+}", of_partition)
    return app
