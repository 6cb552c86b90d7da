"""The certificate that a server shows: what lies in its folder, without a restart.

grpc asks before every handshake. A pair that was put in the folder is shown from the next
connection on; one that does not serve is said in the log, and the former goes on.
"""

from __future__ import annotations

from datetime import UTC, datetime
from threading import Lock

import grpc
import structlog

from spine.certificates import Pair
from spine.errors import Invalid
from spine.identity import Identity

_log = structlog.get_logger()


class ServedCertificate:
    """The certificate, key and authority of one server. grpc's threads and its loop may ask.

    Invalid(IDENTITY_MISSING) if there is nothing in the folder to begin with.
    """

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._seen = self._refused = identity.stamp
        self.pair = Pair.read(identity)
        self._shown = self.pair
        self._lock = Lock()

    @property
    def credentials(self) -> grpc.ServerCredentials:
        """For one port: mutual TLS, whatever is in the folder later."""
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self.pair),
            self._renewed,  # type: ignore[arg-type]  # its stub forgets None
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

    def _renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """What grpc is to show from this handshake on; None if what it was given last."""
        self.look()
        with self._lock:
            if self.pair is self._shown:
                return None
            self._shown = self.pair
            return _configuration(self.pair)


def _configuration(pair: Pair) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pair.key, pair.cert)], pair.ca)
