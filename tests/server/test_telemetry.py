"""What operators see: one trace, declared metrics, and no meter's number in any line."""

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
import structlog
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from spine import telemetry

MPAN = "1200012345678"


@pytest.fixture
def tracing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracer that records, for one test, without setting the process's own for good."""
    monkeypatch.setattr(telemetry, "tracer", TracerProvider().get_tracer("test"))


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What is logged; the logging of the test run is put back after."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    out = io.StringIO()
    telemetry.set_up_logging("INFO", out)
    yield out
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"no consent for {MPAN}", "no consent for <mpxn>"),
        (f"mpan{MPAN}e", "mpan<mpxn>e"),
        (f"008010021{MPAN}", "<mpxn>"),
        (f"{MPAN},{MPAN}", "<mpxn>,<mpxn>"),
        (f"b'\\x00{MPAN}\\x00'", "b'\\x<mpxn>\\x00'"),
        *(
            (text, text)
            for text in (
                "offset 123456789012 of 2026-10-05T12:00:00.123456Z",
                "trace 4bf92f3577b34da6a3ce929d0e0e4736",
                "digest a1234567890123456789012345678901",
                "",
            )
        ),
    ],
)
def test_what_looks_like_an_mpan_is_redacted_and_nothing_else(text: str, shown: str) -> None:
    assert telemetry.redact(text) == shown


def fail_over(mpan: str) -> None:
    raise ValueError(f"cannot parse {mpan}")


def test_no_mpan_reaches_a_log_line(lines: io.StringIO) -> None:
    log = structlog.get_logger("spine.test")
    log.info("read", mpxn=MPAN, nested={"meters": [MPAN, int(MPAN)]}, raw=MPAN.encode())
    log.info(f"read of {MPAN}", **{MPAN: 1})
    logging.getLogger("a.library").warning("lost %s at %d", MPAN, int(MPAN))
    try:
        fail_over(MPAN)
    except ValueError as error:
        log.error("call_failed", exc_info=error)
        logging.getLogger("a.library").exception("failed")
    written = lines.getvalue()
    assert MPAN not in written
    assert written.count("<mpxn>") >= 10


def test_a_log_line_is_one_json_object(lines: io.StringIO) -> None:
    structlog.get_logger("spine.test").info("permit", party="ACME", rows=48)
    logging.getLogger("a.library").warning("two\nlines")
    structlog.get_logger("spine.test").debug("not shown")
    ours, theirs = (json.loads(line) for line in lines.getvalue().splitlines())
    assert ours["timestamp"].endswith("Z")
    assert {**ours, "timestamp": ""} == {
        "event": "permit",
        "party": "ACME",
        "rows": 48,
        "level": "info",
        "logger": "spine.test",
        "timestamp": "",
    }
    assert (theirs["event"], theirs["level"]) == ("two\nlines", "warning")


def test_an_error_is_logged_with_its_traceback(lines: io.StringIO) -> None:
    try:
        fail_over(MPAN)
    except ValueError as error:
        structlog.get_logger("spine.test").error("call_failed", exc_info=error)
    assert "in fail_over" in json.loads(lines.getvalue())["exception"]


def test_a_log_line_names_its_trace(lines: io.StringIO, tracing: None) -> None:
    with telemetry.span("append") as span:
        structlog.get_logger("spine.test").info("appended")
    trace_id = f"{span.get_span_context().trace_id:032x}"
    assert json.loads(lines.getvalue())["trace_id"] == trace_id


def test_a_trace_goes_on_across_a_record(tracing: None) -> None:
    with telemetry.span("append") as here:
        header = telemetry.inject_traceparent()
    assert header is not None and header.startswith(b"00-")
    with telemetry.span("fold", parent=telemetry.extract(header)) as there:
        assert there.get_span_context().trace_id == here.get_span_context().trace_id
        assert there.get_span_context().span_id != here.get_span_context().span_id


def test_a_callers_trace_goes_on_through_a_process_that_keeps_no_spans(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trace, "get_tracer_provider", trace.ProxyTracerProvider)
    monkeypatch.setattr(telemetry, "tracer", trace.ProxyTracer("test"))
    header = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    with telemetry.span("call", parent=telemetry.extract(header)), telemetry.span("decide"):
        assert telemetry.inject_traceparent() == header
        with telemetry.span("fold", parent=telemetry.extract(None)):
            assert telemetry.inject_traceparent() is None, "a record of another trace, or of none"
    with telemetry.span("call", parent=telemetry.extract(None)) as none:
        assert none is trace.INVALID_SPAN
        assert telemetry.inject_traceparent() is None


def test_outside_of_any_trace_there_is_no_header() -> None:
    assert telemetry.inject_traceparent() is None


@pytest.mark.parametrize("header", [None, b"", b"\xff\xfe", b"00-0-0-0", b"x" * 10_000])
def test_a_malformed_header_starts_a_new_trace(header: bytes | None) -> None:
    context = telemetry.extract(header)
    assert not trace.get_current_span(context).get_span_context().is_valid


def test_a_span_names_the_kind_of_a_failure_and_not_its_text(tracing: None) -> None:
    with pytest.raises(ValueError, match=MPAN), telemetry.span("decide") as span:
        fail_over(MPAN)
    assert MPAN not in span.to_json()  # type: ignore[attr-defined]
    assert "ValueError" in span.to_json()  # type: ignore[attr-defined]


def test_every_metric_has_a_unit_and_a_description_and_lag_comes_first() -> None:
    assert telemetry.METRICS[0].name == "spine.view.lag"
    names = [metric.name for metric in telemetry.METRICS]
    assert len(set(names)) == len(names)
    for metric in telemetry.METRICS:
        assert metric.name.startswith("spine.")
        assert metric.unit and metric.description.endswith(".")


def test_metrics_are_accepted_with_no_export_set_up() -> None:
    telemetry.set_up_telemetry("test", "none")
    telemetry.view_lag_ms.set(12, {"view": "consents"})
    telemetry.view_records_behind.set(3, {"view": "consents"})
    telemetry.entries.add(1, {"outcome": "applied"})
    telemetry.decisions.add(1, {"decision": "refuse", "reason": "NO_CONSENT"})
    telemetry.releases.add(1, {"release": "RELEASED"})
    telemetry.append_latency_ms.record(1.5)
    telemetry.quarantined.add(1, {"rule": "RECORD_UNSIGNED"})


def test_traces_and_metrics_go_where_the_setting_says() -> None:
    program = (
        "from spine import telemetry\n"
        "telemetry.set_up_telemetry('dsi', 'console')\n"
        "telemetry.append_latency_ms.record(1.5)\n"
        "with telemetry.span('append'): pass\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout == ""
    assert '"name": "append"' in done.stderr
    assert '"spine.append.latency"' in done.stderr
