"""Where traces and metrics go, for the processes that send them; who sends none never loads it."""

from __future__ import annotations

import sys
from typing import Final, Literal

from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    ConsoleMetricExporter,
    MetricExporter,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    ConsoleSpanExporter,
    SpanExporter,
)

METRICS_EVERY_MS: Final = 10_000
# A collector that is away must not hold up a process that wants to stop.
OTLP_TIMEOUT_S: Final = 2.0


def export_to(where: Literal["console", "otlp"], service: str, otlp_endpoint: str) -> None:
    """Send traces and metrics of this process there. Once a process."""
    resource = Resource.create({SERVICE_NAME: service})
    spans, measures = _exporters(where, otlp_endpoint)
    traces = TracerProvider(resource=resource)
    traces.add_span_processor(BatchSpanProcessor(spans))
    trace.set_tracer_provider(traces)
    reader = PeriodicExportingMetricReader(measures, export_interval_millis=METRICS_EVERY_MS)
    metrics.set_meter_provider(MeterProvider([reader], resource=resource))


def _exporters(
    where: Literal["console", "otlp"], otlp_endpoint: str
) -> tuple[SpanExporter, MetricExporter]:
    if where == "console":
        return ConsoleSpanExporter(out=sys.stderr), ConsoleMetricExporter(out=sys.stderr)
    base = otlp_endpoint.rstrip("/")
    return (
        OTLPSpanExporter(f"{base}/v1/traces", timeout=OTLP_TIMEOUT_S),
        OTLPMetricExporter(f"{base}/v1/metrics", timeout=OTLP_TIMEOUT_S),
    )
