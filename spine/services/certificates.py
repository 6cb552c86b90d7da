"""The certificate that a server shows: what lies in its folder, without a restart.

grpc asks before every handshake. A pair that was put in the folder is shown from the next
connection on; one that does not serve is said in the log, and the former goes on. Whoever runs the
server has its certificate issued again in time (`kept`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from threading import Lock
from typing import Final

import grpc
import structlog

from spine import telemetry
from spine.certificates import Pair
from spine.errors import Invalid
from spine.identity import Identity

LOOK_EVERY_S: Final = 60.0
_log = structlog.get_logger()


class ServedCertificate:
    """The certificate, key and authority of one server. grpc's threads and its loop may ask.

    Invalid(IDENTITY_MISSING) if there is nothing in the folder to begin with.
    """

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._seen = self._refused = identity.stamp
        self.pair = Pair.read(identity)
        self._lock = Lock()

    def credentials(self) -> grpc.ServerCredentials:
        """For one gRPC server: mutual TLS, whatever is in the folder later."""
        shown = self.pair

        def renewed() -> grpc.ServerCertificateConfiguration | None:
            """What it is to show from this handshake on; None if what it was given last."""
            nonlocal shown
            self.look()
            with self._lock:
                if self.pair is shown:
                    return None
                shown = self.pair
                return _configuration(shown)

        return grpc.dynamic_ssl_server_credentials(
            _configuration(shown),
            renewed,  # type: ignore[arg-type]  # its stub forgets None
            require_client_authentication=True,
        )

    def look(self) -> None:
        """Take up what was put in the folder since the last look, if it serves."""
        with self._lock:
            stamp = self._identity.stamp
            if stamp == self._seen:
                return
            try:
                found = Pair.read(self._identity)
                found.check_follows(self.pair, datetime.now(UTC))
            except Invalid as unfit:
                if stamp != self._refused:
                    _log.error("certificate.unfit", reason=unfit.message)
                self._refused = stamp
                return
            self._seen, self.pair = stamp, found
            _log.info("certificate.renewed", until=found.not_after.isoformat())


async def kept(served: ServedCertificate, issue: Callable[[], object]) -> None:
    """Look after the certificate of a server once a minute, until cancelled.

    `issue` has it issued again if that is due. It is called in the event loop, so that nobody of
    this process finds the folder half replaced.
    """
    while True:
        try:
            issue()
        except Exception as error:  # the one in use is good for long yet
            _log.warning("certificate.not_issued", reason=str(error))
        served.look()
        left = served.pair.not_after - datetime.now(UTC)
        telemetry.certificate_left_s.set(left.total_seconds())
        await asyncio.sleep(LOOK_EVERY_S)


def _configuration(pair: Pair) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pair.key, pair.cert)], pair.ca)
