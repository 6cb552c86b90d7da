"""What the command line asks of the services, as one identity of the data folder."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from spine.btm_assets.v1 import btm_assets_pb2, btm_assets_pb2_grpc
from spine.certificates import Pair
from spine.common.v1 import common_pb2
from spine.console.context import UP
from spine.consumers.v1 import consumers_pb2, consumers_pb2_grpc
from spine.dsi.refusing import OF_ONE_PAGE
from spine.dsi.v1 import dsi_pb2, dsi_pb2_grpc
from spine.errors import NEXT_CURSOR, Invalid, NotFound, Pushback, Reason
from spine.governance.v1 import governance_pb2, governance_pb2_grpc
from spine.identity import CA_ALIAS, Identity
from spine.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from spine.metering.v1 import (
    aggregates_pb2,
    aggregates_pb2_grpc,
    metering_pb2,
    metering_pb2_grpc,
)
from spine.operations.v1 import operations_pb2, operations_pb2_grpc
from spine.reference.v1 import reference_pb2, reference_pb2_grpc
from spine.server import connect_sync, error_from
from spine.shared_trust.v1 import shared_trust_pb2, shared_trust_pb2_grpc
from spine.whereabouts import reachable_target

CALL_S: Final = 20.0
STREAM_S: Final = 3_000.0

# Who is told of a page that was refused.
Refused = Callable[[grpc.RpcError], object]


def stamp(instant: datetime) -> Timestamp:
    """An instant as protobuf wants it."""
    made = Timestamp()
    made.FromDatetime(instant.astimezone(UTC))
    return made


def interval(start: datetime, end: datetime) -> Any:
    """A half-open interval."""
    return common_pb2.Interval(start=stamp(start), end=stamp(end))


class Client:
    """One identity's calls. Every command gets a fresh idempotency key unless one is given."""

    def __init__(self, data_dir: Path, alias: str) -> None:
        self._data_dir = data_dir
        self.identity = data_dir / "identities" / alias
        named = Path(alias).name == alias and alias not in ("", CA_ALIAS)
        if not named or not (self.identity / "key.pem").exists():
            message = f"there is no identity called {alias!r} in {data_dir}"
            raise Invalid(Reason.IDENTITY_MISSING, message)
        pair = Pair.read(Identity(self.identity))
        if pair.not_after < datetime.now(UTC):  # no server would even say why it does not answer
            message = f"the certificate of {alias!r} ended: `spine identity issue` makes another"
            raise Invalid(Reason.IDENTITY_MISSING, message)

    @contextmanager
    def _stub(self, service: str, stub: Any) -> Iterator[Any]:
        try:
            target = reachable_target(self._data_dir, service)
        except NotFound as never:
            raise Pushback(never.reason, f"{never.message}: {UP} starts everything") from None
        try:
            with connect_sync(target, self.identity) as channel:
                yield stub(channel)
        except grpc.RpcError as error:
            error.add_note(f"{service} at {target}")
            raise

    def governance(self, method: str, **fields: Any) -> Any:
        """A command to the governance coordinator."""
        return self._command(
            "governance", governance_pb2_grpc.GovernanceStub, governance_pb2, method, fields
        )

    def consumers(self, method: str, **fields: Any) -> Any:
        """A command to the consumers coordinator."""
        return self._command(
            "consumers", consumers_pb2_grpc.ConsumersStub, consumers_pb2, method, fields
        )

    def erasures(self, method: str, **fields: Any) -> Any:
        """A request for erasure to the consumers coordinator."""
        return self._command(
            "consumers", consumers_pb2_grpc.ErasuresStub, consumers_pb2, method, fields
        )

    def changes(self, method: str, **fields: Any) -> Any:
        """What became of consents, and its acknowledgement, of the consumers coordinator."""
        return self._command(
            "consumers", consumers_pb2_grpc.ChangesStub, consumers_pb2, method, fields
        )

    def webhooks(self, method: str, **fields: Any) -> Any:
        """Where this identity wants to be told of changes, of the consumers coordinator."""
        return self._command(
            "consumers", consumers_pb2_grpc.WebhooksStub, consumers_pb2, method, fields
        )

    def deletions(self, method: str, **fields: Any) -> Any:
        """What data users have to delete, of the consumers coordinator."""
        return self._command(
            "consumers", consumers_pb2_grpc.DeletionsStub, consumers_pb2, method, fields
        )

    @contextmanager
    def following(self) -> Iterator[Any]:
        """An open FollowChanges call."""
        with self._stub("consumers", consumers_pb2_grpc.ChangesStub) as stub:
            call = stub.FollowChanges(consumers_pb2.FollowChangesRequest(), timeout=STREAM_S)
            try:
                yield call
            finally:
                call.cancel()

    def metering(self, method: str, **fields: Any) -> Any:
        """A command to the metering coordinator."""
        return self._command(
            "metering", metering_pb2_grpc.MeteringStub, metering_pb2, method, fields
        )

    def aggregates(self, method: str, **fields: Any) -> Any:
        """A publication, or a query for what was published, to the metering coordinator."""
        return self._command(
            "metering", aggregates_pb2_grpc.AggregatesStub, aggregates_pb2, method, fields
        )

    def assets(self, method: str, **fields: Any) -> Any:
        """A command to the btm_assets coordinator."""
        return self._command(
            "assets", btm_assets_pb2_grpc.BtmAssetsStub, btm_assets_pb2, method, fields
        )

    def reference(self, process: str, method: str, **fields: Any) -> Any:
        """A command or query to the standing data of a coordinator, by the name of its process."""
        return self._command(
            process, reference_pb2_grpc.ReferenceStub, reference_pb2, method, fields
        )

    def operations(self, process: str, method: str, **fields: Any) -> Any:
        """What operators ask of a coordinator process."""
        return self._command(
            process, operations_pb2_grpc.OperationsStub, operations_pb2, method, fields
        )

    def ledger(self, method: str, **fields: Any) -> Any:
        """A question to the ledger."""
        return self._command("ledger", ledger_pb2_grpc.LedgerStub, ledger_pb2, method, fields)

    def shared_trust(self, process: str, method: str, **fields: Any) -> Any:
        """What one of the two sides, consumers or dsi, says of the trust they share."""
        return self._command(
            process, shared_trust_pb2_grpc.SharedTrustStub, shared_trust_pb2, method, fields
        )

    def consent_token(self, **fields: Any) -> Any:
        """A token for a consent, of the consumers coordinator."""
        stub = shared_trust_pb2_grpc.ConsentTokensStub
        return self._command("consumers", stub, shared_trust_pb2, "IssueConsentToken", fields)

    def dsi(self, method: str, **fields: Any) -> Any:
        """A query to the DSI."""
        with self._stub("dsi", dsi_pb2_grpc.DsiStub) as stub:
            request = getattr(dsi_pb2, f"{method}Request")(**fields)
            return getattr(stub, method)(request, timeout=CALL_S)

    def readings(self, mpxn: str, refused: Refused | None = None, **terms: Any) -> Iterator[Any]:
        """Every page of GetReadings.

        `refused` is told of each that is refused though others may be permitted, and those are
        asked for; without it the first ends all. grpc.RpcError where nothing at all is permitted.
        """
        with self._stub("dsi", dsi_pb2_grpc.DsiStub) as stub:
            request, found = dsi_pb2.GetReadingsRequest(mpxn=mpxn, **terms), False
            while True:
                try:
                    page = stub.GetReadings(request, timeout=CALL_S)
                except grpc.RpcError as error:
                    failure = error_from(error)
                    behind = failure.facts.get(NEXT_CURSOR, "")
                    others = failure.reason in OF_ONE_PAGE and (behind or found)
                    if refused is None or not others:
                        raise
                    refused(error)
                    request.cursor = behind
                else:
                    found = True
                    yield page
                    request.cursor = page.next_cursor
                if not request.cursor:
                    return

    @contextmanager
    def stream(self, mpxns: Sequence[str], **terms: Any) -> Iterator[Any]:
        """An open StreamReadings call."""
        with self._stub("dsi", dsi_pb2_grpc.DsiStub) as stub:
            call = stub.StreamReadings(
                dsi_pb2.StreamReadingsRequest(mpxns=mpxns, **terms), timeout=STREAM_S
            )
            try:
                yield call
            finally:
                call.cancel()

    def _command(
        self, service: str, stub: Any, messages: Any, method: str, fields: dict[str, Any]
    ) -> Any:
        with self._stub(service, stub) as made:
            request = getattr(messages, f"{method}Request")(**fields)
            if "idempotency_key" in request.DESCRIPTOR.fields_by_name:
                request.idempotency_key = request.idempotency_key or uuid.uuid4().hex
            return getattr(made, method)(request, timeout=CALL_S)
