"""What operators see: traces, metrics and log lines, and never a meter's number in any of them.

One trace runs from the call through the record (`traceparent` header) to the last fold. Every
metric is declared here, with unit and description, view lag first. Log lines go to stderr, as JSON
unless somebody is watching; whatever a library logs takes the same way. Each line is redacted last,
when it is text, so that no key, exception or traceback can carry an MPAN past it.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal, TextIO

import structlog
from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

Export = Literal["none", "console", "otlp"]
Attributes = dict[str, str | int | float | bool]

TRACEPARENT: Final = "traceparent"
REDACTED: Final = "<mpxn>"

# An MPAN has 13 digits, 21 with its top line. A hexadecimal id or digest may hold as many in a row
# by chance; one of those has letters among them and is left whole.
_MPXN_LIKE = re.compile(r"\b(?=[0-9]*[a-f])[0-9a-f]{16,}\b|\d{13,}")

tracer = trace.get_tracer("energyos.spine")
_meter = metrics.get_meter("energyos.spine")
_propagator = TraceContextTextMapPropagator()


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric as it is declared; the documentation lists every one."""

    name: str
    unit: str
    description: str


METRICS: Final[list[Metric]] = []


def _declared(name: str, unit: str, description: str) -> tuple[str, str, str]:
    METRICS.append(Metric(name, unit, description))
    return name, unit, description


view_lag_ms = _meter.create_gauge(
    *_declared(
        "spine.view.lag",
        "ms",
        "How long a view has had records to fold without moving; 0 while it moves or is level.",
    )
)
view_records_behind = _meter.create_gauge(
    *_declared("spine.view.behind", "{record}", "Records of the log that a view has yet to fold.")
)
entries = _meter.create_counter(
    *_declared(
        "spine.entries",
        "{entry}",
        "Entries of the log consumed by a fold, by `outcome`: applied, duplicate, void, "
        "quarantined, held or access.",
    )
)
decisions = _meter.create_counter(
    *_declared(
        "spine.decisions",
        "{decision}",
        "Reads decided, by `decision` (permit or refuse) and `reason`.",
    )
)
releases = _meter.create_counter(
    *_declared(
        "spine.releases",
        "{release}",
        "What became of decided reads, by `release` (RELEASED, REFUSED or NOT_RELEASED).",
    )
)
turned_away = _meter.create_counter(
    *_declared(
        "spine.calls.turned_away",
        "{call}",
        "Calls refused because as many as may be were under way, by `method`.",
    )
)
append_latency_ms = _meter.create_histogram(
    *_declared(
        "spine.append.latency",
        "ms",
        "Time from sending a record to the broker to its acknowledgement by all replicas.",
    )
)
quarantined = _meter.create_counter(
    *_declared("spine.quarantine", "{record}", "Records quarantined, by `rule`.")
)
ledger_lag_ms = _meter.create_histogram(
    *_declared(
        "spine.ledger.lag",
        "ms",
        "From a record's append to the publication of the first head that covers it, a head.",
    )
)
ledger_held_back_ms = _meter.create_gauge(
    *_declared(
        "spine.ledger.held_back",
        "ms",
        "How long a head that is signed waits for witnesses to cosign it; 0 if none does.",
    )
)
ledger_alarms = _meter.create_counter(
    *_declared(
        "spine.ledger.alarms",
        "{alarm}",
        "What an operator must look at. By `kind`: log-differs, not-checked, rolled-back, fork, "
        "held-back, topics.",
    )
)
reads_behind = _meter.create_gauge(
    *_declared(
        "spine.reads.behind",
        "{record}",
        "Records of the log that the index of who read what has yet to take in, by `partition`.",
    )
)
changes_outstanding = _meter.create_gauge(
    *_declared(
        "spine.changes.outstanding",
        "{change}",
        "Changes of consents that their receivers have not acknowledged.",
    )
)
changes_oldest_s = _meter.create_gauge(
    *_declared(
        "spine.changes.oldest",
        "s",
        "How long the oldest of them has waited; 0 if there is none.",
    )
)
deletions_overdue = _meter.create_gauge(
    *_declared(
        "spine.deletions.overdue",
        "{deletion}",
        "Deletions that data users have not confirmed within the term of their purpose.",
    )
)
webhook_deliveries = _meter.create_counter(
    *_declared(
        "spine.webhook.deliveries",
        "{delivery}",
        "Changes sent to webhooks, by `outcome`: taken, refused, gone, silent or forbidden.",
    )
)
drift_alarms = _meter.create_counter(
    *_declared(
        "spine.drift.alarms",
        "{alarm}",
        "Served stores that were found to disagree with the log, by `kind`: ROWS_DIFFER or "
        "POSITION_DIFFERS.",
    )
)
certificate_left_s = _meter.create_gauge(
    *_declared(
        "spine.certificate.left",
        "s",
        "Until the certificate runs out that a process shows; negative once it has.",
    )
)


def redact(text: str) -> str:
    """The text without anything that looks like an MPAN."""
    return _MPXN_LIKE.sub(lambda found: found[0] if _is_hex(found[0]) else REDACTED, text)


def _is_hex(token: str) -> bool:
    return not token.isdecimal()


def inject_traceparent() -> bytes | None:
    """The current span for a record's `traceparent` header; None outside of any trace."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier[TRACEPARENT].encode() if TRACEPARENT in carrier else None


def extract(traceparent: bytes | str | None) -> Context:
    """The trace to go on with; a new one if there is none or it is malformed."""
    if not traceparent:
        return Context()
    if isinstance(traceparent, bytes):
        traceparent = traceparent.decode("ascii", "replace")
    return _propagator.extract({TRACEPARENT: traceparent}, Context())


@contextmanager
def span(
    name: str,
    *,
    parent: Context | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Attributes | None = None,
) -> Iterator[Span]:
    """A span that names the kind of a failure, never its text, which may hold what is private.

    Where nobody keeps any, and no trace of a caller is to go on, there is none.
    """
    if not (_is_kept() or _is_of_a_trace(parent) or _is_of_a_trace(None)):
        yield trace.INVALID_SPAN
        return
    with tracer.start_as_current_span(
        name,
        context=parent,
        kind=kind,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        try:
            yield current
        except Exception as error:
            current.set_attribute("error.type", type(error).__name__)
            current.set_status(StatusCode.ERROR)
            raise


def _is_kept() -> bool:
    """Whether this process does anything with a span: without a provider each has none."""
    provider = trace.get_tracer_provider()
    return not (
        isinstance(tracer, trace.ProxyTracer) and isinstance(provider, trace.ProxyTracerProvider)
    )


def _is_of_a_trace(context: Context | None) -> bool:
    """Whether a trace goes on in that context, or the present one."""
    return trace.get_current_span(context).get_span_context().is_valid


def set_up_telemetry(service: str, export: Export, otlp_endpoint: str = "") -> None:
    """Send traces and metrics of this process where the setting says. Once a process."""
    if export != "none":
        from spine.exporting import export_to  # here: few send any

        export_to(export, service, otlp_endpoint)


class _Redacting(structlog.stdlib.ProcessorFormatter):
    """Turns a log event into its line and takes the MPxNs out of the line."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def set_up_logging(level: str = "INFO", stream: TextIO | None = None) -> None:
    """One way out for our lines and the libraries': stderr, one line an event, redacted."""
    out = stream or sys.stderr
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        _add_trace,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    render: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if out.isatty()
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        _Redacting(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def _add_trace(
    logger: structlog.typing.WrappedLogger, method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """The trace a line belongs to."""
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = f"{context.trace_id:032x}"
    return event
