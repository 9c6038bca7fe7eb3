"""Spans to an OpenTelemetry collector, by the extra ``otel``; nothing else imports it.

The SDK batches, encodes and sends in a thread of its own, and follows its own variables: headers,
certificates, compression, batch sizes (``OTEL_EXPORTER_OTLP_*``, ``OTEL_BSP_*``), service name and
resource (``OTEL_SERVICE_NAME``, ``OTEL_RESOURCE_ATTRIBUTES``). Spans are given to it complete:
starting and ending one through its tracer takes thirty times as long.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from importlib.metadata import version
from threading import Thread

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from router.observe.spans import Kind, Span, TraceContext
from router.settings.base import BadSettings

log = logging.getLogger(__name__)

PATH = "/v1/traces"
LAST_S = 5.0  # for what is left at the end, lest a collector that is down holds up a restart
RELOG_AFTER_S = 60.0  # after a complaint, before one of some other trouble
_KINDS = {kind: SpanKind[kind.value] for kind in Kind}
_FINE = Status(StatusCode.UNSET)


class Otlp:
    """A sink that sends spans to a collector over HTTP; see `router.observe.spans.Sink`."""

    def __init__(self, endpoint: str | None, service: str, instance: str) -> None:
        try:
            self._exporter = _Exporter(
                OTLPSpanExporter(endpoint and endpoint.removesuffix(PATH) + PATH)
            )
            self._processor = BatchSpanProcessor(self._exporter)
        except ValueError as error:
            raise BadSettings(f"OTEL_*: {error}") from error
        own = {
            "service.name": f"makespan-{service}",
            "service.version": version("makespan"),
            "service.instance.id": instance,
        }
        self._resource = Resource.create(own).merge(OTELResourceDetector().detect())
        self._scope = InstrumentationScope("makespan", version("makespan"))

    def send(self, trace: TraceContext, root: Span) -> None:
        """Put a request's spans into the queue; where that is full, the oldest are lost."""
        trace_id, flags = int(trace.id, 16), TraceFlags(trace.flags)

        def context(span_id: str, *, remote: bool) -> SpanContext:
            return SpanContext(trace_id, int(span_id, 16), remote, flags)

        for span, parent_id in root.walk(trace.parent_id):
            parent = None if parent_id is None else context(parent_id, remote=span is root)
            status = _FINE if span.error is None else Status(StatusCode.ERROR, span.error)
            complete = ReadableSpan(
                span.name,
                context(span.id, remote=False),
                parent,
                self._resource,
                span.attributes,
                kind=_KINDS[span.kind],
                status=status,
                start_time=int(span.start_s * 1e9),
                end_time=int(span.end_s * 1e9),
                instrumentation_scope=self._scope,
            )
            self._processor.on_end(complete)

    def close(self, seconds: float) -> None:
        """Send what is in the queue; a collector that does not take it in time loses it."""
        flush = Thread(target=self._processor.shutdown, daemon=True)
        flush.start()
        flush.join(min(seconds, LAST_S))
        if flush.is_alive():
            log.warning("the last spans were not exported in time")
            self._exporter.shutdown()


class _Exporter(SpanExporter):
    """Exports, and says once when that begins to fail, and once when it works again."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter, self._failure_log = exporter, _ExportFailureLog()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            self._failure_log.settle()
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class _ExportFailureLog(logging.Handler):
    """Hears the SDK's own log lines, one a batch, and lets the first of a trouble through."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._open, self._logged_s = False, -RELOG_AFTER_S
        logger = logging.getLogger("opentelemetry")
        logger.handlers, logger.propagate = [self], False

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if not self._open and now - self._logged_s >= RELOG_AFTER_S:
            self._open, self._logged_s = True, now
            log.warning("spans are not exported", extra={"why": record.getMessage()})

    def settle(self) -> None:
        """A batch has been taken."""
        if self._open:
            self._open = False
            log.info("spans are exported again")
