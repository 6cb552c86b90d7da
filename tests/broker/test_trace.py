"""One trace from the gRPC call over the broker to the last fold of the facts it led to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from spine.config import Settings
from spine.consumers.v1 import consumers_pb2, consumers_pb2_grpc
from spine.dsi.process import start_dsi, start_readings
from spine.follow import STAND_BY_S
from spine.installation import DOMAINS
from spine.log import Kafka
from spine.policy import Role
from spine.runtime import Runtime
from spine.server import connect
from spine.services import wire
from spine.services.consumers import start_consumers


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        provider = TracerProvider()
        trace.set_tracer_provider(provider)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield exporter
    exporter.shutdown()


def of_the_call(spans: InMemorySpanExporter) -> list[ReadableSpan]:
    finished = spans.get_finished_spans()
    calls = {s.context.trace_id for s in finished if s.context and s.name.endswith("StartSupply")}
    return [s for s in finished if s.context and s.context.trace_id in calls]


def folds_of_the_call(spans: InMemorySpanExporter) -> list[ReadableSpan]:
    return [span for span in of_the_call(spans) if span.name == "fold"]


async def test_one_trace_from_the_call_to_the_last_fold(
    own_log: tuple[Settings, Kafka], spans: InMemorySpanExporter
) -> None:
    settings, kafka = own_log
    runtime = Runtime.of(settings, kafka, DOMAINS)
    processes = [
        await start_readings(runtime),
        await start_dsi(runtime),
        await start_consumers(runtime),
    ]
    try:
        identity = runtime.authority().issue_client(Role.CONSENT_SERVICE, "consent-service")
        server = processes[-1].server
        assert server is not None
        request = consumers_pb2.StartSupplyRequest(
            idempotency_key="traced",
            mpxn="2000027391990",
            supplier="north-supply",
            effective_from=wire.stamp(datetime(2024, 1, 1, tzinfo=UTC)),
        )
        async with connect(f"127.0.0.1:{server.port}", identity.folder) as channel:
            await consumers_pb2_grpc.ConsumersStub(channel).StartSupply(request, timeout=20)
        async with asyncio.timeout(30):
            while len(folds_of_the_call(spans)) < 2:
                await asyncio.sleep(0.05)
        await asyncio.sleep(2 * STAND_BY_S)  # what is delivered by two ways comes again by now
    finally:
        for process in reversed(processes):
            await process.stop()
    # The coordinator folds its own fact, and so does the DSI, each in a worker of its own.
    assert len(folds_of_the_call(spans)) == 2
    for span in of_the_call(spans):
        assert "2000027391990" not in str(span.attributes)
