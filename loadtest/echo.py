"""A bare grpc.aio server: the same TLS, the same requests, the same bytes back, and nothing else.

Run as a process of its own: `python -m loadtest.echo IDENTITY_FOLDER ANSWERS_FILE`. It looks an
answer up by the bytes of its request and sends it. That is the least a server can do for a read.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import grpc
import msgspec

from spine.identity import Identity

METHOD = "/spine.dsi.v1.Dsi/GetReadings"


async def serve(identity: Path, answers: Path) -> None:
    """Answer until the input ends; the port is said on the output."""
    known: dict[bytes, bytes] = msgspec.msgpack.decode(
        answers.read_bytes(), type=dict[bytes, bytes]
    )

    async def echo(request: bytes, context: Any) -> bytes:
        return known[request]

    class Echo(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in its stub only
        def service(self, details: grpc.HandlerCallDetails) -> Any:
            return grpc.unary_unary_rpc_method_handler(echo)

    held = Identity(identity)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Echo(),))
    credentials = grpc.ssl_server_credentials(
        [(held.key, held.cert)], held.ca, require_client_auth=True
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), Path(sys.argv[2])))
